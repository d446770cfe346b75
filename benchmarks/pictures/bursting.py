"""A burst's timeline: the backlog, and the workers that come and go with it.

Invariant: the runner is only looked at (`stats()` never switches); nothing is told by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

import gevent
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.ours import destroy
from gtasker import Runner, RunnerStats

CREATE_SECONDS = 0.02
TASK_SECONDS = 0.02
TASKS = 600
ARRIVES_AT = 0.3
SECONDS = 3.0
SAMPLE_INTERVAL = 0.005
MAX_IDLE = 0.5


@dataclass(frozen=True)
class Moment:
    """What the runner was like at a time, in seconds."""

    at: float
    stats: RunnerStats


def draw() -> Figure:
    """Measure and draw. Switches."""
    runner: Runner[object] = Runner(
        on_create=_create,
        on_destroy=destroy,
        worker_count=4,
        burst_task_threshold=10,
        burst_worker_count=4,
        max_worker_count=20,
        resource_pool_size=0,
        max_idle=MAX_IDLE,
    )
    with runner:
        load = gevent.spawn_later(ARRIVES_AT, _load, runner)
        moments = _watch(runner)
        load.join()
    return _picture(moments)


def _create() -> object:
    gevent.sleep(CREATE_SECONDS)
    return object()


def _load(runner: Runner[object]) -> None:
    for _ in range(TASKS):
        runner.submit(_task)


def _task(resource: object) -> None:
    gevent.sleep(TASK_SECONDS)


def _watch(runner: Runner[object]) -> list[Moment]:
    moments = []
    began = monotonic()
    while monotonic() - began < SECONDS:
        moments.append(Moment(monotonic() - began, runner.stats()))
        gevent.sleep(SAMPLE_INTERVAL)
    return moments


def _picture(moments: list[Moment]) -> Figure:
    figure, (above, below) = plt.subplots(2, sharex=True)
    times = [moment.at for moment in moments]
    above.fill_between(times, [moment.stats.queued_tasks for moment in moments], step="post", alpha=0.5)
    above.set_ylabel("backlog, tasks")
    above.set_title(f"A burst: {TASKS} tasks of {TASK_SECONDS * 1000:.0f} ms at once, 4 base workers, at most 20")
    below.step(
        times, [moment.stats.active_workers for moment in moments], where="post", label="workers with a resource"
    )
    below.step(times, [moment.stats.busy_workers for moment in moments], where="post", label="busy workers")
    below.axhline(4, linestyle=":", color="grey", label="base workers")
    below.set_ylim(bottom=0)
    below.set_ylabel("workers")
    below.set_xlabel("seconds")
    below.legend()
    return figure
