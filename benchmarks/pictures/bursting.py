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
from benchmarks.pictures.look import BLUE, INK, ORANGE
from gtasker import Runner, RunnerStats

BASE, MOST = 4, 20
CREATE_SECONDS = 0.02
TASK_SECONDS = 0.02
TASKS = 600
ARRIVES_AT = 0.3
SECONDS = 3.0
SAMPLE_INTERVAL = 0.005
MAX_IDLE = 0.5


@dataclass(frozen=True)
class Moment:
    """What the runner was like from a time on, in seconds, until the next moment."""

    at: float
    stats: RunnerStats


def draw() -> Figure:
    """Measure and draw. Switches."""
    runner: Runner[object] = Runner(
        on_create=_create,
        on_destroy=destroy,
        worker_count=BASE,
        burst_task_threshold=10,
        burst_worker_count=4,
        max_worker_count=MOST,
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
    moments = [Moment(0.0, runner.stats())]
    began = monotonic()
    while monotonic() - began < SECONDS:
        stats = runner.stats()
        if stats != moments[-1].stats:
            moments.append(Moment(monotonic() - began, stats))
        gevent.sleep(SAMPLE_INTERVAL)
    return [*moments, Moment(SECONDS, runner.stats())]


def _picture(moments: list[Moment]) -> Figure:
    figure, (above, below) = plt.subplots(2, sharex=True)
    times = [moment.at for moment in moments]
    backlog = [moment.stats.queued_tasks for moment in moments]
    above.fill_between(times, backlog, step="post", color=BLUE, alpha=0.5, linewidth=0)
    above.set_ylim(bottom=0)
    above.set_ylabel("backlog, tasks")
    above.set_title(
        f"A burst of {TASKS} tasks of {TASK_SECONDS * 1000:.0f} ms: the backlog, and {BASE} to {MOST} workers"
    )
    for label, color, counts in (
        ("workers with a resource", BLUE, [moment.stats.active_workers for moment in moments]),
        ("busy workers", ORANGE, [moment.stats.busy_workers for moment in moments]),
    ):
        below.step(times, counts, where="post", label=label, color=color)
    below.axhline(BASE, linestyle=":", color=INK, label="base workers")
    below.set_ylim(bottom=0)
    below.set_xlim(0, SECONDS)
    below.set_ylabel("workers")
    below.set_xlabel("time, s")
    below.legend()
    return figure
