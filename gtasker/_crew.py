"""The crew: how many workers there are.

Invariant: `len(workers)` never exceeds the maximum; those being started, and those whose attempt goes on after its
interruption, are in it. At least `base` workers are in it while the runner is open, and no more stay than there may be
resources for, beside the reserve.

A burst worker is a number, the surplus over the base; any worker may be the one that goes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, Generic, TypeVar

from gtasker._alarm import Entry
from gtasker._backlog import Backlog
from gtasker._config import make_scaling
from gtasker._events import DestroyReason, WorkersScaled
from gtasker._gathering import NEVER
from gtasker._loan import Resource
from gtasker._outcomes import Outcomes
from gtasker._scaling import Load, ThresholdScaling, clamp
from gtasker._site import Site
from gtasker._stock import Stock

R = TypeVar("R")

_WORDS = ("threshold", "rate")
# A worker that died is replaced after this many seconds: a fault of ours that kills at once must not spin.
_REHIRE_DELAY = 0.02


class Crew(Generic[R]):
    """The workers of one runner, and the decision to have more or fewer of them."""

    def __init__(self, site: Site[R], stock: Stock[R], backlog: Backlog[R], outcomes: Outcomes[R]) -> None:
        config = site.config
        self._site = site
        self._stock = stock
        self._backlog = backlog
        self._outcomes = outcomes
        self._next_decision: Entry | None = None
        self._decided_at = -inf
        self.base = config.worker_count
        self.maximum: int = config.max_worker_count
        self.workers: set[Any] = set()
        self.greenlets: set[Any] = set()  # with those that were let go and have not ended
        # A rule of the user's own needs no threshold.
        self.scaling = make_scaling(config) if config.burst_task_threshold or config.scaling not in _WORDS else None
        self.closed = False
        # Wired by the core:
        self.make_worker: Callable[[], Any] = lambda: None
        self.pass_on: Callable[[Resource[R]], object] = lambda resource: None  # put what is idle to its next use
        self.on_end: Callable[[], object] = lambda: None
        self.is_needed: Callable[[Any], bool] = lambda worker: False  # are all other workers stuck?

    @property
    def wanted(self) -> int:
        """How many there are, less those that will go when they are free."""
        return len(self.workers) - self._backlog.excess

    @property
    def idle(self) -> int:
        """How many have a resource and nothing to do, those included whose idle resource is being checked."""
        records, lent = self._stock.records, self._backlog.lent
        owners = (records[number].worker for number in self._stock.cared)
        return len(self._backlog.idle) + sum(owner is not None and owner not in lent for owner in owners)

    def relieve(self) -> bool:
        """All workers are stuck: hire one more, if bursting may; say whether. Never switches."""
        if self.scaling is None or len(self.workers) >= self.maximum or self.closed or not self._stock.room():
            return False
        before = len(self.workers)
        self.hire(1)
        self._tell(before, "all others wait for tasks")
        return True

    def open(self) -> None:
        """Hire the base workers. Never switches."""
        self.hire(self.base)
        self.watch()

    def may_start(self) -> bool:
        """Whether a worker that wants a resource may get one without anybody's help. Never switches."""
        stock = self._stock
        return stock.slots < stock.limit or stock.spares > stock.reserve or bool(stock.making or stock.unmaking)

    def watch(self) -> None:
        """Have a decision made as soon as it may be due. Never switches."""
        if self.scaling is None or self.closed:
            self._backlog.alert_above = NEVER
        elif isinstance(self.scaling, ThresholdScaling):
            self._backlog.alert_above = self.scaling.threshold
        else:  # it may decide anything at any time
            self._decide_later(self._site.config.burst_interval)
            self._backlog.alert_above = self._site.config.burst_task_threshold

    def hire(self, number: int) -> None:
        """Start so many workers; each gets its resource when there is one. Never switches."""
        kept = min(number, self._backlog.excess)  # those that were to go stay instead
        self._backlog.excess -= max(0, kept)
        for _ in range(number - kept):
            worker = self.make_worker()
            self.workers.add(worker)
            self.greenlets.add(worker)
            worker.rawlink(self._on_end)
            self._site.errands.pool.start(worker)
            self._backlog.want(worker)

    def alert(self) -> None:
        """The backlog crossed the threshold: decide at once, unless one has just decided. Never switches."""
        left = self._decided_at + self._site.config.burst_interval - monotonic()
        if left <= 0:
            self._decide()
        else:
            self._decide_later(left)

    def resize(self, base: int, maximum: int) -> None:
        """Want other numbers from now on; nothing is interrupted. Never switches."""
        before = self.wanted
        self.base, self.maximum = base, maximum
        self.hire(base - self.wanted)
        # The maximum stands, for a time when there may be more resources again; till then some have to go.
        self.trim(min(maximum, self._stock.worker_limit))
        if self._site.listening and self.wanted != before:
            self._site.emit(WorkersScaled, before=before, after=self.wanted, why="resize")

    def trim(self, wanted: int) -> None:
        """Let workers go until `wanted` are left: the idle ones now, the busy ones when free. Never switches."""
        backlog = self._backlog
        backlog.excess = max(0, len(self.workers) - wanted)
        for worker in [*backlog.wanting, *backlog.idle][: backlog.excess]:
            if self.closed or not self.is_needed(worker):
                backlog.remove(worker)
                self.dismiss(worker)
        self._outcomes.refresh()

    def dismiss(self, worker: Any) -> bool:
        """Let `worker`, which is free, go if there is one too many; say whether. Never switches."""
        backlog = self._backlog
        if backlog.excess <= 0 or (not self.closed and self.is_needed(worker)):
            return False
        backlog.excess -= 1
        self._outcomes.refresh()
        self.let_go(worker, self._stock.closing_reason if self.closed else DestroyReason.SURPLUS)
        return True

    def let_go(self, worker: Any, reason: DestroyReason) -> None:
        """End `worker`, which is free; its resource goes to the reserve if that lacks one. Never switches."""
        self.workers.discard(worker)
        worker.dismissed = True
        resource, worker.resource = worker.resource, None
        if resource is not None:
            stock = self._stock
            if reason is DestroyReason.SURPLUS and stock.spares < stock.reserve and resource.condemned is None:
                stock.disown(resource)
                self.pass_on(resource)
            else:
                stock.discard(resource, reason)
        self._site.turn.soon(worker)

    def retire_idle(self, now: float) -> float:
        """Let burst workers go that were idle for `max_idle`; return when the next may be due. Never switches."""
        backlog, due = self._backlog, now - self._site.config.max_idle
        surplus = len(self.workers) - self.base
        if surplus <= 0:
            return inf
        # Those who still wait for a resource go first, when what they were hired for is done.
        leaving = [] if backlog.tasks else list(backlog.wanting)
        leaving += [worker for worker in backlog.idle if worker.resource.idle_since <= due]
        leaving = [worker for worker in leaving if not self.is_needed(worker)]
        before = len(self.workers)
        for worker in leaving[:surplus]:
            backlog.remove(worker)
            self.let_go(worker, DestroyReason.IDLE)
        self._tell(before, "idle")
        oldest = min((worker.resource.idle_since for worker in backlog.idle), default=now)
        return oldest + self._site.config.max_idle

    def load(self) -> Load:
        """What a decision is made from. Never switches."""
        now = monotonic()
        backlog = self._backlog
        oldest = backlog.tasks.oldest()
        arrivals, completions = self._site.meter.rates(now)
        begun = backlog.as_good_as_begun
        idle = self.idle - begun
        return Load(
            backlog=len(backlog.tasks) - begun,
            oldest_wait=now - oldest if oldest is not None else 0.0,
            arrival_rate=arrivals,
            completion_rate=completions,
            busy_workers=len(self.workers) - idle - len(backlog.wanting),
            idle_workers=idle,
            workers=self.wanted,
            base_workers=self.base,
            max_workers=self.maximum,
        )

    def _decide_later(self, delay: float) -> None:
        if self._next_decision is None and not self.closed:
            # Who waits for a burst waits for busy workers anyway; the timer need not keep the loop alive.
            self._next_decision = self._site.housekeeping.after(delay, self._decide)

    def _decide(self) -> None:
        if self._next_decision is not None:
            self._next_decision.cancel()
            self._next_decision = None
        self._decided_at = monotonic()
        if self.closed or self.scaling is None:
            return
        if self._backlog.paused:
            self._decide_later(self._site.config.burst_interval)
            return
        site, load = self._site, self.load()
        try:
            wish = int(self.scaling.decide(load))
        except BaseException as error:
            site.hook_failed("scaling.decide", error)
            wish = 0
        change = clamp(load, wish)
        # A worker without a chance of a resource would only wait in line before those that have one.
        change = min(change, self._stock.room())
        if change > 0:
            self.hire(change)
            self._tell(load.workers, "backlog")
        elif change < 0:
            self.trim(load.workers + change)
            self._tell(load.workers, "scaling")
        if self._backlog.waiting > self._backlog.alert_above or not isinstance(self.scaling, ThresholdScaling):
            self._decide_later(site.config.burst_interval)

    def _tell(self, before: int, why: str) -> None:
        after = len(self.workers)
        self._site.log(logging.DEBUG, "workers %d -> %d (%s)", before, after, why)
        if self._site.listening and after != before:
            self._site.emit(WorkersScaled, before=before, after=after, why=why)

    def _on_end(self, worker: Any) -> None:
        # In the hub. A worker that ends undismissed was killed before it ran a line, or by a fault of ours.
        self.greenlets.discard(worker)
        self.on_end()
        if worker not in self.workers:
            return
        self.workers.discard(worker)
        self._backlog.remove(worker)
        self._backlog.lent.pop(worker, None)
        task, resource = worker.attempt, worker.resource
        worker.attempt = worker.resource = None
        worker.end_limit()
        if task is not None and not task.attempts:
            self._backlog.put_back(task)
        elif task is not None:
            error = worker.exception or RuntimeError("its worker ended")
            self._outcomes.fail(task, error, worker.started_at, monotonic())
        if resource is not None and resource.holder is None and resource.id not in self._stock.cared:
            self._stock.discard(resource, DestroyReason.INTERRUPTED)
        elif resource is not None:  # somebody has it, who will give it back
            self._stock.disown(resource)
        if not self.closed and self.wanted < self.base:
            self._site.housekeeping.after(_REHIRE_DELAY, self._rehire)

    def _rehire(self) -> None:
        if not self.closed:
            self.hire(self.base - self.wanted)
