"""The stock: how many resources exist, and their making and unmaking.

Invariant: `slots` = made + being made + being destroyed <= `limit` at every moment: a slot is taken before `on_create`
is called, and given back after `on_destroy` returned.
Each record is discarded once: `discard` takes it out of `records`, and only who is in there can be discarded.

While creation fails there is one back-off and one prober for the whole runner, for ever; the first success ends it.
The delay is drawn by full jitter, uniform in 0 .. min(cap, base * 2**failures) (M. Brooker, "Exponential Backoff And
Jitter", 2015). It counts from the beginning of the attempt that failed: what that took is part of it, so that attempts
that fail slowly are no further apart than those that fail at once, and a backend that is back waits for `cap` at most.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Generic, TypeVar

from gtasker._alarm import Entry
from gtasker._calls import Calls
from gtasker._events import (
    BackendDown,
    BackendUp,
    DestroyReason,
    ResourceCreated,
    ResourceCreateFailed,
    ResourceCreating,
    ResourceDestroyed,
)
from gtasker._extras import told
from gtasker._loan import Resource
from gtasker._site import Site

R = TypeVar("R")

# A random part of the lifetime, up to this, is taken off, so that what was made together does not end together.
_LIFETIME_JITTER = 0.1
# One failure may be chance; when the next attempt fails too, the backend is called down.
_DOWN_AFTER = 2


class Stock(Generic[R]):
    """All resources of one runner. It makes what `demand` asks for, and gives each new one to `place`."""

    def __init__(self, site: Site[R], calls: Calls[R]) -> None:
        self._site = site
        self._calls = calls
        self._last_id = 0
        self._verdict: Entry | None = None  # when the backend is to be called down
        self._probe: Entry | None = None
        self.next_attempt_at = self._failed_at = 0.0
        self.failures = 0
        self.records: dict[int, Resource[R]] = {}
        self.limit: int = site.config.max_resources
        self.reserve: int = site.config.resource_pool_size
        self.owned = 0  # of the records: how many are a worker's own
        self.cared: dict[int, float] = {}  # of the records, by number: since when an errand checks or cleans it
        self._recycled_at = -inf
        self.making: dict[int, float] = {}  # by number: since when `on_create` is under way
        self.unmaking: dict[int, tuple[Resource[R], float]] = {}  # likewise `on_destroy`
        self.stuck = 0  # of those: `on_create` calls that go on after their interruption; nobody waits for them
        self.failing_since: float | None = None
        self.last_error: BaseException | None = None
        self.is_down = False
        self.closed = False
        self.closing_reason = DestroyReason.STOPPED
        # Wired by the core:
        self.demand: Callable[[], tuple[int, int]] = lambda: (0, 0)  # workers that want one, waiting loans
        self.place: Callable[[Resource[R]], object] = lambda resource: None
        self.on_create_failed: Callable[[BaseException], object] = lambda error: None
        self.on_down: Callable[[BaseException], object] = lambda error: None
        self.on_up: Callable[[], object] = lambda: None
        self.on_starved: Callable[[], object] = lambda: None
        self.on_change: Callable[[], object] = lambda: None

    @property
    def creating(self) -> int:
        """How many are being made."""
        return len(self.making)

    @property
    def slots(self) -> int:
        """How many count towards the bound."""
        return len(self.records) + len(self.making) + len(self.unmaking)

    @property
    def spares(self) -> int:
        """How many made ones are no worker's: the reserve, and what is above it."""
        return len(self.records) - self.owned

    @property
    def worker_limit(self) -> int:
        """How many workers can have a resource beside the full reserve; the base workers always can."""
        return self.limit - self.reserve

    def may_feed(self) -> bool:
        """Whether an idle one of the reserve may become a worker's. Never switches.

        It is above the reserve; or no worker has any, and none could be made for so long that tasks would be refused.
        """
        if self.spares > self.reserve:
            return True
        patience = self._site.config.fail_fast_after
        if self.owned or self.failing_since is None or patience is None:
            return False
        return monotonic() >= self.failing_since + patience

    def missing(self) -> int:
        """How many more should be made, those under way included. Never switches."""
        workers, loans = self.demand()
        return workers + max(loans, self.reserve - self.spares)

    def room(self) -> int:
        """For how many more workers there would be resources. Never switches."""
        free = self.limit - self.slots - max(0, self.missing() - self.creating + self.stuck)
        return max(0, free + max(0, self.spares - self.reserve))

    def supply(self) -> None:
        """Begin as many creations as demand, bounds and back-off allow. Never switches."""
        while not self.closed and self.slots < self.limit:
            under_way = self.creating - self.stuck
            if under_way >= (self._site.config.max_creating if self.failing_since is None else 1):
                return
            if under_way >= self.missing():
                return
            if self.failing_since is not None and monotonic() < self.next_attempt_at:
                self._probe_later()
                return
            self._begin()

    def own(self, resource: Resource[R], worker: object) -> None:
        """Make it the worker's own. Never switches."""
        resource.worker = worker
        self.owned += 1

    def disown(self, resource: Resource[R]) -> None:
        """Make it one of the reserve. Never switches."""
        if resource.worker is not None:
            resource.worker = None
            self.owned -= 1

    def discard(self, resource: Resource[R], reason: DestroyReason) -> None:
        """Have it destroyed, in a greenlet of the runner's; nobody uses it. Never switches."""
        del self.records[resource.id]
        self.cared.pop(resource.id, None)
        self.disown(resource)
        self.unmaking[resource.id] = (resource, monotonic())
        self._site.errands.run(self._destroy, resource, reason)

    def recycle(self) -> None:
        """Condemn all that exist, those that are being made included. Never switches."""
        self._recycled_at = monotonic()
        for resource in self.records.values():
            resource.condemn(DestroyReason.RECYCLED)

    def check_down(self) -> None:
        """Give up waiting for the backend, if none is left and it failed for long enough. Never switches."""
        patience = self._site.config.fail_fast_after
        if patience is None or self.failing_since is None or self.is_down or self.closed:
            return
        at = self.failing_since + patience
        if monotonic() < at:
            # For the case that the prober hangs. Unawaited: who waits, waits for the prober too.
            if self._verdict is None or self._verdict.call is None:
                self._verdict = self._site.housekeeping.at(at, self.check_down)
            return
        if self.records:
            self.on_starved()
            return
        self.is_down = True
        assert self.last_error is not None
        self.on_down(self.last_error)

    def _begin(self) -> None:
        self._last_id += 1
        self.making[self._last_id] = monotonic()
        self._site.errands.run(self._create, self._last_id)

    def _create(self, number: int) -> None:
        config = self._site.config
        started = self.making[number]
        late: list[int] = []

        if self.closed:  # since it was begun: what comes of it would only have to be destroyed
            del self.making[number]
            self.on_change()
            return
        if self._site.listening:
            self._site.emit(ResourceCreating, resource_id=number)

        def is_stuck() -> None:
            if late:  # it is interrupted once more, by a kill
                return
            late.append(number)
            self.stuck += 1
            self._failed(number, started, TimeoutError(f"on_create took longer than {config.create_timeout:g} s"))

        try:
            value = self._calls.call("on_create", config.create_timeout, config.on_create, on_abandoned=is_stuck)
        except BaseException as error:
            del self.making[number]
            self._end_late() if late else self._failed(number, started, error)
        else:
            self._created(number, started, value, is_late=bool(late))

    def _end_late(self) -> None:
        # It was counted as failed already; its slot is free now.
        self.stuck -= 1
        self.supply()
        self.on_change()

    def _created(self, number: int, started: float, value: R, *, is_late: bool) -> None:
        site = self._site
        now = monotonic()
        lifetime = site.config.max_lifetime
        span = inf if lifetime is None else lifetime * (1 - random.random() * _LIFETIME_JITTER)
        resource = self.records[number] = Resource(number, value, now, span)
        del self.making[number]
        site.meter.created += 1
        if is_late:  # an overrun is a failure, also when something comes of it
            self.discard(resource, DestroyReason.SURPLUS)
            self._end_late()
            return
        failing_since, self.failing_since = self.failing_since, None
        failures, self.failures = self.failures, 0
        self.last_error = None
        if self.is_down:
            self.is_down = False
            self.on_up()
        if site.listening:
            site.emit(ResourceCreated, resource_id=number, seconds=now - started)
            if failures >= _DOWN_AFTER and failing_since is not None:
                site.emit(BackendUp, seconds_down=now - failing_since)
        if self.closed or started <= self._recycled_at:
            self.discard(resource, self.closing_reason if self.closed else DestroyReason.RECYCLED)
        else:
            self.place(resource)
        self.supply()
        self.on_change()

    def _failed(self, number: int, started: float, error: BaseException) -> None:
        site = self._site
        now = monotonic()
        site.meter.create_failures += 1
        if self.failing_since is None:
            self.failing_since = now
        is_new = started >= self._failed_at  # attempts that were under way together count once
        if is_new:
            self.failures += 1
            base, cap = site.config.create_backoff
            delay = random.uniform(0, min(cap, base * 2 ** min(self.failures - 1, 60)))
            self.next_attempt_at = started + delay
            self._failed_at = now
        # Its frames would keep what failed, and with it sockets, for as long as the backend is away.
        self.last_error = error.with_traceback(None)
        if site.listening:
            wait = max(0.0, self.next_attempt_at - now)
            site.emit(ResourceCreateFailed, resource_id=number, error=error, next_attempt_in=wait)
            if is_new and self.failures == _DOWN_AFTER:
                site.emit(BackendDown, error=error)
        self.on_create_failed(error)
        self.check_down()
        self.supply()
        self.on_change()
        site.log(logging.WARNING, "on_create failed: %s", told(error))

    def _probe_later(self) -> None:
        if self._probe is None:
            self._probe = self._site.housekeeping.at(self.next_attempt_at, self._probe_now)

    def _probe_now(self) -> None:
        self._probe = None
        self.supply()

    def _destroy(self, resource: Resource[R], reason: DestroyReason) -> None:
        site = self._site
        config = site.config
        said: list[int] = []

        def tell() -> None:  # when it ended or was abandoned, whichever comes first
            if site.listening and not said:
                said.append(resource.id)
                site.emit(ResourceDestroyed, resource_id=resource.id, reason=reason)

        try:
            self._calls.call("on_destroy", config.destroy_timeout, config.on_destroy, resource.value, on_survived=tell)
        except BaseException as error:
            site.fault("on_destroy", error)
        del self.unmaking[resource.id]
        site.meter.destroyed += 1
        tell()
        self.check_down()
        self.supply()
        self.on_change()
