"""Totals: all that only grows of a runner, in one flat table, for whoever adds up what it grew by.

Invariant: of a histogram these are the counts of its buckets, each without the ones below it, and its sum.
"""

from __future__ import annotations

from gtasker.integrations._growth import Key, counters
from gtasker.integrations._instruments import RUN_TIME, WAIT_TIME, Reading
from gtasker.integrations.prometheus._buckets import coarse

SUM = -1
"""Stands for the sum of a histogram's values where else the number of a bucket stands."""


def totals_of(reading: Reading) -> dict[Key, float]:
    """The table of one runner. Never switches."""
    totals = counters(reading)
    for fact, buckets in ((WAIT_TIME, reading.wait), (RUN_TIME, reading.run)):
        totals[fact.name, SUM] = buckets.total
        below = 0
        for number, (_, count) in enumerate(coarse(buckets)):
            totals[fact.name, number] = count - below
            below = count
    return totals
