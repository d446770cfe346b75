"""What the pages about resources show runs as it stands, and what they name is there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import psycopg2
import pytest
from gevent import subprocess

import gtasker_pytest
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.redis import ThrowAwayRedis
from tests.postgres._server import ROOT
from tests.resources._pages import blocks_of
from tests.resources._web_server import WebServer

HOW_TO = ROOT / "docs" / "how-to"
PAGES = ["psycopg2", "psycopg3", "sqlalchemy", "redis", "http", "testing"]


def page_of(name: str) -> Path:
    return HOW_TO / f"{name}.md"


@pytest.fixture
def places(server: ThrowAwayPostgres) -> dict[str, str]:
    """The environment in which a DSN needs no more than the database's name."""
    session = psycopg2.connect(server.dsn)
    session.autocommit = True
    cursor = session.cursor()
    cursor.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
    cursor.execute("CREATE DATABASE shop")
    given = session.get_dsn_parameters()
    password = dict(word.split("=", 1) for word in server.dsn.split())["password"]
    session.close()
    return {"PGHOST": given["host"], "PGPORT": given["port"], "PGUSER": given["user"], "PGPASSWORD": password}


def run(name: str, environment: dict[str, str]) -> str:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.resources._pages", str(page_of(name))],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return str(ended.stdout)


@pytest.mark.postgres
@pytest.mark.parametrize("name", ["psycopg2", "psycopg3", "sqlalchemy", "testing"])
def test_each_block_about_postgres_runs_as_it_stands(name: str, places: dict[str, str]) -> None:
    assert run(name, places) == "as it stands\n"


def test_each_block_about_redis_runs_as_it_stands() -> None:
    with ThrowAwayRedis() as server:
        assert run("redis", {"REDIS_URL": server.url}) == "as it stands\n"


def test_each_block_about_http_runs_as_it_stands() -> None:
    with WebServer() as server:
        host, port = server.address
        assert run("http", {"SHOP_URL": f"http://{host}:{port}"}) == "as it stands\n"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_begins_with_its_title_and_says_which_blocks_need_a_server(name: str) -> None:
    text = page_of(name).read_text()

    assert text.startswith("# ")
    assert blocks_of(page_of(name))
    marked = re.findall(r"^```\{code-block\} python\n(.*)$", text, re.MULTILINE)
    assert set(marked) <= {"# needs a server"}
    for code, _ in blocks_of(page_of(name)):
        has_place = any(word in code for word in ("dbname=shop", ":///shop", "os.environ"))
        assert has_place == code.startswith("# needs a server\n")


@pytest.mark.parametrize("name", PAGES)
def test_each_link_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)\)", page_of(name).read_text())

    assert not [link for link in links if not (HOW_TO / link).exists()]


def test_each_fixture_is_told() -> None:
    told = set(re.findall(r"^\| `(gtasker_\w+)`", page_of("testing").read_text(), re.MULTILINE))

    assert told == set(gtasker_pytest.__all__)
