"""How many workers? Measures tasks a second, waiting and processor time for several numbers of connections.

Invariant: what is printed was measured by the run that prints it, each row over a runner of its own.

    python scripts/tune.py                                            a throw-away Postgres, and two kinds of query
    GTASKER_DSN="host=db dbname=shop" python scripts/tune.py "SELECT count(*) FROM orders"      yours
"""
# ruff: noqa: E402 (an application patches before it imports anything else)

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import sys
from time import monotonic, process_time
from typing import NamedTuple

import gevent

from gtasker import Runner
from gtasker.integrations.psycopg2 import GreenConnection, make_cooperative, resource
from gtasker.testing.postgres import postgres

QUERIES = ("SELECT 1", "SELECT pg_sleep(0.005)")
WORKERS = (1, 2, 4, 8, 16, 32)
HEAD = "workers   tasks/s   waiting ms (half, 99 %)   running ms (half, 99 %)   processor"


class Row(NamedTuple):
    """What one number of workers did."""

    workers: int
    rate: float
    """Tasks per second."""
    waits: tuple[float, float]
    """Seconds in line: the median, and the 99th percentile."""
    runs: tuple[float, float]
    """Seconds with a connection, likewise."""
    busy: float
    """Share of a processor that this process used, 0 to 1."""

    def __str__(self) -> str:
        waits, runs = (f"{half * 1e3:10.2f} {most * 1e3:9.2f}" for half, most in (self.waits, self.runs))
        return f"{self.workers:7} {self.rate:9,.0f}   {waits}      {runs}      {self.busy:10.0%}"


def ask(connection: GreenConnection, query: str) -> None:
    """The task."""
    with connection.cursor() as cursor:
        cursor.execute(query)
        cursor.fetchall()


def measure(dsn: str, query: str, workers: int, callers: int, seconds: float) -> Row:
    """Keep `callers` greenlets calling for so many seconds."""
    options = resource(dsn, autocommit=True)
    runner: Runner[GreenConnection] = Runner(
        **options, worker_count=workers, max_worker_count=workers, resource_pool_size=0
    )
    with runner:
        began, used, end = monotonic(), process_time(), monotonic() + seconds

        def call() -> None:
            while monotonic() < end:
                runner.queue_task(ask, query)

        gevent.joinall([gevent.spawn(call) for _ in range(callers)], raise_error=True)
        took, used = monotonic() - began, process_time() - used
        told = runner.metrics()
    return Row(
        workers,
        told.total_tasks_completed / took,
        (told.p50_wait_time, told.p99_wait_time),
        (told.p50_execution_time, told.p99_execution_time),
        used / took,
    )


def main() -> int:
    """Print a table for each query."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("queries", nargs="*", default=list(QUERIES), metavar="query", help="SQL that returns rows")
    parser.add_argument("--workers", nargs="+", type=int, default=list(WORKERS), metavar="N", help="numbers to try")
    parser.add_argument("--callers", type=int, default=200, help="greenlets that call at the same time (200)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row (2)")
    args = parser.parse_args()
    make_cooperative()
    with postgres() as dsn:
        for query in args.queries:
            print(f"{query}, {args.callers} callers\n{HEAD}")
            for workers in args.workers:
                print(measure(dsn, query, workers, args.callers, args.seconds), flush=True)
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
