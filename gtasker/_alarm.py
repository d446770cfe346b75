"""Deadlines: one heap of moments behind one timer of the event loop.

Invariant: while an entry lives, the timer is armed for a moment not later than the earliest. With none left that holds
the loop, the timer may still be armed, but lets the loop end: arming costs more than letting it ring for nothing.
Calls are made in the hub, in order of their moments; a call must not block.
An entry costs a heap push (well under a microsecond) against the 5 us of a `gevent.Timeout`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any


class Entry:
    """A call to be made at `when`, until it is cancelled."""

    __slots__ = ("_alarm", "_holds", "call", "when")

    def __init__(self, alarm: Alarm, when: float, call: Callable[[], object]) -> None:
        self._alarm = alarm
        self._holds = False
        self.when = when
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Take the call back, and let go of it at once. Harmless when it was made already. Never switches."""
        if self.call is not None:
            self.call = None
            self.release()
            self._alarm._lost_one()

    def hold(self) -> None:
        """Let the loop go on for it, if it is to be called at all. Never switches."""
        if self.call is not None and not self._holds:
            self._holds = True
            self._alarm._held(1)

    def release(self) -> None:
        """Let the loop end before it is called. Never switches."""
        if self._holds:
            self._holds = False
            self._alarm._held(-1)


class Alarm:
    """All deadlines of one kind: `ref=True` for what somebody awaits, False for housekeeping (the loop may end)."""

    __slots__ = ("_armed_for", "_closed", "_heap", "_holding", "_hub", "_live", "_order", "_ref", "_timer", "inert")

    def __init__(self, hub: Any, *, ref: bool) -> None:
        self._hub = hub
        self._ref = ref
        self._heap: list[tuple[float, int, Entry]] = []
        self._order = count()
        self._live = 0
        self._holding = 0  # of the live ones, those for which the loop is to go on
        self._timer: Any = None
        self._armed_for = 0.0
        self._closed = False
        self.inert = False  # set in a forked child: the inherited timer must not act there

    def __len__(self) -> int:
        return self._live

    def at(self, when: float, call: Callable[[], object]) -> Entry:
        """Have `call()` made in the hub at `when` (monotonic seconds). Never switches."""
        entry = Entry(self, when, call)
        if self._closed:
            entry.call = None
            return entry
        heapq.heappush(self._heap, (when, next(self._order), entry))
        self._live += 1
        entry.hold()
        if self._timer is None or when < self._armed_for:
            self._arm(when)
        return entry

    def after(self, delay: float, call: Callable[[], object]) -> Entry:
        """Have `call()` made in the hub `delay` seconds from now. Never switches."""
        return self.at(monotonic() + delay, call)

    def keep_loop(self, keep: bool) -> None:
        """Say whether the loop must go on for these moments: somebody awaits what comes of them. Never switches."""
        self._ref = keep
        if self._timer is not None:
            self._timer.ref = keep and self._holding > 0

    def close(self) -> None:
        """Forget every entry, now and later, and stop the timer. Never switches."""
        self._closed = True
        for _, _, entry in self._heap:
            entry.call = None
            entry.release()
        self._heap.clear()
        self._live = 0
        self._disarm()

    def _held(self, change: int) -> None:
        self._holding += change
        if self._ref and self._timer is not None and self._holding == (change > 0):  # the first, or none any more
            self._timer.ref = change > 0

    def _lost_one(self) -> None:
        self._live -= 1
        if not self._live:
            self._heap.clear()
        elif len(self._heap) > 2 * self._live:
            self._heap = [item for item in self._heap if item[2].call is not None]
            heapq.heapify(self._heap)

    def _arm(self, when: float) -> None:
        self._disarm()
        self._armed_for = when
        # The loop's own clock may lag behind: start() brings it up to date, so that the timer cannot fire early.
        self._timer = self._hub.loop.timer(max(0.0, when - monotonic()), ref=self._ref and self._holding > 0)
        self._timer.start(self._ring, update=True)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _ring(self) -> None:
        self._disarm()
        if self.inert:
            return
        try:
            self._call_due(monotonic())
        finally:
            # A call may have armed it already, for what it added itself; what was there before may be due earlier.
            if self._live and (self._timer is None or self._heap[0][0] < self._armed_for):
                self._arm(self._heap[0][0])

    def _call_due(self, now: float) -> None:
        heap = self._heap
        while heap and (heap[0][2].call is None or heap[0][0] <= now):
            entry = heapq.heappop(heap)[2]
            call = entry.call
            if call is None:
                continue
            entry.call = None
            entry.release()
            self._live -= 1
            try:
                call()
            except Exception as error:  # one bad call must not hold up the others
                self._hub.handle_error(call, type(error), error, error.__traceback__)
            heap = self._heap
