"""P5: a resource is never used by two at a time, nor handed on after an unhealthy or an unvouched interrupted use.

The ledger marks a resource unfit after such a use, and fails the test at its next one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import Runner
from gtasker.errors import TaskCancelledError, TaskTimeoutError
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Call, eventually, let_run, settled, whole, workers_of
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch

Use = Callable[[Runner[LedgerResource], Callable[[LedgerResource], Any]], Any]


def by_queue_task(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Use a resource as a task of a worker's."""
    return runner.queue_task_once(fn)


def by_run_task(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Use a resource at once."""
    return runner.run_task(fn)


def by_lease(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Use a resource in a block."""
    with runner.lease() as resource:
        return fn(resource)


every_road = pytest.mark.parametrize("use", [by_queue_task, by_run_task, by_lease])
direct_roads = pytest.mark.parametrize("use", [by_run_task, by_lease])


def number_of(resource: LedgerResource) -> int:
    """Return the resource's number, using it."""
    with resource.use():
        return resource.number


@every_road
def test_after_an_unhealthy_error_the_resource_is_destroyed(make_runner: MakeRunner, ledger: Ledger, use: Use) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    error = UnfitError("gone")
    used: list[LedgerResource] = []

    def fail(resource: LedgerResource) -> None:
        used.append(resource)
        with resource.use():
            raise error

    with pytest.raises(UnfitError) as caught:
        use(runner, fail)

    assert caught.value is error
    assert use(runner, number_of) == 2
    assert used[0].condition.value == "destroyed"


@every_road
def test_after_a_healthy_error_the_resource_is_kept(make_runner: MakeRunner, ledger: Ledger, use: Use) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            raise ValueError("the task's own")

    for _ in range(3):
        with pytest.raises(ValueError, match="the task's own"):
            use(runner, fail)

    assert use(runner, number_of) == 1
    assert ledger.created == 1


@every_road
@pytest.mark.parametrize("interruption", [gevent.GreenletExit, gevent.Timeout, BaseException])
def test_after_an_exception_that_is_none_the_resource_is_destroyed(
    make_runner: MakeRunner, ledger: Ledger, use: Use, interruption: type[BaseException]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            raise interruption

    with pytest.raises(interruption):
        use(runner, fail)

    assert use(runner, number_of) == 2
    assert ledger.destroyed == 1


@direct_roads
def test_a_caller_killed_in_mid_use_costs_the_resource(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, use: Use
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    held: HeldTask[str] = HeldTask("held")
    caller = call(use, runner, held)
    held.wait_begun()

    caller.greenlet.kill()

    assert use(runner, number_of) == 2


@direct_roads
def test_a_callers_own_timeout_in_mid_use_costs_the_resource(make_runner: MakeRunner, use: Use) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    held: HeldTask[str] = HeldTask("held")

    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        use(runner, held)

    assert use(runner, number_of) == 2


def test_a_cancelled_attempt_costs_the_resource(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    handle = runner.submit(held)
    held.wait_begun()

    assert handle.cancel()

    assert isinstance(settled(handle), TaskCancelledError)
    assert runner.queue_task(number_of) == 2


def test_an_attempt_that_timed_out_costs_the_resource(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, task_timeout=0.02)

    with pytest.raises(TaskTimeoutError):
        runner.queue_task(held)

    assert runner.queue_task(number_of) == 2


@every_road
def test_a_vouched_for_resource_is_kept(make_runner: MakeRunner, ledger: Ledger, use: Use) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, on_interrupt=ledger.vouch)

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            raise gevent.GreenletExit

    with pytest.raises(gevent.GreenletExit):
        use(runner, fail)

    assert use(runner, number_of) == 1
    assert ledger.vouching.entered == 1


@pytest.mark.parametrize("answer", [False, None, RuntimeError])
def test_an_unvouched_resource_is_destroyed(make_runner: MakeRunner, ledger: Ledger, answer: Any) -> None:
    def vouch(_resource: LedgerResource) -> Any:
        if answer is RuntimeError:
            raise RuntimeError("cannot tell")
        return answer

    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, on_interrupt=vouch)

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            raise gevent.GreenletExit

    with pytest.raises(gevent.GreenletExit):
        runner.run_task(fail)

    assert runner.queue_task(number_of) == 2


def test_the_voucher_is_not_asked_while_the_resource_is_in_use(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, on_interrupt=ledger.vouch)
    held: HeldTask[str] = HeldTask("held")
    tidied = Event()

    def work(resource: LedgerResource) -> None:
        with resource.use():
            try:
                held.wait_begun(1)
            finally:
                # A clean-up of the task's own, which takes a while and still uses the resource.
                tidied.wait()

    handle = runner.submit(work)
    eventually(lambda: runner.stats().busy_workers == 1)
    let_run()
    handle.cancel()
    let_run()
    assert ledger.vouching.entered == 0
    tidied.set()

    # The ledger reports a fault if `on_interrupt` came while the clean-up used the resource.
    assert runner.queue_task(number_of, timeout=10) == 1
    assert ledger.vouching.entered == 1


def test_a_task_tried_again_gets_a_resource_that_never_failed_it(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=3, resource_pool_size=0, max_retries=5)
    numbers: list[int] = []

    def fail_often(resource: LedgerResource) -> str:
        with resource.use():
            numbers.append(resource.number)
            if len(numbers) < 5:
                raise UnfitError
        return "fifth time"

    assert runner.queue_task(fail_often) == "fifth time"
    assert len(set(numbers)) == 5


def test_while_stopping_an_unfit_resource_is_replaced_too(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    numbers: list[int] = []

    def fail_first(resource: LedgerResource) -> str:
        with resource.use():
            numbers.append(resource.number)
            if len(numbers) < 3:
                raise UnfitError
        return "third time"

    runner.submit(held)
    held.wait_begun()
    handle = runner.submit(fail_first)
    stopping = gevent.spawn(runner.stop)
    gevent.sleep(0)
    held.release()

    assert handle.get(timeout=10) == "third time"
    assert len(set(numbers)) == 3
    stopping.get(timeout=10)


def test_check_health_that_raises_counts_as_unhealthy(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.judging.fail(ZeroDivisionError("no opinion"))
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            raise ValueError("the task's own")

    with pytest.raises(ValueError, match="the task's own"):
        runner.queue_task_once(fail)

    assert runner.queue_task(number_of) == 2


def test_two_never_use_one_resource_under_all_roads_at_once(make_runner: MakeRunner, ledger: Ledger) -> None:
    rng = random.Random(7)
    runner = make_runner(worker_count=2, resource_pool_size=2, max_resources=4, max_worker_count=2)

    def work(resource: LedgerResource) -> int:
        with resource.use():
            gevent.sleep(rng.choice([0, 0, 0.001]))
            return resource.number

    calls: list[Call[Any]] = []
    for _ in range(300):
        calls.append(Call(rng.choice([by_queue_task, by_run_task, by_lease]), runner, work))
        if rng.random() < 0.2:
            gevent.sleep(0)
    for one in calls:
        one.result()

    assert ledger.uses == 300
    assert ledger.created == 4
    assert whole(runner, 2, 2)


def test_a_resource_of_a_killed_worker_is_not_handed_on(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    (worker,) = workers_of(runner, 1)
    held: HeldTask[str] = HeldTask("held")
    handle = runner.submit(held)
    held.wait_begun()

    worker.kill(block=False)
    settled(handle)

    assert runner.queue_task(touch, "next", timeout=10) == "next"
    assert ledger.destroyed == 1
    assert ledger.created == 2


def test_a_discarded_lease_is_destroyed(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1)
    lease = runner.lease()

    with lease as resource:
        lease.discard()
        assert resource.condition.value == "alive"

    eventually(lambda: resource.condition.value == "destroyed")
