"""A TCP proxy that breaks the line to a real server in the ways lines break: ``FaultProxy``.

Invariant: every greenlet and socket is owned by the proxy, and ``stop`` leaves none of them.
"""

from __future__ import annotations

import contextlib
import enum
import struct
from types import TracebackType
from typing import final

import gevent
from gevent import Greenlet, socket
from gevent.event import Event
from gevent.pool import Group

_CHUNK = 65536  # bytes
_BACKLOG = 512  # connections; a full backlog would look like a black hole
# On, with zero seconds: closing then sends a reset in place of a goodbye.
_LINGER_RESET = struct.pack("ii", 1, 0)


class Mode(enum.Enum):
    """What the proxy does with what comes in."""

    UP = "up"  # everything passes
    REFUSE = "refuse"  # nobody listens; open connections go on
    BLACK_HOLE = "black hole"  # new connections are accepted; nothing passes, in either direction, until the next mode
    RESET = "reset"  # the next reply on a connection breaks off in the middle, with a TCP reset
    SLOW = "slow"  # each chunk waits


@final
class FaultProxy:
    """A proxy on a loopback port of its own: ``with FaultProxy(server) as proxy: connect(proxy.host, proxy.port)``.

    ``target`` is ``(host, port)`` or the path of a Unix socket. ``mode`` may be changed at any time with ``set_mode``,
    and holds for open connections, too. ``accepted`` counts connections since the start.
    """

    host = "127.0.0.1"

    def __init__(self, target: tuple[str, int] | str) -> None:
        self.accepted = 0
        self.delay = 0.05  # seconds that each chunk waits in SLOW
        self._target = target
        self._mode = Mode.UP
        self._passable = Event()
        self._passable.set()
        self._socket: socket.socket | None = None  # listens while there is an acceptor
        self._acceptor: Greenlet[..., None] | None = None
        self._port = 0
        self._greenlets = Group()
        self._lines: set[_Line] = set()

    def __enter__(self) -> FaultProxy:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<FaultProxy {self.host}:{self._port} {self._mode.value}, {len(self._lines)} open>"

    @property
    def port(self) -> int:
        """The port, the same in every mode; 0 before the start."""
        return self._port

    @property
    def mode(self) -> Mode:
        """What the proxy does now."""
        return self._mode

    @property
    def open_connections(self) -> int:
        """Connections that are not closed, black-holed ones included."""
        return len(self._lines)

    def start(self) -> None:
        """Listen, and pass everything. Never switches."""
        self.set_mode(Mode.UP)

    def stop(self) -> None:
        """Close everything and end every greenlet. Harmless when stopped. Switches."""
        self._unlisten()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self.cut()
        self._greenlets.kill()

    def set_mode(self, mode: Mode) -> None:
        """Change what happens from now on, to open connections as well. Never switches."""
        self._mode = mode
        if mode is Mode.REFUSE:
            self._unlisten()
        else:
            self._listen()
        if mode is Mode.BLACK_HOLE:
            self._passable.clear()
        else:
            self._passable.set()

    def cut(self) -> None:
        """Close every open connection at both ends, and keep the mode. Never switches."""
        for line in tuple(self._lines):
            line.close()

    def say(self, message: bytes) -> None:
        """Send ``message`` to every client as if the server had said it, unasked. Switches while a client is slow."""
        for line in tuple(self._lines):
            line.client.sendall(message)

    def _listen(self) -> None:
        if self._acceptor is not None:
            return
        if self._socket is None:
            self._socket = self._bound(self._port)
            self._port = self._socket.getsockname()[1]
        self._socket.listen(_BACKLOG)
        self._acceptor = self._greenlets.spawn(self._accept, self._socket)

    def _unlisten(self) -> None:
        """Refuse connections; the port stays ours by a socket that is bound and does not listen."""
        if self._acceptor is None or self._socket is None:
            return
        listener, self._socket = self._socket, self._bound(self._port)
        self._acceptor = None
        # gevent closes a socket that somebody waits for one pass of the loop later; until then it would accept.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()

    def _bound(self, port: int) -> socket.socket:
        bound = socket.socket()
        # The new holder of the port is bound before the old one lets go.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((self.host, port))
        return bound

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                if listener is self._socket:
                    raise
                return
            self.accepted += 1
            line = _Line(client)
            self._lines.add(line)
            self._greenlets.spawn(self._serve, line)

    def _serve(self, line: _Line) -> None:
        try:
            self._passable.wait()
            server = self._connect()
            line.server = server
            replies = self._greenlets.spawn(self._pump, line, server, line.client, replies=True)
            self._pump(line, line.client, server, replies=False)
            replies.join()
        except OSError:
            pass  # the server is gone, or the line was cut: the client learns it by the close
        finally:
            line.close()
            self._lines.discard(line)

    def _connect(self) -> socket.socket:
        if isinstance(self._target, tuple):
            return socket.create_connection(self._target)
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self._target)
        except BaseException:
            server.close()
            raise
        return server

    def _pump(self, line: _Line, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        try:
            while chunk := source.recv(_CHUNK):
                self._passable.wait()
                if self._mode is Mode.SLOW:
                    gevent.sleep(self.delay)
                if self._mode is Mode.RESET and replies:
                    sink.sendall(chunk[: (len(chunk) + 1) // 2])
                    line.reset()
                    return
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            line.close()


@final
class _Line:
    """One client's connection and, once it was let through, the server's."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server: socket.socket | None = None

    def close(self) -> None:
        """Close both ends; whoever waits on them is told. Never switches."""
        self.client.close()
        if self.server is not None:
            self.server.close()

    def reset(self) -> None:
        """End the client's connection with a TCP reset, and close the server's. Never switches."""
        with contextlib.suppress(OSError):
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self.close()
