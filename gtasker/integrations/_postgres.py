"""What is true of Postgres whichever driver speaks to it: what ends a session, and how a line is kept alive.

Invariant: nothing here needs a driver.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
_MARK = "came_while_committing"

# A peer that vanished is found within a minute, not after the kernel's two hours; in milliseconds where libpq wants it.
KEEPALIVES: Mapping[str, str] = {
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


def ends_session(sqlstate: str, severity: str | None) -> bool:
    """Whether the server, or the line to it, is gone after an error with this SQLSTATE and severity."""
    return sqlstate.startswith(_CONNECTION_EXCEPTION) or sqlstate in _SESSION_ENDED or severity in _LAST_WORDS


def mark_as_committing(error: BaseException) -> None:
    """Remember of ``error`` that it came while something was being committed."""
    setattr(error, _MARK, True)


def came_while_committing(error: BaseException) -> bool:
    """Whether ``error`` itself, causes left out, was marked so."""
    return getattr(error, _MARK, False)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error``, what caused it, and what was being handled when it was raised, each once."""
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
