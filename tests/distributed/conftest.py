"""One Redis and one Postgres for all these tests, and two workers for those that do not shoot at them.

Invariant: what a test sends has a name of its own in both servers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import extensions

from gtasker.distributed.dramatiq import DramatiqEngine
from gtasker.integrations.psycopg2 import make_cooperative
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.redis import ThrowAwayRedis
from tests.distributed._app import SCHEMA, App, make_runner
from tests.distributed._workers import Site, WorkerProcess, dramatiq_worker, new_name, workers
from tests.postgres._server import Observer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[ThrowAwayRedis]:
    """A Redis that no test stops."""
    with ThrowAwayRedis() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[ThrowAwayPostgres]:
    """A Postgres with the tables of the application."""
    with ThrowAwayPostgres(settings={"max_connections": 100}) as server:
        session = psycopg2.connect(server.dsn)
        with session, session.cursor() as cursor:
            cursor.execute(SCHEMA)
        session.close()
        yield server


@pytest.fixture(scope="session")
def observer(postgres_server: ThrowAwayPostgres) -> Iterator[Observer]:
    """Another process, which asks Postgres."""
    observer = Observer(postgres_server.dsn)
    yield observer
    observer.close()


@pytest.fixture
def site(redis_server: ThrowAwayRedis, postgres_server: ThrowAwayPostgres, tmp_path: Path) -> Site:
    """A part of both servers that is this test's alone."""
    return Site(redis_server.url, postgres_server.dsn, new_name(), tmp_path)


@pytest.fixture(scope="session")
def shared_site(
    redis_server: ThrowAwayRedis, postgres_server: ThrowAwayPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Site:
    """The part of both servers that the shared workers serve."""
    return Site(redis_server.url, postgres_server.dsn, new_name(), tmp_path_factory.mktemp("workers"))


@pytest.fixture(scope="session")
def shared_workers(shared_site: Site) -> Iterator[list[WorkerProcess]]:
    """Two workers that no test stops."""
    with workers(2, lambda: dramatiq_worker(shared_site)) as both:
        yield both


@pytest.fixture
def cooperative() -> Iterator[None]:
    """Psycopg2 waits in gevent's hub during the test."""
    make_cooperative()
    yield
    extensions.set_wait_callback(None)


@pytest.fixture
def app(shared_workers: list[WorkerProcess], shared_site: Site, cooperative: None) -> Iterator[App]:
    """The sender's side of the application that the shared workers serve."""
    with sender(shared_site) as app:
        yield app


@contextmanager
def sender(site: Site) -> Iterator[App]:
    """The sender's side; at the end its connections are closed."""
    engine = DramatiqEngine(site.redis, namespace=site.name)
    app = App(make_runner(site.dsn, f"{site.name} sender"), engine)
    try:
        yield app
    finally:
        app.runner.kill()
        engine.close()
