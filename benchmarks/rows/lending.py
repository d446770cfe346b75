"""`run_task` and `lease`: what it costs to borrow a resource when one is free.

Invariant: a cycle takes a resource and gives it back, and nobody else wants it meanwhile.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import repeat

from greenlet import getcurrent, greenlet

from benchmarks.measure import Contender, Effort, Result, Round, Target, interleave, timed
from benchmarks.ours import noop, running
from benchmarks.rivals.gtasker import BareLease, Lease
from benchmarks.rivals.pool import Kind, Pool
from benchmarks.rivals.psycopg_pool import PsycopgPool, ResettingPsycopgPool
from benchmarks.rivals.redis import RedisPool
from benchmarks.rivals.sqlalchemy import SQLAlchemyPool
from benchmarks.world import Server

SIZE = 4
SWITCHES = "raw greenlet switch pair"
OURS = "gtasker lease"
RESET = "gtasker lease, reset hook"
"""The hook does what a pool's own clean-up does: it ends the transaction."""


def run_task(effort: Effort) -> Result:
    """Measure `run_task` against a switch to a greenlet and back. Switches."""
    name = "gtasker run_task"
    with running(SIZE) as runner:
        run = runner.run_task

        def runs(operations: int) -> None:
            for _ in repeat(None, operations):
                run(noop)

        ours = Contender(name, lambda operations: timed(lambda: runs(operations), operations))
        result = interleave([switch_pairs(), ours], effort)
    result.cost(name, SWITCHES, Target(1.6))
    return result


def lease(effort: Effort) -> Result:
    """Measure `with runner.lease()` against a switch to a greenlet and back. Switches."""
    with running(SIZE) as runner:
        take = runner.lease

        def cycles(operations: int) -> None:
            for _ in repeat(None, operations):
                with take():
                    pass

        ours = Contender(OURS, lambda operations: timed(lambda: cycles(operations), operations))
        result = interleave([switch_pairs(), ours], effort)
    result.cost(OURS, SWITCHES, Target(1.8))
    return result


def lease_beside_pools(effort: Effort) -> Result:
    """Measure a lease against the check-out and return of the pools, over connections that do nothing. Switches."""
    targets = {PsycopgPool.name: 0.10, SQLAlchemyPool.name: 0.08, RedisPool.name: 0.25}
    kinds: dict[str, Kind] = {OURS: BareLease, RESET: Lease}
    kinds |= {kind.name: kind for kind in (PsycopgPool, ResettingPsycopgPool, SQLAlchemyPool, RedisPool)}
    with ExitStack() as stack:
        contenders = []
        for name, kind in kinds.items():
            pool = kind(Server(connect_delay=0.0), SIZE)
            stack.callback(pool.close)
            contenders.append(Contender(name, _cycles(pool)))
        result = interleave(contenders, effort)
    for name, bound in targets.items():
        result.cost(OURS, name, Target(bound))
    for name in (ResettingPsycopgPool.name, *targets):
        result.cost(RESET, name)
    return result


def switch_pairs() -> Contender:
    """A switch from this greenlet to another one and straight back."""
    switch_here = getcurrent().switch

    def back() -> None:
        while True:
            switch_here()

    there = greenlet(back)

    def pairs(operations: int) -> None:
        switch = there.switch
        for _ in repeat(None, operations):
            switch()

    return Contender(SWITCHES, lambda operations: timed(lambda: pairs(operations), operations))


def _cycles(pool: Pool) -> Round:
    return lambda operations: timed(lambda: pool.cycle(operations), operations)
