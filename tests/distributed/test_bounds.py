"""One bound for the connections of all processes together, as Postgres itself counts them."""

from __future__ import annotations

import os
from typing import Any

import gevent
import pytest
from psycopg2 import extensions

from gtasker.testing.postgres import ThrowAwayPostgres
from tests.distributed._app import App, hold, make_runner
from tests.distributed._workers import Site, dramatiq_worker, new_name, workers
from tests.distributed.conftest import sender
from tests.postgres._server import Observer, eventually

BOUND = 10
TASKS = 240
SAMPLES = 100


@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_never_have_more_connections_than_the_bound(
    count: int, site: Site, observer: Observer, cooperative: None
) -> None:
    observer.watch(site.name)
    with workers(count, lambda: dramatiq_worker(site, BOUND)), sender(site) as app:
        served = _serve(app)
        seen = observer.watch(None)

    # All of them worked, the bound was reached, and somebody looked.
    assert len(served) == count
    assert seen["peak"] == BOUND
    assert seen["samples"] >= SAMPLES
    eventually(lambda: not observer.sessions(site.name), "the sessions of the dead are gone")


def test_the_limit_of_a_role_in_postgres_is_a_wall_that_a_runner_waits_at(
    postgres_server: ThrowAwayPostgres, observer: Observer, cooperative: None
) -> None:
    role = new_name().replace("-", "_")
    observer.ask(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 3; GRANT pg_monitor TO {role}; SELECT 1")
    observer.watch(role)
    runner = make_runner(extensions.make_dsn(postgres_server.dsn, user=role), role)

    def use() -> Any:
        return runner.run_task(lambda connection: hold(connection, 0.02))

    with runner:
        callers = [gevent.spawn(use) for _ in range(60)]
        gevent.joinall(callers, timeout=30.0)
        seen = observer.watch(None)
        failures = runner.metrics().create_failures

    assert [caller.value for caller in callers] == [os.getpid()] * 60
    assert seen["peak"] == 3
    assert failures > 0


def _serve(app: App) -> set[int]:
    handles = [app.hold.remote(0.05) for _ in range(TASKS)]
    return {handle.get(60.0) for handle in handles}
