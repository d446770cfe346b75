"""What could commit: an error that comes meanwhile is marked.

Invariant: a call that psycopg2 refused before it sent anything (an InterfaceError) has committed nothing; of any other
that failed while it could commit, nothing is assumed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

import psycopg2

from gtasker.integrations._postgres import mark_as_committing

_F = TypeVar("_F", bound=Callable[..., Any])

# Said as text; in a string or a name it does no harm but that nobody tries again.
_SAYS_COMMIT = re.compile(r"\bcommit\b|\bprepare\s+transaction\b|(^|;)\s*end\b", re.IGNORECASE)
# Reads, as far as can be seen: a function that it calls may write, which is the user's to know.
_READS = re.compile(r"\s*(select\b(?!.*\binto\b)|show\b|values\b|table\b)", re.IGNORECASE | re.DOTALL)


def commits(method: _F) -> _F:
    """Return ``method`` of a connection, whose errors say that a COMMIT was under way."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except psycopg2.DatabaseError as error:
            mark_as_committing(error)
            raise

    return cast(_F, call)


def may_commit(method: _F) -> _F:
    """Return ``method`` of a cursor, whose errors say so if the connection commits by itself, or the statement does."""

    @functools.wraps(method)
    def call(self: Any, statement: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, statement, *args, **kwargs)
        except psycopg2.DatabaseError as error:
            mark_if_committing(self.connection, statement, error)
            raise

    return cast(_F, call)


def mark_if_committing(connection: Any, statement: Any, error: BaseException) -> None:
    """Mark what a cursor's ``statement`` failed with, if the connection commits by itself, or the statement does."""
    if not isinstance(error, psycopg2.DatabaseError):
        return
    text = _text(statement)
    if (_commits_itself(connection) and not _READS.match(text)) or _SAYS_COMMIT.search(text):
        mark_as_committing(error)


def _commits_itself(connection: Any) -> bool:
    return bool(connection.autocommit) and not connection.readonly


def _text(statement: Any) -> str:
    """The statement, as far as it can be read: psycopg2 takes bytes and its ``sql`` objects, too."""
    return statement.decode(errors="replace") if isinstance(statement, bytes) else str(statement)
