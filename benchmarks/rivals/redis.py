"""redis-py's BlockingConnectionPool.

Invariant: a connection disconnects itself on any exception while it reads an answer, as redis-py's does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import repeat
from typing import Any, ClassVar, TypeVar

from redis.connection import BlockingConnectionPool

from benchmarks.world import Connection, Server

T = TypeVar("T")


class RedisPool:
    """`pool.get_connection()`, then `release()`."""

    name: ClassVar[str] = "redis-py BlockingConnectionPool"

    def __init__(self, server: Server, size: int, *, checked: bool = False) -> None:
        kind: Any = BlockingConnectionPool  # its methods are not annotated
        self._pool = kind(max_connections=size, timeout=30, connection_class=_Redis, server=server)

    def use(self, work: Callable[[Connection], T], timeout: float) -> T:
        self._pool.timeout = timeout
        connection: _Redis = self._pool.get_connection()
        try:
            return work(connection)
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)

    def cycle(self, times: int) -> None:
        get, release = self._pool.get_connection, self._pool.release
        for _ in repeat(None, times):
            release(get())

    def close(self) -> None:
        self._pool.disconnect()


class _Redis(Connection):
    """What the pool asks of a redis connection: made unconnected, connected when handed out."""

    host, port, db = "server", 6379, 0

    def __init__(self, server: Server, **_: Any) -> None:
        self.server = server
        self.closed = True
        self.busy = self.cut = self.session = False
        self.pid = os.getpid()

    def connect(self) -> None:
        if self.closed:
            self.open()

    def disconnect(self, *_: Any) -> None:
        self.close()
        self.busy = False

    def can_read(self, timeout: float = 0) -> bool:
        return self.cut  # an unread answer has not arrived yet; the end of the stream has

    def should_reconnect(self) -> bool:
        return False
