"""The options with which a runner holds psycopg connections.

Invariant: each hook may meet a connection in any state, and asks the transaction status which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from gtasker.integrations._frames import let_go_of_frames
from gtasker.integrations._postgres import KEEPALIVES
from gtasker.integrations.psycopg3._connection import GreenConnection
from gtasker.integrations.psycopg3._cooperation import check_cooperative
from gtasker.integrations.psycopg3._health import is_healthy, is_healthy_or_may_have_committed

_CONNECT_TIMEOUT = "10"  # seconds; psycopg's own is more than two minutes
_GOODBYE_TIMEOUT = 1.0  # seconds; a session that ends in order needs a few thousandths


class ResourceOptions(TypedDict):
    """The fields of ``gtasker.Config`` that ``resource`` fills in."""

    on_create: Callable[[], GreenConnection]
    on_destroy: Callable[[GreenConnection], None]
    check_health: Callable[[BaseException], bool]
    check_resource: Callable[[GreenConnection], bool]
    check_readable: bool
    reset: Callable[[GreenConnection], None]
    on_interrupt: Callable[[GreenConnection], bool] | None
    on_forget: Callable[[GreenConnection], None]
    keepalive: float | None


def resource(
    dsn: str = "",
    *,
    autocommit: bool = False,
    read_only: bool | None = None,
    replay_unknown_commit: bool = False,
    keep_on_interrupt: bool = True,
    cancel_timeout: float = 2.0,
    keepalive: float | None = 60.0,
    **connect_options: Any,
) -> ResourceOptions:
    """Return the options for ``Config(**resource(dsn), worker_count=10)``.

    ``replay_unknown_commit``: whether a task is tried again when its connection broke while it committed, which may do
    twice what it does; say true if that is harmless, thanks to a unique id, say. False: the caller gets the error, and
    ``may_have_committed(error)`` is true. COMMIT sent as text is not seen: use ``commit`` or a block.
    ``keep_on_interrupt``: true keeps a connection whose statement was interrupted, once it was cancelled on the server
    and rolled back; false destroys it. ``cancel_timeout``: seconds that the cancelling may take.
    ``keepalive``: seconds after which an idle connection is asked for a sign of life; None: never.
    Everything else goes to ``psycopg.connect`` (``row_factory``, ``prepare_threshold``, ``sslmode``, ...). Unless you
    set them, ``connect_timeout`` is 10 seconds, and TCP keep-alives find a vanished peer within a minute.

    What a use leaves behind: an open transaction is rolled back; autocommit, isolation, factories are put back.
    Settings, temporary tables, LISTEN and session locks of a use that ended by itself stay, for they may be meant to;
    after an interrupted one its session locks are let go. What the server says to an idle connection unasked (NOTIFY, a
    changed setting) has that replaced.
    Raises NotCooperativeError, and psycopg.ProgrammingError for a DSN that libpq does not understand.
    """
    check_cooperative()
    defaults = {**KEEPALIVES, "fallback_application_name": "gtasker", "connect_timeout": _CONNECT_TIMEOUT}
    given = conninfo_to_dict(dsn)
    options = {**{name: value for name, value in defaults.items() if name not in given}, **connect_options}

    def create() -> GreenConnection:
        try:
            connection = GreenConnection.connect(dsn, autocommit=autocommit, **options)
        except BaseException as error:
            let_go_of_frames(error)
            raise
        connection.keep_on_interrupt, connection.cancel_timeout = keep_on_interrupt, cancel_timeout
        connection.read_only = read_only
        connection.remember_session()
        return connection

    return ResourceOptions(
        on_create=create,
        on_destroy=_destroy,
        check_health=is_healthy if replay_unknown_commit else is_healthy_or_may_have_committed,
        check_resource=_answers,
        check_readable=True,
        reset=_reset,
        on_interrupt=_clean_up if keep_on_interrupt else None,
        on_forget=GreenConnection.let_go,
        keepalive=keepalive,
    )


def _destroy(connection: GreenConnection) -> None:
    """Close the connection; with a statement in flight, end that on the server first. Switches."""
    if connection.busy:
        connection.end_session()
    connection.say_goodbye(_GOODBYE_TIMEOUT)


def _answers(connection: GreenConnection) -> bool:
    """Ask the server for a sign of life, in one round trip and outside of a transaction. Switches."""
    if connection.info.transaction_status != TransactionStatus.IDLE:
        return False
    _ask(connection, "SELECT 1")
    return True


def _reset(connection: GreenConnection) -> None:
    """Make the connection clean for its next user, without a round trip when it is so already. Switches."""
    _leave_transaction(connection)
    connection.restore_session()


def _clean_up(connection: GreenConnection) -> bool:
    """Vouch for a connection after an interrupted use, with a question that it had to answer. Switches.

    A session lock that the interrupted use held would be held for ever, for nobody else knows of it.
    """
    if connection.closed or connection.busy:
        return False
    _reset(connection)
    _ask(connection, "SELECT pg_advisory_unlock_all()")
    return True


def _leave_transaction(connection: GreenConnection) -> None:
    if connection.closed:
        raise psycopg.OperationalError("the connection was closed in use")
    if connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        connection.rollback()
    status = connection.info.transaction_status
    if status != TransactionStatus.IDLE:
        raise psycopg.OperationalError(f"the connection was given back with transaction status {status.name}")


def _ask(connection: GreenConnection, question: str) -> None:
    """Ask outside of a transaction. The user's cursor class is left out: it may log, time or fail."""
    autocommit = connection.autocommit
    connection.autocommit = True
    try:
        psycopg.Cursor(connection).execute(question)
    finally:
        if not connection.closed:
            connection.autocommit = autocommit
