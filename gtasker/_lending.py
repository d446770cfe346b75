"""Lending: `lease` and `run_task` take a resource for the greenlet that calls, and give it back.

Invariant: a resource with a `holder` is out with exactly that greenlet until `give_back`, or until it is found that the
holder is gone. Giving back never switches, whatever has still to be done with the resource.

With an idle resource in the reserve and nobody waiting, taking and giving back are a pop and an append.
"""

from __future__ import annotations

import traceback
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from greenlet import getcurrent

from gtasker._admission import Admission
from gtasker._backlog import Backlog
from gtasker._events import DestroyReason, LeaseFailed, LeaseFailure, LeaseGranted, LeaseRequested, LeaseReturned
from gtasker._judging import Judge
from gtasker._lifecycle import State
from gtasker._loan import Loan, LoanState, Resource
from gtasker._metrics import FOLD_AT, TaskTimes
from gtasker._site import Site, get_ident
from gtasker._stock import Stock
from gtasker._task import Priority
from gtasker.errors import AcquireTimeoutError, ResourceUnavailableError, TooManyWaitersError, WrongThreadError

R = TypeVar("R")
T = TypeVar("T")


class Lease(Loan[R]):
    """What `Runner.lease` returns: `with runner.lease() as resource:`. It can be entered again once it was left."""

    __slots__ = ("_discarded", "_lending", "_timeout")

    def __init__(self, lending: Lending[R], timeout: float | None, priority: int) -> None:
        self.priority = priority
        self.resource = None
        self._lending = lending
        self._timeout = timeout
        self._discarded = False

    def __enter__(self) -> R:
        """Take a resource. Switches when none is idle. Raises `ResourceError`s, `RunnerStoppedError`."""
        if self.resource is not None:
            raise RuntimeError("this lease is out already")
        resource = self._lending.take_idle(self)
        if resource is None:
            resource = self._lending.take(self, self._timeout, self)
        self.resource = resource
        return resource.value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> Literal[False]:
        """Give it back. Never switches. Raises WrongThreadError."""
        lending, resource = self._lending, self.resource
        lending.check_thread()
        self.resource = None
        if resource is None:  # it was found leaked, and taken back
            pass
        elif error is None and not self._discarded:
            lending.give_back(resource, monotonic())
        else:
            lending.take_back(resource, error, discarded=self._discarded)
            self._discarded = False
        return False

    def discard(self) -> None:
        """Have the resource destroyed when the block is left. Never switches."""
        self._discarded = True


class Lending(Generic[R]):
    """The loans of one runner."""

    def __init__(
        self, site: Site[R], admission: Admission[R], stock: Stock[R], backlog: Backlog[R], judge: Judge[R]
    ) -> None:
        self._site = site
        self._turn = site.turn
        self._admission = admission
        self._stock = stock
        self._backlog = backlog
        self._judge = judge
        self.meter = site.meter
        # Whether a use can begin with no more than bookkeeping, and end so, if nobody waits.
        self._is_plain = not site.listening and site.config.leak_warning is None
        self._is_simple = self._is_plain and judge.is_plain
        # Wired by the core:
        self.on_back: Any = None  # while the runner is closing

    # -- taking -------------------------------------------------------------------------------------------------

    def take_idle(self, call: Any) -> Resource[R] | None:
        """An idle resource of the reserve, if there is one that is fit, and nobody waits for it. Never switches."""
        backlog, turn = self._backlog, self._turn
        if not backlog.spare or not self._is_plain or self._site.home != get_ident():
            return None
        if backlog.waiting or turn.woken or turn.left <= 0:  # it would overtake somebody, or keep the loop too long
            return None
        resource = backlog.spare[-1]
        now = monotonic()
        if now >= resource.good_until or now - resource.idle_since >= self._judge.patience:
            return None
        holder = getcurrent()
        if holder is self._site.hub:
            return None
        backlog.spare.pop()
        turn.left -= 1
        if turn.left <= 0:  # nothing is handed over any more until somebody has seen to that
            turn.checkpoint(now)
        resource.holder = holder
        resource.call = call
        resource.taken_at = now
        return resource

    def take(self, loan: Loan[R], timeout: float | None, call: Any) -> Resource[R]:
        """A resource for the current greenlet, as soon as one is free for it. Switches unless one is.

        Raises AcquireTimeoutError, TooManyWaitersError, ResourceUnavailableError.
        """
        site = self._site
        self._admission.enter()
        if site.listening:
            site.emit(LeaseRequested, priority=loan.priority)
        self._check_chances()
        started = monotonic()
        loan.waiter = None
        loan.holder = getcurrent()
        self._backlog.ask(loan)
        if loan.state is LoanState.WAITING:
            self._wait(loan, site.config.acquire_timeout if timeout is None else timeout)
        resource = loan.resource
        assert resource is not None
        resource.call = call
        resource.taken_at = monotonic()
        if site.config.leak_warning is not None:
            resource.stack = traceback.StackSummary.extract(traceback.walk_stack(None), limit=24, lookup_lines=False)
        if site.listening:
            site.emit(LeaseGranted, resource_id=resource.id, waited=resource.taken_at - started)
        return resource

    def check_thread(self) -> None:
        """Raise WrongThreadError in another OS thread. Never switches."""
        if self._site.thread != get_ident():
            raise WrongThreadError("this lease belongs to a runner of another thread")

    def _wait(self, loan: Loan[R], timeout: float | None) -> None:
        site = self._site
        if timeout is not None and timeout <= 0:
            self._expire(loan, timeout)
        entry = None if timeout is None else site.deadlines.after(timeout, lambda: self._expire(loan, timeout))
        loan.waiter = loan.holder
        try:
            while loan.state is LoanState.WAITING:
                site.hub.switch()
        except BaseException:
            self._leave(loan)
            raise
        finally:
            loan.waiter = None
            if entry is not None:
                entry.cancel()
        if loan.error is not None:
            try:
                raise loan.error
            finally:
                loan.error = None

    def _leave(self, loan: Loan[R]) -> None:
        # It was killed, or timed out, while it waited; it may have been granted something it does not know of.
        resource, loan.resource = loan.resource, None
        self._backlog.withdraw_loan(loan)
        if resource is not None:
            resource.holder = None
            self.restore(resource, None)
        if self.on_back is not None:
            self.on_back()
        if self._site.listening:
            self._site.emit(LeaseFailed, reason=LeaseFailure.LEFT)

    def _check_chances(self) -> None:
        if self._stock.is_down:
            self._fail(LeaseFailure.UNAVAILABLE, self.unavailable())
        most = self._site.config.max_waiting
        if most is not None and len(self._backlog.loans) >= most and not self._backlog.spare:
            self._fail(LeaseFailure.TOO_MANY_WAITERS, TooManyWaitersError(f"{most} wait already ({self._account()})"))

    def _fail(self, reason: LeaseFailure, error: BaseException) -> None:
        if self._site.listening:
            self._site.emit(LeaseFailed, reason=reason)
        raise error

    def _expire(self, loan: Loan[R], timeout: float) -> None:
        if loan.state is not LoanState.WAITING:
            return
        account = self._account()
        self._backlog.withdraw_loan(loan)
        error = AcquireTimeoutError(f"no resource within {timeout:g} s: {account}")
        error.__cause__ = self._stock.last_error
        loan.refuse(error)
        self._site.meter.acquire_timeouts += 1
        loan.wake()
        if self._site.listening:
            self._site.emit(LeaseFailed, reason=LeaseFailure.TIMEOUT)

    def unavailable(self) -> ResourceUnavailableError:
        """The error that says that the backend is down, with the last reason."""
        error = ResourceUnavailableError(f"no resource is left, and none can be made: {self._stock.last_error!r}")
        error.__cause__ = self._stock.last_error
        return error

    def refuse_all(self, make_error: Any, reason: LeaseFailure) -> None:
        """End the wait of everyone in line. Never switches."""
        for loan in list(self._backlog.loans):
            self._backlog.withdraw_loan(loan)
            loan.refuse(make_error())
            self._turn.soon(loan)
            if self._site.listening:
                self._site.emit(LeaseFailed, reason=reason)

    def _account(self) -> str:
        """Who holds how many for how long, how many wait, and what creation said last."""
        now = monotonic()
        stock = self._stock
        held = [resource for resource in stock.records.values() if resource.holder is not None]
        at_work = [r for r in stock.records.values() if r.worker is not None and r.worker.attempt is not None]
        starts = [resource.taken_at for resource in held] + [r.worker.started_at for r in at_work]
        longest = f", the longest for {now - min(starts):.3g} s" if starts else ""
        failed = f"; on_create said last: {stock.last_error!r}" if stock.last_error is not None else ""
        return (
            f"{stock.slots} of {stock.limit} exist, {len(at_work)} held by workers, {len(held)} by leases{longest}; "
            f"{stock.creating} being created, {len(self._backlog.loans)} waiting{failed}"
        )

    # -- using --------------------------------------------------------------------------------------------------

    def run(self, fn: Any, args: tuple[Any, ...], timeout: float | None) -> Any:
        """Call `fn(resource, *args)` in this greenlet, when no resource was idle. Switches."""
        if not callable(fn):
            raise TypeError(f"a task must be callable, not {fn!r}")
        began = monotonic()
        resource = self.take(Loan(Priority.HIGH), timeout, fn)
        self.meter.arrived += 1
        self._site.collect("record_arrival")
        self.meter.waits.append(max(0.0, resource.taken_at - began))
        try:
            value = fn(resource.value, *args)
        except BaseException as error:
            self.failed(resource, error, began)
            raise
        now = monotonic()
        self.meter.runs.append(now - resource.taken_at)
        self._site.collect("record_completion", TaskTimes(began, resource.taken_at, now))
        self.give_back(resource, now)
        return value

    def failed(self, resource: Resource[R], error: BaseException, began: float = 0.0) -> None:
        """Count that what `run_task` called raised, and take the resource back. Never switches."""
        now = monotonic()
        self.meter.runs.append(now - resource.taken_at)
        self.meter.failed_timed += 1
        self._site.collect("record_failure", TaskTimes(began or resource.taken_at, resource.taken_at, now))
        self.take_back(resource, error)

    # -- giving back --------------------------------------------------------------------------------------------

    def give_back(self, resource: Resource[R], now: float) -> None:
        """Take it back after a use that ended well at `now`. Never switches."""
        turn, backlog = self._turn, self._backlog
        if (
            resource.worker is not None
            or not self._is_simple
            or resource.struck
            or backlog.waiting
            or backlog.wanting
            or now >= resource.good_until
            or now > turn.until
        ):
            self.take_back(resource, None)
            return
        resource.holder = resource.call = None
        resource.idle_since = now
        backlog.spare.append(resource)

    def take_back(self, resource: Resource[R], error: BaseException | None, *, discarded: bool = False) -> None:
        """Take it back after a use that ended so. Never switches; what may switch is done by an errand."""
        if self._site.forked:  # a child, and the resource its parent's
            return
        now = resource.idle_since = monotonic()
        turn, meter = self._turn, self.meter
        if turn.left <= 0 or now > turn.until:
            turn.checkpoint(now)
            if now >= meter.next_mark:
                meter.mark(now)
            if len(meter.runs) >= FOLD_AT:
                meter.fold()
        struck = resource.struck
        resource.holder = resource.call = resource.stack = None
        resource.struck = resource.warned = False
        if self._site.listening:
            self._site.emit(LeaseReturned, resource_id=resource.id, held=now - resource.taken_at)
        if discarded:
            self.restore(resource, DestroyReason.DISCARDED)
        elif error is not None or struck:
            self._site.errands.run(self._after_error, resource, error, struck, now)
        elif self._judge.is_plain and now < resource.good_until:
            self.restore(resource, None)
        else:
            self._site.errands.run(self._after_use, resource, now)

    def restore(self, resource: Resource[R], reason: DestroyReason | None) -> None:
        """Put a resource that nobody uses to its next use, or have it replaced. Never switches."""
        if reason is None and self._site.life.state is State.KILLED:
            reason = DestroyReason.KILLED
        if reason is not None:
            self._backlog.lent.pop(resource.worker, None)
            self._backlog.replace(resource, reason)
        elif resource.worker is None:
            self._backlog.place(resource)
        else:
            self._backlog.lent.pop(resource.worker, None)
            if self._backlog.free(resource.worker):
                self._turn.soon(resource.worker)
        if self.on_back is not None:
            self.on_back()

    def inspect(self, resource: Resource[R]) -> None:
        """Have a resource checked that was idle, then put to use or replaced. Never switches."""
        self._site.errands.run(self._inspect, resource)

    def _inspect(self, resource: Resource[R]) -> None:
        reason = self._judge.check(resource)
        if resource.away:
            resource.away = False
            self._backlog.inspecting -= 1
        self.restore(resource, reason)
        self._backlog.dispatch()  # who waits for a check that failed tries the next

    def _after_use(self, resource: Resource[R], now: float) -> None:
        self.restore(resource, self._judge.clean(resource, now))

    def _after_error(self, resource: Resource[R], error: BaseException | None, struck: bool, now: float) -> None:
        if struck or not isinstance(error, Exception):
            reason = self._judge.vouch(resource)
        elif self._judge.is_healthy(error):
            reason = self._judge.clean(resource, now)
        else:
            reason = DestroyReason.UNHEALTHY
        self.restore(resource, reason)
