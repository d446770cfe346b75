"""What the README shows runs as it stands, and what it names is there.

Invariant: the code is taken out of the README each time; nothing here repeats it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gtasker

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")

BLOCKS = re.findall(r"^```python\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", README, re.MULTILINE | re.DOTALL)
"""Each block of Python, and what it prints if that follows."""

CALLS = re.findall(r"`(?:with )?runner\.(\w+)\(", README)
"""Each call of a runner in a line of text or a table."""

DEPOSIT_TWICE = """
from gevent import monkey

monkey.patch_all()

import runpy
import sys

from gtasker import Runner
from gtasker.integrations.psycopg2 import make_cooperative, resource
from gtasker.testing.postgres import postgres

deposit = runpy.run_path(sys.argv[1])["deposit"]
attempts = []


def ask(connection, question):
    with connection, connection.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchone()


def deposit_on_a_line_that_breaks(connection, *args):
    attempts.append(args)
    deposit(connection, *args)
    if len(attempts) == 1:  # committed, and nobody will hear of it
        ask(connection, "SELECT pg_terminate_backend(pg_backend_pid())")


make_cooperative()
with postgres() as dsn, Runner(**resource(dsn), worker_count=1) as runner:
    runner.run_task(ask, "CREATE TABLE deposits (id text PRIMARY KEY); SELECT")
    runner.run_task(ask, "CREATE TABLE accounts AS SELECT 'ann' AS name, 100 AS balance; SELECT")
    runner.queue_task(deposit_on_a_line_that_breaks, "one", "ann", 5)
    runner.queue_task(deposit, "two", "ann", 20)
    print(len(attempts), "attempts,", *runner.run_task(ask, "SELECT balance FROM accounts"))
"""
"""Runs the README's `deposit`, and breaks its connection after the first commit."""


def run(*arguments: str | Path) -> str:
    """What Python prints, on either stream, without a server that the environment names: this makes tables."""
    environment = {name: value for name, value in os.environ.items() if name != "GTASKER_DSN"}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize(("code", "output"), BLOCKS, ids=range(1, len(BLOCKS) + 1))
def test_each_block_runs_as_it_stands(code: str, output: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(code)

    assert run(script) == output


@pytest.mark.slow
@pytest.mark.postgres
def test_a_deposit_has_its_effect_once_though_its_first_commit_was_never_heard_of(tmp_path: Path) -> None:
    [code] = [code for code, _ in BLOCKS if code.startswith("def deposit")]
    script = tmp_path / "deposit.py"
    script.write_text(code)

    assert run("-c", DEPOSIT_TWICE, script) == "2 attempts, 125\n"


def test_the_first_example_is_short() -> None:
    lines = [line for line in BLOCKS[0][0].splitlines() if line]

    assert len(lines) <= 15


@pytest.mark.parametrize("page", PAGES)
def test_each_link_to_a_file_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)\)", (ROOT / page).read_text())

    assert not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_each_command_of_make_is_a_target(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    commands = set(re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text()))

    assert commands <= targets


def test_each_call_it_names_is_one_of_the_runners() -> None:
    assert len(CALLS) > 10
    assert not [name for name in CALLS if not hasattr(gtasker.Runner, name)]


def test_it_names_every_way_to_give_work_to_a_runner() -> None:
    ways = {"queue_task", "queue_task_with_priority", "queue_task_once", "submit", "map", "run_task", "lease"}

    assert ways <= set(CALLS)
