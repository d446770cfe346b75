"""The options with which a runner holds psycopg2 connections.

Invariant: each hook may meet a connection in any state, and none of them can wait for psycopg2's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypedDict

import psycopg2
from psycopg2 import extensions

from gtasker.integrations.psycopg2._cancelling import end_statement
from gtasker.integrations.psycopg2._connecting import connector
from gtasker.integrations.psycopg2._connection import ClosedConnectionError, GreenConnection
from gtasker.integrations.psycopg2._cooperation import warn_if_blocking
from gtasker.integrations.psycopg2._health import is_healthy, is_healthy_or_may_have_committed

_GOODBYE_TIMEOUT = 1.0  # seconds; a session that ends in order needs a few thousandths


class _Hooks(TypedDict):
    """What does not depend on the options."""

    on_destroy: Callable[[GreenConnection], None]
    check_resource: Callable[[GreenConnection], bool]
    check_readable: bool
    reset: Callable[[GreenConnection], None]
    on_forget: Callable[[GreenConnection], None]


class ResourceOptions(_Hooks):
    """The fields of ``gtasker.Config`` that ``resource`` fills in."""

    on_create: Callable[[], GreenConnection]
    check_health: Callable[[BaseException], bool]
    on_interrupt: Callable[[GreenConnection], bool] | None
    keepalive: float | None


def resource(
    dsn: str = "",
    *,
    connect_timeout: float | None = None,
    autocommit: bool = False,
    readonly: bool | None = None,
    application_name: str | None = None,
    replay_unknown_commit: bool = False,
    keep_on_interrupt: bool = True,
    cancel_timeout: float = 2.0,
    keepalive: float | None = 60.0,
    connection_factory: type[extensions.connection] | None = None,
    cursor_factory: Callable[..., extensions.cursor] | None = None,
    **connect_options: Any,
) -> ResourceOptions:
    """Return the options for ``Config(**resource(dsn), worker_count=10)``. Warns where psycopg2 is not cooperative.

    ``connect_timeout``: seconds for one connection, names looked up included; None: the DSN's, else 10.
    ``replay_unknown_commit``: whether a task is tried again when its connection broke while it committed, which may do
    twice what it does; say true if that is harmless, thanks to a unique id, say. False: the caller gets the error, and
    ``may_have_committed(error)`` is true. One that broke earlier is no such case: the server has rolled back.
    ``keep_on_interrupt``: true keeps a connection whose statement was interrupted, once it was cancelled on the server
    and rolled back; false destroys it. ``cancel_timeout``: seconds that the cancelling may take.
    ``keepalive``: seconds after which an idle connection is asked for a sign of life, so that one that died is replaced
    before somebody needs it, and no firewall on the way forgets it; None: never.
    Everything else that libpq knows goes through (``sslmode``, ``options``, ...). TCP keep-alives that find a vanished
    peer within a minute are on unless you set them. In a service file a host name's look-up blocks: give an address.

    What a use leaves behind: an open transaction is rolled back, isolation, read-only and autocommit are put back.
    Settings, temporary tables, LISTEN and session locks of a use that ended by itself stay, for they may be meant
    to; after an interrupted one its session locks are let go.
    Raises psycopg2.ProgrammingError for a DSN that libpq does not understand.
    """
    warn_if_blocking(stacklevel=2)
    factories = {"connection_factory": connection_factory, "cursor_factory": cursor_factory}
    options = {"application_name": application_name, **connect_options}
    connect = connector(dsn, connect_timeout, factories, options)

    def create() -> GreenConnection:
        connection = connect()
        connection.keep_on_interrupt, connection.cancel_timeout = keep_on_interrupt, cancel_timeout
        try:
            connection.set_session(readonly=readonly, autocommit=autocommit)
        except BaseException:
            connection.close()  # whoever keeps the error would keep the session
            raise
        connection.remember_session()
        return connection

    clean_up = _clean_up if keep_on_interrupt else None
    return ResourceOptions(
        on_create=create,
        check_health=is_healthy if replay_unknown_commit else is_healthy_or_may_have_committed,
        on_interrupt=clean_up,
        keepalive=keepalive,
        **_SAME_FOR_ALL,
    )


def _destroy(connection: GreenConnection) -> None:
    """Close the connection; with a statement in flight, end that on the server first, then hang up. Switches."""
    if connection.busy:
        end_statement(connection, connection.cancel_timeout, connection.wait_until_free)
    connection.say_goodbye(_GOODBYE_TIMEOUT)


def _answers(connection: GreenConnection) -> bool:
    """Ask the server for a sign of life, in one round trip and outside of a transaction. Switches.

    The bound is the runner's ``hook_timeout``.
    """
    if connection.get_transaction_status() != extensions.TRANSACTION_STATUS_IDLE:
        return False
    _ask(connection, "SELECT 1")
    connection.rest()
    return True


class _Reset:
    """Makes a connection clean for its next user, without a round trip when it is so already."""

    nowait = staticmethod(GreenConnection.rest_at_once)
    heard_at = attrgetter("heard_at")

    def __call__(self, connection: GreenConnection) -> None:
        """Do it. Raises an error of psycopg2's where that is not possible. Switches."""
        _leave_transaction(connection)
        connection.rest()


def _clean_up(connection: GreenConnection) -> bool:
    """Vouch for a connection after an interrupted use, with a question that it had to answer. Switches.

    A session lock that the interrupted use held would be held for ever, for nobody else knows of it.
    """
    if connection.closed or connection.busy:
        return False
    _leave_transaction(connection)
    _ask(connection, "SELECT pg_advisory_unlock_all()")
    connection.rest()
    return True


def _forget(connection: GreenConnection) -> None:
    connection.let_go()


def _leave_transaction(connection: GreenConnection) -> None:
    if connection.closed:
        raise ClosedConnectionError("the connection was closed in use")
    if connection.busy:
        raise psycopg2.OperationalError("the connection was given back with a statement in flight")
    if connection.status != extensions.STATUS_READY:
        connection.rollback()
    if connection.get_transaction_status() != extensions.TRANSACTION_STATUS_IDLE:
        # A BEGIN in autocommit is the user's own: psycopg2 knows nothing of it.
        _execute(connection, "ROLLBACK")
    if connection.get_transaction_status() != extensions.TRANSACTION_STATUS_IDLE:
        raise psycopg2.OperationalError("the connection's transaction does not end")


def _ask(connection: GreenConnection, question: str) -> None:
    """Ask outside of a transaction; ``rest`` puts autocommit back."""
    if not connection.autocommit:
        connection.autocommit = True
    _execute(connection, question)


def _execute(connection: GreenConnection, statement: str) -> None:
    # The user's cursor class may log, time or fail.
    with connection.cursor(cursor_factory=extensions.cursor) as cursor:
        cursor.execute(statement)


_SAME_FOR_ALL: _Hooks = {
    "on_destroy": _destroy,
    "check_resource": _answers,
    "check_readable": True,
    "reset": _Reset(),
    "on_forget": _forget,
}
