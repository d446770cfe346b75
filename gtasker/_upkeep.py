"""Upkeep: what is done for resources that nobody asks for at the moment.

Invariant: a round looks at everything once and never switches; what may switch (checks, destroys) is left to errands.

A round is made a few times a second at most, by a timer that does not keep the loop from ending.
"""

from __future__ import annotations

import logging
import traceback
from math import inf
from time import monotonic
from typing import Any, Generic, TypeVar

from gtasker._events import DestroyReason, LeaseLeaked
from gtasker._lending import Lease
from gtasker._loan import Resource
from gtasker._rooms import Rooms
from gtasker._snapshots import LeaseInfo
from gtasker._views import Views

R = TypeVar("R")

# Seconds between two rounds: a holder that is gone is to be found within one second.
_SLOWEST = 0.4
_FASTEST = 0.01


class Upkeep(Generic[R]):
    """The rounds of one runner."""

    def __init__(self, rooms: Rooms[R], views: Views[R]) -> None:
        config = rooms.site.config
        self._site = rooms.site
        self._calls = rooms.calls
        self._stock = rooms.stock
        self._backlog = rooms.backlog
        self._crew = rooms.crew
        self._returning = rooms.returning
        self._views = views
        self._keepalive = config.keepalive if config.keepalive is not None else inf
        self._may_check = 0  # for being kept alive, in this round
        spans = (config.max_idle, config.max_lifetime, config.keepalive, config.leak_warning)
        self._interval = max(_FASTEST, min(_SLOWEST, *(span / 4 for span in spans if span is not None)))

    def open(self) -> None:
        """Begin the rounds. Never switches."""
        self._site.housekeeping.after(self._interval, self._make_round)

    def _make_round(self) -> None:
        if self._stock.closed:
            return
        self.open()
        self._backlog.relax()
        now = monotonic()
        meter = self._site.meter
        if now >= meter.next_mark:
            meter.mark(now)
        self.reclaim_leaks()
        for resource in self._stock.records.values():
            if resource.stack is not None and not resource.warned:
                self._watch(resource, now)
        self.look_after_idle()
        self.shrink()
        self._crew.retire_idle(now)

    def reclaim_leaks(self) -> None:
        """Take back what is out with a greenlet that has ended. Never switches."""
        for resource in tuple(self._stock.records.values()):
            if resource.holder is not None and _is_gone(resource.holder, resource.taken_at):
                self._reclaim(resource)

    def _watch(self, resource: Resource[R], now: float) -> None:
        warning = self._site.config.leak_warning
        if warning is not None and now - resource.taken_at > warning:
            resource.warned = True
            info = self._views.describe(resource, now)
            self._warn(resource, info)
            if self._site.listening:
                self._site.emit(LeaseLeaked, info=info)

    def _reclaim(self, resource: Resource[R]) -> None:
        # Its holder ended: that is certain, so nobody uses it.
        info = self._views.describe(resource, monotonic())
        if isinstance(resource.call, Lease):
            resource.call.resource = None
        resource.holder = resource.call = resource.stack = None
        self._returning.restore(resource, DestroyReason.LEAKED)
        number = resource.id
        self._site.log(logging.ERROR, "resource %d leaked: %s ended with it", number, info.holder, resource_id=number)
        if self._site.listening:
            self._site.emit(LeaseLeaked, info=info)

    def _warn(self, resource: Resource[R], info: LeaseInfo) -> None:
        taken = "".join(reversed(traceback.format_list(resource.stack)))
        self._site.log(
            logging.WARNING,
            "resource %d is held for %.3g s by %s\ntaken at:\n%snow at:\n%s",
            info.resource_id,
            info.age,
            info.holder,
            taken,
            info.stack,
            resource_id=info.resource_id,
        )

    def look_after_idle(self) -> None:
        """Replace idle resources that have to go, and have those checked that are to be kept alive. Never switches.

        Of those, half at a time: whoever comes meanwhile finds the others.
        """
        now = monotonic()
        idle = [*self._backlog.spare, *(worker.resource for worker in self._backlog.idle)]
        # What is abandoned may never come back, and is not idle any more: it is in neither number.
        checks = [call for call in self._calls.running if call.what == "check_resource" and call.abandoned_at is None]
        checking = len(checks)
        self._may_check = max(0, (len(idle) + checking + 1) // 2 - checking)
        for resource in idle:
            self._look_after(resource, now)

    def shrink(self, *, at_once: bool = False) -> None:
        """Let go of idle resources above the reserve, if they were idle for long or are too many. Never switches."""
        now = monotonic()
        stock, backlog = self._stock, self._backlog
        surplus = stock.spares - stock.reserve
        crowd = stock.slots - stock.limit
        due = now - self._site.config.max_idle
        for resource in [r for r in backlog.spare if at_once or crowd > 0 or r.idle_since <= due]:
            if surplus <= 0:
                return
            surplus -= 1
            crowd -= 1
            backlog.spare.remove(resource)
            stock.discard(resource, DestroyReason.IDLE if resource.idle_since <= due else DestroyReason.SURPLUS)

    def _look_after(self, resource: Resource[R], now: float) -> None:
        if resource.condemned is not None or now >= resource.expires_at:
            self._take_out(resource)
            self._backlog.replace(resource, resource.condemned or DestroyReason.EXPIRED)
        elif self._may_check and now - max(resource.idle_since, resource.checked_at) >= self._keepalive:
            self._may_check -= 1
            self._take_out(resource)
            self._returning.inspect(resource)

    def _take_out(self, resource: Resource[R]) -> None:
        if resource.worker is None:
            self._backlog.spare.remove(resource)
        else:
            self._backlog.idle.remove(resource.worker)


def _is_gone(holder: Any, since: float) -> bool:
    # A greenlet of the runner's own outlives what it took the loan for.
    return holder.dead or (hasattr(holder, "has_ended_since") and holder.has_ended_since(since))
