"""Greedy greenlets: each takes a connection, holds it for one turn of the loop, and wants the next at once.

Invariant: a greenlet counts a service only when it held a connection; one that was refused lets the others run.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import gevent

from benchmarks.fairness import jain
from benchmarks.rivals.pool import Pool
from benchmarks.world import Connection

ACQUIRE_TIMEOUT = 5.0


@dataclass(frozen=True)
class Served:
    """How often each greenlet was served, in how many seconds."""

    counts: tuple[int, ...]
    seconds: float

    @property
    def rate(self) -> float:
        """Services a second, all greenlets together."""
        return sum(self.counts) / self.seconds

    @property
    def jain(self) -> float:
        return jain(self.counts)


def contend(pool: Pool, greenlets: int, seconds: float) -> Served:
    """Let that many greenlets fight over the pool for so long. Switches."""
    counts = [0] * greenlets
    end = perf_counter() + seconds

    def hold(_: Connection) -> None:
        gevent.sleep(0)

    def fight(number: int) -> None:
        while perf_counter() < end:
            try:
                pool.use(hold, ACQUIRE_TIMEOUT)
            except Exception:
                gevent.sleep(0)
            else:
                counts[number] += 1

    start = perf_counter()
    gevent.joinall([gevent.spawn(fight, number) for number in range(greenlets)], raise_error=True)
    return Served(tuple(counts), perf_counter() - start)
