"""The backlog: where tasks and loans meet workers and resources. It decides who goes next.

Invariant: nobody waits while something that may serve him is idle, unless the backlog is called (it is woken in the
hub as soon as the loop turns), the turn is spent, or the runner is paused. So a direct hand-over to an idle worker,
which needs an empty line, overtakes nobody.

One line for all demand: what comes free goes to the best of it, by priority, then by arrival. A worker serves tasks,
and its resource may be lent meanwhile; a resource of the reserve serves loans only, but what is above the reserve may
become a worker's.

A task stays in line until the very step in which its attempt begins: by a worker that has just ended another, or by an
idle one to which the backlog, woken in the hub, switches. A worker that waits in its attempt gives the hub back, and
the next idle one has its turn. So no task is ever on its way to a worker that may be gone, and tasks that never wait
are all run by one worker, however many are idle. A loan is granted at once, and its asker woken in the hub; he may have
left by then, and what he was granted goes to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, TypeVar

from gtasker._events import DestroyReason
from gtasker._extras import QUEUED
from gtasker._gathering import Gathering, Server
from gtasker._judging import CHECK, FIT, Judge
from gtasker._loan import GRANTED, WAITING, Loan, Resource
from gtasker._site import Site
from gtasker._stock import Stock
from gtasker._task import Task

R = TypeVar("R")


class Backlog(Gathering[R]):
    """Brings together what waits and what is idle."""

    def __init__(self, site: Site[R], stock: Stock[R], judge: Judge[R]) -> None:
        super().__init__(site, stock)
        self._judge = judge
        self._is_called = self._has_let_pass = False
        self._served_at = -inf  # when no task waited any more, or none was to be served; kept if checks are made
        # Wired by the core:
        self.dismiss: Callable[[Any], bool] = lambda worker: False  # let this worker go, if it is one too many
        self.inspect: Callable[[Resource[R]], object] = lambda resource: None  # have it checked, by an errand

    def push(self, task: Task[Any]) -> None:
        """Let `task`, which is QUEUED, wait for a worker; if one is idle, that is soon. Never switches."""
        task.seq = self.last = self.last + 1
        self.tasks.push(task)
        self.waiting = waiting = self.waiting + 1
        if self.is_bounded:
            self.fresh += 1
        is_noted = self._is_called or not self.idle
        if not is_noted or self.lent or self.wanting or not self.is_awaited or waiting > self.alert_above:
            self._heed()

    def _heed(self) -> None:
        # A task came.
        if self.idle:
            self._call()
        if (self.lent or self.wanting) and self.tasks.live > len(self.idle):
            self._swap_while_worth_it()
            if self.wanting:
                self._stock.supply()
        if not self.is_awaited:
            self.attend()
        if self.waiting > self.alert_above and self.waiting - len(self.idle) > self.alert_above:
            self.on_backlog()

    def ask(self, loan: Loan[R]) -> None:
        """Give `loan` something idle, or let it stand in line. Never switches."""
        loan.seq = self.last = self.last + 1
        loan.state = WAITING
        loan.queued_at = monotonic()
        loan.error = loan.resource = loan.waiter = None
        self.loans.push(loan)
        self.waiting += 1
        if self.spare or self.idle:
            self.dispatch()
        if loan.lane is not None:
            if not self.is_awaited:
                self.attend()
            if len(self._stock.records) < self._stock.limit:
                self._stock.supply()

    def want(self, worker: Server) -> None:
        """Get `worker` a resource: one that is idle above the reserve, else a new one. Never switches."""
        self.wanting[worker] = None
        self._feed()
        self._stock.supply()
        if worker in self.wanting:
            self.on_want()

    def dispatch(self) -> None:
        """Give what waits to what is idle, while the turn lasts: loans at once, tasks soon. Never switches."""
        self._rearrange()
        if self.idle and self.tasks.live:
            self._call()

    def _rearrange(self) -> None:
        self._serve_loans()
        while self.idle and self._turn.left > 0 and self.is_loan_first():
            worker = self._pick()
            if worker is None:
                break
            self.release(worker)  # not to that loan, maybe: who was looked at may have called back
        self._swap_while_worth_it()
        if self.wanting and not self.loans.live:
            self._feed()

    def _call(self) -> None:
        if not self._is_called:
            self._is_called = True
            self._turn.soon(self)

    def wake(self) -> None:
        """Let idle workers serve what waits, while the turn lasts. In the hub. Switches to one after another."""
        idle, turn = self.idle, self._turn
        if turn.woken and not self._has_let_pass:  # who was answered or granted something meanwhile goes on first
            self._has_let_pass = True
            turn.soon(self)
            return
        self._has_let_pass = gives_way = False
        try:
            while self.tasks.live and idle and turn.left > 0 and not self.paused and not gives_way:
                worker = self._pick()
                if worker is None:
                    break
                if self.take(worker, monotonic()):
                    worker.switch()
                gives_way = bool(turn.woken)  # likewise
        finally:
            self._is_called = False
            if self._judge.patience < inf and (self.paused or not self.tasks.live):
                self._served_at = monotonic()
        if self.loans.live or (self.tasks.live and (self.lent or self.wanting)):  # there were fewer than was hoped
            self._rearrange()
            self._stock.supply()
        if gives_way and self.tasks.live and idle:
            self._call()

    def _pick(self) -> Server | None:
        # The idle worker that came last of those whose resource is fit; it is idle no more.
        skipped = []
        found = None
        while self.idle and found is None:
            worker = self.idle.pop()
            resource = worker.resource  # if that is not fit, the worker has lost it by now
            if self._is_ready(resource):
                found = worker
            elif self._is_left(resource):
                skipped.append(worker)
        if skipped:
            self.idle.extend(reversed(skipped))
        return found

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
                self.place(resource)  # likewise
            elif self._is_left(resource):
                skipped.append(resource)  # there may be a fit one below
        self.spare.extend(reversed(skipped))

    def take(self, worker: Server, now: float) -> bool:
        """Give `worker`, which has a fit resource, the best task at `now`; True if there was one. Never switches.

        It is to begin that in this very step. Else its resource is lent to the best loan, or it is idle.
        """
        if self.excess and self.dismiss(worker):
            return False
        if not self.waiting or self._turn.left <= 0:
            self.idle.append(worker)
            return False
        if self.loans.live and self.is_loan_first():
            self._grant(self.loans.pop(), worker.resource)
            return False
        if self.paused:
            self.idle.append(worker)
            return False
        worker.attempt = task = self.tasks.pop()
        worker.started_at = now
        self.waiting -= 1
        if self.is_bounded and not task.attempts:
            self.fresh -= 1
            self.on_room()
            if task.state is not QUEUED:  # by what those who were let in were told to
                worker.attempt = None
                return self.take(worker, now)
        return True

    def release(self, worker: Server) -> None:
        """Lend the fit resource of a worker that has nothing to do, or let it be idle. Never switches."""
        if self.excess and self.dismiss(worker):
            return
        if self.loans.live and self._turn.left > 0 and (not self.tasks.live or self.is_loan_first()):
            self._grant(self.loans.pop(), worker.resource)
            return
        self.idle.append(worker)
        if self.tasks.live:
            worker.resource.promised_at = monotonic()
            self._call()

    def place(self, resource: Resource[R], *, is_new: bool = False) -> None:
        """`resource` is no worker's, idle and fit: give it to the best who may have it. Never switches."""
        if self._stock.closed:
            self._stock.discard(resource, self._stock.closing_reason)
            return
        if self.loans.live and not self.wanting and self._turn.left > 0:
            self._grant(self.loans.pop(), resource)
            return
        loan = self.loans.peek()
        if self.wanting and (is_new or self._stock.may_feed()):
            task = self.tasks.peek()
            if loan is None or (task is not None and self.tasks.rank(task) < self.loans.rank(loan)):
                worker = next(iter(self.wanting))
                del self.wanting[worker]
                self._stock.own(resource, worker)
                worker.resource = resource
                self.release(worker)
                return
        if loan is not None and self._turn.left > 0:
            self._grant(self.loans.pop(), resource)
        else:
            self.spare.append(resource)
            self._swap_while_worth_it()

    def _swap_while_worth_it(self) -> None:
        while self.lent and self.spare and len(self.idle) < self.tasks.live and not self.paused:
            self._swap()

    def _swap(self) -> None:
        # A task waits, and a worker whose resource is lent cannot serve it, while one of the reserve is idle: that one
        # becomes the worker's own, and the lent one comes back as one of the reserve.
        worker = next(iter(self.lent))
        del self.lent[worker]
        self._stock.disown(worker.resource)
        resource = worker.resource = self.spare.pop()
        self._stock.own(resource, worker)
        self.idle.append(worker)
        self._call()

    def _is_ready(self, resource: Resource[R], *, is_wanted: bool = False) -> bool:
        # If it is not, it is left where it is, or on its way to be checked or destroyed.
        verdict = self._judge.look(resource, monotonic(), self._served_at)
        if verdict is FIT:
            return True
        if verdict is CHECK:
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
        turn = self._turn
        self.waiting -= 1
        loan.state, loan.resource = GRANTED, resource
        resource.holder = loan.holder
        now = resource.taken_at = monotonic()  # from now on it is this holder's, though he does not know yet
        turn.left -= 1
        if turn.left <= 0:
            turn.checkpoint(now)
        if resource.worker is not None:
            self.lent[resource.worker] = None
        if loan.waiter is not None:
            turn.soon(loan)
