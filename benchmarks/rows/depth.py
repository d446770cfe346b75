"""What a task costs when a million others wait, against a thousand.

Invariant: the depth is constant while it is measured: each task that runs submits one more.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from gevent.event import Event

from benchmarks.measure import Contender, Effort, Result, Target, interleave, timed
from benchmarks.ours import running
from gtasker import Runner

SHALLOW = 1_000
DEEP = 1_000_000
DEEP_QUICK = 100_000
OPERATIONS = 20_000


def waiting_tasks(effort: Effort) -> Result:
    """Measure a submit and a run at both depths, strict and with ageing. Switches."""
    result = _compare(effort, "", {}, None if effort.quick else Target(1.5))
    aging = _compare(effort, ", ageing", {"priority_aging": 1.0}, None)
    return Result([*result.series, *aging.series], [*result.figures, *aging.figures])


def _compare(effort: Effort, label: str, options: dict[str, Any], target: Target | None) -> Result:
    deep = DEEP_QUICK if effort.quick else DEEP
    with ExitStack() as stack:
        contenders = []
        for depth in (SHALLOW, deep):
            runner = stack.enter_context(running(1, **options))
            stack.callback(runner.purge)
            contenders.append(
                Contender(f"{depth:,} waiting{label}", _Chain(runner, depth).round, operations=OPERATIONS)
            )
        result = interleave(contenders, effort)
    result.cost(contenders[1].name, contenders[0].name, target)
    return result


class _Chain:
    """Tasks that each submit a successor, so that as many wait as before; paused between rounds."""

    def __init__(self, runner: Runner[object], depth: int) -> None:
        self._runner = runner
        self._left = 0
        self._done = Event()
        runner.pause()
        for _ in range(depth):
            runner.submit(self._link)

    def round(self, operations: int) -> float:
        """Run that many links; the seconds one cost. Switches."""
        self._left = operations
        self._done.clear()
        return timed(self._run, operations)

    def _run(self) -> None:
        self._runner.resume()
        self._done.wait()

    def _link(self, resource: object) -> None:
        self._runner.submit(self._link)
        self._left -= 1
        if not self._left:
            self._runner.pause()
            self._done.set()
