"""Run the cluster: ``python -m examples.cluster``. Ends with 0 if everything that must be true is true."""
# ruff: noqa: E402 (an application patches before it imports anything else)

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import json
import logging
import os
import secrets
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import psycopg2
import redis
from gevent import Greenlet

from examples.bank.census import Census, Count
from examples.bank.transfers import open_bank
from examples.bank.verdict import Check
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.redis import ThrowAwayRedis

WORKERS = 2


def main() -> int:
    """Start the servers, serve all transfers, and judge; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.cluster", description="Bank transfers over processes.")
    parser.add_argument("--transfers", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    # What the death of a worker does to a runner is in the worker's log.
    logging.getLogger("gtasker").setLevel(logging.CRITICAL)
    # A session whose client was shot ends while its query still runs, so that it does not count on for minutes.
    settings: dict[str, str | int] = {"client_connection_check_interval": "200ms"}
    with (
        tempfile.TemporaryDirectory(prefix="gtasker-cluster-") as folder,
        ThrowAwayPostgres(settings=settings) as books,
        ThrowAwayRedis() as messages,
    ):
        os.environ.update(
            CLUSTER_DSN=books.dsn,
            CLUSTER_REDIS=messages.url,
            CLUSTER_NAME=f"cluster_{uuid.uuid4().hex[:12]}",
            GTASKER_DASHBOARD_TOKEN=secrets.token_urlsafe(),
            GTASKER_DASHBOARD_DIRECTORY=str(Path(folder) / "dashboard"),
        )
        return run(Path(folder), arguments.transfers, arguments.seed)


def run(folder: Path, count: int, seed: int) -> int:
    """Run it over the servers that the environment names."""
    # They read the environment when they are imported, as a worker's process does.
    from examples.cluster import tasks  # noqa: PLC0415
    from examples.cluster.fleet import Fleet  # noqa: PLC0415
    from examples.cluster.sender import Sender  # noqa: PLC0415
    from examples.cluster.shot import Shot  # noqa: PLC0415

    begin = time.monotonic()
    dsn, name = os.environ["CLUSTER_DSN"], os.environ["CLUSTER_NAME"]
    _open(dsn)
    client = redis.Redis.from_url(tasks.redis_url)
    census = Census(dsn, name)
    sender, shot = Sender(count, seed), Shot(dsn, client, name)
    with Fleet(folder) as fleet, _dashboard(tasks.dashboard) as look, _screen(sender, client, begin):
        for _ in range(WORKERS):
            print(f"worker {fleet.add().pid} serves")
        shooting = Greenlet(shot.fire, fleet, sender, count // 3)
        shooting.start()
        sending = Greenlet(sender.run)
        sending.start()
        shooting.get()
        assert fleet.victim is not None
        print(f"worker {fleet.victim.pid} was shot; worker {fleet.add().pid} takes its place")
        sending.get()
        view, alive = look(), [worker.pid for worker in fleet.workers if worker is not fleet.victim]
        statuses = fleet.stop()
    checks = _judge(sender, shot, census.finish(), view, alive, statuses, client)
    for error, number in sender.errors.items():
        print(f"{number} times: {error}")
    for check in checks:
        print("yes" if check.holds else "NO ", check.sentence)
    print(f"{time.monotonic() - begin:.1f} seconds")
    return 0 if all(check.holds for check in checks) else 1


def _judge(
    sender: Any, shot: Any, counted: Count, view: dict[str, Any], alive: list[int], statuses: list[int], client: Any
) -> list[Check]:
    from examples.cluster import tasks, verdict  # noqa: PLC0415

    dsn, name = os.environ["CLUSTER_DSN"], os.environ["CLUSTER_NAME"]
    return [
        *verdict.judge_books(dsn, sender),
        *verdict.judge_shot(shot),
        *verdict.judge_bound(counted, tasks.BOUND),
        *verdict.judge_view(view, alive),
        *verdict.judge_rest(dsn, client, name, len(sender.refused), statuses),
    ]


def _open(dsn: str) -> None:
    session = psycopg2.connect(dsn)
    open_bank(session)
    session.close()


@contextmanager
def _dashboard(dashboard: Any) -> Iterator[Any]:
    """Serve the page, and yield what asks it as a visitor would."""
    server = dashboard.serve(port=0)
    address, token = f"http://127.0.0.1:{server.server_port}", os.environ["GTASKER_DASHBOARD_TOKEN"]
    print(f"dashboard: {address}, token {token}")

    def look() -> dict[str, Any]:
        asked = urllib.request.Request(f"{address}/stats.json", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=10.0) as answer:
            view: dict[str, Any] = json.load(answer)
            return view

    try:
        yield look
    finally:
        dashboard.close()


@contextmanager
def _screen(sender: Any, client: Any, begin: float) -> Iterator[None]:
    """Print a line a second."""

    def show() -> None:
        while True:
            waiting = client.llen(f"{os.environ['CLUSTER_NAME']}:normal")
            print(f"{time.monotonic() - begin:5.1f} s  answered {sender.answered}/{sender.count}  waiting {waiting}")
            gevent.sleep(1.0)

    screen = Greenlet(show)
    screen.start()
    try:
        yield
    finally:
        screen.kill()


if __name__ == "__main__":
    sys.exit(main())
