"""P9: a task that raises anything ends its own attempt only."""

from __future__ import annotations

import gc
import logging
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import Runner
from gtasker.errors import TaskCancelledError
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import eventually, let_run, settled, whole
from tests.conftest import MakeRunner
from tests.ledger import Ledger, LedgerResource, touch


class OddError(BaseException):
    """Neither an error nor a kill."""


ERRORS = [
    ValueError("plain"),
    StopIteration("stop"),
    StopAsyncIteration("stop"),
    GeneratorExit(),
    AssertionError("assert"),
    KeyError(object()),
    MemoryError(),
    RecursionError(),
    OddError("odd"),
    gevent.GreenletExit("self-kill"),
    gevent.Timeout(),
    SystemExit(3),
    TaskCancelledError("raised by the task itself"),
    TimeoutError("the task's own"),
]


def name(error: BaseException) -> str:
    """Name a parameter by its error's class."""
    return type(error).__name__


def raises(resource: LedgerResource, error: BaseException) -> None:
    """Raise `error` while using the resource."""
    with resource.use():
        raise error


@pytest.mark.parametrize("error", ERRORS, ids=name)
def test_queue_task_raises_the_tasks_own_object(make_runner: MakeRunner, error: BaseException) -> None:
    runner = make_runner(worker_count=1)

    with pytest.raises(type(error)) as caught:
        runner.queue_task(raises, error)

    assert caught.value is error
    assert runner.queue_task(touch, "next") == "next"


@pytest.mark.parametrize("error", ERRORS, ids=name)
def test_a_handle_holds_the_tasks_own_object(make_runner: MakeRunner, error: BaseException) -> None:
    runner = make_runner(worker_count=1)

    handle = runner.submit(raises, error)

    assert settled(handle) is error
    assert not handle.successful()
    assert runner.queue_task(touch, "next") == "next"


@pytest.mark.parametrize("error", ERRORS, ids=name)
def test_run_task_raises_the_tasks_own_object(make_runner: MakeRunner, error: BaseException) -> None:
    runner = make_runner(worker_count=1)

    with pytest.raises(type(error)) as caught:
        runner.run_task(raises, error)

    assert caught.value is error
    assert runner.run_task(touch, "next") == "next"


@pytest.mark.parametrize("error", ERRORS, ids=name)
def test_a_lease_lets_the_blocks_own_object_through(make_runner: MakeRunner, error: BaseException) -> None:
    runner = make_runner(worker_count=1)

    with pytest.raises(type(error)) as caught, runner.lease() as resource:
        raises(resource, error)

    assert caught.value is error


@pytest.mark.parametrize("error", ERRORS, ids=name)
def test_the_neighbours_of_a_failing_task_go_on(make_runner: MakeRunner, error: BaseException) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=1)
    door = Event()

    def wait(resource: LedgerResource) -> str:
        with resource.use():
            door.wait()
        return "unharmed"

    neighbour = runner.submit(wait)
    behind: list[Any] = [runner.submit(raises, error), *(runner.submit(touch, 1) for _ in range(3))]
    assert settled(behind[0]) is error
    assert [settled(handle) for handle in behind[1:]] == [None] * 3
    assert not neighbour.ready()

    door.set()
    assert neighbour.get(timeout=10) == "unharmed"
    eventually(lambda: whole(runner, 2, 1))


def test_the_callers_traceback_shows_the_line_that_raised(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    with pytest.raises(ValueError, match="deep") as caught:
        runner.queue_task(raises, ValueError("deep"))

    assert any(entry.name == "raises" for entry in caught.traceback)


def test_a_system_exit_goes_to_the_caller_alone(make_runner: MakeRunner, call: SpawnCall) -> None:
    runner = make_runner(worker_count=1)
    error = SystemExit(7)

    caller = call(runner.queue_task, raises, error)
    handle = runner.submit(raises, error)

    # Reached the main greenlet, it would end this very test.
    assert caller.failure() is error
    assert settled(handle) is error
    let_run()
    assert runner.queue_task(touch, "next") == "next"


def test_a_keyboard_interrupt_goes_to_the_caller_and_once_to_the_main_greenlet(
    make_runner: MakeRunner, call: SpawnCall
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    runner.start()
    error = KeyboardInterrupt()

    caller = call(runner.queue_task, raises, error)
    heard = 0
    for _ in range(5):
        try:
            gevent.sleep(0.01)
        except KeyboardInterrupt:
            heard += 1

    assert heard == 1
    assert caller.failure() is error
    assert runner.queue_task(touch, "next") == "next"


def test_a_keyboard_interrupt_in_a_handle_reaches_the_main_greenlet(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    runner.start()
    error = KeyboardInterrupt()

    handle = runner.submit(raises, error)
    heard = 0
    for _ in range(5):
        try:
            gevent.sleep(0.01)
        except KeyboardInterrupt:
            heard += 1

    assert heard == 1
    assert handle.exception is error


def test_a_timer_left_armed_by_a_task_that_ended_in_time_does_not_hurt_the_runner(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    timers: list[gevent.Timeout] = []

    def leave_armed(resource: LedgerResource) -> str:
        timers.append(gevent.Timeout.start_new(0.01))
        with resource.use():
            return "done"

    assert runner.queue_task(leave_armed) == "done"
    gevent.sleep(0.03)

    assert runner.queue_task(touch, "next", timeout=10) == "next"
    timers[0].close()


def test_an_idle_worker_survives_what_is_thrown_into_it(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    me: list[Any] = []

    def serve(_resource: LedgerResource) -> str:
        me.append(gevent.getcurrent())
        return "served"

    runner.queue_task(serve)

    for error in (ValueError("stray"), OddError("stray"), gevent.GreenletExit(), SystemExit(1)):
        if not me[-1].dead:
            me[-1].kill(error, block=False)
            let_run()
        assert runner.queue_task(serve, timeout=10) == "served"

    eventually(lambda: whole(runner, 1, 0))


def test_a_user_timer_thrown_into_a_task_is_the_tasks_own_error(make_runner: MakeRunner) -> None:
    class SlowBackendError(Exception):
        pass

    seen: list[BaseException] = []

    def judge(error: BaseException) -> bool:
        seen.append(error)
        return not isinstance(error, SlowBackendError)

    runner = make_runner(worker_count=1, resource_pool_size=0, check_health=judge, max_retries=0)

    def slow(resource: LedgerResource) -> None:
        with gevent.Timeout(0.01, SlowBackendError), resource.use():
            gevent.sleep(60)

    def number(resource: LedgerResource) -> int:
        return resource.number

    with pytest.raises(SlowBackendError):
        runner.queue_task(slow)

    assert [type(error) for error in seen] == [SlowBackendError]
    assert runner.queue_task(number) == 2


def test_a_failed_task_nobody_looks_at_is_logged_once(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    # Not the fixture's runner: that one keeps every handle.
    runner: Runner[LedgerResource] = Runner(worker_count=1, **ledger.options())

    with caplog.at_level(logging.DEBUG, "gtasker"):
        runner.submit(raises, ValueError("nobody looked"))
        looked_at = runner.submit(raises, ValueError("somebody looked"))
        settled(looked_at)
        runner.stop()
        eventually(lambda: "nobody looked" in caplog.text)

    said = [record for record in caplog.records if "nobody looked" in (record.getMessage() + str(record.exc_info))]
    assert len(said) == 1
    assert "somebody looked" not in caplog.text


@pytest.mark.parametrize("how", ["cancel", "purge", "kill"])
def test_a_withdrawn_task_nobody_looks_at_is_no_failed_one(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    runner: Runner[LedgerResource] = Runner(worker_count=1, name=f"withdraws by {how}", **ledger.options())
    door = Event()

    with caplog.at_level(logging.WARNING, "gtasker"):
        runner.submit(lambda _resource: door.wait())
        handles = [runner.submit(touch, 1) for _ in range(20)]
        while handles:
            handle = handles.pop()
            if how == "cancel":
                handle.cancel()
            del handle
        if how == "purge":
            assert runner.purge() >= 20
        if how == "kill":
            runner.kill()
        door.set()
        runner.stop()
        gc.collect()
        let_run()

    # The collection may bring out what the handles of other tests had to say.
    said = [record.getMessage() for record in caplog.records if f"withdraws by {how}" in record.getMessage()]
    assert not any("touch" in line for line in said), said


@pytest.mark.parametrize("how", ["get", "exception", "callback", "done callback", "gevent.wait"])
def test_a_failed_task_somebody_looked_at_is_not_logged(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    runner: Runner[LedgerResource] = Runner(worker_count=1, name=f"looks by {how}", **ledger.options())
    heard: list[Any] = []

    def look(task: Any) -> None:
        heard.append(task.exception)

    with caplog.at_level(logging.DEBUG, "gtasker"):
        handle = runner.submit(raises, ValueError("own"), callback=look if how == "callback" else None)
        if how == "get":
            with pytest.raises(ValueError, match="own"):
                handle.get(timeout=10)
        elif how == "exception":
            settled(handle)
        elif how == "done callback":
            handle.add_done_callback(look)
        elif how == "gevent.wait":
            look(*gevent.wait([handle], timeout=10))
        del handle
        if "callback" in how:
            eventually(lambda: heard)
        heard.clear()
        runner.stop()
        gc.collect()
        let_run()

    said = [record.getMessage() for record in caplog.records if f"looks by {how}" in record.getMessage()]
    assert not any("nobody looked" in line for line in said), said
