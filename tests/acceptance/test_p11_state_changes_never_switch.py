"""P11: state changes never switch; nothing but user code, I/O and the documented waits ever blocks the hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from gtasker import Priority, Runner, TaskState
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import eventually, in_hub, no_switch
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, touch

R = Runner[LedgerResource]

STATE_CHANGES: dict[str, Callable[[R], object]] = {
    "submit": lambda runner: runner.submit(touch, 1),
    "submit with all": lambda runner: runner.submit(
        touch, 1, priority=Priority.HIGH, once=True, timeout=5, key="k", callback=lambda _task: None
    ),
    "pause": lambda runner: runner.pause(),
    "resume": lambda runner: runner.resume(),
    "resize": lambda runner: runner.resize(worker_count=3, max_worker_count=4, resource_pool_size=1, max_resources=9),
    "shrink": lambda runner: runner.resize(worker_count=1),
    "recycle": lambda runner: runner.recycle(),
    "purge": lambda runner: runner.purge(),
    "stats": lambda runner: runner.stats(),
    "metrics": lambda runner: runner.metrics(),
    "leases": lambda runner: runner.leases(),
    "repr": repr,
    "state": lambda runner: runner.state,
    "lease": lambda runner: runner.lease(),
}


@pytest.mark.parametrize("change", STATE_CHANGES)
def test_on_a_busy_runner(make_runner: MakeRunner, held: HeldTask[str], change: str) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=2)
    for _ in range(4):
        runner.submit(held)
    held.wait_begun(2)

    with no_switch():
        STATE_CHANGES[change](runner)


@pytest.mark.parametrize("change", STATE_CHANGES)
def test_on_an_idle_runner(make_runner: MakeRunner, change: str) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=2).start()

    with no_switch():
        STATE_CHANGES[change](runner)


@pytest.mark.parametrize("change", STATE_CHANGES)
def test_on_a_runner_not_begun(make_runner: MakeRunner, change: str) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=2)

    with no_switch():
        STATE_CHANGES[change](runner)


@pytest.mark.parametrize("change", [one for one in STATE_CHANGES if one != "lease"])
def test_in_the_hub(make_runner: MakeRunner, change: str) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=2).start()

    in_hub(lambda: STATE_CHANGES[change](runner))


def test_the_handles_of_tasks(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    running = runner.submit(held)
    held.wait_begun()
    waiting = runner.submit(touch, 1)
    urgent = runner.submit(touch, 2, priority=Priority.HIGH)

    def link(_task: Any) -> None:
        """Do nothing."""

    with no_switch():
        assert not running.ready()
        running.add_done_callback(link)
        running.rawlink(link)
        running.unlink(link)
        assert waiting.state is TaskState.QUEUED
        assert waiting.attempts == 0
        assert waiting.cancel()
        assert running.cancel()
        assert urgent.cancel()
        assert repr(urgent)


def test_giving_a_lease_back(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, reset=ledger.reset).start()
    lease = runner.lease()
    lease.__enter__()

    with no_switch():
        lease.__exit__(None, None, None)


def test_taking_a_lease_that_is_there(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()

    with no_switch(), runner.lease():
        pass


def test_a_run_task_with_a_resource_at_hand(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()

    with no_switch():
        assert runner.run_task(touch, "at once") == "at once"


def test_giving_back_by_an_error_does_not_wait_for_the_destroy(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, on_interrupt=ledger.vouch).start()
    ledger.destroying.hold()
    ledger.vouching.hold()

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            raise gevent.GreenletExit

    with no_switch(), pytest.raises(gevent.GreenletExit):
        runner.run_task(fail)

    ledger.destroying.release()
    ledger.vouching.release()


def test_a_caller_has_its_answer_before_the_reset(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, reset=ledger.reset).start()
    ledger.resetting.hold()

    assert runner.queue_task(touch, "answer") == "answer"
    assert ledger.resetting.left == 0

    ledger.resetting.release()
    eventually(lambda: ledger.resetting.left == 1)


def test_a_slow_create_holds_up_nobody_but_who_waits_for_it(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=0, max_retries=0).start()
    ledger.creating.hold()
    runner.resize(worker_count=3)
    ledger.creating.wait_entered(3)

    assert [runner.queue_task(touch, number) for number in range(50)] == list(range(50))

    ledger.creating.release()
