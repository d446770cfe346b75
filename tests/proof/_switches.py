"""The marksman: numbers the switches of one greenlet and throws exceptions into it at chosen numbers.

It counts by `greenlet.settrace`, so a switch from greenlet to greenlet counts like one to the hub.
Two ways to number: OWN counts the moments at which the victim itself is suspended; ANY counts every switch of the
whole thread for as long as it stays suspended. An OWN shot is queued in the hub before the victim goes to sleep, ahead
of whatever could wake it. An ANY shot is queued at the switch it is numbered by: when that is the switch to a giver,
the shot stands ahead of the wake-up that the giver will queue, and lands *between hand-over and waking*, a moment that
OWN shots cannot reach.

Invariant: a shot is fired by the hub, into a greenlet that is suspended inside the section it marked, or not at all.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import gevent
import greenlet

if TYPE_CHECKING:
    from typing_extensions import Self

    Pair = tuple[greenlet.greenlet, greenlet.greenlet]


class Numbering(enum.Enum):
    """Which switches get a number."""

    OWN = "own"
    ANY = "any"


class Marksman:
    """Throws each planned exception once, at the switch with its number. One victim, one use.

    `counted` is the number of switches seen inside the section, `fired` what was really thrown, in order,
    `missed` how many planned shots found the victim awake again (no kill can land there).
    """

    def __init__(self, plan: Mapping[int, BaseException], numbering: Numbering = Numbering.OWN) -> None:
        self.plan = plan
        self.numbering = numbering
        self.counted = 0
        self.missed = 0
        self.fired: list[BaseException] = []
        self.seen: WeakSet[greenlet.greenlet] = WeakSet()
        self._victim: greenlet.greenlet | None = None
        self._hub = gevent.get_hub()
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = greenlet.settrace(self._trace)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        greenlet.settrace(self._before)

    @contextmanager
    def section(self) -> Iterator[None]:
        """Make the current greenlet the victim for as long as the block lasts."""
        self.adopt(greenlet.getcurrent())
        try:
            yield
        finally:
            self.release()

    def adopt(self, victim: greenlet.greenlet) -> None:
        """Make a greenlet the victim, until `release`."""
        self._victim = victim
        self._aim_ahead(victim)

    def release(self) -> None:
        """Shoot no more."""
        self._victim = None

    def left_over(self) -> list[greenlet.greenlet]:
        """The greenlets that ran under the trace and have not ended, the hub and the current one apart."""
        spared = (self._hub, greenlet.getcurrent(), greenlet.getcurrent().parent)
        return [each for each in self.seen if not each.dead and each not in spared]

    def _trace(self, event: str, pair: Pair) -> None:
        origin, target = pair
        self.seen.add(target)
        victim = self._victim
        if victim is None:
            return
        if target is victim:
            self._aim_ahead(victim)
            return
        if self.numbering is Numbering.OWN:
            self.counted += origin is victim
            return
        self.counted += 1
        error = self.plan.get(self.counted)
        if error is not None:
            self._hub.loop.run_callback(self._fire, victim, None, error)

    def _aim_ahead(self, victim: greenlet.greenlet) -> None:
        error = self.plan.get(self.counted + 1) if self.numbering is Numbering.OWN else None
        if error is not None:
            self._hub.loop.run_callback(self._fire, victim, self.counted + 1, error)

    def _fire(self, victim: greenlet.greenlet, number: int | None, error: BaseException) -> None:
        gone = victim.dead or victim is not self._victim
        if gone or (number is not None and number != self.counted):
            self.missed += 1
            return
        self.fired.append(error)
        victim.throw(error)
