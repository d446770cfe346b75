"""What a hostile reading has proved, each as the shortest program that shows it.

Invariant: each test failed before its mend.
"""

from __future__ import annotations

import os
import time

import gevent
import pytest
from gevent.event import Event
from gevent.lock import Semaphore

from gtasker import Lease, Runner
from gtasker.errors import StartError, TooManyWaitersError, WouldDeadlockError
from tests.conftest import MakeRunner
from tests.ledger import PATIENCE, HeldTask, Ledger, LedgerResource, touch
from tests.proof._world import settles

ONE = {"worker_count": 1, "max_worker_count": 1, "resource_pool_size": 0}


def number_of(resource: LedgerResource) -> int:
    """The resource's number."""
    return resource.number


def test_hundreds_are_let_in_by_hundreds_of_idle_workers(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=300, resource_pool_size=0, max_creating=300, max_queued=5).start()
    runner.pause()
    callers = [gevent.spawn(runner.queue_task, touch, number) for number in range(600)]
    assert settles(lambda: runner.stats().queued_tasks == 5, PATIENCE)

    runner.resume()

    gevent.joinall(callers, timeout=PATIENCE)
    assert [caller.value for caller in callers] == list(range(600))


def test_a_loan_of_check_health_is_not_taken_back_while_it_is_used(make_runner: MakeRunner, ledger: Ledger) -> None:
    held = HeldTask("pinged")
    health = Event()

    def is_healthy(_error: Exception) -> bool:
        runner.run_task(held)
        health.set()
        return True

    def fail(_resource: LedgerResource) -> None:
        raise ValueError

    runner: Runner[LedgerResource] = make_runner(worker_count=1, resource_pool_size=1, check_health=is_healthy).start()
    failing = runner.submit(fail)
    held.wait_begun()
    gevent.sleep(1)  # two rounds of the upkeep and more, each of which may find a leak

    assert ledger.destroyed == 0
    held.release()
    assert health.wait(PATIENCE)
    with pytest.raises(ValueError):  # noqa: PT011  # the task's own
        failing.get(PATIENCE)


def test_kill_waits_for_what_a_holder_does_at_the_end(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()
    holds = Event()

    def hold() -> None:
        with runner.lease():
            holds.set()
            try:
                Event().wait()
            finally:
                gevent.sleep(0.2)  # a rollback, say

    holder = gevent.spawn(hold)
    holds.wait()

    report = runner.kill(timeout=PATIENCE)

    assert holder.dead
    assert report.abandoned == 0
    assert ledger.existing == 0


def test_who_waits_at_the_door_for_nobody_is_told_so(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=2, max_worker_count=2, resource_pool_size=0, max_queued=2).start()
    both = Semaphore(0)

    def outer(_resource: LedgerResource) -> str:
        both.release()
        gevent.sleep(0)
        return runner.queue_task(touch, "inner")

    callers = [gevent.spawn(runner.queue_task, outer) for _ in range(4)]

    gevent.joinall(callers, timeout=PATIENCE)
    assert all(caller.ready() for caller in callers)
    assert all(caller.value == "inner" or isinstance(caller.exception, WouldDeadlockError) for caller in callers)
    assert any(isinstance(caller.exception, WouldDeadlockError) for caller in callers)


def test_stop_leaves_a_task_under_way_its_place_at_the_door(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=2, max_worker_count=2, resource_pool_size=0, max_queued=1).start()
    go = Event()

    def outer(_resource: LedgerResource) -> str:
        go.wait()
        return runner.queue_task(touch, "inner")

    asking = runner.submit(outer)
    held = HeldTask("held")
    runner.submit(held)
    held.wait_begun()
    runner.submit(touch, "fills the backlog")
    go.set()
    gevent.idle()

    stopping = gevent.spawn(runner.stop)
    gevent.idle()
    held.release()

    assert stopping.get(timeout=PATIENCE).complete
    assert asking.get(PATIENCE) == "inner"


def test_a_lease_that_was_made_before_a_fork_is_the_childs_own_in_the_child(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()
    lease: Lease[LedgerResource] = runner.lease()
    with lease as ours:
        mine = ours.number

    child = os.fork()
    if child == 0:
        code = 1
        try:
            with gevent.Timeout(PATIENCE), lease as theirs:
                code = 0 if theirs.number != mine else 7
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_lease_that_was_made_before_a_failed_start_serves_after_the_next(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    ledger.creating.fail()
    runner = make_runner(worker_count=1, resource_pool_size=1)
    lease: Lease[LedgerResource] = runner.lease()
    with pytest.raises(StartError):
        runner.start()
    ledger.creating.fail(times=0)
    runner.start()

    with lease as resource:
        assert resource.number in ledger.live


def test_a_worker_handed_a_task_before_its_first_line_does_not_keep_the_moment(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, max_worker_count=2, resource_pool_size=3, max_resources=5).start()
    runner.resize(worker_count=2, resource_pool_size=2)  # one of the reserve is the new worker's at once
    runner.queue_task(touch, 1)
    began = time.monotonic()
    gevent.sleep(0.3)

    for number in range(3):
        runner.submit(touch, number).get(PATIENCE)

    assert runner.metrics().max_execution_time < time.monotonic() - began - 0.2
    assert runner.metrics().average_wait_time >= 0


def test_max_waiting_holds_while_the_turn_is_spent(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, max_waiting=1).start()
    worst = 0

    def ask() -> None:
        nonlocal worst
        try:
            with runner.lease():
                pass
        except TooManyWaitersError:
            worst = max(worst, runner.stats().waiting_leases)

    gevent.joinall([gevent.spawn(ask) for _ in range(300)], timeout=PATIENCE)

    assert 1 <= worst <= 3  # one, and one for each idle resource


def test_what_waits_when_all_is_recycled_begins_with_a_new_one(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(**ONE).start()
    task = runner.submit(number_of)  # in the worker's hands, and not begun

    runner.recycle()

    assert task.get(PATIENCE) == 2


def test_a_priority_that_is_no_int_is_refused_and_harms_nobody(make_runner: MakeRunner) -> None:
    runner = make_runner(**ONE).start()
    held = HeldTask("held")
    runner.submit(held)
    held.wait_begun()

    with pytest.raises(TypeError, match="priority"):
        runner.submit(touch, 1, priority="high")  # type: ignore[arg-type]

    waits = runner.submit(touch, 2)
    assert runner.stats().queued_tasks == 1
    held.release()
    assert waits.get(PATIENCE) == 2


@pytest.mark.parametrize("road", ["queue_task", "submit", "run_task"])
def test_a_time_out_that_is_no_number_is_refused(make_runner: MakeRunner, road: str) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1).start()
    held = HeldTask("held")
    runner.submit(held)
    held.wait_begun()

    with pytest.raises(ValueError, match="nan"):
        getattr(runner, road)(touch, 1, timeout=float("nan"))
    held.release()


def test_attempts_that_compute_and_then_wait_leave_the_loop_its_polls(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=200, resource_pool_size=0, max_creating=200).start()
    loop = gevent.get_hub().loop
    begun = 0
    between: list[int] = [0]

    def compute_then_wait(_resource: LedgerResource) -> None:
        nonlocal begun
        begun += 1
        between[-1] += 1
        until = time.perf_counter() + 0.001
        while time.perf_counter() < until:
            pass
        gevent.sleep(0.3)

    polled = loop.check(ref=False)
    polled.start(lambda: between.append(0))
    tasks = [runner.submit(compute_then_wait) for _ in range(200)]
    gevent.joinall([gevent.spawn(task.wait, PATIENCE) for task in tasks])
    polled.stop()
    polled.close()

    assert begun == 200
    assert max(between) <= 64


def test_what_is_being_made_when_all_is_recycled_is_replaced(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.hold()
    runner = make_runner(**ONE)
    task = runner.submit(number_of)
    assert settles(lambda: ledger.creating.entered == 1, PATIENCE)

    runner.recycle()
    ledger.creating.release()

    assert task.get(PATIENCE) == 2
    assert settles(lambda: ledger.destroyed == 1, PATIENCE)


def test_each_of_two_who_start_is_told_that_it_failed(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail()
    ledger.creating.hold()
    runner = make_runner(worker_count=1, resource_pool_size=1)
    starting = [gevent.spawn(runner.start) for _ in range(2)]
    assert settles(lambda: ledger.creating.entered == 2, PATIENCE)
    ledger.creating.release()

    gevent.joinall(starting, timeout=PATIENCE)

    assert [type(one.exception) for one in starting] == [StartError, StartError]
