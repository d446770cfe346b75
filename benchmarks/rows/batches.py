"""`submit` in a batch: what a hundred thousand waiting tasks cost in time and in memory.

Invariant: both sides keep every handle until all were submitted, then collect them in order.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Contender, Effort, Result, Round, Target, interleave, timed
from benchmarks.naive import plain_worker
from benchmarks.ours import noop, running

TASKS = 100_000
WORKERS = 10
REFERENCE = "plain PriorityQueue worker"
OURS = "gtasker submit"

Submit = Callable[[Callable[[object], None]], Any]


def submit_and_collect(effort: Effort) -> Result:
    """Measure a batch from the first submit to the last answer. Switches."""
    with plain_worker(WORKERS) as worker, running(WORKERS) as runner:
        contenders = [
            Contender(REFERENCE, _batch(worker.submit), operations=TASKS),
            Contender(OURS, _batch(runner.submit), operations=TASKS),
        ]
        result = interleave(contenders, effort)
    result.cost(OURS, REFERENCE, Target(1.2))
    return result


def bytes_waiting(effort: Effort) -> Result:
    """Measure the bytes that a waiting task holds, its handle included. Switches."""
    result = Result()
    with running(WORKERS) as runner:
        runner.pause()
        result.fact(OURS, [_bytes_a_task(runner.submit)], "bytes a task", Target(400))
        runner.purge()
    with plain_worker(0) as worker:
        result.fact(REFERENCE, [_bytes_a_task(worker.submit)], "bytes a task")
    return result


def _batch(submit: Submit) -> Round:
    def batch(operations: int) -> None:
        for handle in [submit(noop) for _ in range(operations)]:
            handle.get()

    return lambda operations: timed(lambda: batch(operations), operations)


def _bytes_a_task(submit: Submit) -> float:
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(TASKS):
        submit(noop)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / TASKS
