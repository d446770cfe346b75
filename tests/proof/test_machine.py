"""A machine makes up programs out of the public calls, and compares the runner with a model after every step.

A failure tells the program that led to it; `GTASKER_SHRINK=1` looks for a shorter one, which may take minutes.

Invariant: between two steps the machine waits until the runner agrees with the model; a runner that never does fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from gtasker import Runner, State
from gtasker._turn import turn_of
from gtasker.errors import MaxRetriesExceededError, RunnerKilledError, TaskCancelledError
from tests.ledger import LedgerResource, UnfitError
from tests.proof._model import Demand, Model, Way
from tests.proof._world import World, quiet, settles, turns

PATIENCE = 3.0
RETRIES = 2

priorities = st.sampled_from([0, 10, 20])
choices = st.integers(0, 63)
ways = st.sampled_from(Way)


class RunnerMachine(RuleBasedStateMachine):
    """One runner without bursts, whose tasks and leases hold what they got until a step ends them."""

    @initialize(workers=st.integers(1, 3), reserve=st.integers(0, 2), spare=st.integers(0, 2), started=st.booleans())
    def build(self, workers: int, reserve: int, spare: int, started: bool) -> None:
        """A new runner."""
        self.story = [f"build({workers}, {reserve}, {spare}, {started})"]
        self.world = World()
        self.model = Model(self.world)
        self.paused = False
        self.backend_up = True
        self.runner: Runner[LedgerResource] = Runner(
            **self.world.options(),
            worker_count=workers,
            max_worker_count=workers,
            resource_pool_size=reserve,
            max_resources=workers + reserve + spare,
            max_retries=RETRIES,
            create_backoff=(0.0002, 0.0005),
            fail_fast_after=None,
            acquire_timeout=None,
            logger=quiet,
        )
        self._take_sizes(workers, reserve, workers + reserve + spare)
        if started:
            self.runner.start()

    def _take_sizes(self, workers: int, reserve: int, most: int) -> None:
        self.model.workers, self.model.reserve, self.model.most = workers, reserve, most
        self.world.bound = max(self.world.bound or 0, most)

    # Calls

    @rule(priority=priorities)
    def queue(self, priority: int) -> None:
        """A caller queues a task and waits."""
        self.story.append(f"queue({priority!r})")
        demand = self.model.new(priority, is_task=True)
        demand.ask(lambda: self.runner.queue_task(self._task(demand), priority=priority))

    @rule(priority=priorities, once=st.booleans())
    def submit(self, priority: int, once: bool) -> None:
        """A task is submitted."""
        self.story.append(f"submit({priority!r}, {once!r})")
        demand = self.model.new(priority, is_task=True)
        demand.once = once
        demand.in_line = True
        demand.task = self.runner.submit(self._task(demand), priority=priority, once=once)
        demand.ask(demand.task.get)

    @rule(priority=priorities)
    def lease(self, priority: int) -> None:
        """A caller takes a lease."""
        self.story.append(f"lease({priority!r})")
        demand = self.model.new(priority, is_task=False)

        def call() -> int:
            with self.runner.lease(priority=priority) as thing:
                return self.model.use(demand, thing)

        demand.ask(call)

    @rule()
    def run(self) -> None:
        """A caller runs a task itself."""
        self.story.append("run()")
        demand = self.model.new(0, is_task=False)
        demand.ask(lambda: self.runner.run_task(lambda thing: self.model.use(demand, thing)))

    def _task(self, demand: Demand) -> Any:
        return lambda thing: self.model.use(demand, thing)

    # What happens to them

    @rule(choice=choices, way=ways)
    def end(self, choice: int, way: Way) -> None:
        """A task or lease that holds a resource ends its use."""
        self.story.append(f"end({choice!r}, {way!r})")
        demand = _pick(self.model.which(lambda demand: demand.holding), choice)
        if demand is None:
            return
        demand.way = way
        if not demand.ended and demand.due is None:
            demand.due = self._due_after(demand, way)
        demand.gate.set()

    def _due_after(self, demand: Demand, way: Way) -> object:
        if way is Way.VALUE:
            return demand.number
        if way is Way.SOUR:
            return demand.sour
        if not demand.is_task or demand.once:
            return UnfitError
        return MaxRetriesExceededError if demand.begun > RETRIES else None  # then it is tried again

    @rule(choice=choices, kill=st.booleans())
    def leave(self, choice: int, kill: bool) -> None:
        """A caller is killed, or its time is up."""
        self.story.append(f"leave({choice!r}, {kill!r})")
        demand = _pick(self._undecided(lambda demand: demand.task is None), choice)
        if demand is None:
            return
        error = demand.due = gevent.GreenletExit() if kill else gevent.Timeout()
        assert demand.caller is not None
        demand.caller.kill(error, block=False)

    def _undecided(self, test: Callable[[Demand], bool]) -> list[Demand]:
        return self.model.which(lambda demand: not demand.ended and demand.due is None and test(demand))

    @rule(choice=choices)
    def cancel(self, choice: int) -> None:
        """A submitted task is cancelled."""
        self.story.append(f"cancel({choice!r})")
        demand = _pick(self._undecided(lambda demand: demand.task is not None), choice)
        if demand is None:
            return
        demand.due = TaskCancelledError
        demand.in_line = False
        assert demand.task.cancel()

    # What happens to the runner

    @rule()
    def purge(self) -> None:
        """All waiting tasks are cancelled."""
        self.story.append("purge()")
        waiting = self.model.waiting(tasks=True)
        for demand in waiting:
            demand.due = TaskCancelledError
            demand.in_line = False
        assert self.runner.purge() == len(waiting)

    @rule()
    def break_backend(self) -> None:
        """No resource can be made."""
        self.story.append("break_backend()")
        self.backend_up = False
        self.world.creating.fail()

    @rule()
    def mend_backend(self) -> None:
        """Resources can be made again."""
        self.story.append("mend_backend()")
        self.backend_up = True
        self.world.creating.heal()

    @rule()
    def recycle(self) -> None:
        """Every resource is replaced, sooner or later."""
        self.story.append("recycle()")
        if self.runner.state is not State.NEW:
            self.runner.recycle()

    @rule(pause=st.booleans())
    def pause_or_resume(self, pause: bool) -> None:
        """Workers take no more, or go on."""
        self.story.append(f"pause_or_resume({pause!r})")
        if self.runner.state is not State.NEW:
            self.paused = pause
            (self.runner.pause if pause else self.runner.resume)()

    @rule(workers=st.integers(1, 4), reserve=st.integers(0, 2), spare=st.integers(0, 2))
    def resize(self, workers: int, reserve: int, spare: int) -> None:
        """Other sizes; nobody is interrupted."""
        self.story.append(f"resize({workers!r}, {reserve!r}, {spare!r})")
        most = workers + reserve + spare
        self.runner.resize(
            worker_count=workers, max_worker_count=workers, resource_pool_size=reserve, max_resources=most
        )
        self._take_sizes(workers, reserve, most)

    # What must be true

    @invariant()
    def agrees_with_the_model(self) -> None:
        """Sooner or later, with nothing else happening, the runner is where the model is."""
        turns(1)  # those who call do so now
        assert settles(lambda: not self._differences(), PATIENCE), [*self.story, *self._differences()]
        faults = self.model.faults + self.world.faults
        assert not faults, [*self.story, *faults]
        if self.world.existing + self.runner.stats().creating_resources <= self.model.most:
            self.world.bound = self.model.most  # what was made under an older, wider bound is gone

    def _differences(self) -> list[str]:
        model, stats = self.model, self.runner.stats()
        found = self._wrong() + [f"still in use: {demand}" for demand in model.demands if demand.gate.is_set()]
        tasks, leases = model.waiting(tasks=True), model.waiting(tasks=False)
        if stats.queued_tasks + stats.priority_tasks + stats.delayed_tasks != len(tasks):
            found.append(f"{tasks} wait, {stats} says otherwise")
        if stats.waiting_leases != len(leases):
            found.append(f"{leases} wait, {stats} says otherwise")
        if self.backend_up:  # else it is tried again and again
            if turn_of(gevent.get_hub()).woken:
                found.append("the event loop does not come to rest")
            found += self._idling(tasks, leases) if tasks or leases else self._lacking()
        return found

    def _wrong(self) -> list[str]:
        changed = self.model.which(lambda demand: not demand.is_kept())
        return [f"not right: {demand}" for demand in self.model.which(lambda demand: not demand.is_right())] + [
            f"another answer than before: {demand}" for demand in changed
        ]

    def _idling(self, tasks: list[Demand], leases: list[Demand]) -> list[str]:
        """Nobody waits for what is there, or could be made."""
        model, stats = self.model, self.runner.stats()
        used = len(model.holding(tasks=True)) + len(model.holding(tasks=False))
        found = []
        # Leases may hold so many that nothing may be made for a worker.
        if tasks and not self.paused and stats.busy_workers < model.workers and used < model.most:
            found.append(f"{tasks} wait for a worker: {stats}")
        if leases and used < model.most:
            found.append(f"{leases} wait for a resource, {used} of {model.most} are used: {stats}")
        return found

    def _lacking(self) -> list[str]:
        """With nobody waiting, capacity is whole but for what is in use."""
        model, stats = self.model, self.runner.stats()
        if self.runner.state is State.NEW or model.which(lambda demand: demand.holding):
            return []
        whole = (stats.active_workers, stats.busy_workers, stats.available_resources >= model.reserve)
        return [] if whole == (model.workers, 0, True) else [f"not whole: {stats}"]

    def teardown(self) -> None:
        """Everything ends, by `stop` or by `kill`, and the books balance."""
        if not hasattr(self, "runner"):
            return
        self.mend_backend()
        self.model.is_orderly = False
        by_kill = len(self.model.demands) % 2 == 1
        for demand in self.model.which(lambda demand: not demand.ended and demand.due is None):
            demand.due = RunnerKilledError if by_kill else demand.number
        report = self._kill() if by_kill else self._stop()
        assert settles(lambda: not self._wrong(), PATIENCE), [*self.story, *self._wrong()]
        faults = self.model.faults + self.world.audit(most=10**6, most_creating=4)
        assert report.complete, [*self.story, report]
        assert not faults, [*self.story, *faults]

    def _kill(self) -> Any:
        return self.runner.kill()

    def _stop(self) -> Any:
        stopping = gevent.spawn(self.runner.stop)
        for demand in self.model.demands:
            demand.gate.set()
        stopping.join(PATIENCE)
        assert stopping.dead, [*self.story, self.runner, *self._wrong()]
        return stopping.value


def _pick(demands: list[Demand], choice: int) -> Demand | None:
    """One of them, or none. No rule has a precondition: what is drawn must not depend on what the runner did."""
    return demands[choice % len(demands)] if demands else None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_program_of_calls_leads_the_runner_away_from_the_model() -> None:
    run_state_machine_as_test(
        RunnerMachine,
        settings=settings(
            max_examples=300,
            stateful_step_count=40,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            suppress_health_check=list(HealthCheck),
            phases=[Phase.reuse, Phase.generate, *([Phase.shrink] if os.environ.get("GTASKER_SHRINK") else [])],
        ),
    )
