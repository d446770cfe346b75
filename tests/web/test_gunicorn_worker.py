"""The worker class under real Gunicorn, with a load, in each way that Gunicorn ends a worker."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from gtasker.integrations._draining import LINGER
from tests.postgres._server import Observer, eventually
from tests.web import MAX_RESOURCES
from tests.web._servers import Load, gunicorn, is_alive
from tests.web.conftest import marks

BRIEF = "/work?seconds=0.02"
TIME_IS_UP = "time is up"


def is_served(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/who", timeout=20) as response:
            return bool(response.status == 200)
    except URLError:
        return False


@pytest.mark.parametrize("keep_alive", [False, True])
def test_term_under_load_cuts_no_request(tmp_path: Path, environment: dict[str, str], *, keep_alive: bool) -> None:
    accepted = tmp_path / "accepted"
    environment["GTASKER_WEB_ACCEPTED"] = str(accepted)
    with gunicorn(tmp_path, environment, worker_class="tests.web._workers.CountingWorker") as server:
        load = Load(server.port, BRIEF, clients=12, keep_alive=keep_alive)
        load.await_answers(200)

        server.send(signal.SIGTERM)

        outcomes = load.all()
        assert server.ended() == 0
        assert outcomes.keys() <= {"200", "refused", "unserved"}
        assert outcomes["refused"] == 12
        # The kernel may reset a connection that was made in the very moment in which the last listener closes.
        assert load.connections - outcomes["unserved"] == len(accepted.read_text().splitlines())
        server.assert_in_order()


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_reload_under_load_cuts_and_refuses_no_request(
    tmp_path: Path, environment: dict[str, str], *, keep_alive: bool
) -> None:
    with gunicorn(tmp_path, environment) as server:
        load = Load(server.port, BRIEF, clients=12, keep_alive=keep_alive)
        load.await_answers(200)
        old = server.workers

        server.send(signal.SIGHUP)

        eventually(lambda: not any(map(is_alive, old)), "the end of the old workers")
        load.await_answers(200)
        assert len(server.workers) == 4
        load.stop()
        assert load.outcomes.keys() == {"200"}
        server.send(signal.SIGTERM)
        assert server.ended() == 0
        server.assert_in_order()


@pytest.mark.parametrize("keep_alive", [False, True])
def test_max_requests_under_load_cuts_and_refuses_no_request(
    tmp_path: Path, environment: dict[str, str], *, keep_alive: bool
) -> None:
    with gunicorn(tmp_path, environment, max_requests=60) as server:
        load = Load(server.port, BRIEF, clients=12, keep_alive=keep_alive)

        server.await_log("Booting worker", count=5)
        load.await_answers(100)

        load.stop()
        assert load.outcomes.keys() == {"200"}
        server.send(signal.SIGTERM)
        assert server.ended() == 0
        server.assert_in_order()


def test_a_worker_that_is_told_to_go_is_replaced_and_cuts_no_request(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with gunicorn(tmp_path, environment) as server:
        load = Load(server.port, BRIEF, clients=12)
        load.await_answers(100)

        os.kill(server.workers[0], signal.SIGTERM)

        server.await_log("Booting worker", count=3)
        load.await_answers(100)
        load.stop()
        assert load.outcomes.keys() == {"200"}


def test_a_worker_that_is_told_to_go_while_it_boots_goes(tmp_path: Path, environment: dict[str, str]) -> None:
    with gunicorn(tmp_path, environment, workers=1, worker_class="tests.web._workers.EarlyWorker") as server:
        server.await_log("Booting worker", count=2)

        assert int(server.ask("/who")) == server.workers[1]
        assert not is_alive(server.workers[0])


def test_who_stands_before_the_door_is_served(
    tmp_path: Path, environment: dict[str, str], observer: Observer, application: str
) -> None:
    with gunicorn(tmp_path, environment, workers=1, worker_connections=2) as server:
        load = Load(server.port, "/work?seconds=0.5", clients=8, requests=1)
        eventually(lambda: observer.active(application) == 2, "two requests at work, six before the door")

        server.send(signal.SIGTERM)

        assert load.all() == {"200": 8}
        assert server.ended() == 0
        server.assert_in_order()


def test_a_worker_with_a_door_of_its_own_serves_who_stands_before_it(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        says = f"def when_ready(server): server.log.info('Listening at: http://127.0.0.1:{port}')"
        settings = {"bind": f"127.0.0.1:{port}", "reuse_port": True, "worker_connections": 2, "max_requests": 2}
        with gunicorn(tmp_path, environment, workers=1, hooks=says, **settings) as server:
            eventually(lambda: is_served(port), "a worker that listens")
            load = Load(port, "/work?seconds=0.5", clients=8, requests=1)

            outcomes = load.all()

            assert outcomes["200"] > 2  # who was before the door when the worker was to leave
            assert outcomes.keys() <= {"200", "refused"}
            server.send(signal.SIGTERM)
            assert server.ended() == 0
            server.assert_in_order()


def test_a_request_may_begin_its_task_late(tmp_path: Path, environment: dict[str, str]) -> None:
    with gunicorn(tmp_path, environment, workers=1) as server:
        load = Load(server.port, f"/late?seconds={LINGER + 1}", clients=5, requests=1)
        server.await_waiting(5)

        server.send(signal.SIGTERM)

        assert load.all() == {"200": 5}
        assert server.ended() == 0
        server.assert_in_order()


def test_a_connection_that_was_to_be_kept_is_kept_for_another_request(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with gunicorn(tmp_path, environment, workers=1) as server:
        load = Load(server.port, f"/work?seconds={LINGER + 1}", clients=5, keep_alive=True)
        server.await_waiting(5)

        server.send(signal.SIGTERM)

        assert load.all() == {"200": 10, "refused": 5}
        assert load.connections == 5
        assert server.ended() == 0
        server.assert_in_order()


def test_a_second_term_changes_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    with gunicorn(tmp_path, environment, workers=1) as server:
        load = Load(server.port, "/work?seconds=3", clients=5, requests=1)
        server.await_waiting(5)

        server.send(signal.SIGTERM)
        server.await_log("Handling signal: term")
        server.send(signal.SIGTERM)
        os.kill(server.workers[0], signal.SIGTERM)

        assert load.all() == {"200": 5}
        assert server.ended() == 0
        server.assert_in_order()


def test_when_there_is_no_time_every_request_is_answered(tmp_path: Path, environment: dict[str, str]) -> None:
    with gunicorn(tmp_path, environment, workers=1, graceful_timeout=3) as server:
        working = Load(server.port, "/work?seconds=60", clients=5, requests=1)
        server.await_waiting(5)
        queued = Load(server.port, "/work?seconds=60", clients=20, requests=1)
        lazy = Load(server.port, "/lazy?seconds=60", clients=3, requests=1)
        elsewhere = Load(server.port, "/idle?seconds=60", clients=5, requests=1)
        server.await_waiting(33)

        server.send(signal.SIGTERM)

        assert working.all() == {"503 retry": 5}
        assert queued.all() == {"503 retry": 20}
        assert lazy.all() == {"503 retry": 3}
        assert elsewhere.all() == {"503 retry": 5}
        assert server.ended() == 0
        assert TIME_IS_UP in server.log
        server.assert_in_order()


@pytest.mark.parametrize("grace", [1, 2])
def test_a_grace_of_a_second_or_two_is_enough_to_answer(
    tmp_path: Path, environment: dict[str, str], grace: int
) -> None:
    with gunicorn(tmp_path, environment, workers=1, graceful_timeout=grace) as server:
        load = Load(server.port, "/work?seconds=60", clients=10, requests=1)
        server.await_waiting(10)

        server.send(signal.SIGTERM)

        assert load.all() == {"503 retry": 10}
        assert server.ended() == 0
        server.assert_in_order()


def test_tasks_that_nobody_waits_for_are_interrupted_when_time_is_up(
    tmp_path: Path, environment: dict[str, str], observer: Observer, application: str
) -> None:
    with gunicorn(tmp_path, environment, workers=1, graceful_timeout=2) as server:
        server.ask(f"/fire?seconds=60&mark={application.replace(' ', '+')}")

        server.send(signal.SIGTERM)

        assert server.ended() == 0
        assert TIME_IS_UP in server.log
        assert application not in marks(observer)
        server.assert_in_order()


def test_the_heartbeat_goes_on_while_tasks_are_finished(
    tmp_path: Path, environment: dict[str, str], observer: Observer, application: str
) -> None:
    with gunicorn(tmp_path, environment, workers=1, timeout=2, max_requests=1) as server:
        server.ask(f"/fire?seconds=6&mark={application.replace(' ', '+')}")

        server.await_log("Booting worker", count=2)

        assert application in marks(observer)
        assert int(server.ask("/who")) == server.workers[1]
        server.send(signal.SIGTERM)
        assert server.ended() == 0
        server.assert_in_order()


def test_a_drain_that_is_under_way_can_be_made_quick(tmp_path: Path, environment: dict[str, str]) -> None:
    with gunicorn(tmp_path, environment, workers=1, graceful_timeout=50) as server:
        load = Load(server.port, "/work?seconds=60", clients=10, requests=1)
        server.await_waiting(10)

        server.send(signal.SIGTERM)
        server.await_log("Handling signal: term")
        os.kill(server.workers[0], signal.SIGINT)  # as newer masters do, when they get one themselves

        assert server.ended() == 0
        assert sum(load.all().values()) == 10
        assert TIME_IS_UP not in server.log
        server.assert_in_order()


def test_an_idle_connection_keeps_no_worker(tmp_path: Path, environment: dict[str, str]) -> None:
    with gunicorn(tmp_path, environment, workers=1, keepalive=60) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as used, socket.create_connection(used.getpeername()):
            used.sendall(b"GET /who HTTP/1.1\r\nHost: test\r\n\r\n")
            assert used.recv(4096).startswith(b"HTTP/1.1 200")

            server.send(signal.SIGTERM)

            assert server.ended() == 0
        assert TIME_IS_UP not in server.log
        server.assert_in_order()


def test_a_response_of_which_a_part_was_sent_is_cut_and_not_falsified(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with gunicorn(tmp_path, environment, workers=1, graceful_timeout=2) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(b"GET /stream?seconds=60 HTTP/1.1\r\nHost: test\r\n\r\n")
            received = client.recv(4096)
            server.send(signal.SIGTERM)
            while part := client.recv(4096):
                received += part

        assert received.startswith(b"HTTP/1.1 200")
        assert b"first" in received
        assert b"503" not in received
        assert not received.endswith(b"0\r\n\r\n")  # what ends a whole response in chunks
        assert server.ended() == 0


@pytest.mark.parametrize("eager", [False, True])
def test_a_preloaded_application_has_a_runner_in_each_process(
    tmp_path: Path, environment: dict[str, str], observer: Observer, application: str, *, eager: bool
) -> None:
    if eager:
        environment["GTASKER_WEB_EAGER"] = "1"
    with gunicorn(tmp_path, environment, preload_app=True) as server:
        load = Load(server.port, BRIEF, clients=12)
        load.await_answers(300)
        peak = len(observer.sessions(application))

        server.send(signal.SIGTERM)

        assert load.all().keys() <= {"200", "refused", "unserved"}
        assert server.ended() == 0
        assert peak <= (3 if eager else 2) * MAX_RESOURCES
        assert ("was started before the fork" in server.log) is eager
        server.assert_in_order("was not stopped" if eager else "")


def test_the_sum_is_compared_with_the_limit_once(tmp_path: Path, environment: dict[str, str]) -> None:
    environment["GTASKER_SERVER_LIMIT"] = str(2 * MAX_RESOURCES - 1)
    with gunicorn(tmp_path, environment) as server:
        load = Load(server.port, BRIEF, clients=12)
        server.await_log("runner 'web' may open")
        load.await_answers(200)

        server.send(signal.SIGTERM)

        load.all()
        assert server.ended() == 0
        assert server.log.count("all runners together may open 14 resources, but the server allows 13") == 1


def test_a_limit_that_cannot_be_read_ends_the_boot(tmp_path: Path, environment: dict[str, str]) -> None:
    environment["GTASKER_SERVER_LIMIT"] = "many"
    with gunicorn(tmp_path, environment) as server:
        assert server.ended() == 1
        assert "GTASKER_SERVER_LIMIT is 'many'" in server.log
        assert not server.workers
