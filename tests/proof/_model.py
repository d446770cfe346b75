"""The model of a runner that the machine compares it with: who waits, who holds a resource, what each must answer.

Invariant: it knows the contract only; it never asks the runner what is right.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import gevent
from gevent.event import Event

from tests.ledger import LedgerResource, UnfitError
from tests.proof._world import SourError, World


class Way(Enum):
    """How a demand's use of its resource is to end."""

    VALUE = "value"
    SOUR = "sour"
    UNFIT = "unfit"


class Demand:
    """One call: a task or a lease, held open by a gate until the machine ends it."""

    def __init__(self, number: int, priority: int, *, is_task: bool) -> None:
        self.number = number
        self.priority = priority
        self.is_task = is_task
        self.gate = Event()
        self.way = Way.VALUE
        self.once = False
        self.in_line = False
        self.holding = False
        self.begun = 0
        self.due: object = None  # what it must answer, once that is certain
        self.answer: object = None
        self.ended = False
        self.sour = SourError(number)
        self.caller: gevent.Greenlet[..., Any] | None = None
        self.task: Any = None

    def __repr__(self) -> str:
        kind = "task" if self.is_task else "lease"
        where = "ended" if self.ended else "holding" if self.holding else "waiting" if self.in_line else "leaving"
        return f"<{kind} {self.number} of priority {self.priority}, {where}, due {self.due!r}, got {self.answer!r}>"

    @property
    def rank(self) -> tuple[int, int]:
        """The lower goes first."""
        return (self.priority, self.number)

    def ask(self, call: Callable[[], object]) -> None:
        """Make the call in a greenlet of its own, and keep what it answers."""

        def body() -> None:
            self.in_line = not self.holding and self.begun == 0
            try:
                answer = call()
            except BaseException as error:
                self.end(error)
            else:
                self.end(answer)

        self.caller = gevent.spawn(body)

    def end(self, answer: object) -> None:
        """Keep the answer."""
        self.answer = answer
        self.ended = True
        self.in_line = False

    def is_right(self) -> bool:
        """Whether it answered what it must, and nothing while nothing is due."""
        if self.due is None:
            return not self.ended
        if not self.ended:
            return False
        if isinstance(self.due, type):
            return isinstance(self.answer, self.due)
        return self.answer is self.due or (isinstance(self.due, int) and self.answer == self.due)

    def is_kept(self) -> bool:
        """Whether its handle still holds what it answered."""
        if self.task is None or not self.ended:
            return True
        if isinstance(self.answer, BaseException):
            return self.task.exception is self.answer
        return self.task.exception is None and self.task.value == self.answer


class Model:
    """All demands of one runner, and the order they go in."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.demands: list[Demand] = []
        self.faults: list[str] = []
        self.is_orderly = True  # one thing comes free at a time, so who begins first was served first
        self.workers = 0  # the bound in force
        self.reserve = 0
        self.most = 0

    def new(self, priority: int, *, is_task: bool) -> Demand:
        """One more call, the last of its priority."""
        demand = Demand(len(self.demands) + 1, priority, is_task=is_task)
        self.demands.append(demand)
        return demand

    def which(self, test: Callable[[Demand], bool]) -> list[Demand]:
        """The demands of which something is true, in order of arrival."""
        return [demand for demand in self.demands if test(demand)]

    def waiting(self, *, tasks: bool) -> list[Demand]:
        """The tasks, or the leases, that stand in line."""
        return self.which(lambda demand: demand.in_line and demand.is_task is tasks)

    def holding(self, *, tasks: bool) -> list[Demand]:
        """The tasks, or the leases, that use a resource."""
        return self.which(lambda demand: demand.holding and demand.is_task is tasks)

    def use(self, demand: Demand, thing: LedgerResource) -> int:
        """Use a resource until the gate opens, and end in the way that was chosen. Switches."""
        self._begin(demand)
        try:
            with self.world.use(thing):
                demand.gate.wait()
                way, demand.way = demand.way, Way.VALUE
                demand.gate.clear()
                if way is Way.UNFIT:
                    raise UnfitError(demand.number)
                if way is Way.SOUR:
                    raise demand.sour
                return demand.number
        finally:
            demand.holding = False
            demand.in_line = not demand.ended and demand.due is None  # it is to be tried again

    def _begin(self, demand: Demand) -> None:
        if demand.holding or not demand.in_line:
            self.faults.append(f"{demand} begins")
        if demand.is_task and len(self.holding(tasks=True)) >= self.workers:
            self.faults.append(f"{demand} begins beside {self.workers} others")
        passed = self.which(lambda other: other.in_line and other.rank < demand.rank)
        if not demand.is_task:  # what comes free in the reserve goes to leases alone
            passed = [other for other in passed if not other.is_task]
        if passed and self.is_orderly:
            self.faults.append(f"{demand} begins before {passed}")
        demand.in_line = False
        demand.holding = True
        demand.begun += 1
