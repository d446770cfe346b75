"""Run the demo: ``python -m examples.bank``. Ends with 0 if everything that must be true is true."""
# ruff: noqa: E402 (an application patches before it imports anything else)

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import logging
import sys
import time
import uuid
from collections import Counter

import psycopg2

from examples.bank import verdict
from examples.bank.callers import Callers
from examples.bank.census import Census
from examples.bank.screen import Screen
from examples.bank.transfers import open_bank
from examples.bank.trouble import Trouble
from gtasker import Config, Runner
from gtasker.integrations.psycopg2 import GreenConnection, make_cooperative, resource
from gtasker.testing.postgres import postgres

FEWEST = 2_000
"""Transfers; fewer would not keep all connections busy at the second salvo."""

PATIENCE = 50.0
"""Seconds for all callers together."""


def main() -> int:
    """Serve all callers, and judge; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.bank", description="Bank transfers under fire.")
    parser.add_argument("--transfers", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.transfers < FEWEST:
        parser.error(f"fewer than {FEWEST} transfers do not keep 20 connections busy")
    # What is lost and made anew is on the screen.
    logging.getLogger("gtasker").setLevel(logging.CRITICAL)
    make_cooperative()
    with postgres() as dsn:
        # A server that exists may have a bank of its own.
        schema = f"bank_{uuid.uuid4().hex}"
        _execute(dsn, f"CREATE SCHEMA {schema}")
        try:
            return run(dsn, schema, arguments.transfers, arguments.seed)
        finally:
            _execute(dsn, f"DROP SCHEMA {schema} CASCADE")


def run(dsn: str, schema: str, count: int, seed: int) -> int:
    """Run it in the given schema, whose name is the application's as well."""
    begin = time.monotonic()
    books = psycopg2.extensions.make_dsn(dsn, options=f"-c search_path={schema}")
    config = configure(books, schema)
    print(config)
    census = Census(dsn, schema)
    with Runner(config) as runner:
        runner.run_task(open_bank)
        callers = Callers(runner, count, seed)
        trouble = Trouble(dsn, schema, callers, seed)
        with Screen(runner, callers, trouble):
            callers.call()
            trouble.start()
            callers.wait(PATIENCE)
            trouble.stop()
    counted = census.finish()
    checks = [
        *verdict.judge_books(books, callers),
        *verdict.judge_trouble(trouble),
        *verdict.judge_bound(counted, config.max_resources),
        *verdict.judge_rest(runner.stats(), runner.metrics(), _sessions(dsn, schema)),
    ]
    _tell("outcomes", Counter(outcome.value for outcome in callers.told.values()))
    _tell("errors on the way", callers.errors)
    for check in checks:
        print("yes" if check.holds else "NO ", check.sentence)
    print(f"{time.monotonic() - begin:.1f} seconds")
    return 0 if all(check.holds for check in checks) else 1


def configure(books: str, application: str) -> Config[GreenConnection]:
    """Return the settings: 5 workers that become 17 when many wait, and 3 connections for who cannot wait."""
    return Config(
        # Each transfer has an id, so that one whose COMMIT was not answered may be tried again.
        **resource(books, application_name=application, replay_unknown_commit=True),
        name="bank",
        worker_count=5,
        burst_task_threshold=20,
        burst_worker_count=4,
        max_worker_count=17,
        resource_pool_size=3,
        max_resources=20,
        max_retries=5,
        retry_backoff=(0.01, 0.2),
    )


def _tell(what: str, counted: Counter[str]) -> None:
    print(f"{what}: " + (", ".join(f"{number} {name}" for name, number in counted.most_common()) or "none"))


def _sessions(dsn: str, application: str) -> int:
    [(left,)] = _execute(dsn, "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", application)
    return left


def _execute(dsn: str, statement: str, *values: str) -> list[tuple[int, ...]]:
    session = psycopg2.connect(dsn)
    session.autocommit = True
    try:
        with session.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []
    finally:
        session.close()


if __name__ == "__main__":
    sys.exit(main())
