"""The gathering: all that waits, and all that is idle; who comes, and who leaves.

Invariant: `waiting` is the length of both lines; a task that was accepted and has not begun is in line or delayed; a
worker that may serve is idle, wanting, or lent out, in one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from gtasker._alarm import Entry
from gtasker._extras import QUEUED, RETRYING
from gtasker._line import AgedLine, Line
from gtasker._loan import OVER, Loan, Resource
from gtasker._site import Site
from gtasker._stock import Stock
from gtasker._task import Task

R = TypeVar("R")

# More than ever wait: an int, for it is compared with one for each task that comes.
NEVER = 2**30 - 1


class Server(Protocol):
    """A worker, as far as the backlog knows it."""

    attempt: Task[Any] | None  # what it is to begin, or is at; who gives it switches to it in the same step
    started_at: float  # when that was
    resource: Any
    dismissed: bool

    def wake(self) -> None:
        """Woken in the hub: see that it was dismissed."""

    def switch(self) -> object:
        """Switch straight to it, from who put a task in its hands."""


class Gathering(Generic[R]):
    """All that waits, and all that is idle."""

    def __init__(self, site: Site[R], stock: Stock[R]) -> None:
        ageing = site.config.priority_aging
        self._site = site
        self._turn = site.turn
        self._meter = site.meter
        self._stock = stock
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
        self.attendants = 0  # who waits for the runner to be ready
        self.is_awaited = False  # somebody waits, or did so lately
        self.paused = False
        self.excess = 0  # workers there are too many
        self.is_bounded = site.config.max_queued is not None
        self.alert_above = NEVER
        # Wired by the core:
        self.on_backlog: Callable[[], object] = lambda: None  # more than `alert_above` wait
        self.on_want: Callable[[], object] = lambda: None  # a worker has to wait for a resource
        self.on_room: Callable[[], object] = lambda: None  # a fresh task left the line

    def number(self) -> int:
        """The next number of arrival."""
        self.last += 1
        return self.last

    def put_back(self, task: Task[Any]) -> None:
        """Let `task`, which had a number, wait at its old place. Never switches."""
        task.state = QUEUED
        self.tasks.put_back(task)
        self.waiting += 1
        if self.is_bounded and not task.attempts:
            self.fresh += 1
        self._heed()

    def delay(self, task: Task[Any], seconds: float) -> None:
        """Let `task` come back in so many seconds, to its old place. Never switches."""
        if seconds <= 0:
            self.put_back(task)
            return
        task.state = RETRYING
        self.delayed[task] = self._site.deadlines.after(seconds, lambda: self._return(task))

    def move(self, task: Task[Any], priority: int) -> None:
        """Let `task`, which is in line, wait with another priority, at the place of its number. Never switches."""
        self.tasks.withdraw(task)
        task.priority = priority
        self.tasks.put_back(task)

    def attend(self) -> None:
        """Somebody waits: what upkeep there is may be what ends the wait, so the loop must not end. Never switches."""
        self.is_awaited = True
        self._site.housekeeping.keep_loop(True)

    def relax(self) -> None:
        """Take back `attend`, if nobody waits any more. Never switches."""
        if self.is_awaited and not self.attendants and not self.waiting and not self._site.life.is_closing:
            self.is_awaited = False
            self._site.housekeeping.keep_loop(False)

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
        loan.state = OVER

    def remove(self, worker: Server) -> bool:
        """Take `worker` out of the idle and the wanting ones; was it idle? Never switches."""
        self.wanting.pop(worker, None)
        if worker in self.idle:
            self.idle.remove(worker)
            return True
        return False

    @property
    def about_to_serve(self) -> int:
        """How many of the idle workers will take a task each as soon as the loop turns, if there is one."""
        return 0 if self.paused else max(0, len(self.idle) - self.loans.live)

    @property
    def as_good_as_begun(self) -> int:
        """How many tasks in line an idle worker is about to take; they do not count as waiting."""
        return min(self.tasks.live, self.about_to_serve)

    def is_loan_first(self) -> bool:
        """Whether the best who waits, and may be served, is a loan. Never switches."""
        if not self.loans.live:
            return False
        if not self.tasks.live or self.paused:
            return True
        loan, task = self.loans.peek(), self.tasks.peek()
        assert loan is not None
        assert task is not None
        return self.loans.rank(loan) < self.tasks.rank(task)

    def everything(self) -> list[Task[Any]]:
        """All tasks that wait, in line or for their next attempt."""
        return [*self.tasks, *self.delayed]

    def _left(self, task: Task[Any]) -> None:
        self.waiting -= 1
        if self.is_bounded and not task.attempts:
            self.fresh -= 1
            self.on_room()

    def _return(self, task: Task[Any]) -> None:
        del self.delayed[task]
        self.put_back(task)

    def _heed(self) -> None:
        raise NotImplementedError  # the backlog knows who is idle
