"""The plain hooks under Gunicorn's own gevent worker: what they promise without a worker class."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.postgres._server import Observer, eventually
from tests.web import MAX_RESOURCES
from tests.web._servers import Load, Server, gunicorn, is_alive
from tests.web.conftest import marks

HOOKS = "from gtasker.integrations.gunicorn import post_worker_init, worker_exit, worker_int"


def hooked(folder: Path, environment: dict[str, str], **settings: Any) -> AbstractContextManager[Server]:
    return gunicorn(folder, environment, hooks=HOOKS, worker_class="gevent", **{"workers": 1, **settings})


def test_term_finishes_requests_and_tasks(
    tmp_path: Path, environment: dict[str, str], observer: Observer, application: str
) -> None:
    with hooked(tmp_path, environment) as server:
        load = Load(server.port, "/work?seconds=1", clients=8, requests=1)
        server.await_waiting(8)
        server.ask(f"/fire?seconds=3&mark={application.replace(' ', '+')}")

        server.send(signal.SIGTERM)

        assert load.all() == {"200": 8}
        assert server.ended() == 0
        assert application in marks(observer)
        server.assert_in_order()


def test_a_reload_finishes_requests_and_tasks(
    tmp_path: Path, environment: dict[str, str], observer: Observer, application: str
) -> None:
    with hooked(tmp_path, environment) as server:
        load = Load(server.port, "/work?seconds=1", clients=8, requests=1)
        server.await_waiting(8)
        server.ask(f"/fire?seconds=3&mark={application.replace(' ', '+')}")
        [old] = server.workers

        server.send(signal.SIGHUP)

        assert load.all() == {"200": 8}
        eventually(lambda: not is_alive(old), "the end of the old worker")
        assert application in marks(observer)
        assert int(server.ask("/who")) == server.workers[1]
        server.send(signal.SIGTERM)
        assert server.ended() == 0
        server.assert_in_order()


def test_requests_that_wait_for_the_runner_are_answered_when_time_is_up(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with hooked(tmp_path, environment, graceful_timeout=4) as server:
        load = Load(server.port, "/work?seconds=60", clients=20, requests=1)
        server.await_waiting(20)

        server.send(signal.SIGTERM)

        assert load.all() == {"500": 20}  # the application has no handler for it, and Gunicorn's worker knows none
        assert server.ended() == 0
        server.assert_in_order("Traceback")


def test_a_worker_that_leaves_by_itself_is_not_taken_for_dead(
    tmp_path: Path, environment: dict[str, str], observer: Observer, application: str
) -> None:
    with hooked(tmp_path, environment, max_requests=2, timeout=4) as server:
        server.ask(f"/fire?seconds=1&mark={application.replace(' ', '+')}")
        server.ask(f"/fire?seconds=60&mark={application.replace(' ', '+')}+long")

        server.await_log("Booting worker", count=2)

        assert int(server.ask("/who")) == server.workers[1]
        assert application in marks(observer)
        assert f"{application} long" not in marks(observer)
        server.send(signal.SIGTERM)
        assert server.ended() == 0
        server.assert_in_order()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_quick_shutdown_waits_for_nothing(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    with hooked(tmp_path, environment, graceful_timeout=50, timeout=120) as server:
        load = Load(server.port, "/work?seconds=60", clients=10, requests=1)
        server.await_waiting(10)

        server.send(number)

        assert server.ended() == 0  # long before the tasks and the grace would end
        assert sum(load.all().values()) == 10


def test_the_sum_is_told_once(tmp_path: Path, environment: dict[str, str]) -> None:
    with hooked(tmp_path, environment, workers=2) as server:
        load = Load(server.port, "/work?seconds=0.02", clients=12)
        server.await_log("runner 'web' may open")
        load.await_answers(100)

        server.send(signal.SIGTERM)

        load.all()
        assert server.ended() == 0
        assert server.log.count(f"may open 2 workers x {MAX_RESOURCES} resources = {2 * MAX_RESOURCES}") == 1
