"""psycopg2's ThreadedConnectionPool.

Invariant: it does not wait: with every connection out it raises, and so do its users' calls here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

from psycopg2 import extensions
from psycopg2.pool import ThreadedConnectionPool

from benchmarks.world import Connection, Server

T = TypeVar("T")


class Psycopg2Pool:
    """`pool.getconn()`, then `putconn()`, closing it when the use failed."""

    name: ClassVar[str] = "psycopg2 ThreadedConnectionPool"

    def __init__(self, server: Server, size: int, *, checked: bool = False) -> None:
        self._pool: Any = _Pool(server, size)

    def use(self, work: Callable[[Connection], T], timeout: float) -> T:
        connection = self._pool.getconn()
        failed = True
        try:
            value = work(connection)
            failed = False
            return value
        finally:
            self._pool.putconn(connection, close=failed)

    def cycle(self, times: int) -> None:
        get, put = self._pool.getconn, self._pool.putconn
        for _ in repeat(None, times):
            put(get())

    def close(self) -> None:
        self._pool.closeall()


class _Pool(ThreadedConnectionPool):
    """The pool with our connections in the place of `psycopg2.connect`'s."""

    _pool: list[Any]
    _used: dict[Any, Any]
    _rused: dict[int, Any]

    def __init__(self, server: Server, size: int) -> None:
        self._server = server
        super().__init__(size, size)

    def _connect(self, key: Any = None) -> Any:
        connection = _Psycopg2(self._server)
        if key is None:
            self._pool.append(connection)
        else:
            self._used[key] = connection
            self._rused[id(connection)] = key
        return connection


class _Psycopg2(Connection):
    """A connection that tells its transaction's status as psycopg2's does."""

    @property
    def info(self) -> SimpleNamespace:
        status = extensions.TRANSACTION_STATUS_ACTIVE if self.busy else extensions.TRANSACTION_STATUS_IDLE
        return SimpleNamespace(transaction_status=extensions.TRANSACTION_STATUS_UNKNOWN if self.closed else status)
