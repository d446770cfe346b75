"""The shelf: the resources of an immediate runner, made when they are asked for, in the greenlet that asks.

Invariant: at most `limit` exist, those being made, judged and destroyed included; what lies on the shelf is fit, and
what is out has exactly one holder, who lays it back or destroys it, whatever is thrown into him meanwhile.

Hooks are called as the real runner calls them, and what they raise is logged and counts as there; only their time is
not bounded.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, TypeVar

from gevent import getcurrent
from gevent.event import Event

from gtasker import Config, GTaskerError, LeaseInfo, LeaseKind, Priority, ResourceInfo, ResourceState
from gtasker.events import (
    DestroyReason,
    ResourceCreated,
    ResourceCreateFailed,
    ResourceCreating,
    ResourceDestroyed,
)
from gtasker.testing._tally import Tally

R = TypeVar("R")


class Copy(Generic[R]):
    """One resource, and who has it for what."""

    value: R  # not there while `on_create` makes it

    def __init__(self, number: int) -> None:
        self.number = number
        self.created_at = self.since = monotonic()
        self.condemned: DestroyReason | None = None
        self.holder: Any = None
        self.is_used = False  # else a hook has it
        self.kind: LeaseKind | None = None  # what it is wanted for
        self.priority = int(Priority.NORMAL)
        self.task: str | None = None

    def lend(self, kind: LeaseKind, task: str | None, priority: int) -> None:
        """The current greenlet has it from now on."""
        self.holder, self.kind, self.task, self.priority = getcurrent(), kind, task, priority
        self.since = monotonic()
        self.is_used = True

    @property
    def is_made(self) -> bool:
        """Whether `on_create` has returned it."""
        return hasattr(self, "value")

    @property
    def state(self) -> ResourceState:
        """What is happening to it; where a hook has it, that it is cared for."""
        if self.is_used or self.holder is None:
            return ResourceState.USED if self.is_used else ResourceState.IDLE
        return ResourceState.CARED if self.is_made else ResourceState.CREATING


class Shelf(Generic[R]):
    """All resources of one runner."""

    def __init__(self, config: Config[R], tally: Tally, emit: Callable[..., None]) -> None:
        self._config = config
        self._tally = tally
        self._emit = emit
        self._last = 0
        self.limit: int = config.max_resources
        self.kept: int = config.worker_count + config.resource_pool_size
        self.idle: list[Copy[R]] = []
        self.out: list[Copy[R]] = []
        self.closing: DestroyReason | None = None
        self.last_error: BaseException | None = None
        self.failing_since: float | None = None
        self.failures = 0
        self.came_back = Event()

    @property
    def count(self) -> int:
        """Resources that exist."""
        return len(self.idle) + len(self.out)

    def take(self, kind: LeaseKind) -> Copy[R] | None:
        """A fit resource, made if none is idle; None if as many as may be are out. Raises what `on_create` does."""
        copy = self._pop_fit(kind)
        if copy is not None or self.count >= self.limit:
            return copy
        return self._create(kind)

    def _pop_fit(self, kind: LeaseKind) -> Copy[R] | None:
        while self.idle:
            copy = self.idle.pop()
            self._hold(copy, kind)
            try:
                reason = self._look(copy)
            except BaseException:
                self._destroy(copy, DestroyReason.INTERRUPTED)
                raise
            if reason is None:
                return copy
            self._destroy(copy, reason)
        return None

    def _hold(self, copy: Copy[R], kind: LeaseKind | None) -> None:
        copy.holder, copy.kind = getcurrent(), kind
        self.out.append(copy)

    def _let_go(self, copy: Copy[R]) -> None:
        self.out.remove(copy)
        copy.holder = None
        copy.is_used = False
        self.came_back.set()

    def _lay_back(self, copy: Copy[R]) -> None:
        self._let_go(copy)
        copy.since = monotonic()
        self.idle.append(copy)

    def fill(self) -> None:
        """Make as many as are to be ready. Raises what `on_create` does."""
        while self.count < self.kept:
            self._lay_back(self._create(None))

    def give_back(self, copy: Copy[R], error: BaseException | None, *, discarded: bool = False) -> bool:
        """Take it back after a use that ended so, and judge it; whether the error was healthy."""
        copy.holder, copy.is_used = getcurrent(), False
        try:
            healthy = error is None or self._is_healthy(error)
            reason = DestroyReason.DISCARDED if discarded else self._judge(copy, error, healthy)
        except BaseException:
            self._destroy(copy, DestroyReason.INTERRUPTED)
            raise
        reason = reason or copy.condemned or self.closing
        if reason is None and self.count > self.limit:  # it was lowered meanwhile
            reason = DestroyReason.SURPLUS
        if reason is None:
            self._lay_back(copy)
        else:
            self._destroy(copy, reason)
        return healthy

    def clear(self, reason: DestroyReason) -> None:
        """Destroy what is idle now, and what is out when it comes back."""
        self.closing = reason
        while self.idle:
            self._destroy(self.idle.pop(), reason)

    def recycle(self) -> None:
        """Destroy what is idle now, and what is out when it comes back; what is made from now on is kept."""
        for copy in self.out:
            copy.condemned = DestroyReason.RECYCLED
        while self.idle:
            self._destroy(self.idle.pop(), DestroyReason.RECYCLED)

    def shrink(self) -> None:
        """Destroy what is idle above the numbers in force."""
        while self.idle and self.count > min(self.kept, self.limit):
            self._destroy(self.idle.pop(), DestroyReason.SURPLUS)

    def infos(self) -> list[ResourceInfo]:
        """Each resource, in order of creation."""
        now = monotonic()
        infos = []
        for copy in sorted([*self.idle, *self.out], key=lambda copy: copy.number):
            used = copy.is_used
            infos.append(
                ResourceInfo(
                    resource_id=copy.number,
                    state=copy.state,
                    owner="reserve",
                    kind=copy.kind if used else None,
                    holder=_name(copy.holder) if used else None,
                    task=copy.task if used else None,
                    age=now - copy.since,
                    lifetime=now - copy.created_at,
                )
            )
        return infos

    def leases(self) -> list[LeaseInfo]:
        """Who has which, the longest use first."""
        now = monotonic()
        return [
            LeaseInfo(
                resource_id=copy.number,
                kind=copy.kind,
                holder=_name(copy.holder),
                task=copy.task,
                priority=copy.priority,
                age=now - copy.since,
                stack=_stack(copy.holder),
            )
            for copy in sorted(self.out, key=lambda copy: copy.since)
            if copy.is_used and copy.kind is not None
        ]

    def _create(self, kind: LeaseKind | None) -> Copy[R]:
        self._last += 1
        number, began = self._last, monotonic()
        copy: Copy[R] = Copy(number)
        self._hold(copy, kind)
        self._emit(ResourceCreating, resource_id=number)
        try:
            copy.value = self._config.on_create()
        except BaseException as error:
            self._let_go(copy)
            if isinstance(error, Exception):
                self._count_failure(number, error, began)
            raise
        self.last_error = self.failing_since = None
        self.failures = 0
        self._tally.created += 1
        self._emit(ResourceCreated, resource_id=number, seconds=monotonic() - began)
        copy.created_at = monotonic()
        return copy

    def _count_failure(self, number: int, error: Exception, began: float) -> None:
        self.last_error = error
        self.failures += 1
        self.failing_since = self.failing_since or began
        self._tally.create_failures += 1
        self._emit(ResourceCreateFailed, resource_id=number, error=error, next_attempt_in=0.0)

    def _destroy(self, copy: Copy[R], reason: DestroyReason) -> None:
        if copy.holder is None:
            self._hold(copy, None)
        try:
            self._call("on_destroy", self._config.on_destroy, copy.value)
        finally:
            self._let_go(copy)
            self._tally.destroyed += 1
            self._emit(ResourceDestroyed, resource_id=copy.number, reason=reason)

    def _look(self, copy: Copy[R]) -> DestroyReason | None:
        config, now = self._config, monotonic()
        if config.max_lifetime is not None and now - copy.created_at >= config.max_lifetime:
            return DestroyReason.EXPIRED
        if config.check_resource is not None and now - copy.since >= config.check_idle:
            fit = self._call("check_resource", config.check_resource, copy.value)
            return None if fit else DestroyReason.CHECK_FAILED
        return None

    def _judge(self, copy: Copy[R], error: BaseException | None, healthy: bool) -> DestroyReason | None:
        config = self._config
        if error is not None and not isinstance(error, Exception):
            clean = config.on_interrupt is not None and self._call("on_interrupt", config.on_interrupt, copy.value)
            return None if clean is True else DestroyReason.INTERRUPTED
        if not healthy:
            return DestroyReason.UNHEALTHY
        if config.reset is not None and self._call("reset", _truly(config.reset), copy.value) is None:
            return DestroyReason.RESET_FAILED
        return None

    def _is_healthy(self, error: BaseException) -> bool:
        check_health = self._config.check_health
        if check_health is None or isinstance(error, GTaskerError) or not isinstance(error, Exception):
            return True
        return bool(self._call("check_health", check_health, error))

    def _call(self, hook: str, fn: Callable[[Any], Any], argument: Any) -> Any:
        """What the hook returns; None if it raised, which is logged."""
        try:
            return fn(argument)
        except Exception as error:
            self._config.logger.error("%s: %s raised %r", self._config.name, hook, error, exc_info=error)
            return None


def _truly(reset: Callable[[Any], None]) -> Callable[[Any], bool]:
    def call(value: Any) -> bool:
        reset(value)
        return True

    return call


def _name(holder: Any) -> str:
    return getattr(holder, "name", None) or f"{type(holder).__name__}-{id(holder):x}"


def _stack(holder: Any) -> str:
    frame = holder.gr_frame
    return "".join(traceback.format_stack(frame) if frame is not None else traceback.format_stack())
