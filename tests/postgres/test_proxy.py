"""The proxy that breaks lines: each mode does what it says to real sockets, and nothing of it is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import gevent
import pytest
from gevent import socket
from gevent.pool import Group

from gtasker.testing.proxy import FaultProxy, Mode
from tests.postgres._server import eventually

A_MOMENT = 0.05
"""Seconds in which nothing comes, where nothing may come; too short a wait could only let a fault pass."""


class Echo:
    """A server that says what it hears, on a port or a path of its own; ``silent`` makes it only listen."""

    def __init__(self, place: socket.socket) -> None:
        self.place = place
        self.conversations = 0
        self._greenlets = Group()
        place.listen()
        self._greenlets.spawn(self._accept)

    def stop(self) -> None:
        self._greenlets.kill()
        self.place.close()

    def _accept(self) -> None:
        while True:
            client, _ = self.place.accept()
            self.conversations += 1
            self._greenlets.spawn(self._repeat, client)

    @staticmethod
    def _repeat(client: socket.socket) -> None:
        with closing(client):
            try:
                while heard := client.recv(65536):
                    client.sendall(heard)
            except OSError:
                pass


@pytest.fixture
def echo() -> Iterator[Echo]:
    place = socket.socket()
    place.bind(("127.0.0.1", 0))
    echo = Echo(place)
    yield echo
    echo.stop()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.place.getsockname()) as proxy:
        yield proxy
    assert proxy.open_connections == 0


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=10)


def exchange(line: socket.socket, words: bytes) -> bytes:
    line.sendall(words)
    heard = b""
    while len(heard) < len(words) and (chunk := line.recv(65536)):
        heard += chunk
    return heard


def listen(line: socket.socket, heard: list[bytes]) -> None:
    while chunk := line.recv(100):
        heard.append(chunk)


def says_nothing(line: socket.socket) -> bool:
    line.settimeout(A_MOMENT)
    try:
        return line.recv(1) is None
    except TimeoutError:
        return True
    finally:
        line.settimeout(10)


def test_everything_passes_both_ways(proxy: FaultProxy) -> None:
    words = bytes(range(256)) * 4096

    with closing(connect(proxy)) as line:
        writer = gevent.spawn(line.sendall, words)
        heard = b""
        while len(heard) < len(words):
            heard += line.recv(65536)
        writer.join()

    assert heard == words


def test_connections_are_counted(proxy: FaultProxy) -> None:
    lines = [connect(proxy) for _ in range(3)]
    eventually(lambda: proxy.accepted == 3, "three accepted")
    assert proxy.open_connections == 3

    for line in lines:
        line.close()

    eventually(lambda: proxy.open_connections == 0, "three closed")
    assert proxy.accepted == 3


def test_a_unix_socket_can_be_the_target(tmp_path: Path) -> None:
    place = socket.socket(socket.AF_UNIX)
    place.bind(str(tmp_path / "echo"))
    echo = Echo(place)
    with FaultProxy(str(tmp_path / "echo")) as proxy, closing(connect(proxy)) as line:
        assert exchange(line, b"hello") == b"hello"
    echo.stop()


def test_one_end_may_stop_talking_and_still_listen(proxy: FaultProxy) -> None:
    with closing(connect(proxy)) as line:
        line.sendall(b"last words")
        line.shutdown(socket.SHUT_WR)

        heard: list[bytes] = []
        listen(line, heard)

    assert b"".join(heard) == b"last words"


def test_refusing_closes_the_door_at_once_and_opens_it_again(proxy: FaultProxy) -> None:
    port = proxy.port
    with closing(connect(proxy)) as before:
        assert exchange(before, b"in") == b"in"

        proxy.set_mode(Mode.REFUSE)
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        assert exchange(before, b"still here") == b"still here"

        proxy.set_mode(Mode.UP)
        assert proxy.port == port
        with closing(connect(proxy)) as after:
            assert exchange(after, b"back") == b"back"


def test_while_it_refuses_nobody_else_gets_its_port(proxy: FaultProxy) -> None:
    proxy.set_mode(Mode.REFUSE)

    with closing(socket.socket()) as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind((proxy.host, proxy.port))


def test_a_black_hole_accepts_and_says_nothing_until_it_ends(proxy: FaultProxy, echo: Echo) -> None:
    with closing(connect(proxy)) as before:
        assert exchange(before, b"in") == b"in"

        proxy.set_mode(Mode.BLACK_HOLE)
        with closing(connect(proxy)) as during:
            during.sendall(b"anybody?")
            before.sendall(b"hello?")
            assert says_nothing(during)
            assert says_nothing(before)
            assert echo.conversations == 1

            proxy.set_mode(Mode.UP)
            assert before.recv(100) == b"hello?"
            assert during.recv(100) == b"anybody?"


def test_a_reset_breaks_a_reply_in_the_middle(proxy: FaultProxy) -> None:
    with closing(connect(proxy)) as line:
        proxy.set_mode(Mode.RESET)
        line.sendall(b"0123456789")

        heard: list[bytes] = []
        with pytest.raises(ConnectionResetError):
            listen(line, heard)

    # What the kernel had not yet handed over when the reset came is lost with it.
    assert b"".join(heard) in (b"", b"01234")


def test_a_slow_line_holds_each_chunk_back(proxy: FaultProxy) -> None:
    with closing(connect(proxy)) as line:
        proxy.delay = 3600.0
        proxy.set_mode(Mode.SLOW)
        line.sendall(b"late")
        assert says_nothing(line)
    with closing(connect(proxy)) as line:
        proxy.delay = 0.001

        assert exchange(line, b"soon") == b"soon"


def test_a_cut_closes_every_connection_now_and_lets_new_ones_in(proxy: FaultProxy) -> None:
    lines = [connect(proxy) for _ in range(3)]
    eventually(lambda: proxy.open_connections == 3, "three open")

    proxy.cut()

    for line in lines:
        assert line.recv(1) == b""
        line.close()
    with closing(connect(proxy)) as line:
        assert exchange(line, b"new") == b"new"


def test_what_the_server_never_said_can_be_said(proxy: FaultProxy) -> None:
    with closing(connect(proxy)) as line:
        eventually(lambda: proxy.open_connections == 1, "it is accepted")

        proxy.say(b"unasked")

        assert line.recv(100) == b"unasked"


def test_without_a_server_the_client_is_hung_up_on(proxy: FaultProxy, echo: Echo) -> None:
    echo.stop()

    with closing(connect(proxy)) as line:
        assert line.recv(1) == b""


@pytest.mark.parametrize("mode", list(Mode))
def test_a_stopped_proxy_is_gone_in_every_mode(echo: Echo, mode: Mode) -> None:
    # The fixtures every test has fail this one if a greenlet or a watcher is left.
    proxy = FaultProxy(echo.place.getsockname())
    proxy.start()
    with closing(connect(proxy)) as line:
        exchange(line, b"in")
        proxy.set_mode(mode)
        line.sendall(b"in flight")

        proxy.stop()
        proxy.stop()

        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
    assert proxy.open_connections == 0


def test_a_stopped_proxy_can_be_started_again(proxy: FaultProxy) -> None:
    proxy.stop()
    proxy.start()

    with closing(connect(proxy)) as line:
        assert exchange(line, b"again") == b"again"
