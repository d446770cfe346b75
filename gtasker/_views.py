"""Views: frozen copies of what there is. Nothing here changes anything, or switches.

Invariant: a copy holds names and numbers, never a greenlet, a task or a resource, so keeping it keeps nothing alive.
"""

from __future__ import annotations

import sys
import traceback
from time import monotonic
from typing import Any, Generic, TypeVar

from greenlet import getcurrent

from gtasker._extras import Priority, name_of, told
from gtasker._lending import Lease
from gtasker._loan import Resource
from gtasker._metrics import Histograms, TaskMetrics
from gtasker._rooms import Rooms
from gtasker._snapshots import BackendInfo, Bounds, LeaseInfo, LeaseKind, ResourceInfo, ResourceState, RunnerStats

R = TypeVar("R")


class Views(Generic[R]):
    """Looks at the rooms of one runner."""

    def __init__(self, rooms: Rooms[R]) -> None:
        self._site = rooms.site
        self._calls = rooms.calls
        self._stock = rooms.stock
        self._backlog = rooms.backlog
        self._outcomes = rooms.outcomes
        self._crew = rooms.crew

    def stats(self) -> RunnerStats:
        """What there is now."""
        crew, stock, backlog = self._crew, self._stock, self._backlog
        workers = len(crew.workers)
        urgent, waiting, begun = backlog.tasks.above(Priority.NORMAL), len(backlog.tasks), backlog.as_good_as_begun
        return RunnerStats(
            state=self._site.life.state,
            base_workers=crew.base,
            active_workers=stock.owned,
            burst_workers=max(0, workers - crew.base),
            busy_workers=max(0, stock.owned - crew.idle + begun),
            queued_tasks=waiting - max(urgent, begun),
            priority_tasks=max(0, urgent - begun),
            delayed_tasks=len(backlog.delayed),
            available_resources=len(backlog.spare),
            live_resources=len(stock.records) + len(stock.unmaking),
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

    def leases(self, limit: int | None) -> list[LeaseInfo]:
        """Who uses which resource, the longest use first."""
        used = [resource for resource in self._stock.records.values() if self._is_used(resource)]
        used.sort(key=_used_since)
        now = monotonic()
        return [self.describe(resource, now) for resource in used[:limit]]

    def resources(self) -> list[ResourceInfo]:
        """Each slot, in order of creation."""
        now = monotonic()
        stock = self._stock
        idle = {resource.id for resource in self._backlog.spare}
        idle.update(worker.resource.id for worker in self._backlog.idle)
        infos = [self._info(resource, now, is_idle=resource.id in idle) for resource in stock.records.values()]
        for number, since in stock.making.items():
            infos.append(ResourceInfo(resource_id=number, state=ResourceState.CREATING, age=now - since))
        for resource, since in stock.unmaking.values():
            lifetime = now - resource.created_at
            state = ResourceState.DESTROYING
            infos.append(ResourceInfo(resource_id=resource.id, state=state, age=now - since, lifetime=lifetime))
        return sorted(infos, key=lambda info: info.resource_id)

    def bounds(self) -> Bounds:
        """The numbers in force."""
        crew, stock = self._crew, self._stock
        return Bounds(
            base_workers=crew.base, max_workers=crew.maximum, reserve=stock.reserve, max_resources=stock.limit
        )

    def backend(self) -> BackendInfo:
        """How creation fares."""
        stock, now = self._stock, monotonic()
        error = stock.last_error
        if stock.failing_since is None:
            return BackendInfo(acquire_timeouts=self._site.meter.acquire_timeouts)
        return BackendInfo(
            is_down=stock.is_down,
            failing_for=now - stock.failing_since,
            failures=stock.failures,
            next_attempt_in=max(0.0, stock.next_attempt_at - now),
            acquire_timeouts=self._site.meter.acquire_timeouts,
            last_error=type(error).__name__,
            last_message=told(error, str),
        )

    def histograms(self) -> Histograms:
        """Waiting and running so far, in cumulative buckets."""
        meter = self._site.meter
        return Histograms(meter.wait_histogram(), meter.run_histogram())

    def _info(self, resource: Resource[R], now: float, *, is_idle: bool) -> ResourceInfo:
        owner = "reserve" if resource.worker is None else "worker"
        lifetime = now - resource.created_at
        if self._is_used(resource):
            kind, holder, task, _ = self._use(resource)
            return ResourceInfo(
                resource_id=resource.id,
                state=ResourceState.USED,
                owner=owner,
                kind=kind,
                holder=_name_of_greenlet(holder),
                task=task,
                age=now - _used_since(resource),
                lifetime=lifetime,
            )
        state = ResourceState.IDLE if is_idle else ResourceState.CARED
        age = now - self._stock.cared.get(resource.id, resource.idle_since)
        return ResourceInfo(resource_id=resource.id, state=state, owner=owner, age=age, lifetime=lifetime)

    def describe(self, resource: Resource[R], now: float) -> LeaseInfo:
        """Who uses this resource."""
        kind, holder, task, priority = self._use(resource)
        return LeaseInfo(
            resource_id=resource.id,
            kind=kind,
            holder=_name_of_greenlet(holder),
            task=task,
            priority=priority,
            age=max(0.0, now - _used_since(resource)),
            stack=_stack_of(holder),
        )

    def _use(self, resource: Resource[R]) -> tuple[LeaseKind, Any, str | None, int]:
        if resource.holder is None:
            worker = resource.worker
            task = worker.attempt
            return LeaseKind.WORKER, worker, name_of(task.fn) if task.fn is not None else None, task.priority
        call = resource.call
        if isinstance(call, Lease):
            return LeaseKind.LEASE, resource.holder, None, call.priority
        return LeaseKind.RUN_TASK, resource.holder, None if call is None else name_of(call), int(Priority.HIGH)

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


def _used_since(resource: Resource[Any]) -> float:
    since: float = resource.worker.started_at if resource.holder is None else resource.taken_at
    return since


def _name_of_greenlet(greenlet: Any) -> str:
    return getattr(greenlet, "name", None) or f"{type(greenlet).__name__}-{id(greenlet):x}"


def _stack_of(greenlet: Any) -> str:
    frame = sys._getframe(1) if greenlet is getcurrent() else greenlet.gr_frame
    return "".join(traceback.format_stack(frame)) if frame is not None else ""
