"""The rooms of one runner below its top floor, and the wires between them.

Invariant: a room calls those below it by name, and those above it through a wire that is laid here.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from gtasker._admission import Admission
from gtasker._asking import Asking
from gtasker._backlog import Backlog
from gtasker._calls import Calls
from gtasker._config import Config
from gtasker._crew import Crew
from gtasker._deadlock import Deadlocks
from gtasker._door import Door
from gtasker._joining import Joining
from gtasker._judging import Judge
from gtasker._lending import Lending
from gtasker._limits import Limits
from gtasker._loan import Resource
from gtasker._outcomes import Outcomes
from gtasker._returning import Returning
from gtasker._site import Site
from gtasker._stock import Stock
from gtasker._task import Task
from gtasker._watch import Watch
from gtasker._worker import Worker

R = TypeVar("R")


class Rooms(Generic[R]):
    """Everything that is at work for one runner."""

    def __init__(self, config: Config[R]) -> None:
        self.site: Site[R] = Site(config)
        self.calls: Calls[R] = Calls(self.site)
        self.stock: Stock[R] = Stock(self.site, self.calls)
        self.judge: Judge[R] = Judge(self.site, self.calls, self.stock.records)
        self.backlog: Backlog[R] = Backlog(self.site, self.stock, self.judge)
        self.door: Door[R] = Door(self.site, self.backlog)
        self.limits = Limits(self.site.deadlines, config.task_timeout)
        self.outcomes: Outcomes[R] = Outcomes(self.site, self.calls, self.backlog, self.limits)
        self.joining: Joining[R] = Joining(self.backlog, self.door, self.outcomes)
        self.crew: Crew[R] = Crew(self.site, self.stock, self.backlog, self.outcomes)
        self.deadlocks: Deadlocks[R] = Deadlocks(self.crew)
        self.admission: Admission[R] = Admission(self.site, self.stock.records)
        self.returning: Returning[R] = Returning(self.site, self.stock, self.backlog, self.judge)
        self.asking: Asking[R] = Asking(self.site, self.admission, self.stock, self.backlog, self.returning)
        self.lending: Lending[R] = Lending(self.site, self.backlog, self.judge, self.asking, self.returning)
        self.watch: Watch[R] = Watch(self.site, self.crew)
        self._lay_wires()

    def _lay_wires(self) -> None:
        stock, backlog, outcomes, crew = self.stock, self.backlog, self.outcomes, self.crew
        stock.demand = self._demand
        self.judge.backlog = backlog
        stock.place = self._place_new
        stock.on_starved = backlog.dispatch
        backlog.on_backlog = crew.alert
        backlog.on_want = self.deadlocks.reconsider
        self.deadlocks.refuse = self._refuse
        self.door.on_wait, self.door.on_waited = self.deadlocks.begin_wait, self.deadlocks.end_wait
        self.door.is_inside = self.admission.is_inside
        backlog.on_room = self.door.let_in
        backlog.dismiss = crew.dismiss
        backlog.inspect = self.returning.inspect
        crew.make_worker = self._make_worker
        crew.pass_on = self.returning.pass_on
        crew.is_needed = self.deadlocks.is_needed
        self.limits.time_out = outcomes.time_out
        outcomes.on_settled = self.joining.on_settled
        if self.site.config.hub_blocked_after is not None:
            outcomes.on_begin = self.watch.begin
        outcomes.on_wait = self.deadlocks.begin_wait
        outcomes.on_timed_wait = self.deadlocks.begin_timed_wait
        outcomes.on_waited = self.deadlocks.end_wait
        outcomes.may_be_direct = self.site.collector is None

    def _refuse(self, task: Task[Any], error: BaseException) -> None:
        self.outcomes.refuse(task, error)
        self.door.drop(task)

    def _make_worker(self) -> Worker[R]:
        return Worker(self.site, self.backlog, self.judge, self.outcomes)

    def _place_new(self, resource: Resource[R]) -> None:
        self.backlog.place(resource, is_new=True)

    def _demand(self) -> tuple[int, int]:
        # How many resources are wanted: by workers, and by loans.
        backlog, crew = self.backlog, self.crew
        wanting = len(backlog.wanting)
        if wanting and not backlog.tasks.live:  # a burst whose tasks are done needs no resources any more
            wanting = max(0, wanting - max(0, len(crew.workers) - crew.base))
        # A loan that waits for the next turn only needs no new one.
        return wanting, max(0, backlog.loans.live - len(backlog.spare) - len(backlog.idle))
