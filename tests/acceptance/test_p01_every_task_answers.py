"""P1: every accepted task answers exactly once in its own process, whatever happens."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import Task, TaskState
from gtasker.errors import (
    GTaskerError,
    ResourceUnavailableError,
    RunnerKilledError,
    RunnerStoppedError,
    TaskCancelledError,
    TaskTimeoutError,
)
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Call, Stubborn, eventually, let_run, settled, workers_of
from tests.conftest import MakeRunner
from tests.ledger import CreateFailedError, HeldTask, Ledger, LedgerResource, UnfitError, touch


def test_a_kill_answers_what_runs_and_what_waits(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=2)
    handles = [runner.submit(held) for _ in range(10)]
    held.wait_begun(2)

    report = runner.kill()

    assert report.complete
    for handle in handles:
        assert handle.ready()
        assert isinstance(handle.exception, RunnerKilledError)
        with pytest.raises(RunnerKilledError):
            handle.get()


def test_a_kill_answers_callers_that_wait_in_queue_task(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1)
    callers = [call(runner.queue_task, held) for _ in range(5)]
    held.wait_begun(1)
    eventually(lambda: runner.stats().queued_tasks == 4)

    runner.kill()

    for caller in callers:
        assert isinstance(caller.failure(), RunnerKilledError)


def test_a_stop_finishes_every_accepted_task(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=2)
    first = [runner.submit(held) for _ in range(2)]
    rest = [runner.submit(touch, number) for number in range(50)]
    held.wait_begun(2)
    stopping = gevent.spawn(runner.stop)
    let_run()
    assert not stopping.ready()

    held.release()

    assert stopping.get(timeout=10).complete
    assert [handle.get(timeout=0) for handle in first] == ["held", "held"]
    assert [handle.get(timeout=0) for handle in rest] == list(range(50))


def test_a_stop_finishes_a_task_that_waits_out_its_retry_delay(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, retry_backoff=(0.05, 0.05))
    attempts: list[int] = []

    def fail_first(resource: LedgerResource) -> str:
        with resource.use():
            attempts.append(resource.number)
            if len(attempts) < 3:
                raise UnfitError
            return "third time"

    handle = runner.submit(fail_first)
    eventually(lambda: len(attempts) >= 1)

    runner.stop()

    assert handle.get(timeout=0) == "third time"
    assert len(set(attempts)) == 3


def test_setting_the_parent_context_finishes_every_accepted_task(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    parent = Event()
    runner = make_runner(worker_count=1, ctx=parent)
    handles = [runner.submit(held), *(runner.submit(touch, "held") for _ in range(5))]
    held.wait_begun()

    parent.set()
    let_run()
    with pytest.raises(RunnerStoppedError):
        runner.submit(touch, 1)
    held.release()

    assert [handle.get(timeout=10) for handle in handles] == ["held"] * 6
    assert runner.stop().complete


def test_a_worker_killed_at_work_answers_its_task(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    (worker,) = workers_of(runner, 1)
    held = HeldTask("held")
    handle = runner.submit(held)
    held.wait_begun()

    worker.kill(block=False)

    with pytest.raises((GTaskerError, gevent.GreenletExit)):
        handle.get(timeout=10)
    assert runner.queue_task(touch, "next", timeout=10) == "next"


def test_a_worker_killed_while_idle_loses_no_task(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    (worker,) = workers_of(runner, 1)

    worker.kill(block=False)
    handle = runner.submit(touch, "answer")

    assert handle.get(timeout=10) == "answer"


def test_a_worker_killed_between_hand_over_and_begin_loses_no_task(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    (worker,) = workers_of(runner, 1)

    handle = runner.submit(touch, "answer")
    worker.kill(block=False)

    settled(handle)
    assert handle.state in {TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED}
    assert runner.queue_task(touch, "next", timeout=10) == "next"


def test_a_caller_of_queue_task_is_answered_when_its_worker_is_killed(make_runner: MakeRunner, call: SpawnCall) -> None:
    runner = make_runner(worker_count=1)
    (worker,) = workers_of(runner, 1)
    held = HeldTask("held")
    caller = call(runner.queue_task, held)
    held.wait_begun()

    worker.kill(block=False)

    assert isinstance(caller.failure(), GTaskerError | gevent.GreenletExit)


def test_a_backend_that_never_comes_answers_with_the_last_error_of_on_create(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    refused = CreateFailedError("refused")
    ledger.creating.fail(refused)
    runner = make_runner(worker_count=1, fail_fast_after=0.05, create_backoff=(0.005, 0.01))

    waiting = [call(runner.queue_task, touch, 1), call(runner.run_task, touch, 1)]
    handle = runner.submit(touch, 1)

    for caller in waiting:
        error = caller.failure()
        assert isinstance(error, ResourceUnavailableError)
        assert error.__cause__ is refused
    with pytest.raises(ResourceUnavailableError):
        handle.get(timeout=10)


def test_a_runner_whose_backend_never_came_stops(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail()
    runner = make_runner(worker_count=2, fail_fast_after=0.05, create_backoff=(0.005, 0.01))
    handles = [runner.submit(touch, 1) for _ in range(5)]

    assert runner.stop().complete

    for handle in handles:
        assert isinstance(handle.exception, ResourceUnavailableError)


def test_a_killed_caller_withdraws_its_waiting_task(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    ran: list[int] = []

    def note(_resource: LedgerResource) -> None:
        ran.append(1)

    caller = call(runner.queue_task, note)
    eventually(lambda: runner.stats().queued_tasks == 1)

    caller.greenlet.kill()
    assert runner.stats().queued_tasks == 0
    held.release()
    runner.stop()

    assert ran == []
    assert isinstance(caller.error, gevent.GreenletExit)


def test_a_killed_caller_leaves_its_running_attempt_to_end_unheard(make_runner: MakeRunner, call: SpawnCall) -> None:
    runner = make_runner(worker_count=1)
    held = HeldTask("unheard")
    caller = call(runner.queue_task, held)
    held.wait_begun()

    caller.greenlet.kill()
    assert runner.stats().busy_workers == 1
    held.release()

    assert runner.queue_task(touch, "next", timeout=10) == "next"
    assert runner.metrics().total_tasks_completed == 2


@pytest.mark.parametrize("how", ["cancel", "time-out", "kill"])
def test_a_task_that_ends_after_it_was_answered_does_not_answer_again(
    make_runner: MakeRunner, stubborn: Stubborn, how: str
) -> None:
    runner = make_runner(worker_count=1)
    heard: list[Task[str]] = []
    handle = runner.submit(stubborn, timeout=0.05 if how == "time-out" else None)
    handle.add_done_callback(heard.append)
    stubborn.entered.wait(10)

    if how == "cancel":
        assert handle.cancel()
    elif how == "kill":
        runner.kill(timeout=0.01)
    with pytest.raises((TaskCancelledError, TaskTimeoutError)) as first:
        handle.get(timeout=10)
    stubborn.let_go()
    let_run()

    with pytest.raises((TaskCancelledError, TaskTimeoutError)) as second:
        handle.get(timeout=0)
    assert second.value is first.value
    assert heard == [handle]


def test_a_kill_before_the_first_turn_of_the_loop_answers(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=2)
    handles = [runner.submit(touch, number) for number in range(10)]

    runner.kill()

    assert all(handle.ready() for handle in handles)
    for handle in handles:
        assert handle.state in {TaskState.DONE, TaskState.CANCELLED}


def test_a_kill_of_a_paused_runner_answers(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    runner.pause()
    handles = [runner.submit(touch, number) for number in range(5)]

    runner.kill()

    assert [type(handle.exception) for handle in handles] == [RunnerKilledError] * 5


def test_a_stop_of_a_paused_runner_finishes_its_tasks(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    runner.pause()
    handles = [runner.submit(touch, number) for number in range(5)]

    assert runner.stop().complete

    assert [handle.get(timeout=0) for handle in handles] == list(range(5))


def test_a_kill_from_inside_a_task_answers_all(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    reports: list[Any] = []

    def end_it(resource: LedgerResource) -> None:
        with resource.use():
            reports.append(runner.kill())
            gevent.sleep(60)

    handles: list[Task[Any]] = [runner.submit(end_it), *(runner.submit(touch, 1) for _ in range(3))]

    assert [type(settled(handle)) for handle in handles] == [RunnerKilledError] * 4
    assert not reports[0].complete
    assert runner.kill().complete


def test_every_call_that_races_with_stop_answers(make_runner: MakeRunner, call: SpawnCall) -> None:
    runner = make_runner(worker_count=3)
    answered = Counter[str]()

    def keep_calling(number: int) -> None:
        while True:
            try:
                assert runner.queue_task(step, number) == number
                answered["value"] += 1
            except RunnerStoppedError:
                answered["stopped"] += 1
                return

    def step(resource: LedgerResource, number: int) -> int:
        with resource.use():
            gevent.sleep(0)
            return number

    callers = [call(keep_calling, number) for number in range(20)]
    eventually(lambda: answered["value"] > 100)

    assert runner.stop().complete

    for caller in callers:
        caller.result()
    assert answered["stopped"] == 20


def test_a_kill_at_the_deadline_of_stop_answers_what_is_left(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    handles = [runner.submit(held) for _ in range(4)]
    held.wait_begun()

    report = runner.stop(timeout=0.05)

    assert report.complete
    assert [type(handle.exception) for handle in handles] == [RunnerKilledError] * 4


@pytest.mark.parametrize("seed", range(6))
def test_in_a_storm_of_everything_each_task_answers_once(make_runner: MakeRunner, ledger: Ledger, seed: int) -> None:
    rng = random.Random(seed)
    runner = make_runner(
        worker_count=3,
        burst_task_threshold=5,
        burst_interval=0.005,
        max_retries=2,
        create_backoff=(0.001, 0.005),
        retry_backoff=(0.0, 0.005),
    )
    heard = Counter[int]()
    handles: list[Task[Any]] = []
    callers: list[Call[Any]] = []

    def storm(resource: LedgerResource, roll: float) -> float:
        with resource.use():
            gevent.sleep(roll * 0.004)
            if roll < 0.15:
                raise ValueError(roll)
            if roll < 0.3:
                raise UnfitError(roll)
            if roll < 0.35:
                raise gevent.GreenletExit
        return roll

    for _ in range(300):
        roll = rng.random()
        kind = rng.randrange(4)
        if kind == 0:
            callers.append(Call(runner.queue_task, storm, roll))
        elif kind == 1:
            callers.append(Call(runner.run_task, storm, roll))
        else:
            timeout = rng.choice([None, None, 0.002, 0.02])
            handle = runner.submit(storm, roll, timeout=timeout, priority=rng.randrange(30))
            handle.add_done_callback(lambda task: heard.update([id(task)]))
            handles.append(handle)
        if rng.random() < 0.1:
            rng.choice(handles or [runner.submit(touch, 0)]).cancel()
        if callers and rng.random() < 0.1:
            rng.choice(callers).greenlet.kill(block=False)
        if rng.random() < 0.03:
            ledger.creating.fail(times=2)
        if rng.random() < 0.2:
            gevent.sleep(rng.random() * 0.004)

    if seed % 2:
        assert runner.stop().complete
    else:
        assert runner.kill().complete

    for caller in callers:
        caller.join()
    assert all(handle.ready() for handle in handles)
    let_run()
    assert heard == Counter(id(handle) for handle in handles)
