"""Views: frozen copies of what there is. Nothing here changes anything, or switches.

Invariant: a copy holds names and numbers, never a greenlet, a task or a resource, so keeping it keeps nothing alive.
"""

from __future__ import annotations

import sys
import traceback
from time import monotonic
from typing import Any, Generic, TypeVar

from greenlet import getcurrent

from gtasker._backlog import Backlog
from gtasker._calls import Calls
from gtasker._crew import Crew
from gtasker._lending import Lease
from gtasker._loan import Resource
from gtasker._metrics import TaskMetrics
from gtasker._outcomes import Outcomes
from gtasker._site import Site
from gtasker._snapshots import LeaseInfo, LeaseKind, RunnerStats
from gtasker._stock import Stock
from gtasker._task import Priority, name_of

R = TypeVar("R")


class Views(Generic[R]):
    """Looks at the rooms of one runner."""

    def __init__(
        self,
        site: Site[R],
        calls: Calls[R],
        stock: Stock[R],
        backlog: Backlog[R],
        outcomes: Outcomes[R],
        crew: Crew[R],
    ) -> None:
        self._site = site
        self._calls = calls
        self._stock = stock
        self._backlog = backlog
        self._outcomes = outcomes
        self._crew = crew

    def stats(self) -> RunnerStats:
        """What there is now."""
        crew, stock, backlog = self._crew, self._stock, self._backlog
        workers = len(crew.workers)
        urgent = backlog.tasks.above(Priority.NORMAL)
        return RunnerStats(
            state=self._site.life.state,
            base_workers=crew.base,
            active_workers=stock.owned,
            burst_workers=max(0, workers - crew.base),
            busy_workers=max(0, stock.owned - len(backlog.idle)),
            queued_tasks=len(backlog.tasks) - urgent,
            priority_tasks=urgent,
            delayed_tasks=len(backlog.delayed),
            available_resources=len(backlog.spare),
            live_resources=len(stock.records) + stock.destroying,
            creating_resources=stock.creating,
            waiting_leases=len(backlog.loans),
            abandoned=len(self._outcomes.struck) + self._calls.abandoned,
        )

    def metrics(self) -> TaskMetrics:
        """What happened so far."""
        if self._site.collector is not None:
            return self._site.collector.snapshot()
        oldest = self._backlog.tasks.oldest()
        return self._site.meter.snapshot(max(0.0, monotonic() - oldest) if oldest is not None else 0.0)

    def leases(self) -> list[LeaseInfo]:
        """Who uses which resource, the longest use first."""
        now = monotonic()
        used = [self.describe(resource, now) for resource in self._stock.records.values() if self._is_used(resource)]
        return sorted(used, key=lambda info: -info.age)

    def describe(self, resource: Resource[R], now: float) -> LeaseInfo:
        """Who uses this resource."""
        if resource.holder is None:
            worker = resource.worker
            task = worker.attempt
            kind, holder, since = LeaseKind.WORKER, worker, worker.started_at
            name, priority = name_of(task.fn) if task.fn is not None else None, task.priority
        else:
            call, holder, since = resource.call, resource.holder, resource.taken_at
            is_lease = isinstance(call, Lease)
            kind = LeaseKind.LEASE if is_lease else LeaseKind.RUN_TASK
            name = None if is_lease or call is None else name_of(call)
            priority = call.priority if is_lease else int(Priority.HIGH)
        return LeaseInfo(
            resource_id=resource.id,
            kind=kind,
            holder=_name_of_greenlet(holder),
            task=name,
            priority=priority,
            age=max(0.0, now - since),
            stack=_stack_of(holder),
        )

    def repr(self) -> str:
        """One line."""
        stats = self.stats()
        config = self._site.config
        return (
            f"<Runner {config.name!r} {stats.state.value} workers={stats.active_workers} (busy {stats.busy_workers}) "
            f"backlog={stats.queued_tasks + stats.priority_tasks} "
            f"resources={stats.live_resources}/{self._stock.limit}>"
        )

    def _is_used(self, resource: Resource[R]) -> bool:
        return resource.holder is not None or (resource.worker is not None and resource.worker.attempt is not None)


def _name_of_greenlet(greenlet: Any) -> str:
    return getattr(greenlet, "name", None) or f"{type(greenlet).__name__}-{id(greenlet):x}"


def _stack_of(greenlet: Any) -> str:
    frame = sys._getframe(1) if greenlet is getcurrent() else greenlet.gr_frame
    return "".join(traceback.format_stack(frame)) if frame is not None else ""
