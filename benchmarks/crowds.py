"""A crowd of callers: greenlets that share the operations of one round.

Invariant: the time runs from before the first greenlet is spawned until the last has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat

import gevent

from benchmarks.measure import Round, timed


def by_callers(call: Callable[[], object], callers: int) -> Round:
    """Return rounds of `call` by that many greenlets, each calling again as soon as it has its answer."""

    def caller(share: int) -> None:
        for _ in repeat(None, share):
            call()

    def crowd(share: int) -> None:
        gevent.joinall([gevent.spawn(caller, share) for _ in range(callers)], raise_error=True)

    def round_(operations: int) -> float:
        share = max(1, operations // callers)
        work = caller if callers == 1 else crowd
        return timed(lambda: work(share), share * callers)

    return round_
