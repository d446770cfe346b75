"""P7: `once=True` begins at most one attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gtasker import Runner, TaskState
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import eventually, let_run, settled, workers_of
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch


def by_submit(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Submit once."""
    return runner.submit(fn, once=True).get(timeout=10)


def by_queue_task(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Queue once."""
    return runner.queue_task(fn, once=True)


def by_queue_task_once(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Queue once, by name."""
    return runner.queue_task_once(fn)


def by_priority_once(runner: Runner[LedgerResource], fn: Callable[[LedgerResource], Any]) -> Any:
    """Queue once, by name, with priority."""
    return runner.queue_task_with_priority_once(fn)


@pytest.mark.parametrize("ask", [by_submit, by_queue_task, by_queue_task_once, by_priority_once])
def test_an_unhealthy_error_is_not_tried_again(
    make_runner: MakeRunner, ask: Callable[[Runner[LedgerResource], Callable[[LedgerResource], Any]], Any]
) -> None:
    runner = make_runner(worker_count=2, max_retries=5)
    begun: list[int] = []
    error = UnfitError("once")

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            begun.append(resource.number)
            raise error

    with pytest.raises(UnfitError) as caught:
        ask(runner, fail)
    let_run()

    assert caught.value is error
    assert len(begun) == 1


def test_without_once_the_same_task_is_tried_again(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=2, max_retries=5)
    begun: list[int] = []

    def fail_once(resource: LedgerResource) -> str:
        with resource.use():
            begun.append(resource.number)
            if len(begun) == 1:
                raise UnfitError
        return "second"

    assert runner.queue_task(fail_once) == "second"


def test_a_worker_killed_in_the_attempt_begins_no_other(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    (worker,) = workers_of(runner, 1)
    held: HeldTask[str] = HeldTask("held")
    handle = runner.submit(held, once=True)
    held.wait_begun()

    worker.kill(block=False)
    settled(handle)
    held.release()
    runner.stop()

    assert held.begun == 1
    assert handle.attempts == 1


def test_a_worker_killed_between_hand_over_and_begin_begins_at_most_one(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    (worker,) = workers_of(runner, 1)
    begun: list[int] = []

    handle = runner.submit(lambda _r: begun.append(1), once=True)
    worker.kill(block=False)
    settled(handle)
    runner.stop()

    assert len(begun) == handle.attempts
    assert handle.attempts <= 1
    assert (handle.state is TaskState.DONE) == (len(begun) == 1)


def test_a_task_whose_resource_fails_before_use_was_not_begun(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, check_resource=ledger.probe, check_idle=0)
    runner.start()
    for resource in ledger.live.values():
        resource.stale = True

    # A stale connection that a check finds is no attempt, so `once` may still have its one.
    assert runner.queue_task_once(touch, "ran once") == "ran once"
    assert ledger.created == 2


def test_a_once_task_whose_caller_left_begins_no_more(make_runner: MakeRunner, call: SpawnCall) -> None:
    runner = make_runner(worker_count=1)
    held: HeldTask[str] = HeldTask("held")
    caller = call(runner.queue_task_once, held)
    held.wait_begun()

    caller.greenlet.kill()
    held.release()
    eventually(lambda: runner.stats().busy_workers == 0)
    runner.stop()

    assert held.begun == 1
