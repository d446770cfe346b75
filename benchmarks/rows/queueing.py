"""`queue_task` beside every other way to hand a call to a worker and wait for its value.

Invariant: all have as many workers and as many callers, and the task does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from gevent.pool import Pool
from gevent.threadpool import ThreadPool

from benchmarks.crowds import by_callers
from benchmarks.elsewhere import elsewhere
from benchmarks.measure import Contender, Effort, Result, Target, interleave
from benchmarks.naive import plain_worker
from benchmarks.ours import noop, running

WORKERS = 10
LONG = 60.0  # seconds
MOST_THREADS = 100
"""More callers than this are not asked of real threads: they would measure the kernel's scheduler."""

REFERENCE = "plain PriorityQueue worker"
OURS = "gtasker queue_task"
LIMITED = "gtasker queue_task, with every limit"
"""A bound on what waits, a time-out for each call, and one for each attempt: none is reached."""


def one_caller(effort: Effort) -> Result:
    """Measure a lone caller. Switches."""
    return _beside_all(effort, callers=1, target=Target(0.36))


def hundred_callers(effort: Effort) -> Result:
    """Measure 100 callers. Switches."""
    return _beside_all(effort, callers=100, target=Target(0.70))


def thousand_callers(effort: Effort) -> Result:
    """Measure 1,000 callers. Switches."""
    return _beside_all(effort, callers=1000, target=Target(0.70))


def _beside_all(effort: Effort, callers: int, target: Target) -> Result:
    with ExitStack() as stack:
        worker = stack.enter_context(plain_worker(WORKERS))
        runner = stack.enter_context(running(WORKERS))
        limited = stack.enter_context(running(WORKERS, max_queued=10 * callers, task_timeout=LONG))
        executor = stack.enter_context(ThreadPoolExecutor(WORKERS))
        pool, threads = Pool(WORKERS), ThreadPool(WORKERS)
        stack.callback(threads.kill)
        calls: dict[str, Callable[[], object]] = {
            REFERENCE: partial(worker.call, noop),
            OURS: partial(runner.queue_task, noop),
            LIMITED: partial(limited.queue_task, noop, timeout=LONG),
            "gevent Pool.apply": partial(pool.apply, noop, (None,)),
            "ThreadPoolExecutor, patched": lambda: executor.submit(noop, None).result(),
            "gevent ThreadPool.apply": partial(threads.apply, noop, (None,)),
        }
        least = callers * (5 if effort.quick else 10)  # so that spawning the callers is not what is measured
        contenders = [Contender(name, by_callers(call, callers), at_least=least) for name, call in calls.items()]
        if callers <= MOST_THREADS:
            real = stack.enter_context(elsewhere("threads:calling", workers=WORKERS, callers=callers))
            contenders.append(Contender("ThreadPoolExecutor, real threads", real, at_least=least))
        result = interleave(contenders, effort)
    result.cost(OURS, REFERENCE, target)
    result.cost(LIMITED, REFERENCE)
    for contender in contenders[3:]:
        result.cost(OURS, contender.name)
    return result
