"""Buckets: the part of a runner's histograms that Prometheus gets.

Invariant: the bounds are the same for every runner and at every moment, and each is a bound of the runner's own.
"""

from __future__ import annotations

from math import isinf

from gtasker import Buckets

LEAST_BOUND, GREATEST_BOUND = 1e-4, 128.0
"""Seconds. Between these there is a bucket for each doubling: 21, where a runner keeps some 430."""
# The runner's bounds lie on a grid that has the doubled one too, but for rounding.
_DOUBLED = 1.999


def coarse(buckets: Buckets) -> list[tuple[float, int]]:
    """Bounds (seconds, ascending, the last is infinity) with how many values are at or below them."""
    picked: list[tuple[float, int]] = []
    least = LEAST_BOUND
    for bound, count in zip(buckets.bounds[:-1], buckets.counts, strict=False):
        if least <= bound <= GREATEST_BOUND:
            # Nine places, for a label that people read: 0.0001024 and not 0.00010240000000000001.
            picked.append((round(bound, 9), count))
            least = bound * _DOUBLED
    return [*picked, (buckets.bounds[-1], buckets.counts[-1])]


def label(bound: float) -> str:
    """How a bound is written in `le`."""
    return "+Inf" if isinf(bound) else repr(bound)
