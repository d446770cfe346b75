"""More of what a hostile reading has proved, each as the shortest program that shows it.

Invariant: each test failed before its mend.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import Load, Priority, ResourceState, Runner
from gtasker.errors import StartError, TaskTimeoutError, WouldDeadlockError
from gtasker.events import ResourceCreateFailed, ResourceCreating, ResourceDestroyed, RunnerEvent, TaskTimedOut
from tests.conftest import MakeRunner
from tests.ledger import PATIENCE, HeldTask, Ledger, LedgerResource, touch
from tests.proof._world import settles

ONE = {"worker_count": 1, "max_worker_count": 1, "resource_pool_size": 0}


def test_a_deadline_is_not_late_for_a_later_one_that_is_set_when_an_earlier_one_is_up(make_runner: MakeRunner) -> None:
    def set_another(event: RunnerEvent) -> None:
        if isinstance(event, TaskTimedOut):
            runner.submit(touch, "later", timeout=100 * PATIENCE)

    runner: Runner[LedgerResource] = make_runner(**ONE, on_event=set_another).start()
    held = HeldTask("held")
    runner.submit(held)
    held.wait_begun()
    earlier, one = (runner.submit(touch, "never", timeout=timeout) for timeout in (0.01, 0.1))

    with gevent.Timeout(PATIENCE), pytest.raises(TaskTimeoutError):
        one.get()

    assert isinstance(earlier.exception, TaskTimeoutError)
    held.release()


def test_the_time_that_a_failed_attempt_took_is_part_of_its_delay(make_runner: MakeRunner, ledger: Ledger) -> None:
    failed: list[ResourceCreateFailed] = []

    def keep(event: RunnerEvent) -> None:
        if isinstance(event, ResourceCreateFailed):
            failed.append(event)

    ledger.creating.fail(times=1)
    ledger.creating.delay = 0.3
    runner = make_runner(**ONE, create_backoff=(0.2, 0.2), on_event=keep)

    assert runner.queue_task(touch, "made by the next attempt") == "made by the next attempt"
    assert [event.next_attempt_in for event in failed] == [0]


def test_burst_workers_go_when_fewer_resources_may_be_and_come_back_when_more_may(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    bursts = {"burst_task_threshold": 1, "burst_worker_count": 6, "max_worker_count": 8, "burst_interval": 0.01}
    runner = make_runner(worker_count=2, resource_pool_size=2, **bursts).start()
    first, second, third = HeldTask("first"), HeldTask("second"), HeldTask("third")
    tasks = [runner.submit(first) for _ in range(12)]
    first.wait_begun(8)

    runner.resize(max_resources=4)
    assert ledger.destroyed == 0  # who is at work is left to it
    tasks += [runner.submit(second) for _ in range(12)]
    first.release()
    second.wait_begun(2)

    assert settles(lambda: runner.stats().live_resources == 4, PATIENCE)
    assert (runner.stats().active_workers, runner.stats().available_resources) == (2, 2)

    runner.resize(max_resources=10)
    tasks += [runner.submit(third) for _ in range(12)]
    second.release()
    third.wait_begun(8)
    third.release()
    gevent.joinall([gevent.spawn(task.get, PATIENCE) for task in tasks], raise_error=True)


@pytest.mark.parametrize(
    ("sizes", "bound"),
    [
        ({"worker_count": 1}, 4),
        ({"resource_pool_size": 1}, 4),
        ({"worker_count": 3}, 5),
        ({"resource_pool_size": 4}, 6),
        ({"max_worker_count": 10}, 6),
    ],
    ids=str,
)
def test_a_bound_of_resources_is_not_forgotten_when_something_else_is_resized(
    make_runner: MakeRunner, sizes: dict[str, int], bound: int
) -> None:
    runner = make_runner(worker_count=2, max_worker_count=8, resource_pool_size=2)
    runner.resize(max_resources=4)

    runner.resize(**sizes)

    assert runner.bounds().max_resources == bound


def test_a_raised_priority_counts_at_the_door_too(make_runner: MakeRunner) -> None:
    runner = make_runner(**ONE, max_queued=1).start()
    held = HeldTask("held")
    runner.submit(held)
    held.wait_begun()
    order: list[str] = []

    def note(_resource: LedgerResource, name: str) -> None:
        order.append(name)

    runner.submit(note, "first")  # fills the backlog
    callers = [
        gevent.spawn(lambda: runner.queue_task(note, "normal")),
        gevent.spawn(lambda: runner.queue_task(note, "shared", key="key", priority=Priority.LOW)),
    ]
    gevent.idle()

    runner.submit(note, "ignored", key="key", priority=Priority.HIGH)

    held.release()
    gevent.joinall(callers, timeout=PATIENCE, raise_error=True)
    assert order == ["first", "shared", "normal"]


def test_a_start_that_fails_does_not_forget_a_resize(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail()
    runner = make_runner(worker_count=1, resource_pool_size=1)
    runner.resize(worker_count=3, max_worker_count=5, resource_pool_size=2, max_resources=6)
    bounds = runner.bounds()
    with pytest.raises(StartError):
        runner.start()
    assert runner.bounds() == bounds
    ledger.creating.fail(times=0)

    runner.start()

    assert runner.bounds() == bounds
    assert runner.stats().live_resources == 5


def test_an_abandoned_destroy_is_told_once(make_runner: MakeRunner, ledger: Ledger) -> None:
    destroyed: list[int] = []
    returns = Event()

    def note(event: RunnerEvent) -> None:
        if isinstance(event, ResourceDestroyed):
            destroyed.append(event.resource_id)

    def swallow(resource: LedgerResource) -> None:
        while resource.number == 1 and not returns.is_set():
            with contextlib.suppress(BaseException):
                returns.wait()
        ledger.destroy(resource)

    options = {"on_destroy": swallow, "destroy_timeout": 0.05, "on_event": note}
    runner = make_runner(**{**ONE, "max_resources": 2}, **options).start()
    runner.recycle()

    assert settles(lambda: destroyed == [1], PATIENCE)
    assert runner.stats().abandoned == 1
    returns.set()
    assert settles(lambda: runner.metrics().resources_destroyed == 1, PATIENCE)
    assert destroyed == [1]
    runner.stop()
    assert destroyed == [1, 2]


def test_a_worker_that_dies_does_not_take_what_is_being_checked_with_it(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    runner = make_runner(
        worker_count=1, max_worker_count=2, resource_pool_size=1, check_resource=ledger.probe, check_idle=PATIENCE
    ).start()
    ledger.probing.hold()
    runner.resize(worker_count=2, resource_pool_size=0)  # the one of the reserve is the new worker's at once
    core: Any = runner._core
    [newcomer] = [worker for worker in core.crew.workers if worker.gr_frame is None]
    for record in core.stock.records.values():  # as if they had been idle for long
        record.idle_since = record.checked_at = record.idle_since - 2 * PATIENCE
    tasks = [runner.submit(touch, number) for number in range(2)]

    newcomer.kill(block=False)  # before it has run a line

    assert settles(lambda: ledger.probing.inside == 2, PATIENCE)
    assert settles(lambda: bool(newcomer.dead), PATIENCE)
    gevent.idle()
    assert ledger.destroyed == 0
    ledger.probing.release()
    assert [task.get(PATIENCE) for task in tasks] == [0, 1]


def test_a_check_that_keeps_a_resource_alive_makes_nobody_busy(make_runner: MakeRunner, ledger: Ledger) -> None:
    loads: list[Load] = []

    class Rule:
        def decide(self, load: Load) -> int:
            loads.append(load)
            return 0

    ledger.probing.hold()
    checks = {"check_resource": ledger.probe, "check_idle": PATIENCE, "keepalive": 0.01}
    runner = make_runner(**ONE, **checks, scaling=Rule(), burst_interval=0.01).start()

    assert settles(lambda: ledger.probing.inside == 1, PATIENCE)
    loads.clear()
    assert settles(lambda: bool(loads), PATIENCE)

    assert [info.state for info in runner.resources()] == [ResourceState.CARED]
    assert (runner.stats().active_workers, runner.stats().busy_workers) == (1, 0)
    assert (loads[0].busy_workers, loads[0].idle_workers) == (0, 1)
    ledger.probing.release()
    assert settles(lambda: [info.state for info in runner.resources()] == [ResourceState.IDLE], PATIENCE)


def test_abandoned_checks_do_not_end_the_checks_of_the_others(make_runner: MakeRunner, ledger: Ledger) -> None:
    returns = Event()
    checked: list[int] = []

    def check(resource: LedgerResource) -> bool:
        while resource.number <= 2 and not returns.is_set():
            with contextlib.suppress(BaseException):
                returns.wait()
        checked.append(resource.number)
        return True

    checks = {"check_resource": check, "check_idle": PATIENCE, "keepalive": 0.04, "hook_timeout": 0.05}
    runner = make_runner(worker_count=2, max_worker_count=2, resource_pool_size=2, **checks).start()
    assert settles(lambda: runner.stats().abandoned == 2, PATIENCE)
    checked.clear()

    assert settles(lambda: {3, 4} <= {*checked}, PATIENCE)
    returns.set()
    assert settles(lambda: runner.stats().live_resources == 4 and ledger.destroyed == 2, PATIENCE)


def test_who_would_wait_for_ever_is_told_which_time_out_counts(make_runner: MakeRunner) -> None:
    runner = make_runner(**ONE).start()

    def wait_within(_resource: LedgerResource) -> None:
        with gevent.Timeout(PATIENCE):
            runner.queue_task(touch, "inner")

    with pytest.raises(WouldDeadlockError, match="timeout="):
        runner.queue_task(wait_within)


@pytest.mark.parametrize("road", ["lease", "run_task", "queue_task"])
def test_kill_lets_a_clean_up_end_for_which_there_is_time(make_runner: MakeRunner, road: str) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()
    begun, cleans, rolled_back = Event(), Event(), Event()
    ends: list[str] = []

    def use(_resource: LedgerResource) -> None:
        try:
            begun.set()
            Event().wait()
        finally:
            cleans.set()
            try:
                rolled_back.wait()
                ends.append("rolled back")
            except BaseException:
                ends.append("cut short")
                raise

    def lend() -> None:
        with runner.lease() as resource:
            use(resource)

    gevent.spawn(lend if road == "lease" else lambda: getattr(runner, road)(use))
    begun.wait()

    killing = gevent.spawn(runner.kill, PATIENCE)
    assert cleans.wait(PATIENCE)
    gevent.sleep(1.2)  # long enough for whoever goes on as if nothing had been to be interrupted again
    rolled_back.set()

    assert killing.get(timeout=PATIENCE).abandoned == 0
    assert ends == ["rolled back"]


class Once:
    """A listener that calls back once, when the first resource is being made after it was armed."""

    def __init__(self) -> None:
        self.call: Callable[[], object] | None = None

    def __call__(self, event: RunnerEvent) -> None:
        if self.call is not None and isinstance(event, ResourceCreating):
            call, self.call = self.call, None
            call()


def test_a_listener_may_recycle_while_all_is_recycled(make_runner: MakeRunner, ledger: Ledger) -> None:
    listener = Once()
    runner = make_runner(worker_count=2, resource_pool_size=2, on_event=listener).start()

    listener.call = runner.recycle
    runner.recycle()

    assert settles(lambda: listener.call is None, PATIENCE)
    assert settles(lambda: runner.stats().available_resources == runner.stats().active_workers == 2, PATIENCE)
    assert min(ledger.live) > 4


def test_a_listener_may_shrink_what_is_growing(make_runner: MakeRunner) -> None:
    listener = Once()
    runner = make_runner(**ONE, on_event=listener).start()

    listener.call = lambda: runner.resize(worker_count=1, max_worker_count=1)
    runner.resize(worker_count=4, max_worker_count=4)

    assert settles(lambda: listener.call is None, PATIENCE)
    assert runner.bounds().max_workers == 1
    assert settles(lambda: runner.stats().active_workers == 1, PATIENCE)
    assert runner.stats().burst_workers == 0
