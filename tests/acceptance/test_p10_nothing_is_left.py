"""P10: after `stop` / `kill` no greenlet, timer, watcher or resource of the runner is left, but abandoned ones.

The suite's own check looks once more at each test's end; here it is asked at the moment the shutdown returned.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import Runner, State
from gtasker.errors import StartError
from tests._env import survey
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Stubborn, eventually, let_run
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch


def busy_options(ledger: Ledger) -> dict[str, Any]:
    """Turn on everything that keeps a timer or a greenlet."""
    return {
        "worker_count": 3,
        "resource_pool_size": 2,
        "burst_task_threshold": 2,
        "burst_interval": 0.005,
        "check_resource": ledger.probe,
        "check_idle": 0.01,
        "keepalive": 0.01,
        "max_lifetime": 0.05,
        "max_idle": 0.01,
        "leak_warning": 0.01,
        "hub_blocked_after": 0.2,
        "retry_backoff": (0.01, 0.02),
        "task_timeout": 5.0,
        "reset": ledger.reset,
        "on_event": lambda _event: None,
        "fail_fast_after": 1.0,
        "ctx": Event(),
    }


def some_work(runner: Runner[LedgerResource]) -> None:
    """Use each road once and leave some of it under way."""

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            raise UnfitError

    def slow(resource: LedgerResource) -> None:
        with resource.use():
            gevent.sleep(0.005)

    for _ in range(10):
        runner.submit(slow, timeout=5)
    runner.submit(fail, callback=lambda _task: None)
    runner.run_task(touch, 1)
    with runner.lease() as resource:
        touch(resource, 1)
    gevent.sleep(0.01)


def new_since(before: list[Any]) -> list[Any]:
    """Everything that lives now and did not then."""
    known = {id(one) for one in before}
    return [one for one in survey() if id(one) not in known]


@pytest.mark.parametrize("end", ["stop", "kill", "stop with a deadline", "with"])
def test_nothing_is_left_when_the_shutdown_returns(make_runner: MakeRunner, ledger: Ledger, end: str) -> None:
    before = survey()
    runner = make_runner(**busy_options(ledger))
    if end == "with":
        with runner:
            some_work(runner)
        complete = True
    else:
        some_work(runner)
        report = {
            "stop": runner.stop,
            "kill": runner.kill,
            "stop with a deadline": lambda: runner.stop(timeout=0.01),
        }[end]()
        complete = report.complete

    assert complete
    # One turn for what had been told to end and is on its way out.
    gevent.sleep(0)
    assert new_since(before) == []
    assert ledger.existing == 0


def test_nothing_is_left_of_a_runner_never_started(make_runner: MakeRunner, ledger: Ledger) -> None:
    before = survey()

    runner = make_runner(**busy_options(ledger))
    assert new_since(before) == []

    assert runner.stop().complete
    assert new_since(before) == []
    assert ledger.created == 0


def test_nothing_is_left_after_a_start_error(make_runner: MakeRunner, ledger: Ledger) -> None:
    before = survey()
    ledger.creating.fail()
    runner = make_runner(**busy_options(ledger))

    with pytest.raises(StartError):
        runner.start()
    gevent.sleep(0)

    assert new_since(before) == []


def test_nothing_is_left_when_the_parent_context_was_set(make_runner: MakeRunner, ledger: Ledger) -> None:
    before = survey()
    parent = Event()
    runner = make_runner(**{**busy_options(ledger), "ctx": parent})
    some_work(runner)

    parent.set()

    eventually(lambda: runner.state is State.CLOSED)
    let_run(2)
    assert new_since(before) == []


def test_nothing_is_left_after_an_outage(make_runner: MakeRunner, ledger: Ledger) -> None:
    before = survey()
    ledger.creating.fail()
    runner = make_runner(**busy_options(ledger))
    runner.submit(touch, 1)
    ledger.creating.wait_entered(2)

    runner.kill()
    gevent.sleep(0)

    assert new_since(before) == []


def test_an_abandoned_task_is_all_that_is_left(make_runner: MakeRunner, ledger: Ledger, stubborn: Stubborn) -> None:
    before = survey()
    runner = make_runner(**busy_options(ledger))
    runner.submit(stubborn)
    stubborn.entered.wait(10)

    report = runner.kill(timeout=0.02)
    gevent.sleep(0)

    assert report.abandoned == 1
    assert len(new_since(before)) <= 2  # the greenlet, and a timer if it sits in one
    stubborn.let_go()
    let_run()
    assert new_since(before) == []
    ledger.abandoned = ledger.existing


def test_a_closed_runner_that_is_let_go_is_collected(ledger: Ledger) -> None:
    runner: Runner[LedgerResource] | None = Runner(worker_count=2, **ledger.options())
    assert runner is not None
    runner.queue_task(touch, 1)
    runner.stop()
    # One turn for what had been told to end and is on its way out.
    gevent.sleep(0)
    gone = weakref.ref(runner)

    runner = None
    gc.collect()

    assert gone() is None


def test_a_runner_never_started_that_is_let_go_is_collected(ledger: Ledger) -> None:
    runner: Runner[LedgerResource] | None = Runner(worker_count=2, ctx=Event(), **ledger.options())
    assert runner is not None
    gone = weakref.ref(runner)

    runner = None
    gc.collect()

    assert gone() is None


def test_many_runners_one_after_another_leave_nothing(ledger: Ledger) -> None:
    before = survey()
    for _ in range(30):
        runner: Runner[LedgerResource] = Runner(worker_count=2, **ledger.options())
        with runner:
            runner.queue_task(touch, 1)
    gevent.sleep(0)

    assert new_since(before) == []


def test_callbacks_have_run_when_stop_returns(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    heard: list[int] = []

    def slow_callback(_task: Any) -> None:
        gevent.sleep(0.01)
        heard.append(1)

    for _ in range(5):
        runner.submit(touch, 1, callback=slow_callback)

    runner.stop()

    assert heard == [1] * 5


@pytest.mark.parametrize("ask", ["lease", "run_task"])
def test_timers_do_not_pile_up_with_resources_that_came_in_time(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str], ask: str
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.start()
    before = survey()

    def lend() -> None:
        with runner.lease(timeout=5):
            pass

    fns: dict[str, Callable[[], Any]] = {"lease": lend, "run_task": lambda: runner.run_task(touch, 1, timeout=5)}
    handle = runner.submit(held)
    held.wait_begun()
    callers = [call(fns[ask]) for _ in range(50)]
    eventually(lambda: runner.stats().waiting_leases == 50)
    held.release()
    for caller in callers:
        caller.result()
    handle.get(timeout=10)
    let_run(2)

    # One alarm for all of them may still be set.
    assert len(new_since(before)) <= 1
