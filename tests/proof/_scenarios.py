"""What victims do when they are shot: every call that can wait, in every house that makes it wait differently.

Invariant: with no shot fired, each scenario answers `VICTIM` and leaves nothing to complain about.
"""

from __future__ import annotations

from collections.abc import Callable

from gtasker import State
from gtasker.errors import RunnerKilledError, RunnerStoppedError, TaskCancelledError
from tests.ledger import LedgerResource, UnfitError
from tests.proof._trial import VICTIM, Scenario, Stage
from tests.proof._world import SourError, turns


def yielding(count: int = 2) -> Callable[[], None]:
    """A step that lets the hub run."""
    return lambda: turns(count)


def queue(stage: Stage) -> object:
    """`queue_task`, the plain way."""
    return stage.runner.queue_task(stage.job(3))


def queue_twice(stage: Stage) -> object:
    """Two calls in a row: what the first left behind would hit the second."""
    stage.runner.queue_task(stage.job(1))
    return stage.runner.queue_task(stage.job(1))


def queue_with_time_limit(stage: Stage) -> object:
    """`queue_task` with a time-out of the runner's that never comes."""
    return stage.runner.queue_task(stage.job(2), timeout=60)


def queue_once(stage: Stage) -> object:
    """`once=True` forbids a second attempt."""
    begun: list[object] = []
    work = stage.job(2)

    def fn(thing: LedgerResource) -> object:
        begun.append(thing)
        if len(begun) > 1:
            stage.faults.append("a task queued once began twice")
        return work(thing)

    return stage.runner.queue_task_once(fn)


def queue_nested(stage: Stage) -> object:
    """A task that queues a task; it holds its own resource meanwhile."""

    def outer(thing: LedgerResource) -> object:
        with stage.world.use(thing):
            return stage.runner.queue_task_with_priority(stage.job(1))

    return stage.runner.queue_task(outer)


def queue_unhealthy(stage: Stage) -> object:
    """The first attempt finds its resource unfit, the second succeeds."""
    failed: list[LedgerResource] = []

    def fn(thing: LedgerResource) -> object:
        with stage.world.use(thing):
            turns(1)
            if not failed:
                failed.append(thing)
                raise UnfitError("the first attempt")
            if thing in failed:
                stage.faults.append(f"{thing} was used again")
            return VICTIM

    return stage.runner.queue_task(fn)


def queue_sour(stage: Stage) -> object:
    """The task fails by itself; its own error object comes back."""
    sour = SourError("by itself")

    def fn(thing: LedgerResource) -> object:
        with stage.world.use(thing):
            turns(1)
            raise sour

    try:
        stage.runner.queue_task(fn)
    except SourError as error:
        return VICTIM if error is sour else error
    return "no error"


def run(stage: Stage) -> object:
    """`run_task`: the victim itself uses the resource."""
    return stage.runner.run_task(stage.job(2))


def run_unhealthy(stage: Stage) -> object:
    """`run_task` that finds the resource unfit: never retried, never put back."""

    def fn(thing: LedgerResource) -> None:
        with stage.world.use(thing):
            turns(1)
            raise UnfitError("in run_task")

    try:
        stage.runner.run_task(fn)
    except UnfitError:
        return VICTIM
    return "no error"


def lease(stage: Stage) -> object:
    """A lease left normally."""
    with stage.runner.lease() as thing, stage.world.use(thing):
        turns(2)
    return VICTIM


def lease_sour(stage: Stage) -> object:
    """A lease left by an exception that does not blame the resource."""
    try:
        with stage.runner.lease() as thing, stage.world.use(thing):
            turns(1)
            raise SourError("in the lease")
    except SourError:
        return VICTIM


def lease_unhealthy(stage: Stage) -> object:
    """A lease left by an exception that blames the resource."""
    try:
        with stage.runner.lease() as thing, stage.world.use(thing):
            turns(1)
            raise UnfitError("in the lease")
    except UnfitError:
        return VICTIM


def lease_cleaning_up(stage: Stage) -> object:
    """A lease whose body cleans up with waits: the second shot lands there, the lease still out."""
    with stage.runner.lease() as thing, stage.world.use(thing):
        try:
            turns(1)
        finally:
            turns(2)
    return VICTIM


def lease_nested(stage: Stage) -> object:
    """A lease within a lease."""
    with stage.runner.lease() as outer, stage.world.use(outer):
        turns(1)
        with stage.runner.lease() as inner, stage.world.use(inner):
            turns(1)
    return VICTIM


def lease_discarded(stage: Stage) -> object:
    """A lease whose resource is not to come back."""
    manager = stage.runner.lease()
    with manager as thing, stage.world.use(thing):
        turns(1)
        manager.discard()
    return VICTIM


def lease_then_queue(stage: Stage) -> object:
    """A task is queued while a lease is held."""
    with stage.runner.lease() as thing, stage.world.use(thing):
        return stage.runner.queue_task(stage.job(1))


def submit_and_get(stage: Stage) -> object:
    """`submit`, then `get`: leaving `get` withdraws nothing."""
    begun: list[object] = []
    work = stage.job(2)

    def fn(thing: LedgerResource) -> object:
        begun.append(thing)
        return work(thing)

    task = stage.runner.submit(fn)
    stage.other("patient getter", lambda name: name if task.get(timeout=3) == VICTIM and begun else "nothing")
    return task.get()


def submit_and_wait(stage: Stage) -> object:
    """`submit`, then `wait`."""
    task = stage.runner.submit(stage.job(2))
    task.wait()
    return task.value


def map_over(stage: Stage) -> object:
    """`map`: the victim waits for several tasks at once."""

    def double(thing: LedgerResource, number: int) -> int:
        with stage.world.use(thing):
            turns(1)
        return 2 * number

    answers = stage.runner.map(double, range(5))
    return VICTIM if answers == [0, 2, 4, 6, 8] else answers


def imap_over(stage: Stage) -> object:
    """`imap_unordered`, iterated with a wait in between."""

    def double(thing: LedgerResource, number: int) -> int:
        with stage.world.use(thing):
            turns(1)
        return 2 * number

    answers = []
    for answer in stage.runner.imap_unordered(double, range(4)):
        answers.append(answer)
        turns(1)
    return VICTIM if sorted(answers) == [0, 2, 4, 6] else answers


def join_first(stage: Stage) -> object:
    """A keyed task that others join: it is theirs, too, when its first caller is gone."""
    work = stage.job(3)
    for number in range(2):
        stage.other(f"joiner {number}", lambda name: _joined(stage, name))
    return stage.runner.queue_task(work, key="joined")


def join_later(stage: Stage) -> object:
    """A keyed task that the victim joins."""
    stage.other("first with the key", lambda name: _joined(stage, name))
    turns(1)
    return stage.runner.queue_task(stage.job(3), key="joined")


def _joined(stage: Stage, name: str) -> str:
    answer = stage.runner.queue_task(stage.job(3), key="joined")
    return name if answer == VICTIM else f"{name} got {answer!r}"


def occupy(workers: int, waiting: int = 0, steps: int = 4) -> Callable[[Stage], None]:
    """Before the victim comes, keep so many workers at work for some turns, and fill the backlog."""

    def before(stage: Stage) -> None:
        for number in range(workers):
            stage.other(f"occupier {number}", lambda name: stage.runner.submit(stage.job(steps, name)).get())
        turns(1)
        for number in range(waiting):
            stage.other(f"filler {number}", lambda name: stage.runner.submit(stage.job(1, name)).get())
        turns(1)

    return before


def turn_unfit(stage: Stage) -> None:
    """Before the victim comes, two tasks begin that find their resource unfit and are tried again."""

    def unfit_once(name: str) -> Callable[[LedgerResource], str]:
        failed: list[LedgerResource] = []

        def fn(thing: LedgerResource) -> str:
            with stage.world.use(thing):
                turns(3)
                if not failed:
                    failed.append(thing)
                    raise UnfitError(name)
            return name

        return fn

    for number in range(2):
        stage.other(f"unfit {number}", lambda name: stage.runner.submit(unfit_once(name)).get())
    turns(2)


def submit_for_room(stage: Stage) -> object:
    """`submit` into a full backlog: the victim waits for room."""
    return stage.runner.submit(stage.job(1)).get()


def queue_for_room(stage: Stage) -> object:
    """`queue_task` into a full backlog."""
    return stage.runner.queue_task(stage.job(1))


def stop(stage: Stage) -> object:
    """`stop` while others' tasks are waiting and running."""
    report = stage.runner.stop()
    return VICTIM if report.complete else report


def kill(stage: Stage) -> object:
    """`kill` while others' tasks are waiting and running."""
    report = stage.runner.kill()
    return VICTIM if report.complete else report


def start(stage: Stage) -> object:
    """`start`: the victim waits for workers and reserve."""
    stage.runner.start()
    return VICTIM if stage.runner.state is State.RUNNING else stage.runner.state


_SMALL = {"worker_count": 1, "max_worker_count": 1, "resource_pool_size": 0, "max_resources": 2}
_TIGHT = {"worker_count": 1, "max_worker_count": 1, "resource_pool_size": 1, "max_resources": 2}
_FULL = {"max_queued": 1}
_BURSTING = {
    "worker_count": 1,
    "max_worker_count": 3,
    "burst_task_threshold": 1,
    "burst_interval": 0.0005,
    "max_idle": 0.001,
}
_STOPPED = (RunnerStoppedError,)
_KILLED = (RunnerStoppedError, RunnerKilledError, TaskCancelledError)
_WAITING = {"creating": yielding(), "destroying": yielding()}
_AT_ONCE = {"resetting": yielding(), "settling": lambda: None}

SCENARIOS = (
    Scenario(name="queue_task", act=queue, least=1),
    Scenario(name="queue_task twice", act=queue_twice, least=2),
    Scenario(name="queue_task behind others", act=queue, least=1, before=occupy(2, waiting=2)),
    Scenario(name="queue_task amid a burst", act=queue, least=1, options=_BURSTING, before=occupy(1, waiting=4)),
    Scenario(name="queue_task timed", act=queue_with_time_limit, least=1, before=occupy(2)),
    Scenario(name="queue_task abandoned", act=queue, least=1, options={"cancel_on_abandon": True}),
    Scenario(name="queue_task once", act=queue_once, least=1, options={"cancel_on_abandon": True}),
    Scenario(name="queue_task nested", act=queue_nested, least=1),
    Scenario(name="queue_task sour", act=queue_sour, least=1),
    Scenario(name="queue_task unhealthy", act=queue_unhealthy, least=1, steps=_WAITING),
    Scenario(
        name="queue_task retried late",
        act=queue_unhealthy,
        least=1,
        steps=_WAITING,
        options={"retry_backoff": (0.0005, 0.001)},
    ),
    Scenario(name="queue_task on first use", act=queue, least=1, steps=_WAITING, cold=True),
    Scenario(name="run_task", act=run, least=2),
    Scenario(name="run_task for the last", act=run, least=2, options=_TIGHT, before=occupy(1)),
    Scenario(name="run_task unhealthy", act=run_unhealthy, least=1, steps=_WAITING),
    Scenario(name="lease", act=lease, least=2),
    Scenario(name="lease sour", act=lease_sour, least=1),
    Scenario(name="lease unhealthy", act=lease_unhealthy, least=1, steps=_WAITING),
    Scenario(name="lease cleaning up", act=lease_cleaning_up, least=3),
    Scenario(name="lease nested", act=lease_nested, least=2),
    Scenario(name="lease discarded", act=lease_discarded, least=1, steps=_WAITING),
    Scenario(name="lease then queue_task", act=lease_then_queue, least=1),
    Scenario(name="lease being made", act=lease, least=3, steps=_WAITING, options=_SMALL, before=occupy(1)),
    Scenario(name="lease on first use", act=lease, least=3, steps=_WAITING, cold=True),
    Scenario(name="lease in line", act=lease, least=2, options=_TIGHT, before=occupy(2)),
    Scenario(name="submit and get", act=submit_and_get, least=1),
    Scenario(name="submit and wait", act=submit_and_wait, least=1),
    Scenario(name="submit for room", act=submit_for_room, least=1, options=_FULL, before=occupy(2, waiting=1)),
    Scenario(name="queue_task for room", act=queue_for_room, least=1, options=_FULL, before=occupy(2, waiting=1)),
    Scenario(name="map", act=map_over, least=3),
    Scenario(name="imap_unordered", act=imap_over, least=5),
    Scenario(name="key, first", act=join_first, least=1),
    Scenario(name="key, joined", act=join_later, least=2),
    Scenario(name="queue_task with reset", act=queue_twice, least=2, steps={"resetting": yielding()}),
    Scenario(name="lease with reset", act=lease, least=2, steps={"resetting": yielding()}, options=_SMALL),
    Scenario(name="queue_task with reset at once", act=queue_twice, least=2, steps=_AT_ONCE),
    Scenario(name="lease with reset at once", act=lease, least=2, steps=_AT_ONCE, options=_SMALL),
    Scenario(name="run_task with reset at once", act=run, least=2, steps=_AT_ONCE, options=_SMALL),
    Scenario(name="run_task with check", act=run, least=3, steps={"probing": yielding()}, options={"check_idle": 0.0}),
    Scenario(
        name="queue_task with check", act=queue, least=1, steps={"probing": yielding()}, options={"check_idle": 0.0}
    ),
    Scenario(name="lease vouched for", act=lease, least=2, steps={"vouching": yielding()}),
    Scenario(
        name="queue_task vouched for",
        act=queue,
        least=1,
        steps={"vouching": yielding(), "resetting": yielding()},
        options={"cancel_on_abandon": True},
    ),
    Scenario(name="start", act=start, least=1, steps=_WAITING, cold=True),
    Scenario(
        name="stop", act=stop, least=1, steps=_WAITING, before=occupy(2, waiting=2), ends_runner=True, excused=_STOPPED
    ),
    Scenario(
        name="stop amid retries",
        act=stop,
        least=1,
        steps=_WAITING,
        before=turn_unfit,
        ends_runner=True,
        excused=_STOPPED,
    ),
    Scenario(
        name="stop amid a burst",
        act=stop,
        least=1,
        steps=_WAITING,
        options=_BURSTING,
        before=occupy(1, waiting=4),
        ends_runner=True,
        excused=_STOPPED,
    ),
    Scenario(
        name="kill", act=kill, least=1, steps=_WAITING, before=occupy(2, waiting=2), ends_runner=True, excused=_KILLED
    ),
)

_ONE = {"worker_count": 1, "max_worker_count": 1}
_ALL_HOOKS = {"probing": yielding(1), "resetting": yielding(1), "vouching": yielding(1)}

# Here a worker is the victim: who was served by it gets the shot for an answer, everybody else what he asked for.
WORKER_SCENARIOS = (
    Scenario(name="a worker", least=6, at_worker=True),
    Scenario(name="the only worker", least=9, at_worker=True, options=_ONE, steps=_WAITING),
    Scenario(name="a worker without reserve", least=9, at_worker=True, options=_SMALL, steps=_WAITING),
    Scenario(name="a worker with hooks", least=6, at_worker=True, options={"check_idle": 0.0}, steps=_ALL_HOOKS),
)
