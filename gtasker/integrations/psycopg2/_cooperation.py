"""psycopg2's wait callback: the one place where a greenlet waits for a Postgres server.

Invariant: set once for the process, and never over somebody else's without being told to.
"""

from __future__ import annotations

import warnings
from time import monotonic
from typing import Any

from gevent import get_hub
from greenlet import getcurrent
from psycopg2 import extensions

from gtasker.integrations.psycopg2._cancelling import end_own_statement, waiter
from gtasker.integrations.psycopg2._connection import GreenConnection

_OK, _READ = extensions.POLL_OK, extensions.POLL_READ


class ForeignWaitCallbackError(RuntimeError):
    """psycopg2 already has a wait callback that is not ours."""


def make_cooperative(*, replace: bool = False) -> None:
    """Make psycopg2 wait in gevent's hub, in the whole process. Calling it again does no harm. Never switches.

    Raises ForeignWaitCallbackError where something else (psycogreen, an ORM's pool) has set a callback; a runner works
    with that too, but an interrupted statement then costs the connection and runs on on the server. ``replace=True``
    takes its place. COPY and large objects are refused by psycopg2 under any callback.
    """
    current = extensions.get_wait_callback()
    if current not in (None, wait_callback) and not replace:
        name = f"{getattr(current, '__module__', '?')}.{getattr(current, '__qualname__', current)}"
        raise ForeignWaitCallbackError(f"psycopg2 waits by {name}; make_cooperative(replace=True) takes its place")
    extensions.set_wait_callback(wait_callback)


def warn_if_blocking(stacklevel: int) -> None:
    """Warn where psycopg2 has no wait callback: every query would stop every greenlet, patched sockets or not."""
    if extensions.get_wait_callback() is None:
        warnings.warn(
            "psycopg2 blocks the whole event loop: its C code does not use Python's sockets, patched or not. "
            "Call gtasker.integrations.psycopg2.make_cooperative() first.",
            RuntimeWarning,
            stacklevel=stacklevel + 1,
        )


def wait_callback(connection: extensions.connection) -> None:
    """Wait until the connection's answer is there. Switches."""
    if not isinstance(connection, GreenConnection):
        _wait(connection)
        return
    connection.in_flight = True
    try:
        if connection.interrupt is not None:
            # psycopg2 sends BEGIN, and each row of executemany, as a statement of its own: one of them ended before
            # its cancel came, and the next was sent.
            _leave(connection, connection.interrupt)
            return
        hub: Any = get_hub()
        while (state := connection.poll()) != _OK:
            try:
                if state != _READ or hub is not connection.hub:
                    connection.wait_for_socket(state)
                    continue
                watcher = connection.watcher
                watcher.start(getcurrent().switch)  # who else switches to it does no harm: psycopg2 is asked again
                try:
                    hub.switch()
                finally:
                    watcher.stop()
            except BaseException as interrupt:
                _leave(connection, interrupt)
                return
        connection.heard_at = monotonic()
    finally:
        connection.in_flight = False


def _wait(connection: extensions.connection) -> None:
    while (state := connection.poll()) != extensions.POLL_OK:
        wait = waiter(state)
        try:
            wait(connection.fileno())
        except BaseException as interrupt:
            _leave(connection, interrupt)
            return


def _leave(connection: extensions.connection, interrupt: BaseException) -> None:
    """End the statement on the server; then raise, and psycopg2 closes the connection, or leave that to the door."""
    if connection.get_transaction_status() != extensions.TRANSACTION_STATUS_ACTIVE:
        # It is being connected, and psycopg2 would leave the socket open for as long as the exception's frames live.
        extensions.connection.close(connection)
        raise interrupt
    if getcurrent() is get_hub():  # which cannot wait for anything; psycopg2 hangs up, and the server finds out
        raise interrupt
    green = connection if isinstance(connection, GreenConnection) else None
    ended, interrupt = end_own_statement(connection, interrupt, (green or GreenConnection).cancel_timeout)
    if green is None or not (ended and green.keep_on_interrupt and green.doors):
        raise interrupt
    green.interrupt = interrupt
