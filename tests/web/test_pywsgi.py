"""`serve`, in a process of its own, with a load."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.postgres._server import Observer, eventually
from tests.web._servers import Load, pywsgi
from tests.web.conftest import marks

BRIEF = "/work?seconds=0.02"
TIME_IS_UP = "time is up"


def test_requests_and_tasks_end_and_then_it_returns(
    tmp_path: Path, environment: dict[str, str], observer: Observer, application: str
) -> None:
    with pywsgi(tmp_path, environment, grace=30) as server:
        load = Load(server.port, "/work?seconds=1", clients=8, requests=1)
        server.await_waiting(8)
        assert server.ask(f"/fire?seconds=2&mark={application.replace(' ', '+')}") == "fired"

        server.send(signal.SIGTERM)

        assert load.all() == {"200": 8}
        assert server.ended() == 0
        assert application in marks(observer)
        assert "complete=True" in server.log
        assert TIME_IS_UP not in server.log


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_load_is_answered_until_it_is_refused(
    tmp_path: Path, environment: dict[str, str], *, keep_alive: bool
) -> None:
    with pywsgi(tmp_path, environment, grace=30) as server:
        load = Load(server.port, BRIEF, clients=12, keep_alive=keep_alive)
        load.await_answers(200)

        server.send(signal.SIGTERM)

        # The kernel may reset a connection that was made in the very moment in which the listener closes.
        outcomes = load.all()
        assert outcomes.keys() <= {"200", "refused", "unserved"}
        assert outcomes["refused"] == 12
        assert server.ended() == 0
        server.assert_in_order()


def test_who_stands_before_the_door_is_served(
    tmp_path: Path, environment: dict[str, str], observer: Observer, application: str
) -> None:
    with pywsgi(tmp_path, environment, grace=30, max_connections=2) as server:
        load = Load(server.port, "/work?seconds=0.5", clients=8, requests=1)
        eventually(lambda: observer.active(application) == 2, "two requests at work, six before the door")

        server.send(signal.SIGTERM)

        assert load.all() == {"200": 8}
        assert server.ended() == 0
        server.assert_in_order()


def test_when_there_is_no_time_every_request_is_answered(tmp_path: Path, environment: dict[str, str]) -> None:
    with pywsgi(tmp_path, environment, grace=2) as server:
        working = Load(server.port, "/work?seconds=60", clients=12, requests=1)
        lazy = Load(server.port, "/lazy?seconds=60", clients=3, requests=1)
        elsewhere = Load(server.port, "/idle?seconds=60", clients=5, requests=1)
        server.await_waiting(20)

        server.send(signal.SIGTERM)
        server.send(signal.SIGTERM)  # a second one changes nothing

        assert working.all() == {"503 retry": 12}
        assert lazy.all() == {"503 retry": 3}
        assert elsewhere.all() == {"503 retry": 5}
        assert server.ended() == 0
        assert TIME_IS_UP in server.log
        server.assert_in_order()


def test_an_idle_connection_does_not_keep_it(tmp_path: Path, environment: dict[str, str]) -> None:
    with pywsgi(tmp_path, environment, grace=50) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as used, socket.create_connection(used.getpeername()):
            used.sendall(b"GET /who HTTP/1.1\r\nHost: test\r\n\r\n")
            assert used.recv(4096).startswith(b"HTTP/1.1 200")

            server.send(signal.SIGTERM)

            assert server.ended() == 0
        assert TIME_IS_UP not in server.log
        server.assert_in_order()


def test_a_keyboard_interrupt_ends_it_quickly(tmp_path: Path, environment: dict[str, str]) -> None:
    with pywsgi(tmp_path, environment, grace=50) as server:
        load = Load(server.port, "/work?seconds=60", clients=12, requests=1)
        server.await_waiting(12)

        server.send(signal.SIGINT)

        assert server.ended() in (130, -signal.SIGINT)
        assert sum(load.all().values()) == 12
        assert server.log.count("KeyboardInterrupt") == 1
        assert "was not stopped" not in server.log
