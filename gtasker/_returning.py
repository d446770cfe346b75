"""Returning: a resource on loan comes back, and what has to be done with it before it is used again.

Invariant: taking back never switches; checks, resets and the user's judgement run in greenlets of the runner's, where
nobody's kill reaches them. A resource that is being cared for is neither idle nor anybody's.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, Literal, TypeVar

from gtasker._backlog import Backlog
from gtasker._events import DestroyReason, LeaseReturned
from gtasker._judging import CHECK, CLEAN, FIT, Judge, Verdict
from gtasker._lifecycle import State
from gtasker._loan import Resource
from gtasker._metrics import FOLD_AT
from gtasker._site import Site
from gtasker._stock import Stock

R = TypeVar("R")


class Returning(Generic[R]):
    """Where what was lent comes back."""

    def __init__(self, site: Site[R], stock: Stock[R], backlog: Backlog[R], judge: Judge[R]) -> None:
        self._site = site
        self._stock = stock
        self._turn = site.turn
        self._backlog = backlog
        self._judge = judge
        # Wired by the core:
        self.on_back: Any = None  # while the runner is closing

    def take_back(self, resource: Resource[R], error: BaseException | None, now: float) -> None:
        """Take it back after a use that ended so at `now`. Never switches; what may switch is done by an errand."""
        if self._site.forked:  # a child, and the resource its parent's
            return
        resource.idle_since = now
        turn, meter = self._turn, self._site.meter
        if turn.left <= 0 or now > turn.until:
            turn.checkpoint(now)
            if now >= meter.next_mark:
                meter.mark(now)
            if len(meter.runs) >= FOLD_AT:
                meter.fold()
        struck = resource.struck is not None
        resource.holder = resource.call = resource.stack = None
        resource.struck, resource.warned = None, False
        if self._site.listening:
            self._site.emit(LeaseReturned, resource_id=resource.id, held=now - resource.taken_at)
        if resource.condemned is not None:  # whatever came of its use
            self.restore(resource, resource.condemned)
        elif error is not None or struck:
            self._care(self._after_error, resource, error, struck, now)
        elif self._judge.is_plain and now < resource.good_until:
            self.restore(resource, None)
        else:
            self.settled(resource, self._judge.settle(resource, now), now)

    def settled(
        self, resource: Resource[R], verdict: Literal[Verdict.FIT, Verdict.CLEAN] | DestroyReason, now: float
    ) -> None:
        """Go on after `settle`, at the end of a use that ended well at `now`. Never switches."""
        if verdict is CLEAN:
            self._care(self._after_use, resource, now)
        else:
            self.restore(resource, None if verdict is FIT else verdict)

    def restore(self, resource: Resource[R], reason: DestroyReason | None) -> None:
        """Put a resource that nobody uses to its next use, or have it replaced. Never switches."""
        self._stock.cared.pop(resource.id, None)
        if reason is None:
            reason = DestroyReason.KILLED if self._site.life.state is State.KILLED else resource.condemned
        if reason is not None:
            self._backlog.lent.pop(resource.worker, None)
            self._backlog.replace(resource, reason)
        elif resource.worker is None:
            self._backlog.place(resource)
        else:
            self._backlog.lent.pop(resource.worker, None)
            self._backlog.release(resource.worker)
        if self.on_back is not None:
            self.on_back()

    def pass_on(self, resource: Resource[R]) -> None:
        """`resource`, which nobody uses, was idle for some time: put it to its next use, if it is fit. Never switches.

        If nobody waits it is idle again; whoever comes next has it looked at.
        """
        now = monotonic()
        verdict = self._judge.look(resource, now, now) if self._backlog.waiting else FIT
        if verdict is CHECK:
            self.inspect(resource)
        else:
            self.restore(resource, verdict if isinstance(verdict, DestroyReason) else None)

    def inspect(self, resource: Resource[R]) -> None:
        """Have a resource checked that was idle, then put to use or replaced. Never switches."""
        self._care(self._inspect, resource)

    def _care(self, errand: Callable[..., None], resource: Resource[R], *args: Any) -> None:
        # Until `restore` it is in this errand's hands.
        self._stock.cared[resource.id] = monotonic()
        self._site.errands.run(errand, resource, *args)

    def _inspect(self, resource: Resource[R]) -> None:
        reason = self._judge.check(resource, lambda: self._give_up_on(resource))
        self._end_inspection(resource)
        self.restore(resource, reason)
        self._backlog.dispatch()  # who waits for a check that failed tries the next

    def _end_inspection(self, resource: Resource[R]) -> None:
        if resource.away:
            resource.away = False
            self._backlog.inspecting -= 1

    def _give_up_on(self, resource: Resource[R]) -> None:
        # The hook may never return. Whoever waits for what it was to say tries the next.
        self._end_inspection(resource)
        self._backlog.dispatch()

    def _after_use(self, resource: Resource[R], now: float) -> None:
        self.restore(resource, self._judge.reset(resource, now))

    def _after_error(self, resource: Resource[R], error: BaseException | None, struck: bool, now: float) -> None:
        if struck or not isinstance(error, Exception):
            reason = self._judge.vouch(resource)
        elif self._judge.is_healthy(error):
            reason = self._judge.clean(resource, now)
        else:
            reason = DestroyReason.UNHEALTHY
        self.restore(resource, reason)
