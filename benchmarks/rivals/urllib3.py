"""urllib3's HTTPConnectionPool with `block=True`.

Invariant: a use is one `urlopen`; the work is the exchange that the connection makes for it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

from urllib3 import HTTPConnectionPool

from benchmarks.world import Connection, Server

T = TypeVar("T")


class Urllib3Pool:
    """`pool.urlopen(...)` without retries."""

    name: ClassVar[str] = "urllib3"

    def __init__(self, server: Server, size: int, *, checked: bool = False) -> None:
        self._pool = HTTPConnectionPool("server", maxsize=size, block=True, retries=False, server=server)
        self._pool.ConnectionCls = _HTTP  # type: ignore[assignment]

    def use(self, work: Callable[[Connection], T], timeout: float) -> T:
        pool: Any = self._pool  # its types know neither a time-out of less than a second nor our kind of body
        response = pool.urlopen("POST", "/", body=work, pool_timeout=timeout)
        answer: T = response.answer
        return answer

    def cycle(self, times: int) -> None:
        get, put = self._pool._get_conn, self._pool._put_conn
        for _ in repeat(None, times):
            put(get())

    def close(self) -> None:
        self._pool.close()


class _HTTP(Connection):
    """What the pool asks of an HTTP connection: made unconnected, connected by its first request."""

    proxy = None

    def __init__(self, host: str, server: Server, **_: Any) -> None:
        self.server = server
        self.closed = True
        self.busy = self.cut = self.session = False
        self._work: Callable[[Connection], object] | None = None

    @property
    def is_closed(self) -> bool:
        return self.closed

    @property
    def is_connected(self) -> bool:
        return self.alive()

    def request(self, method: str, url: str, body: Callable[[Connection], object], **_: Any) -> None:
        if self.closed:
            self.open()
        self._work = body

    def getresponse(self) -> SimpleNamespace:
        assert self._work is not None
        answer = self._work(self)
        return SimpleNamespace(
            answer=answer,
            status=200,
            version_string="HTTP/1.1",
            length_remaining=0,
            headers={},
            get_redirect_location=lambda: None,
        )

    def close(self, *_: Any) -> None:
        super().close()
        self.busy = False
