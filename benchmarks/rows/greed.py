"""A hundred greedy greenlets over four resources: how much is served, and how evenly.

Invariant: the pools fight one after another, round by round, each with the whole machine to itself.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.greedy import contend
from benchmarks.measure import Contender, Effort, Result, Round, Target, interleave
from benchmarks.rivals.gtasker import Lease
from benchmarks.rivals.pool import Pool
from benchmarks.rivals.psycopg_pool import PsycopgPool
from benchmarks.rivals.sqlalchemy import SQLAlchemyPool
from benchmarks.world import Server

GREENLETS = 100
SIZE = 4


def greedy(effort: Effort) -> Result:
    """Measure rate and fairness. Switches."""
    seconds = 0.1 if effort.quick else 0.4
    shares: dict[str, list[float]] = {}
    with ExitStack() as stack:
        pools: list[Pool] = [kind(Server(connect_delay=0.0), SIZE) for kind in (Lease, PsycopgPool, SQLAlchemyPool)]
        for pool in pools:
            stack.callback(pool.close)
        contenders = [
            Contender(pool.name, _fights(pool, seconds, shares.setdefault(pool.name, [])), operations=1)
            for pool in pools
        ]
        result = interleave(contenders, effort)
    result.rate(Lease.name, PsycopgPool.name, Target(3.0, at_least=True))
    result.rate(Lease.name, SQLAlchemyPool.name)
    for name, indices in shares.items():
        result.fact(name, indices, "Jain index", Target(0.99, at_least=True) if name == Lease.name else None)
    return result


def _fights(pool: Pool, seconds: float, indices: list[float]) -> Round:
    def fight(_: int) -> float:
        served = contend(pool, GREENLETS, seconds)
        indices.append(served.jain)
        return 1 / served.rate

    return fight
