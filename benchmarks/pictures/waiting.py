"""How long tasks of each priority wait under load.

Invariant: arrivals are random and independent of the answers, so a busy moment is not hidden by callers that wait.
"""

from __future__ import annotations

import random
from time import monotonic

import gevent
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.ours import running
from benchmarks.pictures.look import BLUE, GREEN, ORANGE
from gtasker import Priority, Runner

WORKERS = 10
TASK_SECONDS = 0.010
LOAD = 0.9
SECONDS = 12.0
MIX = {Priority.HIGH: 0.1, Priority.NORMAL: 0.6, Priority.LOW: 0.3}
QUANTILES = (0.5, 0.9, 0.99, 0.999)
SEED = 7


def draw() -> Figure:
    """Measure and draw. Switches."""
    with running(WORKERS) as runner:
        waits = _measure(runner)
    return _picture(waits)


def _measure(runner: Runner[object]) -> dict[Priority, list[float]]:
    dice = random.Random(SEED)
    waits: dict[Priority, list[float]] = {priority: [] for priority in MIX}
    priorities, weights = list(MIX), list(MIX.values())
    due = monotonic()
    end = due + SECONDS
    while due < end:
        due += dice.expovariate(LOAD * WORKERS / TASK_SECONDS)
        gevent.sleep(max(0.0, due - monotonic()))
        priority = dice.choices(priorities, weights)[0]
        runner.submit(_task, waits[priority], monotonic(), priority=priority)
    return waits


def _task(resource: object, waits: list[float], submitted_at: float) -> None:
    waits.append(monotonic() - submitted_at)
    gevent.sleep(TASK_SECONDS)


def _picture(waits: dict[Priority, list[float]]) -> Figure:
    figure, axes = plt.subplots()
    width = 0.8 / len(waits)
    for place, ((priority, values), color) in enumerate(zip(waits.items(), (ORANGE, BLUE, GREEN), strict=True)):
        values.sort()
        heights = [values[int(quantile * len(values))] * 1000 for quantile in QUANTILES]
        places = [number + place * width for number in range(len(QUANTILES))]
        label = f"{priority.name} ({MIX[priority]:.0%} of the tasks)"
        bars = axes.bar(places, heights, width, label=label, color=color)
        axes.bar_label(bars, [_short(height) for height in heights], fontsize=8)
    axes.set_yscale("log")
    axes.grid(visible=False, axis="x")
    axes.set_xticks(
        [number + width for number in range(len(QUANTILES))], [f"p{100 * quantile:g}" for quantile in QUANTILES]
    )
    axes.set_xlabel("percentile of the waits")
    axes.set_ylabel("wait, ms (logarithmic)")
    axes.set_title(f"Wait by priority at {LOAD:.0%} load ({WORKERS} workers, tasks of {TASK_SECONDS * 1000:.0f} ms)")
    axes.set_ylim(top=10 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper left")
    return figure


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 1 else f"{milliseconds:,.0f}"
