"""Servers for the resources: Postgres, Redis, and a web server with faults.

Invariant: whatever a test starts has ended when it ends, and no server has anything of it left.

What is made of Python's own sockets, and psycopg 3, cannot work unless they are patched: those modules are for the
patched run of the suite alone. How the unpatched are warned is tested in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from sqlalchemy import Engine, create_engine

from gtasker.integrations.sqlalchemy import GTaskerPool
from gtasker.testing.postgres import ThrowAwayPostgres
from tests import _env
from tests.postgres.conftest import application, connect, cooperative, make_fleet, observer, proxied, proxy, server
from tests.resources._scenes import url_of

__all__ = ["application", "connect", "cooperative", "make_fleet", "observer", "proxied", "proxy", "server"]

collect_ignore = [] if _env.PATCHED else ["test_psycopg3.py", "test_redis.py", "test_http.py"]


class MakeEngine(Protocol):
    """Make an engine on the test's server, or at ``dsn``; ``options`` go to ``create_engine``."""

    def __call__(self, *, dsn: str | None = None, driver: str = "psycopg2", **options: Any) -> Engine: ...


@pytest.fixture
def make_engine(server: ThrowAwayPostgres, application: str, cooperative: None) -> Iterator[MakeEngine]:
    """Make engines on our pool; they are disposed of at the test's end."""
    engines: list[Engine] = []

    def make(*, dsn: str | None = None, driver: str = "psycopg2", **options: Any) -> Engine:
        url = url_of(dsn or server.dsn, driver, application)
        if "pool" not in options:
            options.setdefault("poolclass", GTaskerPool)
        engine = create_engine(url, **options)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.dispose()
