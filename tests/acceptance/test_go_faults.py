"""The faults of the Go original that a caller can see: each test is named for what must happen instead.

Faults that another file covers by its promise are not repeated; the docstring tells which fault it is.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import Config, Priority, State
from gtasker.errors import MaxRetriesExceededError, RunnerKilledError, RunnerStoppedError, StartError, TaskError
from tests._env import living_greenlets
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import eventually, let_run, settled, whole
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch


def unfit(resource: LedgerResource) -> None:
    """Fail, the resource being unfit."""
    with resource.use():
        raise UnfitError


def test_01_unhealthy_workers_are_replaced(make_runner: MakeRunner, call: SpawnCall) -> None:
    """Two workers, one bad task: there, the workers went from two to none and later good tasks hung."""
    runner = make_runner(worker_count=2, resource_pool_size=0, max_retries=3).start()

    bad = runner.submit(unfit)
    good = [call(runner.queue_task, touch, number) for number in range(10)]

    assert isinstance(settled(bad), MaxRetriesExceededError)
    assert [one.result() for one in good] == list(range(10))
    eventually(lambda: whole(runner, 2, 0))


def test_02_queued_callers_are_answered_by_a_kill(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    """There, a queued caller hung after Kill."""
    runner = make_runner(worker_count=1)
    callers = [call(runner.queue_task, held) for _ in range(3)]
    held.wait_begun()

    runner.kill()

    assert [type(caller.failure()) for caller in callers] == [RunnerKilledError] * 3


def test_03_a_retry_survives_the_death_of_the_last_worker(make_runner: MakeRunner, ledger: Ledger) -> None:
    """There, a task that was to be tried again was orphaned when the last worker died."""
    runner = make_runner(worker_count=1, resource_pool_size=0, max_retries=1, create_backoff=(0.001, 0.002)).start()
    begun: list[int] = []

    def fail_once(resource: LedgerResource) -> str:
        with resource.use():
            begun.append(resource.number)
            if len(begun) == 1:
                ledger.creating.fail(times=3)
                raise UnfitError
        return "second"

    assert runner.queue_task(fail_once) == "second"


@pytest.mark.parametrize("order", ["stop, kill", "kill, stop", "both at once", "twice each"])
def test_04_stop_and_kill_in_any_order_are_one_shutdown(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str], order: str
) -> None:
    """There, Kill during Stop panicked: close of closed channel."""
    runner = make_runner(worker_count=2, resource_pool_size=2)
    handles = [runner.submit(held) for _ in range(5)]
    held.wait_begun(2)
    ends = {
        "stop, kill": [runner.stop, runner.kill],
        "kill, stop": [runner.kill, runner.stop],
        "both at once": [runner.stop, runner.kill, runner.stop],
        "twice each": [runner.stop, runner.stop, runner.kill, runner.kill],
    }[order]

    calls = []
    for end in ends:
        calls.append(call(end))
        if order != "both at once":
            let_run()

    assert all(one.result().complete for one in calls)
    assert [type(settled(handle)) for handle in handles] == [RunnerKilledError] * 5


def test_05_a_graceful_stop_does_not_disturb_what_runs_or_is_drained(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    """There, Stop cancelled the context of running and of drained tasks."""
    runner = make_runner(worker_count=1)
    seen: list[BaseException] = []

    def work(resource: LedgerResource) -> str:
        try:
            held(resource)
            gevent.sleep(0.01)
        except BaseException as error:
            seen.append(error)
            raise
        return "undisturbed"

    handles = [runner.submit(work) for _ in range(3)]
    held.wait_begun()
    stopping = call(runner.stop)
    let_run()
    held.release()
    stopping.result()

    assert [handle.get(timeout=0) for handle in handles] == ["undisturbed"] * 3
    assert seen == []


def test_06_a_stop_may_be_bounded(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    """There, Stop had no time-out, and Kill waited for tasks that ignored it."""
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()

    assert runner.stop(timeout=0.01).complete


def test_07_a_stop_waits_for_run_task(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    """There, Stop returned while RunTask still ran, with one of two resources destroyed."""
    runner = make_runner(worker_count=1, resource_pool_size=1)
    running = call(runner.run_task, held)
    held.wait_begun()
    stopping = call(runner.stop)
    let_run()
    assert not stopping.ended

    held.release()

    assert stopping.result().complete
    assert ledger.existing == 0
    assert running.result() == "held"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_08_run_task_after_the_end_gets_no_empty_resource(make_runner: MakeRunner, end: str) -> None:
    """There, RunTask could read the zero resource from the closed pool, or send on a closed channel."""
    runner = make_runner(worker_count=1).start()
    given: list[object] = []
    getattr(runner, end)()

    with pytest.raises(RunnerStoppedError):
        runner.run_task(given.append)

    assert given == []


def test_09_10_setting_the_context_stops_and_every_racing_call_answers(
    make_runner: MakeRunner, call: SpawnCall
) -> None:
    """There, two of twenty calls hung after a cancel of the context, and the runner stayed as it was."""
    parent = Event()
    runner = make_runner(worker_count=2, ctx=parent)
    answers = Counter[str]()

    def keep_calling() -> None:
        while True:
            try:
                runner.queue_task(lambda _resource: gevent.sleep(0))
                answers["value"] += 1
            except RunnerStoppedError:
                answers["stopped"] += 1
                return

    callers = [call(keep_calling) for _ in range(20)]
    eventually(lambda: answers["value"] > 50)
    parent.set()
    for caller in callers:
        caller.result()

    assert answers["stopped"] == 20
    eventually(lambda: runner.state is State.CLOSED)


def test_11_priority_is_strict_with_fifty_and_fifty(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    """There, one select over both queues picked at random."""
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    ran: list[str] = []
    for _ in range(50):
        runner.submit(lambda _r: ran.append("main"))
        runner.submit(lambda _r: ran.append("priority"), priority=Priority.HIGH)

    held.release()
    runner.stop()

    assert ran == ["priority"] * 50 + ["main"] * 50


def test_12_a_retry_keeps_its_level(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    """There, the retry of a background task overtook urgent ones, through the priority queue."""
    runner = make_runner(worker_count=1, max_retries=1)
    runner.submit(held)
    held.wait_begun()
    levels: list[tuple[int, int]] = []

    def fail_once(resource: LedgerResource) -> None:
        with resource.use():
            if not levels:
                for _ in range(2):
                    runner.submit(touch, 1)
                    runner.submit(touch, 1, priority=Priority.HIGH)
                levels.append((0, 0))
                raise UnfitError
            stats = runner.stats()
            levels.append((stats.priority_tasks, stats.queued_tasks))

    runner.submit(fail_once, priority=Priority.LOW)
    held.release()
    runner.stop()

    assert levels == [(0, 0), (0, 0)], "the low one was tried again after all the others"


def test_13_a_retry_is_not_refused_by_a_full_queue(make_runner: MakeRunner) -> None:
    """There, one waiting priority task was enough to make a retry fail though retries remained."""
    runner = make_runner(worker_count=1, max_queued=1, enqueue_timeout=0, max_retries=1)
    begun: list[int] = []

    def fail_once(resource: LedgerResource) -> str:
        with resource.use():
            begun.append(1)
            if len(begun) == 1:
                runner.submit(touch, 1, priority=Priority.HIGH)
                raise UnfitError
        return "second"

    assert runner.queue_task(fail_once) == "second"


def test_14_no_retries_means_none(make_runner: MakeRunner, ledger: Ledger) -> None:
    """There, `MaxRetries: 0` became 3."""
    handle = make_runner(worker_count=1, max_retries=0).submit(unfit)

    assert isinstance(settled(handle), UnfitError)
    assert handle.attempts == 1
    assert Config(worker_count=1, max_retries=0, **ledger.options()).max_retries == 0


def test_15_draining_does_not_go_on_with_a_bad_resource(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    """There, four attempts were made on one bad resource while draining."""
    runner = make_runner(worker_count=1, resource_pool_size=0, max_retries=3)
    numbers: list[int] = []

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            numbers.append(resource.number)
            raise UnfitError

    runner.submit(held)
    held.wait_begun()
    handle = runner.submit(fail)
    stopping = call(runner.stop)
    let_run()
    held.release()
    stopping.result()

    assert isinstance(settled(handle), MaxRetriesExceededError)
    assert len(set(numbers)) == len(numbers) == 4


def test_16_run_task_does_not_put_a_bad_resource_back(make_runner: MakeRunner, ledger: Ledger) -> None:
    """There, three calls got the same bad resource, and none was destroyed."""
    runner = make_runner(worker_count=1, resource_pool_size=1).start()
    numbers: list[int] = []

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            numbers.append(resource.number)
            raise UnfitError

    for _ in range(3):
        with pytest.raises(UnfitError):
            runner.run_task(fail)

    assert len(set(numbers)) == 3
    eventually(lambda: ledger.destroyed == 3)


def test_17_18_run_task_makes_no_more_than_max_resources(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    """There, a hundred calls over a pool of two made a hundred and one resources."""
    runner = make_runner(worker_count=1, resource_pool_size=2, max_resources=3)

    def work(resource: LedgerResource) -> None:
        with resource.use():
            gevent.sleep(0.001)

    for caller in [call(runner.run_task, work) for _ in range(100)]:
        caller.result()

    assert ledger.peak == 3


def test_19_a_runner_that_can_make_nothing_says_so(make_runner: MakeRunner, ledger: Ledger) -> None:
    """There, the constructor returned well with no workers, and the first call hung."""
    ledger.creating.fail()
    runner = make_runner(worker_count=1, fail_fast_after=0.02, create_backoff=(0.002, 0.004))

    with pytest.raises(StartError):
        runner.start()
    assert settled(runner.submit(touch, 1)) is not None


def test_20_burst_workers_go_away(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    """There, eight burst workers were still there after four idle seconds."""
    runner = make_runner(
        worker_count=1, resource_pool_size=0, burst_task_threshold=1, burst_worker_count=4, max_worker_count=8,
        burst_interval=0.005, max_idle=0.02,
    )  # fmt: skip
    for _ in range(30):
        runner.submit(held)
    held.wait_begun(8)

    held.release()

    eventually(lambda: whole(runner, 1, 0))


@pytest.mark.parametrize("scaling", ["threshold", "rate"])
def test_21_a_failure_and_then_nothing_adds_no_worker(make_runner: MakeRunner, scaling: str) -> None:
    """There, twenty successes and one failure, then idleness, drove two workers up to twenty."""
    runner = make_runner(
        worker_count=2, resource_pool_size=0, burst_task_threshold=1, burst_interval=0.002, max_worker_count=20,
        scaling=scaling,
    )  # fmt: skip

    def fail(_resource: LedgerResource) -> None:
        raise ValueError("one")

    for number in range(20):
        runner.queue_task(touch, number)
    with pytest.raises(ValueError, match="one"):
        runner.queue_task(fail)
    gevent.sleep(0.1)

    assert runner.stats().burst_workers == 0
    assert runner.stats().active_workers == 2


def test_22_slow_creates_do_not_overshoot_the_maximum(
    make_runner: MakeRunner, ledger: Ledger, held: HeldTask[str]
) -> None:
    """There, a maximum of three and a slow create made eighteen workers."""
    ledger.creating.delay = 0.02
    runner = make_runner(
        worker_count=1, resource_pool_size=0, burst_task_threshold=1, burst_interval=0.002, max_worker_count=3,
        max_resources=50, max_creating=50,
    )  # fmt: skip
    for _ in range(60):
        runner.submit(held)
    held.wait_begun(3)
    gevent.sleep(0.05)

    assert ledger.created == ledger.peak == 3
    held.release()


def test_23_after_a_quiet_time_the_scaler_still_sees_a_burst(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    """There, rates were means over the whole life: after a quiet night the scaler was blind."""
    runner = make_runner(
        worker_count=1, burst_task_threshold=2, burst_interval=0.005, max_worker_count=3, scaling="rate"
    )
    for number in range(2000):
        runner.queue_task(touch, number)
    gevent.sleep(0.3)

    for _ in range(50):
        runner.submit(held)

    held.wait_begun(3)
    held.release()


def test_24_scaling_down_takes_live_workers(make_runner: MakeRunner) -> None:
    """There, the scale-down cancelled workers that were dead already."""
    runner = make_runner(
        worker_count=1, resource_pool_size=0, burst_task_threshold=1, burst_worker_count=3, max_worker_count=4,
        burst_interval=0.005, max_idle=0.02, max_retries=0,
    )  # fmt: skip
    for _ in range(3):
        held = HeldTask("held")
        handles: list[Any] = [runner.submit(held) for _ in range(4)]
        handles += [runner.submit(unfit) for _ in range(8)]
        held.wait_begun(4)
        held.release()
        for handle in handles:
            settled(handle)
        eventually(lambda: whole(runner, 1, 0))


def test_26_failure_rate_is_one_when_everything_fails(make_runner: MakeRunner) -> None:
    """There, ten of ten failed and the rate was 0."""
    runner = make_runner(worker_count=1)
    for _ in range(10):
        settled(runner.submit(lambda _resource: 1 / 0))

    assert runner.metrics().failure_rate == 1


def test_28_the_queue_is_never_counted_below_zero_and_run_task_does_not_feed_the_scaler(
    make_runner: MakeRunner, call: SpawnCall
) -> None:
    """There, gauges moved after the fact, and arrivals of RunTask made burst workers."""
    runner = make_runner(
        worker_count=1, resource_pool_size=4, burst_task_threshold=1, burst_interval=0.002, max_worker_count=4
    ).start()
    lowest = 0

    def look(_resource: LedgerResource) -> None:
        nonlocal lowest
        stats = runner.stats()
        lowest = min(lowest, stats.queued_tasks, stats.priority_tasks)
        gevent.sleep(0.001)

    for caller in [call(runner.run_task, look) for _ in range(50)]:
        caller.result()

    assert lowest == 0
    assert runner.stats().burst_workers == 0


def test_29_no_form_of_submitting_makes_a_greenlet_for_each_call(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    """There, ten thousand calls of the asynchronous forms made ten thousand goroutines."""
    runner = make_runner(worker_count=1).start()
    runner.submit(held)
    held.wait_begun()
    before = len(living_greenlets())

    for _ in range(1000):
        runner.submit(touch, 1, callback=lambda _task: None, timeout=1000)

    assert len(living_greenlets()) <= before + 3
    runner.purge()
    held.release()


def test_30_a_caller_can_leave(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    """There, a caller could neither bound nor cancel its wait."""
    runner = make_runner(worker_count=1)

    with pytest.raises(TaskError):
        runner.queue_task(held, timeout=0.01)
    handle = runner.submit(held)
    assert handle.cancel()


def test_31_a_nested_submit_does_not_hang(make_runner: MakeRunner) -> None:
    """There, it deadlocked."""
    runner = make_runner(worker_count=1)

    with pytest.raises(TaskError):
        runner.queue_task(lambda _resource: runner.queue_task(touch, 1))


def test_32_a_panic_ends_neither_process_nor_worker(make_runner: MakeRunner) -> None:
    """There, a panic in a task ended the process."""
    runner = make_runner(worker_count=1, resource_pool_size=0)
    for error in (RecursionError(), MemoryError(), SystemExit(2), AssertionError()):

        def panic(_resource: LedgerResource, error: BaseException = error) -> None:
            raise error

        assert settled(runner.submit(panic)) is error

    eventually(lambda: whole(runner, 1, 0))


def test_33_no_context_is_fine_and_destroy_errors_are_logged_for_run_task_too(
    make_runner: MakeRunner, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """There, `Ctx: nil` panicked, and errors of OnDestroy were swallowed in RunTask."""
    ledger.destroying.fail(RuntimeError("will not go"))
    with caplog.at_level(logging.DEBUG, "gtasker"):
        runner = make_runner(worker_count=1, resource_pool_size=1, ctx=None)
        with pytest.raises(UnfitError):
            runner.run_task(unfit)
        eventually(lambda: ledger.destroyed == 1)
        let_run()

    assert "will not go" in caplog.text
    ledger.destroying.heal()
