"""psycopg_pool.ConnectionPool.

Invariant: stock constants; the connections are our make-believe ones in the dress of psycopg's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

from benchmarks.world import Connection, ConnectionLostError, Server

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class PsycopgPool:
    """`with pool.connection(timeout) as connection`."""

    name: ClassVar[str] = "psycopg_pool"

    def __init__(self, server: Server, size: int, *, checked: bool = False) -> None:
        class Dressed(_Psycopg):
            @classmethod
            def connect(cls, conninfo: str = "", **_: Any) -> Dressed:
                return cls(server)

        self._pool: ConnectionPool[Any] = ConnectionPool(
            "",
            connection_class=Dressed,
            min_size=size,
            max_size=size,
            open=False,
            check=_check if checked else None,
            **self._options(),
        )
        self._pool.open(wait=True)

    def _options(self) -> dict[str, Any]:
        return {}

    def use(self, work: Callable[[Connection], T], timeout: float) -> T:
        with self._pool.connection(timeout=timeout) as connection:
            return work(connection)

    def cycle(self, times: int) -> None:
        take = self._pool.connection
        for _ in repeat(None, times):
            with take():
                pass

    def close(self) -> None:
        self._pool.close()


class ResettingPsycopgPool(PsycopgPool):
    """With a `reset`, which its own workers call after each use; the context manager's commit comes on top."""

    name: ClassVar[str] = "psycopg_pool, reset hook"

    def _options(self) -> dict[str, Any]:
        return {"reset": Connection.rollback}


class _Psycopg(Connection):
    """What psycopg_pool reads of a psycopg connection, and psycopg's context manager: commit or rollback, close."""

    _pool: Any = None

    @property
    def pgconn(self) -> _Psycopg:
        return self

    @property
    def transaction_status(self) -> TransactionStatus:
        if self.closed:
            return TransactionStatus.UNKNOWN
        return TransactionStatus.ACTIVE if self.busy else TransactionStatus.IDLE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.closed:
            return
        if kind is None:
            self.commit()
        else:
            with suppress(ConnectionLostError):  # psycopg logs it and lets the first error through
                self.rollback()
        if self._pool is None:
            self.close()


def _check(connection: _Psycopg) -> None:
    connection.query()
