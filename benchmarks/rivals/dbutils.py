"""DBUtils' PooledDB.

Invariant: queries go through its steady cursors, whose failover is part of what is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar, cast

import gevent
from dbutils.pooled_db import PooledDB  # type: ignore[import-untyped]

from benchmarks.rivals.pool import AcquireTimeoutError
from benchmarks.world import Connection, ConnectionLostError, Server

T = TypeVar("T")


class DBUtilsPool:
    """`pool.connection()`, then `close()`; it knows no acquire time-out."""

    name: ClassVar[str] = "DBUtils PooledDB"

    def __init__(self, server: Server, size: int, *, checked: bool = False) -> None:
        driver = SimpleNamespace(threadsafety=2, connect=lambda: _Driver(server))
        self._pool = PooledDB(
            driver,
            maxcached=size,
            maxconnections=size,
            blocking=True,
            failures=(ConnectionLostError,),
            ping=(1, Connection.alive) if checked else 0,
        )

    def use(self, work: Callable[[Connection], T], timeout: float) -> T:
        with gevent.Timeout(timeout, AcquireTimeoutError):
            steady = self._pool.connection()
        try:
            return work(cast(Connection, _Steady(steady)))
        finally:
            steady.close()

    def cycle(self, times: int) -> None:
        connection = self._pool.connection
        for _ in repeat(None, times):
            connection().close()

    def close(self) -> None:
        self._pool.close()


class _Driver(Connection):
    """A DB-API connection whose cursor's `execute` is our query."""

    def cursor(self) -> _Driver:
        self._require()
        return self

    def execute(self, seconds: float) -> None:
        self.query(seconds)

    def close(self, *_: Any) -> None:
        super().close()


class _Steady:
    """The user's side: a query is a cursor, an execute and the cursor's end."""

    def __init__(self, steady: Any) -> None:
        self._steady = steady

    def query(self, seconds: float = 0.0) -> None:
        with self._steady.cursor() as cursor:
            cursor.execute(seconds)
