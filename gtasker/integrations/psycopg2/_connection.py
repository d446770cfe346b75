"""The connection a runner holds: every statement goes through a door that knows when it was interrupted.

Invariant: an exception that ended a statement's wait is raised by the door, the same object, once; a call that would
wait for ever for psycopg2's lock is refused instead.

psycopg2 holds a connection's lock while its greenlet waits for the server. A commit, rollback or close of another
greenlet waits for that lock in C, where no greenlet can run: the process would stand still for ever.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Callable
from math import inf
from operator import attrgetter
from typing import Any, NoReturn, TypeAlias, TypeVar, cast

import gevent
import psycopg2
from gevent import get_hub
from gevent import socket as gevent_socket
from psycopg2 import extensions

from gtasker.integrations.psycopg2._cancelling import cancel, waiter
from gtasker.integrations.psycopg2._commits import commits
from gtasker.integrations.psycopg2._cursors import GreenCursor, GreenNamedCursor, derived
from gtasker.integrations.psycopg2._idle import has_last_words
from gtasker.integrations.psycopg2._watching import kept_watcher

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")

_make_cursor: Callable[..., extensions.cursor] = extensions.connection.cursor
_CHUNK = 4096  # bytes
_FREE_INTERVAL = 0.005  # seconds between two looks at a statement that is being cancelled


class ClosedConnectionError(psycopg2.InterfaceError):
    """A call on a connection that is closed; psycopg2 says the same InterfaceError of a closed cursor."""


# What psycopg2 itself remembers of a session: isolation level, read-only, deferrable, autocommit, cursor factory.
_Session: TypeAlias = "tuple[int | None, bool | None, bool | None, bool, Any]"
_session_of: Callable[[Any], _Session] = attrgetter(
    "isolation_level", "readonly", "deferrable", "autocommit", "cursor_factory"
)


def _door(method: _F) -> _F:
    """Return ``method`` of psycopg2's class as a door (see ``GreenConnection.pass_door``)."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.pass_door(method, self, *args, **kwargs)

    return cast(_F, call)


class GreenConnection(extensions.connection):
    """A psycopg2 connection whose interrupted statement ends on the server, and which is usable afterwards.

    ``cancel_timeout``: seconds that ending a statement on the server may take before the connection is given up.
    """

    keep_on_interrupt = True
    cancel_timeout = 2.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.doors = 0  # calls under way that will raise ``interrupt``
        self.interrupt: BaseException | None = None
        self.in_flight = False  # some greenlet waits for the server, and so holds psycopg2's lock
        self.resting = False  # nobody has used it since the last ``rest``
        self.heard_at = -inf  # when the answer to a statement was read, and with it all that the server had said
        self.hub: Any = None  # for which there is a ``watcher`` that is kept
        self.watcher: Any = None
        self._may_keep = False  # while it connects, each host that is tried has a socket of its own
        super().__init__(*args, **kwargs)
        self._may_keep = True
        self.remember_session()

    def pass_door(self, call: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """Make a call that may wait for the server; raise what interrupted it, in place of what came of that.

        Raises ClosedConnectionError, and ProgrammingError while another greenlet's statement is in flight. Switches.
        """
        if self.in_flight:
            self.refuse()
        self.resting = False
        self.doors += 1
        try:
            result = call(*args, **kwargs)
            if self.interrupt is None:
                return result
        except BaseException as error:
            self.explain(error)
            if self.interrupt is None:
                raise
        finally:
            self.doors -= 1
        # Raised outside of the handler, or it would carry the frames of the statement's failure as its context.
        raise self.take_interrupt()

    def refuse(self) -> NoReturn:
        """Raise ProgrammingError, for a statement of another greenlet is in flight; who asks would wait for ever."""
        raise psycopg2.ProgrammingError("a statement of another greenlet is in flight on this connection")

    def explain(self, error: BaseException) -> None:
        """Raise what says more than ``error``, which a door is handling, if anything does. Never switches."""
        if self.interrupt is None and self.closed and isinstance(error, psycopg2.InterfaceError):
            raise ClosedConnectionError(str(error)) from error

    def take_interrupt(self) -> BaseException:
        """Return what interrupted the statement, for its door to raise. Never switches."""
        interrupt, self.interrupt = self.interrupt, None
        assert interrupt is not None
        return interrupt

    commit = commits(_door(extensions.connection.commit))
    rollback = _door(extensions.connection.rollback)
    reset = _door(extensions.connection.reset)
    set_client_encoding = _door(extensions.connection.set_client_encoding)
    set_isolation_level = _door(extensions.connection.set_isolation_level)
    set_session = _door(extensions.connection.set_session)
    tpc_begin = _door(extensions.connection.tpc_begin)
    tpc_commit = commits(_door(extensions.connection.tpc_commit))
    tpc_prepare = commits(_door(extensions.connection.tpc_prepare))
    tpc_recover = _door(extensions.connection.tpc_recover)
    tpc_rollback = _door(extensions.connection.tpc_rollback)

    def cursor(  # type: ignore[override]  # one signature in place of three overloads
        self,
        name: str | bytes | None = None,
        cursor_factory: Callable[..., extensions.cursor] | None = None,
        withhold: bool = False,
        scrollable: bool | None = None,
    ) -> extensions.cursor:
        """Make a cursor of the class asked for, with doors."""
        factory: Any = cursor_factory or self.cursor_factory
        is_plain = factory is None and name is None and not withhold and scrollable is None
        if is_plain and not self.in_flight and not self.closed:
            self.resting = False
            return _make_cursor(self, None, GreenCursor)  # nothing that could wait
        factory = derived(factory or extensions.cursor, GreenCursor if name is None else GreenNamedCursor)
        return self.pass_door(_make_cursor, self, name, factory, withhold, scrollable)

    def cancel(self) -> None:
        """Have the server cancel the statement in flight. Switches.

        psycopg2's own keeps Python's global lock until the server has answered, and stops all threads with it.
        """
        if not cancel(self):
            super().cancel()

    def close(self) -> None:
        """Close; with a statement in flight, hang up instead: its greenlet gets an OperationalError. Never switches."""
        if self.busy:
            self.hang_up()
        else:
            super().close()

    @property
    def busy(self) -> bool:
        """True while a statement is in flight, under any wait callback. Never switches."""
        if self.in_flight:
            return True
        return not self.closed and self.get_transaction_status() == extensions.TRANSACTION_STATUS_ACTIVE

    def wait_for_socket(self, state: int) -> None:
        """Wait as ``poll()`` asked for by ``state``, and keep a watcher for the next time. Switches."""
        hub = get_hub()
        if hub is not self.hub and self._may_keep:
            self.watcher = kept_watcher(hub, self.fileno())
            self.hub = hub if self.watcher is not None else None
        waiter(state)(self.fileno())

    def wait_until_free(self) -> bool:
        """Wait until the statement of another greenlet is over; true then. Switches."""
        while self.busy:
            gevent.sleep(_FREE_INTERVAL)
        return True

    def hang_up(self) -> None:
        """End the session's line without touching psycopg2's lock. Never switches."""
        if self.closed:
            return  # whoever waited for it has been told
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    def say_goodbye(self, timeout: float) -> None:
        """Close, and wait up to ``timeout`` seconds until the server has ended the session, too. Switches.

        Its socket closes when its process ends. Who counts sessions may then make the next one: the server never
        sees more of them than we do.
        """
        if self.closed:
            self.close()
            return
        with gevent_socket.socket(fileno=os.dup(self.fileno())) as line:
            self.close()
            with contextlib.suppress(OSError):
                gevent.with_timeout(timeout, _read_to_end, line, timeout_value=None)

    def let_go(self) -> None:
        """Give up the handle in a forked child, without a word to the server, whose session is the parent's.

        Never switches.
        """
        if self.closed:
            return
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, self.fileno(), inheritable=False)
        os.close(nowhere)
        # The lock of a statement in flight belongs to a greenlet that never runs here; nobody will open it.
        if not self.busy:
            super().close()

    def read_unasked(self) -> None:
        """Read what the server sent unasked, if the connection is at rest. Never switches.

        A notice, a NOTIFY or a changed parameter makes an idle socket readable, and it would be taken for one that is
        closed or dirty. What is left to read after this is. Raises an error of psycopg2's once the server hung up.
        """
        # What answers a statement is its reader's: psycopg2's properties (autocommit, ...) send some, and have no door.
        if self.resting and not self.busy and not self._has_last_words():
            self.poll()
            self.notifies.clear()

    def _has_last_words(self) -> bool:
        return not self.info.ssl_in_use and has_last_words(self.fileno())

    def rest(self) -> None:
        """Mark the connection as idle and clean: what the last user left in psycopg2's memory is forgotten.

        Notifications included: they belong to a user that waits for them. No round trip where the user left
        isolation, read-only and autocommit alone. Switches.
        """
        if _session_of(self) != self._session:
            self._restore_session()
        self.notifies.clear()
        self.resting = True

    def rest_at_once(self) -> bool:
        """``rest``, if that takes no question to the server and no transaction is open; else false. Never switches."""
        # psycopg2's status does not know of a BEGIN in autocommit, of a COPY, or of another wait callback's statement.
        if (
            self.in_flight
            or self.status != extensions.STATUS_READY
            or self.get_transaction_status() != extensions.TRANSACTION_STATUS_IDLE
            or _session_of(self) != self._session
        ):
            return False
        self.notifies.clear()
        self.resting = True
        return True

    def remember_session(self) -> None:
        """Take the session as it is for what ``rest`` restores. Never switches."""
        self._session = _session_of(self)

    def _restore_session(self) -> None:
        # psycopg2 tells the server only what differs from what it remembers, and on leaving autocommit takes all of it
        # back without forgetting it. So it is made to forget first, and is told again in the right mode.
        self.autocommit = False
        self.isolation_level = self.readonly = self.deferrable = None
        isolation_level, readonly, deferrable, autocommit, cursor_factory = self._session
        self.autocommit = autocommit
        self.isolation_level = isolation_level
        self.readonly = readonly
        self.deferrable = deferrable
        self.cursor_factory = cursor_factory


def _read_to_end(line: gevent_socket.socket) -> None:
    while line.recv(_CHUNK):
        pass
