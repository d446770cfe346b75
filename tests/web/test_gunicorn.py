"""What the worker class and the plain hooks promise alike, under real Gunicorn."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.postgres._server import Observer, eventually
from tests.web import MAX_RESOURCES
from tests.web._servers import HOOKED, Load, Server, gunicorn, is_alive
from tests.web.conftest import marks

Serve = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(params=[{}, HOOKED], ids=["worker class", "hooks"])
def serve(request: pytest.FixtureRequest, tmp_path: Path, environment: dict[str, str]) -> Serve:
    """Start Gunicorn with these settings."""
    settings: dict[str, Any] = {"workers": 1, **request.param}
    return lambda **more: gunicorn(tmp_path, environment, **{**settings, **more})


def fired(server: Server, application: str, count: int) -> set[str]:
    """Begin tasks that nobody waits for, more than can run at a time; return their marks."""
    names = {f"{application} {number}" for number in range(count)}
    for name in names:
        assert server.ask(f"/fire?seconds=1&mark={name.replace(' ', '+')}") == "fired"
    return names


def test_term_finishes_requests_and_tasks(serve: Serve, observer: Observer, application: str) -> None:
    with serve() as server:
        load = Load(server.port, "/work?seconds=1", clients=8, requests=1)
        server.await_waiting(8)
        names = fired(server, application, 8)

        server.send(signal.SIGTERM)

        assert load.all() == {"200": 8}
        assert server.ended() == 0
        assert names <= marks(observer)
        server.assert_in_order()


def test_a_reload_finishes_requests_and_tasks(serve: Serve, observer: Observer, application: str) -> None:
    with serve() as server:
        load = Load(server.port, "/work?seconds=1", clients=8, requests=1)
        server.await_waiting(8)
        names = fired(server, application, 8)
        [old] = server.workers

        server.send(signal.SIGHUP)

        assert load.all() == {"200": 8}
        eventually(lambda: not is_alive(old), "the end of the old worker")
        assert names <= marks(observer)
        assert int(server.ask("/who")) == server.workers[1]
        server.send(signal.SIGTERM)
        assert server.ended() == 0
        server.assert_in_order()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_quick_shutdown_waits_for_nothing(serve: Serve, number: signal.Signals) -> None:
    with serve(graceful_timeout=50, timeout=120) as server:
        load = Load(server.port, "/work?seconds=60", clients=10, requests=1)
        server.await_waiting(10)

        server.send(number)

        assert server.ended() == 0  # long before the tasks and the grace would end
        assert sum(load.all().values()) == 10
        assert "time is up" not in server.log


def test_the_sum_is_told_once(serve: Serve) -> None:
    with serve(workers=2) as server:
        load = Load(server.port, "/work?seconds=0.02", clients=12)
        server.await_log("runner 'web' may open")
        load.await_answers(100)

        server.send(signal.SIGTERM)

        load.all()
        assert server.ended() == 0
        assert server.log.count(f"may open 2 workers x {MAX_RESOURCES} resources = {2 * MAX_RESOURCES}") == 1
