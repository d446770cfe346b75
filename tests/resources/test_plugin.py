"""pytest's plugin, as a project has it that installs gtasker: found by its entry point, and idle until it is asked."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from gevent import subprocess

from tests.postgres._server import ROOT
from tests.resources._pages import blocks_of

ENTRY = "[pytest11]\ngtasker = gtasker_pytest\n"

FIXTURES = {
    "gtasker_ledger",
    "gtasker_runner",
    "gtasker_immediate",
    "gtasker_postgres",
    "gtasker_redis",
    "gtasker_proxy",
}


def run(folder: Path, test: str, *more: str, patched: bool = False) -> str:
    """What pytest says of a project with this one test, all warnings being errors."""
    metadata = folder / "site" / "with_gtasker-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: with-gtasker\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRY)
    (folder / "test_it.py").write_text(test)
    starter = ["-m", "gevent.monkey", "--module", "pytest"] if patched else ["-m", "pytest"]
    options = ["-W", "error", "-p", "no:cacheprovider", "-q"]
    ended = subprocess.run(
        [sys.executable, "-W", "error", *starter, *options, *more, "test_it.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return str(ended.stdout)


def test_nothing_of_gtasker_or_gevent_is_imported_before_a_fixture_is_used(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
import sys

def test_it(request):
    assert request.config.pluginmanager.get_plugin("gtasker") is sys.modules["gtasker_pytest"]
    assert not [name for name in sys.modules if name.partition(".")[0] in ("gtasker", "gevent", "greenlet")]
""",
    )

    assert "1 passed" in said, said


def test_a_project_may_patch_in_its_own_tests(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
from gevent import monkey

monkey.patch_all()

def test_it(gtasker_runner):
    import socket
    import gevent.socket

    assert socket.socket is gevent.socket.socket
    assert gtasker_runner().queue_task(lambda resource: resource.number) > 0
""",
        *("-p", "no:anyio"),  # that imports ssl, which gevent says is too early
    )

    assert "1 passed" in said, said


@pytest.mark.postgres
@pytest.mark.parametrize("patched", [False, True])
def test_each_fixture_works_and_ends_with_its_test(tmp_path: Path, patched: bool) -> None:
    said = run(
        tmp_path,
        """
import gevent
import psycopg2
import pytest
from gtasker import State
from gtasker.integrations.psycopg2 import make_cooperative, resource
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.proxy import Mode
from psycopg2.extensions import make_dsn, parse_dsn

make_cooperative()
kept = []

def number(resource):
    return resource.number

def test_runners(gtasker_runner, gtasker_immediate, gtasker_ledger):
    kept.extend([gtasker_runner(worker_count=2).start(), gtasker_immediate()])
    assert all(runner.queue_task(number) in gtasker_ledger.live for runner in kept)

def test_they_have_ended():
    assert [runner.state for runner in kept] == [State.CLOSED] * 2

def test_servers(gtasker_postgres, gtasker_redis, gtasker_proxy, gtasker_runner):
    with ThrowAwayPostgres() as server:
        proxy = gtasker_proxy(str(server.socket_path))
        dsn = f"host={proxy.host} port={proxy.port} user=postgres dbname=postgres"
        runner = gtasker_runner(**resource(dsn), max_retries=0)
        assert runner.queue_task(lambda connection: connection.info.dbname) == "postgres"
        proxy.set_mode(Mode.REFUSE)
        proxy.cut()
        kept.append(runner)
    assert gtasker_redis.startswith("redis://")
    psycopg2.connect(gtasker_postgres).close()
    kept[-1].kill()
""",
        patched=patched,
    )

    assert "3 passed" in said, said


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("gtasker_ledger.create()", "1 exist, 0 of them abandoned"),
        ("gtasker_ledger.destroy(one := gtasker_ledger.create()); swallow(gtasker_ledger.destroy, one)", "again"),
    ],
)
def test_a_ledger_whose_books_do_not_balance_fails_its_test(tmp_path: Path, body: str, complaint: str) -> None:
    said = run(
        tmp_path,
        f"""
def swallow(fn, *args):
    try:
        fn(*args)
    except AssertionError:
        pass

def test_it(gtasker_ledger):
    {body}
""",
    )

    assert "1 passed, 1 error" in said, said
    assert complaint in said


def test_a_runner_that_does_not_end_fails_its_test(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
import gevent
from gevent.event import Event

began = Event()

def stubborn(resource):
    began.set()
    while True:
        try:
            gevent.sleep(600)
        except BaseException:
            pass

def test_it(gtasker_runner, monkeypatch):
    runner = gtasker_runner(on_create=object, on_destroy=lambda one: None)
    kill = runner.kill
    runner.kill = lambda: kill(timeout=0.1)
    runner.submit(stubborn)
    began.wait()
""",
    )

    assert "1 passed, 1 error" in said, said
    assert "a runner did not end" in said


def test_the_pages_example_passes(tmp_path: Path) -> None:
    blocks = blocks_of(ROOT / "docs" / "how-to" / "testing.md")
    [example] = [block.code for block in blocks if block.code.startswith("def test_")]

    assert "1 passed" in run(tmp_path, example)


def test_the_fixtures_are_told_by_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("")
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "--fixtures", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    ).stdout

    assert {line.split()[0] for line in said.splitlines() if line.startswith("gtasker_")} == FIXTURES
