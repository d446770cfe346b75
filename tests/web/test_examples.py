"""The web examples, as a reader would try them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gtasker.testing.postgres import ThrowAwayPostgres
from tests.postgres._server import eventually
from tests.web._servers import Load, Server, running


@pytest.fixture(scope="module")
def database() -> Iterator[ThrowAwayPostgres]:
    """A server of these tests' own, which may go down."""
    with ThrowAwayPostgres() as server:
        yield server


@pytest.fixture
def shop(tmp_path: Path, database: ThrowAwayPostgres) -> Iterator[Server]:
    """The Flask example."""
    environment = {"PORT": "0", "GTASKER_DSN": database.dsn}
    with running(["-m", "examples.flask_app"], tmp_path, environment) as server:
        yield server


def test_the_shop_sells_what_it_has_and_no_more(shop: Server) -> None:
    orders = [shop.request(f"/orders/{number}?product=3", "POST")[0] for number in (1, 2, 3, 1)]
    load = Load(shop.port, "/products", clients=20, requests=5)
    reports = Load(shop.port, "/report", clients=10, requests=1)

    assert orders == [201, 201, 409, 201]  # there are two; the last one was placed before
    assert load.all() == {"200": 100}
    assert reports.all() == {"200": 10}
    assert [item["stock"] for item in json.loads(shop.ask("/products"))] == [1000, 1000, 0]
    assert json.loads(shop.ask("/report"))["table"] == 2
    assert json.loads(shop.ask("/healthz"))["state"] == "running"
    shop.send(signal.SIGTERM)
    assert shop.ended() == 0
    shop.assert_in_order()


def test_the_shop_says_503_while_its_database_is_away(shop: Server, database: ThrowAwayPostgres) -> None:
    shop.ask("/healthz")

    database.crash()
    try:
        eventually(lambda: shop.request("/healthz")[0] == 503, "the shop notices")
        assert shop.request("/healthz")[2] == "1"
    finally:
        database.start()

    eventually(lambda: shop.request("/healthz")[0] == 200, "the shop recovers")
    assert shop.request("/products")[0] == 200


@pytest.mark.parametrize(
    ("module", "path", "key"), [("falcon_app", "/time", "now"), ("django_snippet", "/sessions", "sessions")]
)
def test_the_other_examples_are_served_by_gunicorn_too(
    tmp_path: Path, database: ThrowAwayPostgres, module: str, path: str, key: str
) -> None:
    command = ["-m", "gunicorn", "--bind=127.0.0.1:0", "--workers=2", f"--worker-tmp-dir={tmp_path}"]
    command += ["--worker-class=gtasker.integrations.gunicorn.GTaskerWorker", f"examples.{module}:application"]
    environment = {"GTASKER_DSN": database.dsn, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": ""}
    with running(command, tmp_path, environment) as server:
        load = Load(server.port, path, clients=10)
        load.await_answers(100)

        assert key in json.loads(server.ask(path))
        server.send(signal.SIGTERM)
        assert load.all().keys() <= {"200", "refused", "unserved"}
        assert server.ended() == 0
        server.assert_in_order()
