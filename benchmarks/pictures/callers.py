"""Throughput of no-op calls against the number of callers.

Invariant: at each number of callers all ways take turns, and the best of their rounds is drawn.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from gevent.pool import Pool
from gevent.threadpool import ThreadPool
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.crowds import by_callers
from benchmarks.measure import Contender, Effort, Round, interleave
from benchmarks.naive import plain_worker
from benchmarks.ours import noop, running
from benchmarks.pictures.look import BLUE, GREEN, ORANGE, PINK

CALLERS = (1, 3, 10, 30, 100, 300, 1000)
WORKERS = 10
EFFORT = Effort(passes=9, seconds=0.01, quick=False)


def draw() -> Figure:
    """Measure and draw. Switches."""
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        worker = stack.enter_context(plain_worker(WORKERS))
        runner = stack.enter_context(running(WORKERS))
        pool, threads = Pool(WORKERS), ThreadPool(WORKERS)
        stack.callback(threads.kill)
        calls = {
            "gtasker queue_task": partial(runner.queue_task, noop),
            "plain PriorityQueue worker": partial(worker.call, noop),
            "gevent Pool.apply": partial(pool.apply, noop, (None,)),
            "gevent ThreadPool.apply": partial(threads.apply, noop, (None,)),
        }
        for callers in CALLERS:
            rounds = {name: by_callers(call, callers) for name, call in calls.items()}
            for name, rate in _rates(rounds, callers).items():
                rates.setdefault(name, []).append(rate)
    return _picture(rates)


def _rates(rounds: dict[str, Round], callers: int) -> dict[str, float]:
    result = interleave([Contender(name, each, at_least=20 * callers) for name, each in rounds.items()], EFFORT)
    return {series.name: 1 / series.best for series in result.series}


def _picture(rates: dict[str, list[float]]) -> Figure:
    figure, axes = plt.subplots()
    for (name, values), color in zip(rates.items(), (BLUE, ORANGE, GREEN, PINK), strict=True):
        axes.plot(
            CALLERS,
            [value / 1000 for value in values],
            marker="o",
            label=name,
            color=color,
            linewidth=2.5 if name.startswith("gtasker") else 1.5,
        )
    axes.set_xscale("log")
    axes.set_xticks(CALLERS, [f"{callers:,}" for callers in CALLERS])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("callers at the same time")
    axes.set_ylabel("no-op tasks a second, in thousands")
    axes.set_title(f"Throughput of no-op tasks against the number of callers ({WORKERS} workers)")
    axes.legend()
    return figure
