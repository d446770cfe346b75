"""One throw-away server for all these tests, and the observer beside it.

Invariant: after a test psycopg2 is as it was, and the server has no session of the test's left.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from psycopg2 import extensions

from gtasker.integrations.psycopg2 import GreenConnection, ResourceOptions, make_cooperative, resource
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.proxy import FaultProxy
from tests.postgres._fleet import Fleet
from tests.postgres._server import Observer, eventually

_names = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("postgres")


@pytest.fixture(scope="session")
def server() -> Iterator[ThrowAwayPostgres]:
    """A server on a Unix socket and a loopback port; a test that stops it starts it again."""
    with ThrowAwayPostgres(tcp=True, settings={"max_connections": 200}) as server:
        yield server


@pytest.fixture(scope="session")
def observer(server: ThrowAwayPostgres) -> Iterator[Observer]:
    """The observer of the server."""
    observer = Observer(server.dsn)
    yield observer
    observer.close()


@pytest.fixture
def cooperative() -> Iterator[None]:
    """Psycopg2 waits in gevent's hub during the test."""
    make_cooperative()
    yield
    extensions.set_wait_callback(None)


@pytest.fixture
def application(observer: Observer) -> Iterator[str]:
    """A name for the test's sessions, none of which may be left when it ends."""
    name = f"test {next(_names)}"
    yield name
    eventually(lambda: not observer.sessions(name), f"the server sees the end of the sessions of {name}")


@pytest.fixture
def proxy(server: ThrowAwayPostgres) -> Iterator[FaultProxy]:
    """A proxy in front of the server; it reaches the server's socket, so that no password is asked for."""
    with FaultProxy(str(server.socket_path)) as proxy:
        yield proxy


class Connect(Protocol):
    """Make a connection as a runner would; ``options`` are those of ``resource``."""

    def __call__(self, **options: Any) -> GreenConnection: ...


@pytest.fixture
def connect(server: ThrowAwayPostgres, application: str, cooperative: None) -> Iterator[Connect]:
    """Make connections; at the test's end they are closed."""
    made: list[GreenConnection] = []

    def connect(**options: Any) -> GreenConnection:
        connection = resource(server.dsn, application_name=application, **options)["on_create"]()
        made.append(connection)
        return connection

    yield connect
    for connection in made:
        connection.close()


@pytest.fixture
def hooks(server: ThrowAwayPostgres, cooperative: None) -> ResourceOptions:
    """The hooks a runner would call."""
    return resource(server.dsn)


class MakeFleet(Protocol):
    """Start a runner; ``connecting`` goes to ``resource``, ``options`` to ``Config``, ``dsn`` elsewhere."""

    def __call__(
        self, *, dsn: str | None = None, connecting: dict[str, Any] | None = None, **options: Any
    ) -> Fleet: ...


@pytest.fixture
def make_fleet(server: ThrowAwayPostgres, application: str, cooperative: None) -> Iterator[MakeFleet]:
    """Start runners; each is stopped at the test's end, and then nothing of it may be left."""
    fleets: list[Fleet] = []

    def make(*, dsn: str | None = None, connecting: dict[str, Any] | None = None, **options: Any) -> Fleet:
        fleet = Fleet(dsn or server.dsn, {"application_name": application, **(connecting or {})}, **options)
        fleets.append(fleet)
        fleet.runner.start()
        return fleet

    yield make
    for fleet in fleets:
        fleet.runner.kill()
        stats, metrics = fleet.runner.stats(), fleet.runner.metrics()
        assert stats.live_resources == stats.abandoned == 0, stats
        assert metrics.resources_created == metrics.resources_destroyed == fleet.reasons.total()


@pytest.fixture
def proxied(proxy: FaultProxy) -> str:
    """The DSN of the server behind the proxy."""
    return f"host={proxy.host} port={proxy.port} user=postgres dbname=postgres"
