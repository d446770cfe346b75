"""How many workers are wanted: pure arithmetic over a `Load`.

Invariant: a decision depends on the load alone: no clock, no state, no greenlet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import index
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Load:
    """What a decision is made from, at one moment."""

    backlog: int
    """Tasks that wait for a worker; retries that wait out their delay are not among them."""
    oldest_wait: float
    """Seconds the longest of them has waited."""
    arrival_rate: float
    """Accepted tasks per second, over the last 10 s."""
    completion_rate: float
    """Ended tasks, completed *and* failed, per second, over the last 10 s."""
    busy_workers: int
    idle_workers: int
    workers: int
    """All of them; those neither busy nor idle are being started."""
    base_workers: int
    """Lower bound of `workers`."""
    max_workers: int
    """Upper bound of `workers`."""


@runtime_checkable
class Scaling(Protocol):
    """A rule for the number of workers."""

    def decide(self, load: Load) -> int:
        """Wished change in the number of workers; the runner keeps the result within the bounds. Must be pure."""


@dataclass(frozen=True, slots=True)
class ThresholdScaling:
    """Add `step` workers whenever the backlog is above `threshold`; they leave by growing idle. 0 turns it off."""

    threshold: int
    step: int

    def decide(self, load: Load) -> int:
        """Return `step` or 0."""
        return self.step if 0 < self.threshold < load.backlog else 0


@dataclass(frozen=True, slots=True)
class RateScaling:
    """Keep completions level with arrivals: add workers by what is lacking, at most `step` a decision.

    Above `threshold`, with arrivals outrunning completions, the lack divided by what a busy worker completes is how
    many more are needed; those already being started are taken off. As long as nothing completed, that share is
    unknown, and `step` are added. With no backlog, completions level and workers idle, up to `step` of the idle ones
    go. A `threshold` of 0 turns it off.
    """

    threshold: int
    step: int

    def decide(self, load: Load) -> int:
        """Return a change between `-step` and `step`."""
        if not self.threshold:
            return 0
        if load.backlog > self.threshold:
            return self._growth(load)
        if not load.backlog and load.completion_rate >= load.arrival_rate:
            return -min(self.step, load.idle_workers)
        return 0

    def _growth(self, load: Load) -> int:
        if not load.completion_rate or not load.busy_workers:
            return self.step
        lack = load.arrival_rate - load.completion_rate
        if lack <= 0:
            return 0
        # Bounded first: next to no completions make the quotient infinite, which has no ceiling.
        needed = math.ceil(min(lack * load.busy_workers / load.completion_rate, load.max_workers))
        # The rates lag by seconds: without this, every decision would order the same workers anew.
        starting = load.workers - load.busy_workers - load.idle_workers
        return max(0, min(self.step, needed - starting))


def clamp(load: Load, wish: int) -> int:
    """Return the change nearest to `wish` that leaves the workers within their bounds.

    `TypeError` if `wish` is no integer.
    """
    return min(max(load.workers + index(wish), load.base_workers), load.max_workers) - load.workers
