"""The backlog: where tasks and loans meet workers and resources. It decides who goes next.

Invariant: nobody waits while something that may serve him is idle, but while the turn is spent or the runner is paused.
So a direct hand-over to an idle worker, which needs an empty line, overtakes nobody.

One line for all demand: what comes free goes to the best of it, by priority, then by arrival. A worker serves tasks,
and its resource may be lent meanwhile; a resource of the reserve serves loans only, but what is above the reserve may
become a worker's. Whoever is given something is told by a wake-up in the hub, looks again then, and may refuse by not
being there any more: then it goes to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from gtasker._events import DestroyReason
from gtasker._extras import QUEUED, RETRYING
from gtasker._gathering import Gathering, Server
from gtasker._judging import Judge, Verdict
from gtasker._loan import Loan, LoanState, Resource
from gtasker._site import Site
from gtasker._stock import Stock
from gtasker._task import Task

R = TypeVar("R")


class Backlog(Gathering[R]):
    """Brings together what waits and what is idle."""

    def __init__(self, site: Site[R], stock: Stock[R], judge: Judge[R]) -> None:
        super().__init__(site, stock)
        self._judge = judge
        # Wired by the core:
        self.dismiss: Callable[[Any], bool] = lambda worker: False  # let this worker go, if it is one too many
        self.inspect: Callable[[Resource[R]], object] = lambda resource: None  # have it checked, by an errand

    def push(self, task: Task[Any], *, returned: bool = False) -> None:
        """Let `task` wait for a worker, or give it to one who is idle. Never switches."""
        task.state = QUEUED
        if task.queued_at >= self._meter.next_mark:
            self._meter.mark(task.queued_at)
        if not returned:
            task.seq = self.last = self.last + 1
        self.tasks.push(task, returned=returned)
        self.waiting += 1
        if self.is_bounded and not task.attempts:
            self.fresh += 1
        if (self.idle and self._turn.left > 0) or self.lent or self.wanting or not self.is_awaited:
            self._serve_newcomer(task)
        if self.waiting > self.alert_above and task.lane is not None:
            self.on_backlog()

    def _serve_newcomer(self, task: Task[Any]) -> None:
        if (self.idle and self._turn.left > 0) or (self.lent and self.spare):
            self.dispatch()
        elif self.wanting:
            self._stock.supply()
        if not self.is_awaited and task.lane is not None:
            self.attend()

    def delay(self, task: Task[Any], seconds: float) -> None:
        """Let `task` come back in so many seconds, to its old place. Never switches."""
        if seconds <= 0:
            self.push(task, returned=True)
            return
        task.state = RETRYING
        self.delayed[task] = self._site.deadlines.after(seconds, lambda: self._return(task))

    def ask(self, loan: Loan[R]) -> None:
        """Give `loan` something idle, or let it stand in line. Never switches."""
        loan.seq = self.number()
        loan.queued_at = monotonic()
        loan.state = LoanState.WAITING
        loan.error = loan.resource = None
        self.loans.push(loan)
        self.waiting += 1
        self.dispatch()
        if loan.lane is not None:
            if not self.is_awaited:
                self.attend()
            self._stock.supply()

    def want(self, worker: Server) -> None:
        """Get `worker` a resource: one that is idle above the reserve, else a new one. Never switches."""
        self.wanting[worker] = None
        self._feed()
        self._stock.supply()
        if worker in self.wanting:
            self.on_want()

    def dispatch(self) -> None:
        """Give what waits to what is idle, while the turn lasts. Never switches."""
        self._serve_loans()
        self._serve_by_workers()
        self._swap_while_worth_it()
        if self.wanting and not self.loans.live:
            self._feed()

    def _feed(self) -> None:
        # A worker without a resource gets one that is idle above the reserve.
        for _ in range(min(len(self.wanting), len(self.spare))):
            if not self.wanting or not self._stock.may_feed():
                return
            resource = self.spare.pop(0)
            if self._is_ready(resource, is_wanted=True):
                self.place(resource)

    def _serve_loans(self) -> None:
        skipped = []
        while self.loans.live and self.spare and self._turn.left > 0:
            resource = self.spare.pop()
            if self._is_ready(resource):
                self._grant(self.loans.pop(), resource)
            elif self._is_left(resource):
                skipped.append(resource)  # there may be a fit one below
        self.spare.extend(reversed(skipped))

    def _serve_by_workers(self) -> None:
        skipped = []
        while (self.loans.live or (self.tasks.live and not self.paused)) and self.idle and self._turn.left > 0:
            worker = self.idle.pop()
            resource = worker.resource
            if self._is_ready(resource):
                if self.free(worker):
                    self._turn.soon(worker)
            elif self._is_left(resource):
                skipped.append(worker)
        self.idle.extend(reversed(skipped))

    def free(self, worker: Server) -> bool:
        """Give `worker`, which has nothing to do and a fit resource, the best task: then True. Never switches.

        Else its resource is lent to the best loan, or it is idle.
        """
        if self.excess and self.dismiss(worker):
            return False
        if not self.waiting or self._turn.left <= 0:
            self.idle.append(worker)
            return False
        if not self.loans.live and not self.paused:
            worker.task = first = self.tasks.pop()
            self.waiting -= 1
            if self.is_bounded and not first.attempts:
                self.fresh -= 1
                self.on_room()
            return True
        task, loan = self.tasks.peek(), self.loans.peek()
        if loan is not None and (task is None or self.paused or self.loans.rank(loan) < self.tasks.rank(task)):
            self._grant(self.loans.pop(), worker.resource)
            return False
        if self.paused:
            self.idle.append(worker)
            return False
        worker.task = self.tasks.pop()
        self._left(worker.task)
        return True

    def place(self, resource: Resource[R], *, is_new: bool = False) -> None:
        """`resource` is no worker's, idle and fit: give it to the best who may have it. Never switches."""
        if self._stock.closed:
            self._stock.discard(resource, self._stock.closing_reason)
            return
        loan = self.loans.peek()
        if self.wanting and (is_new or self._stock.may_feed()):
            task = self.tasks.peek()
            if loan is None or (task is not None and self.tasks.rank(task) < self.loans.rank(loan)):
                worker = next(iter(self.wanting))
                del self.wanting[worker]
                self._stock.own(resource, worker)
                worker.resource = resource
                if self.free(worker):
                    self._turn.soon(worker)
                return
        if loan is not None and self._turn.left > 0:
            self._grant(self.loans.pop(), resource)
        else:
            self.spare.append(resource)
            self._swap_while_worth_it()

    def _swap_while_worth_it(self) -> None:
        while self.lent and self.spare and self.tasks.live and not self.paused and self._turn.left > 0:
            self._swap()
            self._serve_by_workers()

    def _swap(self) -> None:
        # A task waits, and a worker whose resource is lent cannot serve it, while one of the reserve is idle: that one
        # becomes the worker's own, and the lent one comes back as one of the reserve.
        worker = next(iter(self.lent))
        del self.lent[worker]
        self._stock.disown(worker.resource)
        resource = self.spare.pop()
        self._stock.own(resource, worker)
        worker.resource = resource
        self.idle.append(worker)

    def _is_ready(self, resource: Resource[R], *, is_wanted: bool = False) -> bool:
        # If it is not, it is left where it is, or on its way to be checked or destroyed.
        verdict = self._judge.look(resource, monotonic())
        if verdict is Verdict.FIT:
            return True
        if verdict is Verdict.CHECK:
            if is_wanted or self.inspecting < self.waiting:  # one for each who waits: a look costs a round trip
                self.inspecting += 1
                resource.away = True
                self.inspect(resource)
        else:
            assert isinstance(verdict, DestroyReason)
            self.replace(resource, verdict)
        return False

    def _is_left(self, resource: Resource[R]) -> bool:
        return not resource.away and resource.id in self._stock.records

    def replace(self, resource: Resource[R], reason: DestroyReason) -> None:
        """Have it destroyed, and whoever it belonged to get another. Never switches."""
        worker = resource.worker
        self._stock.discard(resource, reason)
        if worker is not None:
            worker.resource = None
            if not worker.dismissed and not (self.excess and self.dismiss(worker)):
                self.want(worker)
        self._stock.supply()

    def _grant(self, loan: Loan[R], resource: Resource[R]) -> None:
        self.waiting -= 1
        self._turn.spend()
        loan.state = LoanState.GRANTED
        loan.resource = resource
        resource.holder = loan.holder
        resource.taken_at = monotonic()  # from now on it is this holder's, though he does not know yet
        if resource.worker is not None:
            self.lent[resource.worker] = None
        if loan.waiter is not None:
            self._turn.soon(loan)

    def _return(self, task: Task[Any]) -> None:
        del self.delayed[task]
        self.push(task, returned=True)
