"""History: what a runner did in each slot of two seconds, for the last five minutes.

Invariant: a slot is the same for all processes of a machine (it is counted on their common clock), and what processes
tell of one slot adds up: counts by sums, times by their histograms.

A slot is told as its number and its content as JSON, written once, when the slot is over: a snapshot has 150 of them,
and is made once a second in the event loop that serves everybody else.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import ceil, isinf
from time import monotonic
from typing import Any, NamedTuple

from gtasker.integrations._instruments import Reading

SLOT = 2.0
"""Seconds of one slot."""
SLOTS = 150
"""Slots that are kept: five minutes."""
SETTLING = 1.5
"""Seconds after a slot's end until every process has told what it did in it."""
# Every second of a runner's bounds will do: then the middle of a bucket is within 8 % of what is in it.
_STRIDE = 2
_HALF_STEP = 2**0.1

Times = dict[str, int]
"""How many times lie at or below a bound (seconds, as JSON's keys are text) and above the one before."""

Slot = tuple[int, str]
"""Its number, and its content as JSON."""

COUNTS = ("arrived", "completed", "failed", "retried")
LEVELS = ("waiting", "workers", "busy", "failing")
SPANS = ("wait", "run")


def totals(reading: Reading) -> dict[tuple[str, str], float]:
    """All of a runner that only grows."""
    metrics = reading.metrics
    found: dict[tuple[str, str], float] = {
        ("arrived", ""): metrics.total_tasks_arrived,
        ("completed", ""): metrics.total_tasks_completed,
        ("failed", ""): metrics.total_tasks_failed,
        ("retried", ""): metrics.total_tasks_retried,
    }
    for span, buckets in (("wait", reading.wait), ("run", reading.run)):
        counts = buckets.counts[::_STRIDE]
        below = 0
        for bound, count in zip(_bounds(buckets.bounds), (*counts[:-1], buckets.counts[-1]), strict=True):
            found[span, bound] = count - below
            below = count
    return found


@lru_cache(maxsize=2)
def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    thinned = bounds[::_STRIDE]
    return tuple(f"{bounds[-2] * 2 if isinf(bound) else bound:.4g}" for bound in (*thinned[:-1], bounds[-1]))


class Look(NamedTuple):
    """What a runner did since the last look, and what it is now."""

    grown: Mapping[tuple[str, str], float]
    reading: Reading

    def levels(self) -> tuple[int, ...]:
        """The numbers of `LEVELS`."""
        stats = self.reading.stats
        waiting = stats.queued_tasks + stats.priority_tasks + stats.delayed_tasks + stats.waiting_leases
        return waiting, stats.active_workers, stats.busy_workers, int(self.reading.backend.failing_for > 0)


class Track:
    """The slots of the runners of one name in one process, oldest first."""

    def __init__(self) -> None:
        self._over: deque[Slot] = deque(maxlen=SLOTS - 1)
        self._present: dict[str, Any] = _empty(0)

    def add(self, looks: Sequence[Look]) -> None:
        """Count one look at each of the runners into the present slot. Never switches."""
        slot = self._slot(int(monotonic() // SLOT))
        for (what, bound), number in (grown for look in looks for grown in look.grown.items()):
            if bound:
                slot[what][bound] = slot[what].get(bound, 0) + int(number)
            else:
                slot[what] += int(number)
        for level, numbers in zip(LEVELS, zip(*(look.levels() for look in looks), strict=True), strict=True):
            slot[level] = max(slot[level], sum(numbers))
        slot["oldest"] = max(slot["oldest"], *(round(look.reading.metrics.longest_wait, 3) for look in looks))

    def slots(self) -> list[Slot]:
        """What was counted."""
        return [*self._over, _told(self._present)]

    def _slot(self, number: int) -> dict[str, Any]:
        if self._present["slot"] != number:
            if self._present["slot"]:
                self._over.append(_told(self._present))
            self._present = _empty(number)
        return self._present


def _told(slot: dict[str, Any]) -> Slot:
    return slot["slot"], json.dumps(slot, separators=(",", ":"))


def _empty(number: int) -> dict[str, Any]:
    return {"slot": number, "oldest": 0.0, **dict.fromkeys((*COUNTS, *LEVELS), 0), **{span: {} for span in SPANS}}


def points(tracks: Iterable[Iterable[Slot]], after: int, now: float) -> list[dict[str, Any]]:
    """The settled slots after `after`, those of all tracks added up; rates per second, times as percentiles."""
    last = int((now - SETTLING) // SLOT) - 1
    merged: dict[int, dict[str, Any]] = {}
    for number, content in (slot for track in tracks for slot in track):
        if after < number <= last and number > last - SLOTS:
            _merge(merged.setdefault(number, _empty(number)), json.loads(content))
    return [_point(merged[number]) for number in sorted(merged)]


def _merge(into: dict[str, Any], slot: Mapping[str, Any]) -> None:
    for name in (*COUNTS, *LEVELS):
        into[name] += slot[name]
    into["oldest"] = max(into["oldest"], slot["oldest"])
    for name in SPANS:
        for bound, count in slot[name].items():
            into[name][bound] = into[name].get(bound, 0) + count


def _point(slot: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "slot": slot["slot"],
        "oldest": slot["oldest"],
        **{name: slot[name] / SLOT for name in COUNTS},
        **{name: slot[name] for name in LEVELS},
        **{name: percentiles(slot[name]) for name in SPANS},
    }


def percentiles(times: Times) -> list[float] | None:
    """The 50th, 95th and 99th, seconds; None where nothing was measured."""
    count = sum(times.values())
    if not count:
        return None
    found = []
    ascending = sorted((float(bound), number) for bound, number in times.items())
    for fraction in (0.5, 0.95, 0.99):
        rank = ceil(fraction * count)
        for bound, number in ascending:
            rank -= number
            if rank <= 0:
                found.append(float(f"{bound / _HALF_STEP:.3g}"))
                break
    return found
