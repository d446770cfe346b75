"""The connections of a server, as its greenlets and its drain use them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic

import gevent
import pytest
from gevent.event import Event
from gevent.pool import Group, Pool
from gevent.server import StreamServer
from gevent.socket import create_connection
from gevent.socket import socketpair as gevent_socketpair

from gtasker.integrations._connections import Connections, take_in
from gtasker.integrations.wsgi import ServerStoppingError
from tests.postgres._server import eventually


class Scene:
    """A server's end of some connections: each echoes, and a line that says "hold" is a request until it is let go."""

    def __init__(self) -> None:
        self.connections = Connections()
        self.hold = Event()
        self.errors: list[BaseException] = []
        self.greenlets = Group()
        self._clients: list[socket.socket] = []

    def connect(self) -> socket.socket:
        near, far = gevent_socketpair()
        self._clients.append(near)
        self.greenlets.spawn(self._serve, far)
        gevent.sleep(0)
        return near

    def close(self) -> None:
        self.hold.set()
        for client in self._clients:
            client.close()
        self.greenlets.join()

    def _serve(self, far: socket.socket) -> None:
        with far, self.connections.connected(far):
            while words := far.recv(100):
                with self.connections.request():
                    try:
                        if words == b"hold":
                            self.hold.wait()
                        far.sendall(words)
                    except ServerStoppingError as error:
                        self.errors.append(error)
                        far.sendall(b"stopping")


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def test_who_has_idled_since_then_is_let_go_and_nobody_else(scene: Scene) -> None:
    idle, served = scene.connect(), scene.connect()
    moment = monotonic()
    served.sendall(b"echo")
    assert served.recv(100) == b"echo"
    busy, fresh = scene.connect(), scene.connect()
    busy.sendall(b"hold")
    eventually(lambda: scene.connections.requests == 1, "a request")

    scene.connections.hang_up(idle_since=moment)

    assert idle.recv(100) == b""
    for client in (served, fresh):
        client.sendall(b"still there")
        assert client.recv(100) == b"still there"
    scene.hold.set()
    assert busy.recv(100) == b"hold"


def test_a_request_that_has_arrived_is_answered_before_the_end(scene: Scene) -> None:
    client = scene.connect()
    client.sendall(b"just sent")

    scene.connections.hang_up(idle_since=monotonic())

    assert client.recv(100) == b"just sent"
    assert client.recv(100) == b""


def test_a_connection_in_a_request_is_not_hung_up_on(scene: Scene) -> None:
    client = scene.connect()
    client.sendall(b"hold")
    eventually(lambda: scene.connections.requests == 1, "a request")

    scene.connections.hang_up(idle_since=monotonic())

    scene.hold.set()
    assert client.recv(100) == b"hold"
    client.sendall(b"another")
    assert client.recv(100) == b"another"


def test_a_connection_that_is_closed_already_is_passed_over(scene: Scene) -> None:
    near, far = gevent_socketpair()
    near.close()
    with scene.connections.connected(far):
        far.close()

        scene.connections.hang_up(idle_since=monotonic())


def test_each_request_is_interrupted_and_no_idle_connection(scene: Scene) -> None:
    idle = scene.connect()
    busy = [scene.connect() for _ in range(3)]
    for client in busy:
        client.sendall(b"hold")
    eventually(lambda: scene.connections.requests == 3, "three requests")

    scene.connections.interrupt(ServerStoppingError, "time is up")

    assert [client.recv(100) for client in busy] == [b"stopping"] * 3
    assert [str(error) for error in scene.errors] == ["time is up"] * 3
    assert len({id(error) for error in scene.errors}) == 3
    idle.sendall(b"unharmed")
    assert idle.recv(100) == b"unharmed"


def test_a_request_that_ends_in_the_meantime_is_not_interrupted(scene: Scene) -> None:
    client = scene.connect()
    client.sendall(b"hold")
    eventually(lambda: scene.connections.requests == 1, "a request")

    scene.hold.set()  # it runs on in the next turn of the loop, before it could be thrown at
    scene.connections.interrupt(ServerStoppingError, "time is up")

    assert client.recv(100) == b"hold"
    client.sendall(b"unharmed")
    assert client.recv(100) == b"unharmed"
    assert not scene.errors


def test_the_backlog_is_taken_in_as_far_as_there_is_room() -> None:
    let_go = Event()
    served: list[object] = []

    def handle(client: socket.socket, address: object) -> None:
        served.append(client)
        let_go.wait()

    server = StreamServer(("127.0.0.1", 0), handle=handle, spawn=Pool(2))
    server.init_socket()
    assert server.server_port is not None
    clients = [create_connection(("127.0.0.1", server.server_port)) for _ in range(3)]
    try:
        assert take_in(server) is False  # the third waits
        gevent.sleep(0)
        assert len(served) == 2

        let_go.set()
        assert server.pool is not None
        server.pool.join()

        assert take_in(server) is True
        server.pool.join()
        assert len(served) == 3
    finally:
        server.close()
        for client in clients:
            client.close()


def test_a_listener_that_cannot_accept_has_nobody_before_it() -> None:
    server = StreamServer(("127.0.0.1", 0), handle=lambda client, address: None, spawn=Pool(2))
    server.init_socket()
    server.socket.close()

    assert take_in(server) is True
    server.close()
