"""Lending: `lease` and `run_task` take a resource for the greenlet that calls, and give it back.

Invariant: a resource with a `holder` is out with exactly that greenlet, until it is given back or its holder is found
to be gone.

With an idle resource and nobody waiting, taking and giving back are a pop and an append; everything else is in
`_asking` and `_returning`. What the reserve has goes first, then what workers have that are idle.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from greenlet import getcurrent

from gtasker._asking import Asking
from gtasker._backlog import Backlog
from gtasker._events import DestroyReason
from gtasker._extras import Priority
from gtasker._judging import FIT, Judge
from gtasker._loan import Resource
from gtasker._metrics import FOLD_AT, TaskTimes
from gtasker._returning import Returning
from gtasker._site import Site, get_ident
from gtasker.errors import WrongThreadError

R = TypeVar("R")
T = TypeVar("T")


class Lease(Generic[R]):
    """What `Runner.lease` returns: `with runner.lease() as resource:`. It can be entered again once it was left.

    It is made without `__init__`, whose call would be a dear part of a cycle.
    """

    __slots__ = ("asks", "lending", "priority", "resource", "timeout")

    lending: Lending[R]
    timeout: float | None
    priority: int
    resource: Resource[R] | None  # while it is out
    asks: bool  # somebody waits to enter it

    def __enter__(self) -> R:
        """Take a resource. Switches when none is idle. Raises `ResourceError`s, `RunnerStoppedError`."""
        if self.resource is not None or self.asks:
            raise RuntimeError("this lease is out already")
        resource = self.lending.take_idle(self)
        if resource is None:
            if not self.lending.site.home:
                self.lending = self.lending.find()  # the runner may have begun anew since
            self.asks = True
            try:
                resource = self.lending.asking.take(self.priority, self.timeout, self)
            finally:
                self.asks = False
                if not self.lending.is_plain:
                    self.lending.site.tell()
        self.resource = resource
        return resource.value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> Literal[False]:
        """Give it back. Never switches. Raises WrongThreadError."""
        lending, resource = self.lending, self.resource
        if (resource is None or resource.holder is not getcurrent()) and lending.thread != get_ident():
            raise WrongThreadError("this lease belongs to a runner of another thread")
        self.resource = None
        if resource is None:  # it was found leaked, and taken back
            pass
        elif error is None:
            lending.give_back(resource, monotonic())
        else:
            lending.returning.take_back(resource, error, monotonic())
        if not lending.is_plain:
            lending.site.tell()
        return False

    def discard(self) -> None:
        """Have the resource destroyed when the block is left. Only to be called inside of it. Never switches."""
        if self.resource is not None:
            self.resource.condemn(DestroyReason.DISCARDED)


class Lending(Generic[R]):
    """The loans of one runner."""

    def __init__(
        self, site: Site[R], backlog: Backlog[R], judge: Judge[R], asking: Asking[R], returning: Returning[R]
    ) -> None:
        self.thread = site.thread
        self.site = site
        self._turn = site.turn
        self._backlog = backlog
        self._spare, self._idle, self._lent = backlog.spare, backlog.idle, backlog.lent
        self._hub = site.hub
        self._judge = judge
        self._patience = judge.patience
        self.asking = asking
        self.returning = returning
        self.meter = site.meter
        # Wired by the runner: where leases are to be taken now, should this life of it be over.
        self.find: Callable[[], Lending[R]] = lambda: self
        # Whether a use begins and ends with no more than bookkeeping and a look; and ends without a look, too.
        self.is_plain = not site.listening and site.config.leak_warning is None
        self._is_simple = judge.is_plain

    def take_idle(self, call: Any) -> Resource[R] | None:
        """An idle resource, if that which is next is fit, and nobody waits for it. Never switches."""
        spare, idle, turn = self._spare, self._idle, self._turn
        if not (spare or idle) or not self.is_plain or self.site.home != get_ident():
            return None
        if self._backlog.waiting or turn.woken or turn.left <= 0:  # it would overtake somebody, or keep the loop
            return None
        resource: Resource[R] = spare[-1] if spare else idle[-1].resource
        now = monotonic()
        holder = getcurrent()
        if holder is self._hub:
            return None
        if (now >= resource.good_until or now - resource.idle_since >= self._patience) and not self.is_fit(
            resource, now
        ):
            return None
        if resource.worker is None:
            del spare[-1]
        else:
            self._lent[idle.pop()] = None
        turn.left -= 1
        if turn.left <= 0:  # nothing is handed over any more until somebody has seen to that
            turn.checkpoint(now)
            if now >= self.meter.next_mark:
                self.meter.mark(now)
            if len(self.meter.runs) >= FOLD_AT:
                self.meter.fold()
        resource.holder = holder
        resource.call = call
        resource.taken_at = now
        return resource

    def is_fit(self, resource: Resource[R], now: float) -> bool:
        """Look at what is to be used in this step; False, too, if what the look called came before. Never switches."""
        if self._judge.look(resource, now, now) is not FIT:
            return False
        if self._backlog.waiting or self._turn.woken or self._turn.left <= 0 or not self.site.home:
            return False
        if resource.worker is None:
            return self._spare[-1:] == [resource]
        return self._idle[-1:] == [resource.worker]

    def run(self, fn: Any, args: tuple[Any, ...], timeout: float | None) -> Any:
        """Call `fn(resource, *args)` in this greenlet, when no resource was idle. Switches."""
        if not callable(fn):
            raise TypeError(f"a task must be callable, not {fn!r}")
        try:
            return self._run(fn, args, timeout)
        finally:
            self.site.tell()

    def _run(self, fn: Any, args: tuple[Any, ...], timeout: float | None) -> Any:
        began = monotonic()
        resource = self.asking.take(Priority.HIGH, timeout, fn)
        self.meter.arrived += 1
        self.site.collect("record_arrival")
        try:
            value = fn(resource.value, *args)
        except BaseException as error:
            self.failed(resource, error, began)
            raise
        now = monotonic()
        self.meter.waits.append(max(0.0, resource.taken_at - began))
        self.meter.runs.append(now - resource.taken_at)
        self.site.collect("record_completion", TaskTimes(began, resource.taken_at, now))
        self.give_back(resource, now)
        return value

    def failed(self, resource: Resource[R], error: BaseException, began: float = 0.0) -> None:
        """Count that what `run_task` called raised, and take the resource back. Never switches."""
        now = monotonic()
        self.meter.waits.append(max(0.0, resource.taken_at - began) if began else 0.0)
        self.meter.runs.append(now - resource.taken_at)
        self.meter.failed_timed += 1
        self.site.collect("record_failure", TaskTimes(began or resource.taken_at, resource.taken_at, now))
        self.returning.take_back(resource, error, now)

    def give_back(self, resource: Resource[R], now: float) -> None:
        """Take it back after a use that ended well at `now`. Never switches."""
        backlog = self._backlog
        if (
            now > self._turn.until
            or backlog.wanting
            or not self.is_plain
            or not self.site.home  # it is closing, and looks whether all is back
        ):
            self.returning.take_back(resource, None, now)
            return
        resource.holder = resource.call = None
        resource.idle_since = now
        if now >= resource.good_until or not self._is_simple:
            verdict = self._judge.settle(resource, now)
            if verdict is not FIT:
                self.returning.settled(resource, verdict, now)
                return
        worker = resource.worker
        if worker is None:
            if backlog.waiting:
                backlog.place(resource)
            else:
                self._spare.append(resource)
            return
        del self._lent[worker]
        if backlog.waiting or backlog.excess:
            backlog.release(worker)
        else:
            self._idle.append(worker)
