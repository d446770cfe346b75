"""The servers that pages ask for: a throw-away Postgres with an empty database for each page, a Redis, a web server.

Invariant: a server runs only while pages that need it do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.redis import redis
from tests.resources._web_server import WebServer

Places = dict[str, str]
"""Environment variables that say where a server is."""


@pytest.fixture(scope="session")
def make_database() -> Iterator[Callable[[], Places]]:
    """Empty the database `shop`, and say where it is: in a DSN, and in the variables that libpq knows."""
    with ThrowAwayPostgres(tcp=True) as server:
        known = parse_dsn(server.dsn)
        where = {f"PG{name.upper()}": known[name] for name in ("host", "port", "user", "password")}

        def make() -> Places:
            connection = psycopg2.connect(server.dsn)
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
                cursor.execute("CREATE DATABASE shop")
            connection.close()
            return {"GTASKER_DSN": make_dsn(server.dsn, dbname="shop"), **where}

        yield make


@pytest.fixture(scope="session")
def redis_place() -> Iterator[Places]:
    """Where a Redis is."""
    with redis() as url:
        yield {"REDIS_URL": url}


@pytest.fixture
def web_place() -> Iterator[Places]:
    """Where a web server is."""
    with WebServer() as server:
        host, port = server.address
        yield {"SHOP_URL": f"http://{host}:{port}"}
