"""What `stats()` and `metrics()` cost after ten million tasks, against ten thousand.

Invariant: each reading is preceded by a few fresh tasks, so that there is something new to fold.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from time import perf_counter

from benchmarks.measure import MICRO, Contender, Effort, Result, Round, Target, interleave
from benchmarks.ours import noop, running
from gtasker import Runner

FEW, MANY, MANY_QUICK = 10_000, 10_000_000, 300_000
FRESH = 50
READINGS = 200


def snapshots(effort: Effort) -> Result:
    """Measure both snapshots on a young and on an old runner. Switches."""
    many = MANY_QUICK if effort.quick else MANY
    with running(10) as young, running(10) as old:
        for runner, tasks in ((young, FEW), (old, many)):
            for _ in repeat(None, tasks):
                runner.queue_task(noop)
        contenders = [
            Contender(f"{what}() after {tasks:,}", _readings(runner, read), operations=READINGS)
            for runner, tasks in ((young, FEW), (old, many))
            for what, read in (("stats", runner.stats), ("metrics", runner.metrics))
        ]
        result = interleave(contenders, effort)
    for what in ("stats", "metrics"):
        target = None if effort.quick else Target(1.2)
        result.cost(f"{what}() after {many:,}", f"{what}() after {FEW:,}", target)
    microseconds = [
        seconds * MICRO
        for series in result.series
        if series.name == f"metrics() after {many:,}"
        for seconds in series.seconds
    ]
    result.fact(f"metrics() after {many:,}", microseconds, "us", Target(300.0))
    return result


def _readings(runner: Runner[object], read: Callable[[], object]) -> Round:
    def readings(operations: int) -> float:
        seconds = 0.0
        for _ in repeat(None, operations):
            for _ in repeat(None, FRESH):
                runner.queue_task(noop)
            start = perf_counter()
            read()
            seconds += perf_counter() - start
        return seconds / operations

    return readings
