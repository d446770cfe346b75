"""The cursors of a connection that a runner holds: they have doors where they ask the server.

Invariant: a statement's interrupt is raised by the door, the same object, once; fetching rows that are here stays C.

A plain cursor is made and dropped for almost every statement, so it has no ``__dict__`` (nor has psycopg2's own), and
its ``execute`` is a door written out: a call for each step would cost as much as all the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from psycopg2 import extensions

from gtasker.integrations.psycopg2._commits import mark_if_committing, may_commit

_F = TypeVar("_F", bound=Callable[..., Any])

_execute: Any = extensions.cursor.execute


def _door(method: _F) -> _F:
    """Return ``method`` of psycopg2's class as a door of its connection (see ``GreenConnection.pass_door``)."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.connection.pass_door(method, self, *args, **kwargs)

    return cast(_F, call)


class GreenCursor(extensions.cursor):
    """A cursor with doors where it asks the server; its rows lie in memory, so that fetching stays C."""

    __slots__ = ()

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002  # as psycopg2 names it
        """As psycopg2's. Switches."""
        connection: Any = self.connection
        if connection.in_flight:
            connection.refuse()
        connection.resting = False
        connection.doors += 1
        try:
            _execute(self, query, vars)
            if connection.interrupt is None:
                return
        except BaseException as error:
            connection.explain(error)
            if connection.interrupt is None:
                mark_if_committing(connection, query, error)
                raise
        finally:
            connection.doors -= 1
        raise connection.take_interrupt()

    executemany = may_commit(_door(extensions.cursor.executemany))
    callproc = may_commit(_door(extensions.cursor.callproc))


class GreenNamedCursor(GreenCursor):
    """A server-side cursor: fetching asks the server, too."""

    __slots__ = ()

    fetchone = _door(extensions.cursor.fetchone)
    fetchmany = _door(extensions.cursor.fetchmany)
    fetchall = _door(extensions.cursor.fetchall)
    scroll = _door(extensions.cursor.scroll)
    close = _door(extensions.cursor.close)
    __next__ = _door(extensions.cursor.__next__)


@functools.lru_cache(maxsize=128)
def derived(base: Any, green: type[Any]) -> Any:
    """Return a class that is both; ``green`` stands next to psycopg2's C class, below everything the user wrote.

    A factory that is no class is returned as it is: its statements have no doors, and an interrupted one costs the
    connection.
    """
    if not isinstance(base, type) or issubclass(base, green):
        return base
    if issubclass(green, base):
        return green
    return type(f"Green{base.__name__}", (base, green), {})
