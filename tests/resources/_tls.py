"""A door with TLS before a server that has none: the throw-away Postgres of the wheel was built without.

Invariant: ``with TlsDoor(path)`` leaves neither a listener nor a connection; nothing passes that is not encrypted.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, final

from gevent import socket, ssl
from gevent.pool import Pool
from gevent.server import StreamServer

CERTIFICATE = Path(__file__).with_name("localhost.pem")
"""Of ``localhost`` and 127.0.0.1, signed by itself, with its key; made for these tests, and of use for nothing else."""

_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
_CHUNK = 65_536


@final
class TlsDoor:
    """Takes Postgres' clients with TLS, and passes them on to a Unix socket; ``ciphers`` has one entry for each."""

    def __init__(self, target: str) -> None:
        self.ciphers: list[Any] = []
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(CERTIFICATE)
        self._pumps: Pool = Pool()
        self._server: Any = StreamServer(("127.0.0.1", 0), self._serve, spawn=self._pumps)

    def __enter__(self) -> TlsDoor:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._pumps.kill()

    @property
    def port(self) -> int:
        """The loopback port."""
        return int(self._server.server_port)

    def _serve(self, plain: Any, _: object) -> None:
        if plain.recv(len(_SSL_REQUEST)) != _SSL_REQUEST:
            plain.sendall(b"N")
            return
        plain.sendall(b"S")
        with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as client:
            self.ciphers.append(client.cipher())
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(self._target)
                self._pumps.spawn(_pump, server, client)
                _pump(client, server)


def _pump(source: Any, sink: Any) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
