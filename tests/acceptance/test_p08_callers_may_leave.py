"""P8: a kill or a time-out in a caller reaches it unchanged, costs no capacity, and leaves nothing waiting behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import Runner, State
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import eventually, let_run, whole
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, touch

Ask = Callable[[Runner[LedgerResource], Callable[[LedgerResource], Any]], Any]


def queue_task(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Queue and wait."""
    return runner.queue_task(fn)


def run_task(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Run at once."""
    return runner.run_task(fn)


def lease(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Run in a lease's block."""
    with runner.lease() as resource:
        return fn(resource)


def get(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Submit and get."""
    return runner.submit(fn).get()


def wait(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Submit and wait."""
    return runner.submit(fn).wait()


def a_map(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Map over one item."""
    return runner.map(lambda resource, _item: fn(resource), [1])


def an_imap(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Map over one item, unordered."""
    return list(runner.imap_unordered(lambda resource, _item: fn(resource), [1]))


def start(runner: Runner[LedgerResource], _fn: Callable[[LedgerResource], Any]) -> Any:
    """Start."""
    return runner.start()


every_wait = pytest.mark.parametrize("ask", [queue_task, run_task, lease, get, wait, a_map, an_imap])
own_waits = pytest.mark.parametrize("ask", [queue_task, run_task, lease, a_map, an_imap])


@every_wait
def test_a_kill_reaches_a_waiting_caller_as_the_same_object(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str], ask: Ask
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.submit(held)
    held.wait_begun()
    caller = call(ask, runner, lambda resource: touch(resource, 1))
    let_run()
    assert not caller.ended
    bullet = gevent.GreenletExit("the caller's own")

    caller.greenlet.kill(bullet)

    assert caller.error is bullet


@every_wait
def test_a_timeout_reaches_a_waiting_caller_as_the_same_object(
    make_runner: MakeRunner, held: HeldTask[str], ask: Ask
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.submit(held)
    held.wait_begun()

    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.01) as mine:
        ask(runner, lambda resource: touch(resource, 1))

    assert caught.value is mine


@own_waits
@pytest.mark.parametrize("how", ["kill", "time-out"])
def test_a_waiting_caller_that_leaves_leaves_nothing_behind(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str], ask: Ask, how: str
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.submit(held)
    held.wait_begun()
    ran: list[int] = []

    def guarded() -> None:
        with gevent.Timeout(0.02 if how == "time-out" else None):
            ask(runner, lambda _resource: ran.append(1))

    caller = call(guarded)
    eventually(lambda: runner.stats().queued_tasks + runner.stats().waiting_leases == 1)

    if how == "kill":
        caller.greenlet.kill()
    caller.join()

    stats = runner.stats()
    assert stats.queued_tasks == stats.priority_tasks == stats.waiting_leases == 0
    held.release()
    eventually(lambda: whole(runner, 1, 0))
    assert ran == []
    assert runner.run_task(touch, "next") == "next"


@pytest.mark.parametrize("ask", [run_task, lease])
def test_a_kill_in_mid_use_reaches_the_caller_as_the_same_object_and_costs_no_slot(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str], ask: Ask
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=2)
    caller = call(ask, runner, held)
    held.wait_begun()
    bullet = gevent.GreenletExit("the caller's own")

    caller.greenlet.kill(bullet)

    assert caller.error is bullet
    eventually(lambda: whole(runner, 1, 1))


@pytest.mark.parametrize("ask", [queue_task, run_task, lease, a_map])
def test_a_timeout_in_mid_use_reaches_the_caller_as_the_same_object(
    make_runner: MakeRunner, held: HeldTask[str], ask: Ask
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=2)

    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.02) as mine:
        ask(runner, held)

    assert caught.value is mine
    held.release()
    eventually(lambda: whole(runner, 1, 1))


def test_a_silent_timeout_of_the_callers_stays_silent(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    answered = False

    with gevent.Timeout(0.01, False):  # type: ignore[arg-type]  # gevent's own idiom, which its stubs lack
        runner.queue_task(held)
        answered = True

    assert not answered


def test_a_timeout_class_of_the_callers_own_reaches_it(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    class RequestTimeoutError(Exception):
        pass

    runner = make_runner(worker_count=1, resource_pool_size=0)

    with pytest.raises(RequestTimeoutError), gevent.Timeout(0.01, RequestTimeoutError):
        runner.queue_task(held)

    held.release()
    eventually(lambda: whole(runner, 1, 0))


def test_a_caller_killed_before_its_first_turn_leaves_nothing(make_runner: MakeRunner, call: SpawnCall) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()
    for ask in (queue_task, run_task, lease):
        one = call(ask, runner, lambda _resource: None)
        one.greenlet.kill()

    assert whole(runner, 1, 1)


def test_a_kill_at_the_moment_a_resource_is_handed_over_costs_nothing(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    first = runner.submit(held)
    held.wait_begun()
    victims = [call(run_task, runner, lambda _r: None), call(lease, runner, lambda _r: None)]
    survivor = call(run_task, runner, lambda resource: touch(resource, "served"))
    eventually(lambda: runner.stats().waiting_leases == 3)

    # The link runs in the hub as the worker comes free: the hand-over is made, the victim has not been woken yet.
    def shoot(_task: Any) -> None:
        for victim in victims:
            victim.greenlet.kill(block=False)

    first.rawlink(shoot)
    held.release()

    assert survivor.result() == "served"
    eventually(lambda: whole(runner, 1, 0))


def test_a_kill_at_the_moment_of_the_answer_costs_nothing(make_runner: MakeRunner, call: SpawnCall) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    callers: list[Any] = []

    def shoot(resource: LedgerResource) -> str:
        with resource.use():
            # The answer and the kill are both on their way when the caller wakes.
            callers[-1].greenlet.kill(block=False)
            return "too late"

    for _ in range(20):
        callers.append(call(queue_task, runner, shoot))
        callers[-1].join()

    assert all(caller.error is not None or caller.value == "too late" for caller in callers)
    eventually(lambda: whole(runner, 1, 0))
    assert runner.queue_task(touch, "next") == "next"


def test_a_caller_that_left_is_never_woken_by_the_answer(make_runner: MakeRunner, call: SpawnCall) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    held: HeldTask[str] = HeldTask("held")
    woken: list[Any] = []
    mine = Event()

    def leave_and_wait() -> None:
        with gevent.Timeout(0.01, False):  # type: ignore[arg-type]  # gevent's own idiom, which its stubs lack
            runner.queue_task(held)
        woken.append(mine.wait())

    caller = call(leave_and_wait)
    held.wait_begun()
    gevent.sleep(0.02)
    held.release()
    let_run()
    assert woken == []

    mine.set()
    caller.result()
    assert woken == [True]


def test_leaving_get_withdraws_nothing(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    runner.submit(held)
    held.wait_begun()
    handle = runner.submit(touch, "still there")

    with pytest.raises(gevent.Timeout):
        handle.get(timeout=0.01)

    held.release()
    assert handle.get(timeout=10) == "still there"


def test_cancel_on_abandon_interrupts_the_attempt_of_a_caller_that_left(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, cancel_on_abandon=True)
    caller = call(runner.queue_task, held)
    held.wait_begun()
    bullet = gevent.GreenletExit()

    caller.greenlet.kill(bullet)

    assert caller.error is bullet
    eventually(lambda: ledger.destroyed == 1, "the interrupted resource destroyed")
    eventually(lambda: whole(runner, 1, 0))
    assert runner.metrics().total_tasks_cancelled == 1


def test_a_killed_start_leaves_no_greenlet_waiting(make_runner: MakeRunner, ledger: Ledger, call: SpawnCall) -> None:
    ledger.creating.hold()
    runner = make_runner(worker_count=1, resource_pool_size=0)
    starting = call(start, runner, lambda _r: None)
    ledger.creating.wait_entered(1)
    bullet = gevent.GreenletExit()

    starting.greenlet.kill(bullet)
    ledger.creating.release()

    assert starting.error is bullet
    # What had been begun is unmade first.
    eventually(lambda: runner.state in {State.NEW, State.RUNNING})
    assert runner.queue_task(touch, "works", timeout=10) == "works"


def test_a_stop_whose_caller_is_killed_goes_on(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1)
    handle = runner.submit(held)
    held.wait_begun()
    stopping = call(runner.stop)
    let_run()

    stopping.greenlet.kill()
    held.release()

    assert handle.get(timeout=10) == "held"
    eventually(lambda: ledger.existing == 0, "the shutdown done")
    assert runner.stop().complete


def test_a_second_kill_changes_nothing(make_runner: MakeRunner, call: SpawnCall) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=2)
    held: HeldTask[str] = HeldTask("held")
    for ask in (run_task, lease):
        before = held.begun
        caller = call(ask, runner, held)
        held.wait_begun(before + 1)
        caller.greenlet.kill(block=False)
        caller.greenlet.kill(block=False)
        assert isinstance(caller.failure(), gevent.GreenletExit)
        eventually(lambda: whole(runner, 1, 1))
