"""A hundred greedy greenlets over four resources: how much is served, and how evenly.

Invariant: the pools fight one after another, round by round, each with the whole machine to itself.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.greedy import contend
from benchmarks.measure import Contender, Effort, Result, Round, Target, interleave
from benchmarks.rivals.gtasker import BareLease, Lease
from benchmarks.rivals.pool import Kind, Pool
from benchmarks.rivals.psycopg_pool import PsycopgPool, ResettingPsycopgPool
from benchmarks.rivals.sqlalchemy import SQLAlchemyPool
from benchmarks.rows.lending import OURS, RESET
from benchmarks.world import Server

GREENLETS = 100
SIZE = 4


def greedy(effort: Effort) -> Result:
    """Measure rate and fairness. Switches."""
    seconds = 0.05 if effort.quick else 0.15
    shares: dict[str, list[float]] = {}
    kinds: dict[str, Kind] = {OURS: BareLease, RESET: Lease}
    kinds |= {kind.name: kind for kind in (PsycopgPool, ResettingPsycopgPool, SQLAlchemyPool)}
    with ExitStack() as stack:
        contenders = []
        for name, kind in kinds.items():
            pool = kind(Server(connect_delay=0.0), SIZE)
            stack.callback(pool.close)
            fights = _fights(pool, seconds, shares.setdefault(name, []))
            contenders.append(Contender(name, fights, operations=1))
        result = interleave(contenders, effort)
    result.rate(OURS, PsycopgPool.name, Target(3.0, at_least=True))
    result.rate(OURS, SQLAlchemyPool.name)
    for name in (ResettingPsycopgPool.name, PsycopgPool.name, SQLAlchemyPool.name):
        result.rate(RESET, name)
    for name, indices in shares.items():
        result.fact(name, indices, "Jain index", Target(0.99, at_least=True) if name in (OURS, RESET) else None)
    return result


def _fights(pool: Pool, seconds: float, indices: list[float]) -> Round:
    def fight(_: int) -> float:
        served = contend(pool, GREENLETS, seconds)
        indices.append(served.jain)
        return 1 / served.rate

    return fight
