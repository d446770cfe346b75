"""What an error says about the connection it came from.

Invariant: judged by SQLSTATE and severity, never by a message's text, which changes with the server's language. What
this does not see, the transaction status tells ``reset`` after the use.
"""

from __future__ import annotations

import psycopg

from gtasker.integrations._postgres import came_while_committing, causes, ends_session


def is_healthy(error: BaseException) -> bool:
    """Tell whether a connection is still good after ``error``: the ``check_health`` of ``resource``. Never switches.

    Looked at are the error, what caused it and what was being handled when it was raised. Unhealthy:

    - severity FATAL or PANIC, SQLSTATE class 08, and 57P01-57P05, 25P03, 25P04, 53300;
    - OperationalError or plain DatabaseError without an SQLSTATE: the connection is closed, lost, or was never made.
    """
    return not any(_is_fatal(link) for link in causes(error))


def may_have_committed(error: BaseException) -> bool:
    """Tell whether ``error`` leaves it open if something was committed. Never switches.

    It does where the session ended while ``commit``, ``tpc_commit``, ``tpc_prepare``, the end of a ``transaction``
    block, or, in autocommit and not read-only, any statement was under way.
    """
    return any(came_while_committing(link) and _is_fatal(link) for link in causes(error))


def is_healthy_or_may_have_committed(error: BaseException) -> bool:
    """``is_healthy``, and also true where a further attempt could do twice what was done. Never switches.

    The connection goes all the same: ``reset`` finds it closed.
    """
    return is_healthy(error) or may_have_committed(error)


def _is_fatal(error: BaseException) -> bool:
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError) or type(error) is psycopg.DatabaseError
    return ends_session(error.sqlstate, error.diag.severity_nonlocalized)
