"""One throw-away database for all these tests, and the observer beside it.

Invariant: when a test ends, its servers' processes are gone, and so are their sessions on the database.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from gtasker.testing.postgres import ThrowAwayPostgres
from tests.postgres._server import Observer, eventually

_names = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts servers in this folder."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and "database" in getattr(item, "fixturenames", ()):
            item.add_marker("postgres")
            item.add_marker("slow")


@pytest.fixture(scope="session")
def database() -> Iterator[ThrowAwayPostgres]:
    """A server on a Unix socket."""
    with ThrowAwayPostgres(settings={"max_connections": 200}) as server:
        yield server


@pytest.fixture(scope="session")
def observer(database: ThrowAwayPostgres) -> Iterator[Observer]:
    """The observer of the database."""
    observer = Observer(database.dsn)
    observer.ask("CREATE TABLE marks (mark text PRIMARY KEY)")
    yield observer
    observer.close()


@pytest.fixture
def application(observer: Observer) -> Iterator[str]:
    """A name for the sessions of the test's servers, none of which may be left when it ends."""
    name = f"web {next(_names)}"
    yield name
    eventually(lambda: not observer.sessions(name), f"the database sees the end of the sessions of {name}")


@pytest.fixture
def environment(database: ThrowAwayPostgres, application: str) -> dict[str, str]:
    """The variables that tell the application where its database is."""
    return {"GTASKER_WEB_DSN": f"{database.dsn} application_name='{application}'"}


def marks(observer: Observer) -> set[str]:
    """What the tasks that ended have left in the database."""
    return {mark for (mark,) in observer.ask("SELECT mark FROM marks")}
