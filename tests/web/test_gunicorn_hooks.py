"""The plain hooks under Gunicorn's own gevent worker: where they promise something else than the worker class."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.postgres._server import Observer
from tests.web._servers import HOOKED, Load, gunicorn
from tests.web.conftest import marks


def test_requests_that_wait_for_the_runner_are_answered_when_time_is_up(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with gunicorn(tmp_path, environment, **HOOKED, workers=1, graceful_timeout=4) as server:
        load = Load(server.port, "/work?seconds=60", clients=20, requests=1)
        server.await_waiting(20)

        server.send(signal.SIGTERM)

        assert load.all() == {"500": 20}  # the application has no handler for it, and Gunicorn's worker knows none
        assert server.ended() == 0
        server.assert_in_order("Traceback")


def test_a_worker_that_leaves_by_itself_is_not_taken_for_dead(
    tmp_path: Path, environment: dict[str, str], observer: Observer, application: str
) -> None:
    with gunicorn(tmp_path, environment, **HOOKED, workers=1, max_requests=2, timeout=4) as server:
        server.ask(f"/fire?seconds=1&mark={application.replace(' ', '+')}")
        server.ask(f"/fire?seconds=60&mark={application.replace(' ', '+')}+long")

        server.await_log("Booting worker", count=2)

        assert int(server.ask("/who")) == server.workers[1]
        assert application in marks(observer)
        assert f"{application} long" not in marks(observer)
        server.send(signal.SIGTERM)
        assert server.ended() == 0
        server.assert_in_order()
