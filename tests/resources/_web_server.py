"""A web server that answers, stalls, and knows who is connected.

Invariant: it listens on a loopback port of its own, and ``stop`` leaves no connection and no greenlet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, final

from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer

_CHUNK = b"x" * 1024
_CHUNKS = 8


@final
class WebServer:
    """``/echo/WORD`` says the word and the caller's cookie and ``X-Own`` header; ``/login`` sets a cookie.

    ``/stall`` answers when ``release`` is called, ``/long`` sends one part and stalls. ``asked`` counts by path.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.peak = 0
        self._go_on = Event()
        self._connections: Pool = Pool()
        self._server = WSGIServer(("127.0.0.1", 0), self._answer, log=None, spawn=self._connections)

    def __enter__(self) -> WebServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._server.stop(timeout=0.1)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        port = self._server.server_port
        assert port is not None
        return "127.0.0.1", port

    @property
    def connections(self) -> int:
        """How many are open, by the server's count."""
        return len(self._connections)

    def release(self) -> None:
        """Let what stalls go on."""
        self._go_on.set()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        path = environ["PATH_INFO"]
        self.asked[path] += 1
        self.peak = max(self.peak, self.connections)
        if path == "/stall":
            self._go_on.wait()
        headers = [("Content-Type", "text/plain")]
        if path == "/login":
            headers.append(("Set-Cookie", "who=me; Path=/"))
        if path == "/long":
            headers.append(("Content-Length", str(len(_CHUNK) * _CHUNKS)))
        start_response("200 OK" if path != "/missing" else "404 Not Found", headers)
        if path == "/long":
            return self._parts()
        word = path.rpartition("/")[2]
        return iter([f"{word} {environ.get('HTTP_COOKIE', '')} {environ.get('HTTP_X_OWN', '')}".encode()])

    def _parts(self) -> Iterator[bytes]:
        yield _CHUNK
        self._go_on.wait()
        for _ in range(_CHUNKS - 1):
            yield _CHUNK
