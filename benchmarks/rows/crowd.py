"""Two thousand real connections and ten thousand callers: does it run, is the bound held, what memory does it take.

Invariant: the server is asked over a connection of its own how many of ours it sees.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import gevent
import psutil

from benchmarks.measure import Effort, Result, Series, Target
from benchmarks.rows.postgres import connect, select
from gtasker import Runner
from gtasker.integrations.psycopg2 import make_cooperative
from gtasker.integrations.psycopg2 import resource as held
from gtasker.testing.postgres import ThrowAwayPostgres

CONNECTIONS, CALLERS, CALLS = 2_000, 10_000, 5
APPLICATION = "gtasker-crowd"
SAMPLE_INTERVAL = 0.02
MEGABYTE = 1024 * 1024


def two_thousand(effort: Effort) -> Result:
    """Run the crowd once; there is nothing to interleave with. Switches."""
    _allow_files(2 * CONNECTIONS + 1_000)
    process = psutil.Process()
    result = Result()
    with ThrowAwayPostgres(settings={"max_connections": CONNECTIONS + 20}) as server:
        make_cooperative()
        before = process.memory_info().rss
        with _runner(server.dsn) as runner, _census(server.dsn) as census:
            memory = process.memory_info().rss - before
            answers, seconds = _call(lambda: runner.queue_task(select))
            full = process.memory_info().rss - before
    result.series.append(Series("gtasker queue_task", (seconds / answers,)))
    result.fact("answers", [answers], "answers", Target(CALLERS * CALLS, at_least=True))
    result.fact("most connections the server saw", [census.most], "connections", Target(CONNECTIONS))
    result.fact("times the server was asked", [census.samples], "samples")
    result.fact("memory of 2,000 connections", [memory / MEGABYTE], "MB")
    result.fact("memory with 10,000 callers", [full / MEGABYTE], "MB")
    return result


def _runner(dsn: str) -> Runner[Any]:
    return Runner(
        **held(dsn, autocommit=True, application_name=APPLICATION),
        worker_count=CONNECTIONS,
        max_worker_count=CONNECTIONS,
        resource_pool_size=0,
        max_resources=CONNECTIONS,
        max_creating=16,
    )


def _call(call: Callable[[], object]) -> tuple[int, float]:
    answers = 0

    def caller() -> None:
        nonlocal answers
        for _ in range(CALLS):
            call()
            answers += 1

    start = perf_counter()
    gevent.joinall([gevent.spawn(caller) for _ in range(CALLERS)], raise_error=True)
    return answers, perf_counter() - start


@dataclass
class _Census:
    """Our connections as the server sees them: the most at once, and how often it was asked."""

    most: int = 0
    samples: int = 0

    def count(self, connection: Any) -> None:
        """Ask again and again. Switches."""
        with connection.cursor() as cursor:
            while True:
                cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", (APPLICATION,))
                self.most = max(self.most, cursor.fetchone()[0])
                self.samples += 1
                gevent.sleep(SAMPLE_INTERVAL)


@contextmanager
def _census(dsn: str) -> Iterator[_Census]:
    census = _Census()
    connection = connect(dsn)
    counting = gevent.spawn(census.count, connection)
    try:
        yield census
    finally:
        counting.kill()
        connection.close()


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
