"""django-db-geventpool's DatabaseConnectionPool.

Invariant: a connection goes back as the package's DatabaseWrapper gives it back.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import ClassVar, TypeVar

import gevent
from django_db_geventpool.backends.pool import DatabaseConnectionPool  # type: ignore[import-untyped]

from benchmarks.rivals.pool import AcquireTimeoutError
from benchmarks.world import Connection, ConnectionLostError, Server

T = TypeVar("T")


class DjangoGeventPool:
    """`pool.get()`, then `put()`; it knows no acquire time-out."""

    name: ClassVar[str] = "django-db-geventpool"

    def __init__(self, server: Server, size: int, *, checked: bool = False) -> None:
        self._pool = _Pool(server, size)

    def use(self, work: Callable[[Connection], T], timeout: float) -> T:
        with gevent.Timeout(timeout, AcquireTimeoutError):
            connection: Connection = self._pool.get()
        try:
            return work(connection)
        finally:
            if connection.closed:
                self._pool.close()
            else:
                if not connection.busy:  # its wrapper rolls back in a transaction only; a running query is none
                    connection.rollback()
                self._pool.put(connection)

    def cycle(self, times: int) -> None:
        get, put = self._pool.get, self._pool.put
        for _ in repeat(None, times):
            put(get())

    def close(self) -> None:
        self._pool.close()


class _Pool(DatabaseConnectionPool):  # type: ignore[misc]
    """The pool with our connections; it asks each one a question before each use."""

    DBERROR = ConnectionLostError

    def __init__(self, server: Server, size: int) -> None:
        super().__init__(size, size)
        self._server = server

    def create_connection(self) -> Connection:
        return Connection(self._server)

    def check_usable(self, connection: Connection) -> None:
        if not connection.alive():
            raise ConnectionLostError("SELECT 1 failed")
