"""The backlog: where tasks and loans meet workers and resources. It decides who goes next, and knows no clock.

Invariant: nobody waits while something that may serve him is idle, but while the turn is spent or the runner is paused.
So a direct hand-over to an idle worker, which needs an empty line, overtakes nobody.

One line for all demand: what comes free goes to the best of it, by priority, then by arrival. A worker serves tasks,
and its resource may be lent meanwhile; a resource of the reserve serves loans only, but what is above the reserve may
become a worker's. Whoever is given something is told by a wake-up in the hub, looks again then, and may refuse by not
being there any more: then it goes to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from gtasker._alarm import Entry
from gtasker._events import DestroyReason
from gtasker._extras import QUEUED, RETRYING
from gtasker._judging import Judge, Verdict
from gtasker._line import AgedLine, Line
from gtasker._loan import Loan, LoanState, Resource
from gtasker._site import Site
from gtasker._stock import Stock
from gtasker._task import Task

R = TypeVar("R")


class Server(Protocol):
    """A worker, as far as the backlog knows it."""

    task: Task[Any] | None  # handed over, not yet begun
    resource: Any
    dismissed: bool

    def wake(self) -> None:
        """Woken in the hub: begin `task`, or see that there is none."""

    def switch(self) -> object:
        """Switch straight to it, from a caller who put his task in its hands."""


class Backlog(Generic[R]):
    """All that waits, and all that is idle."""

    def __init__(self, site: Site[R], stock: Stock[R], judge: Judge[R]) -> None:
        ageing = site.config.priority_aging
        self._site = site
        self._turn = site.turn
        self._stock = stock
        self._judge = judge
        self.last = 1  # number of arrival given out; 0 is none
        self.tasks: Line[Task[Any]] = Line() if ageing is None else AgedLine(ageing)
        self.loans: Line[Loan[R]] = Line() if ageing is None else AgedLine(ageing)
        self.waiting = 0  # len(tasks) + len(loans)
        self.fresh = 0  # of the tasks, those never begun: what `max_queued` bounds
        self.delayed: dict[Task[Any], Entry] = {}  # wait for their next attempt
        self.idle: list[Server] = []  # workers with a resource and without work; the last came last
        self.wanting: dict[Server, None] = {}  # workers without a resource, in order
        self.spare: list[Resource[R]] = []  # idle and no worker's; the last came last
        self.lent: dict[Server, None] = {}  # workers whose resource is out on loan
        self.inspecting = 0  # idle resources that are away to be checked
        self.paused = False
        self.excess = 0  # workers there are too many
        self.is_bounded = site.config.max_queued is not None
        self.alert_above = inf
        # Wired by the core:
        self.on_backlog: Callable[[], object] = lambda: None  # more than `alert_above` wait
        self.on_want: Callable[[], object] = lambda: None  # a worker has to wait for a resource
        self.on_room: Callable[[], object] = lambda: None  # a fresh task left the line
        self.dismiss: Callable[[Any], bool] = lambda worker: False  # let this worker go, if it is one too many
        self.inspect: Callable[[Resource[R]], object] = lambda resource: None  # have it checked, by an errand

    def number(self) -> int:
        """The next number of arrival."""
        self.last += 1
        return self.last

    def push(self, task: Task[Any], *, returned: bool = False) -> None:
        """Let `task` wait for a worker, or give it to one who is idle. Never switches."""
        task.state = QUEUED
        if not returned:
            task.seq = self.last = self.last + 1
        self.tasks.push(task, returned=returned)
        self.waiting += 1
        if self.is_bounded and not task.attempts:
            self.fresh += 1
        if (self.idle and self._turn.left > 0) or (self.lent and self.spare):
            self.dispatch()
        elif self.wanting:
            self._stock.supply()
        if self.waiting > self.alert_above and task.lane is not None:
            self.on_backlog()

    def move(self, task: Task[Any], priority: int) -> None:
        """Let `task`, which is in line, wait with another priority, at the place of its number. Never switches."""
        self.tasks.withdraw(task)
        task.priority = priority
        self.tasks.push(task, returned=True)

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
            self._stock.supply()

    def want(self, worker: Server) -> None:
        """Get `worker` a resource: one that is idle above the reserve, else a new one. Never switches."""
        self.wanting[worker] = None
        if self.spare and self._stock.spares > self._stock.reserve:
            self.place(self.spare.pop(0))
        self._stock.supply()
        if worker in self.wanting:
            self.on_want()

    def withdraw(self, task: Task[Any]) -> None:
        """Take `task` out of wherever it waits. Never switches."""
        if task.lane is not None:
            self.tasks.withdraw(task)
            self._left(task)
        elif task in self.delayed:
            self.delayed.pop(task).cancel()

    def withdraw_loan(self, loan: Loan[R]) -> None:
        """Take `loan` out of the line, if it stands there. Never switches."""
        if loan.lane is not None:
            self.loans.withdraw(loan)
            self.waiting -= 1
        loan.state = LoanState.OVER

    def remove(self, worker: Server) -> bool:
        """Take `worker` out of the idle and the wanting ones; was it idle? Never switches."""
        self.wanting.pop(worker, None)
        if worker in self.idle:
            self.idle.remove(worker)
            return True
        return False

    def everything(self) -> list[Task[Any]]:
        """All tasks that wait, in line or for their next attempt."""
        return [*self.tasks, *self.delayed]

    def dispatch(self) -> None:
        """Give what waits to what is idle, while the turn lasts. Never switches."""
        self._serve_loans()
        self._serve_by_workers()
        while self.lent and self.spare and self.tasks.live and not self.paused and self._turn.left > 0:
            self._swap()
            self._serve_by_workers()
        if self.wanting and self.spare and self._stock.may_feed():
            self.place(self.spare.pop(0))

    def _serve_loans(self) -> None:
        while self.loans.live and self.spare and self._turn.left > 0:
            resource = self.spare.pop()
            if self._is_ready(resource):
                self._grant(self.loans.pop(), resource)
            elif self._is_left(resource):
                self.spare.append(resource)
                return

    def _serve_by_workers(self) -> None:
        while (self.loans.live or (self.tasks.live and not self.paused)) and self.idle and self._turn.left > 0:
            worker = self.idle.pop()
            resource = worker.resource
            if self._is_ready(resource):
                if self.free(worker):
                    self._turn.soon(worker)
            elif self._is_left(resource):
                self.idle.append(worker)
                return

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
            if self.lent and self.tasks:
                self.dispatch()

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

    def _is_ready(self, resource: Resource[R]) -> bool:
        # If it is not, it is left where it is, or on its way to be checked or destroyed.
        verdict = self._judge.look(resource, monotonic())
        if verdict is Verdict.FIT:
            return True
        if verdict is Verdict.CHECK:
            if self.inspecting < self.waiting:  # one for each who waits: a look costs a round trip
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
        if resource.worker is not None:
            self.lent[resource.worker] = None
        if loan.waiter is not None:
            self._turn.soon(loan)

    def _left(self, task: Task[Any]) -> None:
        self.waiting -= 1
        if self.is_bounded and not task.attempts:
            self.fresh -= 1
            self.on_room()

    def _return(self, task: Task[Any]) -> None:
        del self.delayed[task]
        self.push(task, returned=True)
