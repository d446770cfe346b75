"""What an error says about the connection it came from.

Invariant: judged by the connection's own state, the severity and the SQLSTATE, never by a message's text, which
changes with the server's language and version.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2

from gtasker.integrations.psycopg2._connection import ClosedConnectionError

_CONNECTION_EXCEPTION = "08"  # the class: the line or the protocol failed

# SQLSTATEs that end the session, for servers and poolers that leave the severity out.
_SESSION_ENDED = frozenset(
    {
        "57P01",  # admin_shutdown: pg_terminate_backend, or the server is being stopped
        "57P02",  # crash_shutdown: another session crashed, and all were ended
        "57P03",  # cannot_connect_now: the server is starting or stopping
        "57P04",  # database_dropped
        "57P05",  # idle_session_timeout
        "25P03",  # idle_in_transaction_session_timeout
        "25P04",  # transaction_timeout
        "53300",  # too_many_connections: this session was not let in
    }
)
_LAST_WORDS = frozenset({"FATAL", "PANIC"})  # severities after which the server ends the session


def is_healthy(error: BaseException) -> bool:
    """Tell whether a connection is still good after ``error``: the ``check_health`` of ``resource``. Never switches.

    Looked at are the error, what caused it (``raise ... from``) and what was being handled when it was raised, for
    ``with connection:`` answers a lost connection with "connection already closed", and an ORM wraps. Unhealthy:

    - an error whose cursor's connection is closed, or a call on a closed connection;
    - severity FATAL or PANIC, SQLSTATE class 08, and 57P01-57P05, 25P03, 25P04, 53300;
    - OperationalError or plain DatabaseError without an SQLSTATE: libpq's own, the server was not heard.

    An error of class 08 that a foreign data wrapper brings home counts as well: it costs one connection and a retry.
    What this cannot see (a task that swallows the loss of its connection) ``reset`` sees after the use.
    """
    return not any(isinstance(link, psycopg2.Error) and _is_fatal(link) for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        pending.append(link.__cause__)
        if not link.__suppress_context__:
            pending.append(link.__context__)


def _is_fatal(error: psycopg2.Error) -> bool:
    if error.cursor is not None and error.cursor.connection.closed:
        return True
    if error.pgcode is None:
        # The two classes psycopg2 uses where libpq failed; their siblings are mistakes in a call.
        return isinstance(error, (ClosedConnectionError, psycopg2.OperationalError)) or type(error) is (
            psycopg2.DatabaseError
        )
    if error.pgcode.startswith(_CONNECTION_EXCEPTION) or error.pgcode in _SESSION_ENDED:
        return True
    return error.diag.severity_nonlocalized in _LAST_WORDS
