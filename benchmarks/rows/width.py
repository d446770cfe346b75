"""What a task costs when ten thousand workers stand by, against ten.

Invariant: the same callers do the same calls on both; only the number of idle workers differs.
"""

from __future__ import annotations

from functools import partial

from benchmarks.crowds import by_callers
from benchmarks.measure import Contender, Effort, Result, Target, interleave
from benchmarks.ours import noop, running

FEW, MANY = 10, 10_000
CALLERS = 100


def many_workers(effort: Effort) -> Result:
    """Measure `queue_task` over few and over many workers. Switches."""
    with running(FEW) as few, running(MANY, max_creating=100) as many:
        contenders = [
            Contender(
                f"{count:,} workers", by_callers(partial(runner.queue_task, noop), CALLERS), at_least=CALLERS * 20
            )
            for count, runner in ((FEW, few), (MANY, many))
        ]
        result = interleave(contenders, effort)
    result.cost(contenders[1].name, contenders[0].name, Target(1.3))
    return result
