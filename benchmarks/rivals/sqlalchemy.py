"""SQLAlchemy's QueuePool.

Invariant: the rules by which an Engine ends a use are kept: an exit exception or a lost connection invalidates.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any, ClassVar, TypeVar, cast

from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import QueuePool

from benchmarks.world import Connection, ConnectionLostError, Server

T = TypeVar("T")


class SQLAlchemyPool:
    """`pool.connect()`, then `close()`."""

    name: ClassVar[str] = "SQLAlchemy QueuePool"

    def __init__(self, server: Server, size: int, *, checked: bool = False) -> None:
        self._pool = QueuePool(
            lambda: cast(Any, Connection(server)),
            pool_size=size,
            max_overflow=0,
            pre_ping=checked,
            dialect=_Dialect(),
        )

    def use(self, work: Callable[[Connection], T], timeout: float) -> T:
        self._pool._timeout = timeout  # the time-out is the pool's, not the call's: no other way to give one
        loan = self._pool.connect()
        try:
            return work(cast(Connection, loan.dbapi_connection))
        except BaseException as error:
            if not isinstance(error, Exception) or isinstance(error, ConnectionLostError):
                loan.invalidate(error)
            raise
        finally:
            loan.close()

    def cycle(self, times: int) -> None:
        connect = self._pool.connect
        for _ in repeat(None, times):
            connect().close()

    def close(self) -> None:
        self._pool.dispose()


class _Dialect(DefaultDialect):
    """The default dialect, with our connection's ping."""

    supports_statement_cache = True

    def do_ping(self, dbapi_connection: Any) -> bool:
        connection: Connection = dbapi_connection
        return connection.alive()
