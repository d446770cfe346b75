"""SELECT 1 over a real Postgres: a hundred greenlets, or five, share ten connections in every way there is.

Invariant: every way sends the same one statement on an autocommitting connection and fetches its one row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import psycopg2
from gevent.queue import LifoQueue
from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine

from benchmarks.crowds import by_callers
from benchmarks.elsewhere import elsewhere
from benchmarks.measure import Contender, Effort, Result, Round, Target, interleave, timed
from gtasker import Runner
from gtasker.integrations.psycopg2 import make_cooperative, resource
from gtasker.testing.postgres import ThrowAwayPostgres

GREENLETS, FEW, CONNECTIONS = 100, 5, 10
LIMIT = "psycopg2 + bare LifoQueue"
QUEUE, LEASE, MAP = "gtasker queue_task", "gtasker lease", "gtasker map, fed in a batch"
BARE = ", bare connections"
"""Ours without the integration for psycopg2: no look at the socket before a use, no reset after it, no cancel."""
PSYCOPG_POOL, SQLALCHEMY = "psycopg_pool", "SQLAlchemy engine"
EXECUTOR = "psycopg2 in a ThreadPoolExecutor"
THREADS, BATCH = ", real threads", ", real threads, fed in a batch"

Select = Callable[[], object]


def select_one(effort: Effort) -> Result:
    """Measure all of them against the bare queue, and ours against the rivals. Switches."""
    with ThrowAwayPostgres() as server, ExitStack() as stack:
        dsn = server.dsn
        selects = _ways(dsn, stack)
        whole = stack.enter_context(_runner(resource(dsn, autocommit=True)))
        contenders = [
            Contender(name, by_callers(call, GREENLETS), at_least=GREENLETS * 10) for name, call in selects.items()
        ]
        contenders.append(Contender(MAP, _mapped(whole), at_least=GREENLETS * 10))
        for name, function, options in (
            (EXECUTOR + THREADS, "threads:selecting", {"callers": GREENLETS}),
            (EXECUTOR + BATCH, "threads:selecting_batch", {}),
        ):
            rounds = stack.enter_context(elsewhere(function, dsn=dsn, connections=CONNECTIONS, **options))
            contenders.append(Contender(name, rounds, at_least=GREENLETS * 10))
        result = interleave(contenders, effort)
    for ours in (QUEUE, LEASE, QUEUE + BARE, LEASE + BARE):
        result.rate(ours, LIMIT, Target(0.95, at_least=True))
    for ours in (QUEUE, LEASE):
        result.rate(ours, PSYCOPG_POOL, Target(3.0, at_least=True))
        result.rate(ours, SQLALCHEMY, Target(1.5, at_least=True))
        result.rate(ours, EXECUTOR, Target(1.3, at_least=True))
        result.rate(ours, EXECUTOR + THREADS, Target(1.3, at_least=True))
    result.rate(MAP, EXECUTOR + BATCH)
    return result


def select_by_few(effort: Effort) -> Result:
    """Measure them with connections to spare: what is left then is what a call costs. Switches."""
    with ThrowAwayPostgres() as server, ExitStack() as stack:
        selects = _ways(server.dsn, stack)
        contenders = [Contender(name, by_callers(call, FEW), at_least=FEW * 10) for name, call in selects.items()]
        result = interleave(contenders, effort)
    for ours in (QUEUE, LEASE):
        for other in (LIMIT, PSYCOPG_POOL, SQLALCHEMY, EXECUTOR):
            result.rate(ours, other)
    return result


def _ways(dsn: str, stack: ExitStack) -> dict[str, Select]:
    make_cooperative()
    whole = stack.enter_context(_runner(resource(dsn, autocommit=True)))
    bare = stack.enter_context(_runner({"on_create": partial(connect, dsn), "on_destroy": _close}))
    return {
        LIMIT: stack.enter_context(_bare(dsn)),
        QUEUE: partial(whole.queue_task, select),
        LEASE: partial(_leased, whole),
        QUEUE + BARE: partial(bare.queue_task, select),
        LEASE + BARE: partial(_leased, bare),
        PSYCOPG_POOL: stack.enter_context(_psycopg_pool(dsn)),
        SQLALCHEMY: stack.enter_context(_sqlalchemy(dsn)),
        EXECUTOR: stack.enter_context(_executor(dsn)),
    }


def connect(dsn: str) -> Any:
    """Open an autocommitting psycopg2 connection. Switches."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    return connection


def select(connection: Any) -> object:
    """Ask for the one row. Switches."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()


@contextmanager
def _runner(options: Mapping[str, Any]) -> Iterator[Runner[Any]]:
    """Ten connections for the workers, which are lent out when they are idle: no reserve, so never more than ten."""
    runner: Runner[Any] = Runner(
        **options,
        worker_count=CONNECTIONS,
        max_worker_count=CONNECTIONS,
        resource_pool_size=0,
    )
    with runner:
        yield runner


def _close(connection: Any) -> None:
    connection.close()


def _leased(runner: Runner[Any]) -> object:
    with runner.lease() as connection:
        return select(connection)


def _mapped(runner: Runner[Any]) -> Round:
    return lambda operations: timed(lambda: runner.map(_select_for, range(operations)), operations)


def _select_for(connection: Any, _: int) -> object:
    return select(connection)


@contextmanager
def _bare(dsn: str) -> Iterator[Select]:
    idle: LifoQueue[Any] = LifoQueue()
    connections = [connect(dsn) for _ in range(CONNECTIONS)]
    for connection in connections:
        idle.put(connection)

    def call() -> object:
        connection = idle.get()
        try:
            return select(connection)
        finally:
            idle.put(connection)

    try:
        yield call
    finally:
        for connection in connections:
            connection.close()


@contextmanager
def _executor(dsn: str) -> Iterator[Select]:
    """Patched, as it is in this process: its threads are greenlets, each with a connection, and so are its callers."""
    own = threading.local()

    def start() -> None:
        own.connection = connect(dsn)

    with ThreadPoolExecutor(CONNECTIONS, initializer=start) as executor:
        yield lambda: executor.submit(lambda: select(own.connection)).result()


@contextmanager
def _psycopg_pool(dsn: str) -> Iterator[Select]:
    with ConnectionPool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS, kwargs={"autocommit": True}) as pool:
        pool.wait()

        def call() -> object:
            with pool.connection() as connection:
                return connection.execute("SELECT 1").fetchone()

        yield call


@contextmanager
def _sqlalchemy(dsn: str) -> Iterator[Select]:
    engine = create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(dsn),
        pool_size=CONNECTIONS,
        max_overflow=0,
        isolation_level="AUTOCOMMIT",
    )

    def call() -> object:
        with engine.connect() as connection:
            return connection.exec_driver_sql("SELECT 1").scalar()

    try:
        yield call
    finally:
        engine.dispose()
