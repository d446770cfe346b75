"""What an error says about the connection it came from.

Invariant: judged by the connection's own state, the severity and the SQLSTATE, never by a message's text, which
changes with the server's language and version.
"""

from __future__ import annotations

import psycopg2

from gtasker.integrations._postgres import came_while_committing, causes, ends_session
from gtasker.integrations.psycopg2._connection import ClosedConnectionError


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
    return not any(_is_fatal(link) for link in causes(error))


def may_have_committed(error: BaseException) -> bool:
    """Tell whether ``error`` leaves it open if something was committed. Never switches.

    It does where the session ended while ``commit``, ``tpc_commit``, ``tpc_prepare``, a statement that says COMMIT, or,
    in autocommit and not read-only, any statement but a plain SELECT, SHOW, VALUES or TABLE was under way.
    """
    return any(came_while_committing(link) and _is_fatal(link) for link in causes(error))


def is_healthy_or_may_have_committed(error: BaseException) -> bool:
    """``is_healthy``, and also true where a further attempt could do twice what was done. Never switches.

    The connection goes all the same: ``reset`` finds it closed.
    """
    return is_healthy(error) or may_have_committed(error)


def _is_fatal(error: BaseException) -> bool:
    if not isinstance(error, psycopg2.Error):
        return False
    if error.cursor is not None and error.cursor.connection.closed:
        return True
    if error.pgcode is None:
        # The two classes psycopg2 uses where libpq failed; their siblings are mistakes in a call.
        return isinstance(error, (ClosedConnectionError, psycopg2.OperationalError)) or type(error) is (
            psycopg2.DatabaseError
        )
    return ends_session(error.pgcode, error.diag.severity_nonlocalized)
