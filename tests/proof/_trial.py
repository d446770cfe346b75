"""One trial: a scenario played once, with shots at its victim, and the audit of what is left afterwards.

Invariant: a trial that found no fault left a closed runner, balanced books and no greenlet behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.event import Event

from gtasker import Runner, ShutdownReport, State
from tests._env import hub_errors
from tests.ledger import LedgerResource
from tests.proof._switches import Marksman, Numbering
from tests.proof._world import Step, World, quiet, settles, turns

VICTIM = "the victim's answer"
PATIENCE = 3.0  # seconds; only a hang waits for so long
AFTERMATH = 3  # switches of the victim in a clean-up of its own
Work = Callable[[LedgerResource], Any]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What the victim does (`act`), in which house, with whom around, and what must be true afterwards."""

    name: str
    act: Callable[[Stage], object] = lambda stage: VICTIM
    least: int  # switches of the lonely victim; fewer means that the scenario no longer does what it says
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)
    before: Callable[[Stage], None] | None = None
    ends_runner: bool = False
    excused: tuple[type[BaseException], ...] = ()  # what the others may get instead of their answers
    cold: bool = False  # the runner is not started beforehand
    at_worker: bool = False  # not `act` but a worker is shot at, while the crowd is served


class Stage:
    """The house of one trial: a world, a runner, and everybody else who calls it."""

    def __init__(self, scenario: Scenario, marksman: Marksman) -> None:
        self.scenario = scenario
        self.marksman = marksman
        self.world = World(**scenario.steps)
        options: dict[str, Any] = {
            **self.world.stepped_options(),
            "worker_count": 2,
            "max_worker_count": 2,
            "resource_pool_size": 1,
            "create_backoff": (0.0005, 0.001),
            "acquire_timeout": PATIENCE,
            "logger": quiet,
        }
        options.update(scenario.options)
        self.options = options
        self.runner: Runner[LedgerResource] = Runner(**options)
        self.others: list[gevent.Greenlet[..., Any]] = []
        self.faults: list[str] = []

    @property
    def most(self) -> int:
        """The bound of resources."""
        derived = self.options["max_worker_count"] + self.options["resource_pool_size"]
        return int(self.options.get("max_resources") or derived)

    def job(self, steps: int = 2, answer: object = VICTIM) -> Work:
        """A task that uses its resource for so many turns of the hub."""

        def work(thing: LedgerResource) -> object:
            with self.world.use(thing):
                turns(steps)
            return answer

        return work

    def other(self, name: str, call: Callable[[str], object]) -> None:
        """Start another caller, whose call has to answer its own name."""

        def body() -> None:
            try:
                answer = call(name)
            except self.scenario.excused:
                return
            except BaseException as error:
                if not (self.scenario.at_worker and any(error is shot for shot in self.marksman.fired)):
                    self.faults.append(f"{name} got {error!r}")
                return
            if answer != name:
                self.faults.append(f"{name} got the answer {answer!r}")

        self.others.append(gevent.spawn(body))

    def crowd(self) -> None:
        """Half a dozen callers of every kind; none of them waits for anything but the runner."""
        runner = self.runner

        def borrow(name: str) -> str:
            with runner.lease() as thing, self.world.use(thing):
                turns(2)
            return name

        self.other("queuer", lambda name: runner.queue_task(self.job(1, name)))
        self.other("urgent queuer", lambda name: runner.queue_task_with_priority(self.job(2, name)))
        self.other("lender", borrow)
        self.other("submitter", lambda name: runner.submit(self.job(1, name)).get())
        self.other("runner of a task", lambda name: runner.run_task(self.job(1, name)))
        self.other("joiner", lambda name: runner.queue_task(self.job(3, name), key="crowd"))
        self.other("late lender", borrow)


@dataclass
class Trial:
    """What one trial counted and found."""

    counted: int
    fired: int
    missed: int
    faults: list[str]


def play(
    scenario: Scenario,
    plan: Mapping[int, BaseException],
    *,
    numbering: Numbering = Numbering.OWN,
    crowded: bool = False,
) -> Trial:
    """Play the scenario once with the planned shots. Switches; returns within about `PATIENCE` even on a hang."""
    marksman = Marksman(plan, numbering)
    stage = Stage(scenario, marksman)
    with hub_errors() as errors, marksman:
        _perform(stage, crowded)
        left = marksman.left_over()
    if left:
        stage.faults.append(f"greenlets left: {left}")
    most_creating = stage.options.get("max_creating", 4)
    faults = stage.faults + errors + stage.world.audit(most=stage.most, most_creating=most_creating)
    return Trial(marksman.counted, len(marksman.fired), marksman.missed, faults)


def _perform(stage: Stage, crowded: bool) -> None:
    scenario, runner = stage.scenario, stage.runner
    if not scenario.cold:
        runner.start()
    if scenario.before is not None:
        scenario.before(stage)
    everybody = _serve_at_gunpoint(stage) if scenario.at_worker else _let_victim_act(stage, crowded)
    gevent.joinall(everybody, timeout=PATIENCE)
    stage.marksman.release()
    for each in everybody:
        if not each.dead:
            stage.faults.append(f"hangs: {each} while {runner!r}")
    if not stage.faults and not scenario.ends_runner:
        _capacity_is_back(stage)
    gevent.killall(everybody, timeout=0.1)
    _close(stage)


def _let_victim_act(stage: Stage, crowded: bool) -> list[gevent.Greenlet[..., Any]]:
    if crowded:
        stage.crowd()
        turns(1)
    victim = gevent.spawn(_be_victim, stage)
    if crowded:
        turns(1)
        stage.crowd()
    return [victim, *stage.others]


def _serve_at_gunpoint(stage: Stage) -> list[gevent.Greenlet[..., Any]]:
    stage.runner.queue_task(lambda thing: stage.marksman.adopt(gevent.getcurrent()))
    stage.crowd()
    turns(1)
    stage.crowd()
    return stage.others


def _be_victim(stage: Stage) -> None:
    """Act, then clean up with a wait that is none of the runner's, as users' code does."""
    marksman = stage.marksman
    answer: object = None
    surfaced: BaseException | None = None
    fired: list[BaseException] = []
    try:
        with marksman.section():
            try:
                answer = stage.scenario.act(stage)
            except BaseException as error:
                surfaced = error
            fired = list(marksman.fired)
            turns(AFTERMATH)
    except BaseException as error:
        if not marksman.fired or error is not marksman.fired[-1]:
            stage.faults.append(f"the victim got {error!r} while it waited for something else")
    if fired and surfaced is not fired[-1]:
        stage.faults.append(f"the shot did not come through: {surfaced!r}, answer {answer!r}")
    if not fired and (surfaced is not None or answer != VICTIM):
        stage.faults.append(f"the victim, not shot, got {surfaced!r}, answer {answer!r}")


def _capacity_is_back(stage: Stage) -> None:
    """All workers and the whole reserve, without traffic; and then they really serve, all at once. Switches."""
    runner, options = stage.runner, stage.options
    workers, reserve = options["worker_count"], options["resource_pool_size"]

    def is_whole() -> bool:
        stats = runner.stats()
        waiting = stats.queued_tasks + stats.priority_tasks + stats.delayed_tasks + stats.waiting_leases
        unsettled = waiting + stats.busy_workers + stats.creating_resources + stats.abandoned
        # Temporary resources may stay for `max_idle`; they are within the bound and in nobody's way.
        return unsettled == 0 and stats.active_workers >= workers and stats.available_resources >= reserve

    if runner.state is State.NEW:  # a start that was cut short leaves nothing to heal
        runner.start()
    if not settles(is_whole, PATIENCE):
        stage.faults.append(f"capacity did not come back: {runner.stats()}")
        return
    if runner.leases():
        stage.faults.append(f"leases left: {runner.leases()}")
    _meet(stage, workers, reserve)


def _meet(stage: Stage, workers: int, reserve: int) -> None:
    """Every worker and every resource of the reserve is in use at the same moment. Switches."""
    runner = stage.runner
    together = Event()
    arrived = 0

    def arrive(thing: LedgerResource) -> bool:
        nonlocal arrived
        with stage.world.use(thing):
            arrived += 1
            if arrived == workers + reserve:
                together.set()
            together.wait(PATIENCE)
        return together.is_set()

    callers = [gevent.spawn(runner.queue_task, arrive) for _ in range(workers)]
    turns(1)
    callers += [gevent.spawn(runner.run_task, arrive) for _ in range(reserve)]
    gevent.joinall(callers, timeout=2 * PATIENCE)
    if [caller.value for caller in callers] != [True] * len(callers):
        stage.faults.append(f"only {arrived} of {workers + reserve} resources serve at once: {runner.stats()}")


def _close(stage: Stage) -> None:
    runner = stage.runner
    closing: gevent.Greenlet[..., ShutdownReport] = gevent.spawn(runner.stop, 2 * PATIENCE if not stage.faults else 0.0)
    closing.join(timeout=4 * PATIENCE)
    if not closing.dead:
        stage.faults.append(f"stop hangs: {runner!r}")
        closing.kill(timeout=0.1)
        return
    if closing.exception is not None:
        stage.faults.append(f"stop raised {closing.exception!r}")
    elif closing.value is None or not closing.value.complete:
        stage.faults.append(f"stop was not complete: {closing.value}")
    if runner.state is not State.CLOSED:
        stage.faults.append(f"not closed: {runner!r}")
    stats = runner.stats()
    if (stats.live_resources, stats.active_workers, stats.waiting_leases, stats.queued_tasks) != (0, 0, 0, 0):
        stage.faults.append(f"left after stop: {stats}")
