"""The standard library's way: a ThreadPoolExecutor of real threads, run in a companion process.

Invariant: nothing is patched here, and callers are threads, each waiting for its answer before it asks again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg2

from benchmarks.measure import Round, timed


@contextmanager
def calling(workers: int, callers: int) -> Iterator[Round]:
    """No-op calls by that many threads into an executor of that many workers."""
    with ThreadPoolExecutor(workers) as executor:
        yield _by_threads(lambda: executor.submit(int).result(), callers)


@contextmanager
def selecting(dsn: str, connections: int, callers: int) -> Iterator[Round]:
    """SELECT 1 by that many threads from an executor of as many threads as connections."""
    own = threading.local()
    with ThreadPoolExecutor(connections, initializer=lambda: _connect(own, dsn)) as executor:
        yield _by_threads(lambda: executor.submit(_select, own).result(), callers)


@contextmanager
def selecting_batch(dsn: str, connections: int) -> Iterator[Round]:
    """The same, fed in one batch by one thread: the least that an executor can be asked to do."""
    own = threading.local()
    with ThreadPoolExecutor(connections, initializer=lambda: _connect(own, dsn)) as executor:
        yield lambda operations: timed(lambda: list(executor.map(_select, [own] * operations)), operations)


def _connect(own: threading.local, dsn: str) -> None:
    own.connection = psycopg2.connect(dsn)
    own.connection.autocommit = True


def _select(own: threading.local) -> object:
    with own.connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()


def _by_threads(call: Callable[[], object], callers: int) -> Round:
    def caller(gate: threading.Event, share: int) -> None:
        gate.wait()
        for _ in range(share):
            call()

    def round_(operations: int) -> float:
        share = max(1, operations // callers)
        gate = threading.Event()
        threads = [threading.Thread(target=caller, args=(gate, share)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        return timed(lambda: _let(gate, threads), share * callers)

    return round_


def _let(gate: threading.Event, threads: list[threading.Thread]) -> None:
    # A thread is dearer to start than a greenlet, and is started before the clock: its price is not the executor's.
    gate.set()
    for thread in threads:
        thread.join()
