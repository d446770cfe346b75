"""Time-outs: what each one bounds, what it answers, and whom it leaves alone."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import TaskState
from gtasker.errors import AcquireTimeoutError, TaskError, TaskTimeoutError
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Stubborn, eventually, let_run, reached, settled, whole
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch


def test_a_task_that_times_out_in_the_backlog_never_runs(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    ran: list[int] = []

    handle = runner.submit(lambda _resource: ran.append(1), timeout=0.01)

    assert isinstance(settled(handle), TaskTimeoutError)
    assert runner.stats().queued_tasks == 0
    assert handle.attempts == 0
    held.release()
    runner.stop()
    assert ran == []


def test_a_task_that_times_out_at_work_is_interrupted(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    ended = Event()

    def slow(resource: LedgerResource) -> None:
        try:
            with resource.use():
                gevent.sleep(60)
        finally:
            ended.set()

    handle = runner.submit(slow, timeout=0.02)

    assert isinstance(settled(handle), TaskTimeoutError)
    reached(ended, "the end of the interrupted attempt")
    eventually(lambda: ledger.destroyed == 1)
    eventually(lambda: whole(runner, 1, 0))


def test_a_task_timeout_is_a_timeout_error_and_no_gevent_timeout(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)

    with pytest.raises(TimeoutError) as caught:
        runner.queue_task(held, timeout=0.01)

    assert isinstance(caught.value, TaskTimeoutError)
    assert isinstance(caught.value, TaskError)
    assert not isinstance(caught.value, gevent.Timeout)


@pytest.mark.parametrize("road", ["queue_task", "submit"])
def test_the_answer_comes_at_once_even_if_the_task_is_deaf(
    make_runner: MakeRunner, stubborn: Stubborn, road: str
) -> None:
    runner = make_runner(worker_count=1)

    if road == "queue_task":
        with pytest.raises(TaskTimeoutError):
            runner.queue_task(stubborn, timeout=0.02)
    else:
        assert isinstance(settled(runner.submit(stubborn, timeout=0.02)), TaskTimeoutError)

    assert stubborn.resource is not None
    assert stubborn.resource.user is not None


def test_what_a_timed_out_task_returns_later_is_ignored(make_runner: MakeRunner, stubborn: Stubborn) -> None:
    runner = make_runner(worker_count=1)
    handle = runner.submit(stubborn, timeout=0.02)
    error = settled(handle)

    stubborn.let_go()
    let_run()

    assert handle.exception is error
    assert handle.value is None
    assert handle.state is TaskState.FAILED


def test_the_timeout_counts_waiting_and_all_attempts(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, max_retries=1_000_000)
    begun: list[int] = []

    def unfit(resource: LedgerResource) -> None:
        with resource.use():
            begun.append(1)
            gevent.sleep(0.005)
            raise UnfitError

    assert isinstance(settled(runner.submit(unfit, timeout=0.05)), TaskTimeoutError)
    seen = len(begun)
    let_run()

    assert 1 <= len(begun) <= seen + 1


def test_the_timeout_ends_the_wait_between_attempts(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, retry_backoff=(1000.0, 1000.0))

    def unfit(resource: LedgerResource) -> None:
        with resource.use():
            raise UnfitError

    handles = [runner.submit(unfit, timeout=0.1) for _ in range(5)]

    assert all(isinstance(settled(handle), TaskTimeoutError) for handle in handles)
    assert runner.stats().delayed_tasks == 0


def test_the_timeout_counts_the_wait_for_room_in_the_backlog(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, max_queued=1)
    runner.submit(held)
    held.wait_begun()
    runner.submit(touch, 1)

    with pytest.raises(TaskTimeoutError):
        runner.queue_task(touch, 2, timeout=0.02)
    held.release()


def test_the_timeout_counts_while_the_backend_is_down(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail()
    runner = make_runner(worker_count=1, create_backoff=(0.005, 0.01))

    assert isinstance(settled(runner.submit(touch, 1, timeout=0.03)), TaskTimeoutError)


def test_the_timeout_counts_while_paused(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1).start()
    runner.pause()

    assert isinstance(settled(runner.submit(touch, 1, timeout=0.02)), TaskTimeoutError)
    assert runner.stats().queued_tasks == 0


def test_a_task_that_ends_in_time_is_not_touched_by_its_timer(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    assert runner.queue_task(touch, "in time", timeout=0.03) == "in time"

    def slow(resource: LedgerResource) -> str:
        with resource.use():
            gevent.sleep(0.06)
        return "unhurt"

    # The same worker is at another task when the first one's time would have been up.
    assert runner.queue_task(slow) == "unhurt"


def test_task_timeout_bounds_one_attempt(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, task_timeout=0.02, max_retries=5)
    handle = runner.submit(held)

    assert isinstance(settled(handle), TaskTimeoutError)
    assert handle.attempts == 1
    let_run()
    assert held.begun == 1
    eventually(lambda: whole(runner, 1, 0))


def test_task_timeout_does_not_count_waiting(make_runner: MakeRunner, held: HeldTask[str], call: SpawnCall) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, task_timeout=0.05)
    lent = call(runner.run_task, held)
    held.wait_begun()
    handle = runner.submit(touch, "in time")
    gevent.sleep(0.1)
    assert not handle.ready()

    held.release()

    lent.join()
    assert handle.get(timeout=10) == "in time"


def test_task_timeout_and_timeout_whichever_comes_first(make_runner: MakeRunner) -> None:
    held: HeldTask[str] = HeldTask("held")
    short = make_runner(worker_count=1, task_timeout=0.02)
    long = make_runner(worker_count=1, task_timeout=1000)

    assert isinstance(settled(short.submit(held, timeout=1000)), TaskTimeoutError)
    assert isinstance(settled(long.submit(held, timeout=0.02)), TaskTimeoutError)


def test_a_timed_out_task_is_not_tried_again_even_if_called_unhealthy(make_runner: MakeRunner) -> None:
    judged: list[BaseException] = []

    def judge(error: BaseException) -> bool:
        judged.append(error)
        return False

    held: HeldTask[str] = HeldTask("held")
    runner = make_runner(worker_count=1, task_timeout=0.02, check_health=judge, max_retries=3)

    assert isinstance(settled(runner.submit(held)), TaskTimeoutError)
    let_run()

    assert held.begun == 1
    assert judged == [], "errors of ours never reach check_health"


def test_timeouts_of_neighbours_do_not_mix(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=4)

    def sleep(resource: LedgerResource, seconds: float) -> float:
        with resource.use():
            gevent.sleep(seconds)
        return seconds

    quick = [runner.submit(sleep, 0.001, timeout=20.0) for _ in range(40)]
    slow = [runner.submit(sleep, 60.0, timeout=0.01) for _ in range(20)]

    assert [handle.get(timeout=10) for handle in quick] == [0.001] * 40
    assert all(isinstance(settled(handle), TaskTimeoutError) for handle in slow)
    eventually(lambda: whole(runner, 4, 4))


@pytest.mark.parametrize("timeout", [0, 0.0])
def test_a_timeout_of_nothing_answers_soon(make_runner: MakeRunner, timeout: float, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()

    assert isinstance(settled(runner.submit(touch, 1, timeout=timeout)), TaskTimeoutError)


def test_the_default_acquire_timeout_bounds_lease_and_run_task(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, acquire_timeout=0.02)
    runner.submit(held)
    held.wait_begun()

    def lend() -> None:
        with runner.lease():
            raise AssertionError("there is none")

    assert isinstance(call(lend).failure(), AcquireTimeoutError)
    assert isinstance(call(runner.run_task, touch, 1).failure(), AcquireTimeoutError)


def test_a_timeout_in_the_call_overrides_acquire_timeout(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, acquire_timeout=0.01)
    runner.submit(held)
    held.wait_begun()

    patient = call(runner.run_task, touch, "served", timeout=10)
    gevent.sleep(0.03)
    assert not patient.ended

    held.release()
    assert patient.result() == "served"


def test_the_acquire_timeout_includes_creation(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.hold()
    runner = make_runner(worker_count=1, resource_pool_size=0, acquire_timeout=0.02)

    with pytest.raises(AcquireTimeoutError):
        runner.run_task(touch, 1)

    ledger.creating.release()


def test_the_acquire_timeout_includes_checks(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(
        worker_count=1, resource_pool_size=1, max_resources=2, check_resource=ledger.probe, check_idle=0.0
    ).start()
    ledger.probing.hold()

    with pytest.raises(AcquireTimeoutError):
        runner.run_task(touch, 1, timeout=0.02)

    ledger.probing.release()
    eventually(lambda: whole(runner, 1, 1))


def test_an_acquire_timeout_is_a_timeout_error(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.submit(held)
    held.wait_begun()

    with pytest.raises(TimeoutError):
        runner.run_task(touch, 1, timeout=0.01)
    held.release()


def test_a_run_whose_caller_was_late_does_not_lose_the_resource(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    first = runner.submit(held)
    held.wait_begun()
    callers: list[Any] = [call(runner.run_task, touch, "served", timeout=0.02) for _ in range(10)]
    gevent.sleep(0.015)

    # Now some time out and some are served, about the same moment.
    held.release()
    first.get(timeout=10)
    for caller in callers:
        caller.join()

    assert all(caller.value == "served" or isinstance(caller.error, AcquireTimeoutError) for caller in callers)
    eventually(lambda: whole(runner, 1, 0))
