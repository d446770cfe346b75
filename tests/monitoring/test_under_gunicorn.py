"""Under Gunicorn, with several workers, preloaded or not: whichever worker answers tells of all."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.acceptance.kit import eventually
from tests.monitoring._processes import arrived, value
from tests.monitoring._visitor import TOKEN
from tests.web._servers import Server

PROCESSES = 4
TASKS = 40
MOST = 5
"""Resources that one process may have: 2 + 2 workers, and a reserve of 1."""
POOL = {"db_client_connection_pool_name": "shop"}


@pytest.fixture(params=["", "--preload"])
def site(request: pytest.FixtureRequest, tmp_path: Path, folder: Path) -> Iterator[Server]:
    """The application behind Gunicorn, with four worker processes."""
    preload = [request.param] if request.param else []
    settings = ["--config", "python:tests.monitoring._gunicorn_conf", "--workers", str(PROCESSES), *preload]
    environment = {
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
        "GTASKER_DASHBOARD_DIRECTORY": str(tmp_path / "dashboard"),
        "GTASKER_DASHBOARD_TOKEN": TOKEN,
    }
    server = Server(["-m", "gunicorn", *settings, "tests.monitoring._site:app"], tmp_path / "log", environment)
    yield server
    server.close()


def ask(site: Server, path: str) -> str:
    """The page at `path`."""
    request = Request(f"http://127.0.0.1:{site.port}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
    with urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def spread(site: Server) -> list[int]:
    """Have the processes run `TASKS` tasks, each its share; return who they are."""
    done: list[int] = []

    def is_done() -> bool:
        with suppress(HTTPError):  # it had its share
            done.append(pid_of(ask(site, "/work")))
        return len(done) == TASKS

    eventually(is_done, "each process has had its share", 30)
    assert set(Counter(done).values()) == {TASKS // PROCESSES}
    return list(set(done))


def pid_of(page: str) -> int:
    """Who gave this page."""
    return int(page.partition("\n")[0].removeprefix("# "))


def test_any_worker_tells_prometheus_of_all(site: Server) -> None:
    eventually(lambda: len(site.workers) == PROCESSES, "all workers have started")

    spread(site)

    eventually(lambda: arrived(ask(site, "/metrics")) == TASKS, "all tasks are told")
    for _ in range(TASKS):  # whoever answers
        assert arrived(ask(site, "/metrics")) == TASKS
    site.send(signal.SIGTERM)
    assert site.ended() == 0
    site.assert_in_order()


def test_a_worker_that_died_takes_its_levels_with_it_and_leaves_its_counts(site: Server) -> None:
    eventually(lambda: len(site.workers) == PROCESSES, "all workers have started")
    busy = spread(site)

    def most() -> float:
        return value(ask(site, "/metrics"), "db_client_connection_max", **POOL) or 0

    eventually(lambda: most() == PROCESSES * MOST, "each worker tells its bound")
    eventually(lambda: arrived(ask(site, "/metrics")) == TASKS, "all tasks are told")

    os.kill(busy[0], signal.SIGKILL)

    eventually(lambda: most() == (PROCESSES - 1) * MOST, "its bound is gone")
    assert arrived(ask(site, "/metrics")) == TASKS


def test_any_worker_shows_all_in_its_dashboard(site: Server) -> None:
    eventually(lambda: len(site.workers) == PROCESSES, "all workers have started")
    pids = spread(site)

    def shop() -> Any:
        view = json.loads(ask(site, "/gtasker/stats.json"))
        return [view["runners"][0], sorted(one["pid"] for one in view["processes"])]

    eventually(lambda: shop()[0]["totals"]["total_tasks_completed"] == TASKS, "all tasks are shown")
    for _ in range(TASKS):  # whoever answers
        told, shown = shop()
        assert told["totals"]["total_tasks_completed"] == TASKS
        assert {resource["pid"] for resource in told["resources"]} == set(pids) == set(shown)


def test_a_worker_that_is_replaced_leaves_the_dashboard(site: Server) -> None:
    eventually(lambda: len(site.workers) == PROCESSES, "all workers have started")
    old = spread(site)

    site.send(signal.SIGHUP)

    def shown() -> set[int]:
        return {one["pid"] for one in json.loads(ask(site, "/gtasker/stats.json"))["processes"]}

    eventually(lambda: shown() and not shown() & set(old), "the old ones are gone", 20)
