"""How soon a burst helps: from the submit that crosses the threshold to the first task on a burst worker.

Invariant: every base worker is busy for as long as the measurement takes, so only a burst worker can run the task.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import gevent
from gevent.event import Event

from benchmarks.measure import Contender, Effort, Result, Target, interleave
from benchmarks.ours import destroy
from gtasker import Runner

CREATE_SECONDS = 0.005
THRESHOLD = 4
REFERENCE = "one loop turn + create time"
OURS = "gtasker burst"


def reaction(effort: Effort) -> Result:
    """Measure the reaction against a greenlet that does nothing but create. Switches."""
    result = interleave(
        [Contender(REFERENCE, _mean(_bare), operations=1), Contender(OURS, _mean(_burst), operations=1)], effort
    )
    result.cost(OURS, REFERENCE, Target(2.0))
    return result


def _create() -> object:
    gevent.sleep(CREATE_SECONDS)
    return object()


def _bare() -> float:
    start = perf_counter()
    gevent.sleep(0)
    _create()
    return perf_counter() - start


def _burst() -> float:
    release, begun = Event(), Event()
    runner: Runner[object] = Runner(
        on_create=_create, on_destroy=destroy, worker_count=1, resource_pool_size=0, burst_task_threshold=THRESHOLD
    )
    with runner:
        runner.submit(lambda _: release.wait())
        gevent.sleep(0)
        for _ in range(THRESHOLD):
            runner.submit(lambda _: begun.set())
        start = perf_counter()
        runner.submit(lambda _: begun.set())
        begun.wait()
        seconds = perf_counter() - start
        release.set()
    return seconds


def _mean(measure: Callable[[], float]) -> Callable[[int], float]:
    return lambda operations: sum(measure() for _ in range(operations)) / operations
