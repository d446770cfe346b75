"""Asking: the long way to a resource on loan, when none is idle, and the errors at its end.

Invariant: who waits is in the backlog's line of loans, and leaves it granted, refused, or by himself; what he was
granted and does not know of when he leaves goes to the next.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, TypeVar

from greenlet import getcurrent

from gtasker._admission import Admission, check_timeout
from gtasker._backlog import Backlog
from gtasker._events import LeaseFailed, LeaseFailure, LeaseGranted, LeaseRequested
from gtasker._extras import told
from gtasker._loan import WAITING, Loan, Resource
from gtasker._returning import Returning
from gtasker._site import Site, get_ident
from gtasker._stock import Stock
from gtasker._timeouts import Length, Timeouts
from gtasker.errors import AcquireTimeoutError, ResourceUnavailableError, TooManyWaitersError

R = TypeVar("R")


class Asking(Generic[R]):
    """Where `lease` and `run_task` wait."""

    def __init__(
        self, site: Site[R], admission: Admission[R], stock: Stock[R], backlog: Backlog[R], returning: Returning[R]
    ) -> None:
        self._site = site
        self._admission = admission
        self._stock = stock
        self._backlog = backlog
        self._returning = returning
        self._is_bounded = site.config.max_waiting is not None
        self._is_plain = not site.listening and site.config.leak_warning is None
        self._is_careful = self._is_bounded or not self._is_plain
        self._timeouts: Timeouts[Loan[R]] = Timeouts(site.deadlines, self._expire)
        usual = site.config.acquire_timeout
        self._usual = None if usual is None else Length(self._timeouts, usual)

    def take(self, priority: int, timeout: float | None, call: Any) -> Resource[R]:
        """A resource for the current greenlet, as soon as one is free for it. Switches unless one is.

        Raises AcquireTimeoutError, TooManyWaitersError, ResourceUnavailableError.
        """
        site, holder = self._site, getcurrent()
        if site.home != get_ident() or holder is site.hub or self._is_careful or self._stock.is_down:
            self._enter(priority, timeout)
        length = self._usual if timeout is None else self._length_of(timeout)
        loan: Loan[R] = Loan()
        loan.priority = priority
        loan.holder = holder
        self._backlog.ask(loan)
        if loan.state is WAITING:
            wait = length.begin(loan, loan.queued_at) if length is not None else None
            try:
                if length is not None and length.seconds <= 0:
                    self._expire(loan, length.seconds)
                loan.waiter = holder
                while loan.state is WAITING:
                    site.turn.rest(Loan)
            except BaseException:
                self._leave(loan)
                raise
            finally:
                loan.waiter = None
                if wait is not None:
                    wait.end()
        resource = loan.resource
        if resource is None or not self._is_plain:
            resource = self._tell_of(loan, resource)
        resource.call = call
        return resource

    def _length_of(self, timeout: float) -> Length[Loan[R]]:
        check_timeout(timeout)
        return self._timeouts.of(timeout)

    def _enter(self, priority: int, timeout: float | None) -> None:
        self._admission.enter()
        check_timeout(timeout)
        if self._site.listening:
            self._site.emit(LeaseRequested, priority=priority)
        if self._is_bounded or self._stock.is_down:
            self._check_chances()

    def _tell_of(self, loan: Loan[R], resource: Resource[R] | None) -> Resource[R]:
        # Raises if it was refused.
        if loan.error is not None:
            try:
                raise loan.error
            finally:
                loan.error = None
        assert resource is not None
        if self._site.config.leak_warning is not None:
            resource.stack = traceback.StackSummary.extract(traceback.walk_stack(None), limit=24, lookup_lines=False)
        if self._site.listening:
            self._site.emit(LeaseGranted, resource_id=resource.id, waited=resource.taken_at - loan.queued_at)
        return resource

    def _leave(self, loan: Loan[R]) -> None:
        # It was killed, or timed out, while it waited; it may have been granted something it does not know of.
        resource, loan.resource = loan.resource, None
        self._backlog.withdraw_loan(loan)
        if resource is not None:
            resource.holder = None
            self._returning.pass_on(resource)
        if self._site.listening:
            self._site.emit(LeaseFailed, reason=LeaseFailure.LEFT)

    def _check_chances(self) -> None:
        if self._stock.is_down:
            self._fail(LeaseFailure.UNAVAILABLE, self.unavailable())
        most = self._site.config.max_waiting
        backlog = self._backlog
        if most is not None and backlog.loans.live >= most + len(backlog.spare) + len(backlog.idle):
            self._fail(LeaseFailure.TOO_MANY_WAITERS, TooManyWaitersError(f"{most} wait already ({self._account()})"))

    def _fail(self, reason: LeaseFailure, error: BaseException) -> None:
        if self._site.listening:
            self._site.emit(LeaseFailed, reason=reason)
        raise error

    def _expire(self, loan: Loan[R], timeout: float) -> None:
        if loan.state is not WAITING:
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
        error = ResourceUnavailableError(f"no resource is left, and none can be made: {told(self._stock.last_error)}")
        error.__cause__ = self._stock.last_error
        return error

    def refuse_all(self, make_error: Callable[[], BaseException], reason: LeaseFailure) -> None:
        """End the wait of everyone in line. Never switches."""
        for loan in list(self._backlog.loans):
            self._backlog.withdraw_loan(loan)
            loan.refuse(make_error())
            self._site.turn.soon(loan)
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
        failed = f"; on_create said last: {told(stock.last_error)}" if stock.last_error is not None else ""
        return (
            f"{stock.slots} of {stock.limit} exist, {len(at_work)} held by workers, {len(held)} by leases{longest}; "
            f"{stock.creating} being created, {len(self._backlog.loans)} waiting{failed}"
        )
