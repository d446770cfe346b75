"""What `stats()` and `metrics()` say, and that what they say is true."""

from __future__ import annotations

import dataclasses
import math
import random
import sys
import time

import gevent
import pytest

from gtasker import Priority, State, TaskMetrics
from gtasker.errors import QueueFullError
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Stubborn, eventually, let_run, reached, settled
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch


def fail(resource: LedgerResource) -> None:
    """Fail, the resource being fine."""
    with resource.use():
        raise ValueError("own")


def unfit(resource: LedgerResource) -> None:
    """Fail, the resource being unfit."""
    with resource.use():
        raise UnfitError


# --- stats


def test_the_gauges_of_a_new_runner(make_runner: MakeRunner) -> None:
    stats = make_runner(worker_count=2, resource_pool_size=3).stats()

    assert stats.state is State.NEW
    assert stats.base_workers == 2
    assert (stats.active_workers, stats.burst_workers, stats.busy_workers) == (0, 0, 0)
    assert (stats.queued_tasks, stats.priority_tasks, stats.delayed_tasks) == (0, 0, 0)
    assert (stats.available_resources, stats.live_resources, stats.creating_resources) == (0, 0, 0)
    assert (stats.waiting_leases, stats.abandoned) == (0, 0)


def test_the_gauges_of_an_idle_runner(make_runner: MakeRunner) -> None:
    stats = make_runner(worker_count=2, resource_pool_size=3).start().stats()

    assert stats.state is State.RUNNING
    assert (stats.base_workers, stats.active_workers, stats.burst_workers, stats.busy_workers) == (2, 2, 0, 0)
    assert (stats.queued_tasks, stats.priority_tasks, stats.delayed_tasks) == (0, 0, 0)
    assert (stats.available_resources, stats.live_resources, stats.creating_resources) == (3, 5, 0)
    assert (stats.waiting_leases, stats.abandoned) == (0, 0)


def test_the_gauges_of_a_busy_runner(make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=2).start()
    runner.submit(held)
    call(runner.run_task, held)
    held.wait_begun(2)
    for priority in (Priority.HIGH, 9, Priority.NORMAL, 11, Priority.LOW):
        runner.submit(touch, 1, priority=priority)
    call(runner.run_task, touch, 1)
    let_run()

    stats = runner.stats()

    assert (stats.active_workers, stats.busy_workers) == (1, 1)
    assert (stats.priority_tasks, stats.queued_tasks) == (2, 3)
    assert stats.waiting_leases == 1
    assert (stats.available_resources, stats.live_resources) == (0, 2)
    held.release()


def test_gauges_never_go_below_zero_and_come_back_to_rest(make_runner: MakeRunner, call: SpawnCall) -> None:
    rng = random.Random(3)
    runner = make_runner(worker_count=2, resource_pool_size=1, burst_task_threshold=2, burst_interval=0.005)
    lowest = 0

    def work(resource: LedgerResource) -> None:
        nonlocal lowest
        counts = dataclasses.asdict(runner.stats())
        del counts["state"]
        lowest = min(lowest, *counts.values())
        with resource.use():
            gevent.sleep(rng.random() * 0.002)
            if rng.random() < 0.2:
                raise UnfitError

    callers = []
    for _ in range(150):
        callers.append(call(rng.choice([runner.queue_task, runner.run_task]), work))
        if rng.random() < 0.2:
            rng.choice(callers).greenlet.kill(block=False)
        if rng.random() < 0.5:
            gevent.sleep(0)
    for caller in callers:
        caller.join()

    assert lowest == 0
    eventually(lambda: runner.stats().busy_workers == 0)
    stats = runner.stats()
    assert (stats.queued_tasks, stats.priority_tasks, stats.delayed_tasks, stats.waiting_leases) == (0, 0, 0, 0)


def test_a_reset_after_a_loan_keeps_its_worker_busy(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.resetting.hold()
    runner = make_runner(worker_count=1, max_worker_count=1, resource_pool_size=0, reset=ledger.reset).start()

    assert runner.run_task(touch, "value") == "value"
    eventually(lambda: ledger.resetting.inside == 1)

    assert runner.stats().busy_workers == 1
    ledger.resetting.release()
    eventually(lambda: runner.stats().busy_workers == 0)


def test_delayed_creating_and_abandoned_show(make_runner: MakeRunner, ledger: Ledger, stubborn: Stubborn) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=0, retry_backoff=(1000.0, 1000.0)).start()
    deaf = runner.submit(stubborn)
    reached(stubborn.entered)
    deaf.cancel()
    ledger.creating.hold()
    retried = [runner.submit(unfit)]
    eventually(lambda: runner.stats().delayed_tasks == 1)
    eventually(lambda: runner.stats().creating_resources >= 1)
    eventually(lambda: runner.stats().abandoned == 1)

    ledger.creating.release()
    stubborn.let_go()
    eventually(lambda: runner.stats().abandoned == 0 and runner.stats().creating_resources == 0)
    retried[0].cancel()
    assert runner.stats().delayed_tasks == 0


def test_a_burst_worker_shows_as_the_surplus_over_base(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(
        worker_count=1, burst_task_threshold=2, burst_worker_count=2, max_worker_count=3, burst_interval=0.005
    )
    for _ in range(10):
        runner.submit(held)
    held.wait_begun(3)

    stats = runner.stats()

    assert (stats.base_workers, stats.burst_workers, stats.active_workers, stats.busy_workers) == (1, 2, 3, 3)
    held.release()


# --- metrics


def test_the_metrics_of_a_new_runner_are_zero(make_runner: MakeRunner) -> None:
    metrics = make_runner(worker_count=1).metrics()

    assert set(dataclasses.asdict(metrics).values()) == {0}


def test_each_ending_is_counted_once_and_apart(make_runner: MakeRunner, held: HeldTask[str], call: SpawnCall) -> None:
    runner = make_runner(worker_count=1, max_retries=2, max_queued=3, enqueue_timeout=0)
    for _ in range(3):
        runner.queue_task(touch, 1)
    for _ in range(2):
        with pytest.raises(ValueError, match="own"):
            runner.queue_task(fail)
    settled(runner.submit(unfit))  # three attempts, two retries, one failure
    runner.submit(held)
    held.wait_begun()
    timed_out = runner.submit(touch, 1, timeout=0.01)
    cancelled = [runner.submit(touch, 1), runner.submit(touch, 1)]
    with pytest.raises(QueueFullError):
        runner.submit(touch, 1)
    settled(timed_out)
    for handle in cancelled:
        handle.cancel()
    gone = call(runner.queue_task, touch, 1)
    let_run()
    gone.greenlet.kill()
    held.release()
    eventually(lambda: runner.stats().busy_workers == 0)

    metrics = runner.metrics()

    assert metrics.total_tasks_completed == 4
    assert metrics.total_tasks_failed == 4  # two plain, one spent, one timed out: a time-out is a failure
    assert metrics.total_tasks_timed_out == 1
    assert metrics.total_tasks_retried == 2
    assert metrics.total_tasks_cancelled == 3
    assert metrics.total_tasks_rejected == 1
    assert metrics.total_tasks_arrived == 11
    assert metrics.success_rate == pytest.approx(0.5)
    assert metrics.success_rate + metrics.failure_rate == pytest.approx(1)


def test_when_everything_fails_the_failure_rate_is_one(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    for _ in range(10):
        with pytest.raises(ValueError, match="own"):
            runner.queue_task(fail)

    assert runner.metrics().failure_rate == 1
    assert runner.metrics().success_rate == 0


def test_failed_tasks_count_in_the_times(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    def slow_failure(resource: LedgerResource) -> None:
        with resource.use():
            gevent.sleep(0.02)
            raise ValueError("slow")

    with pytest.raises(ValueError, match="slow"):
        runner.queue_task(slow_failure)

    metrics = runner.metrics()
    assert metrics.max_execution_time >= 0.02
    assert metrics.average_execution_time >= 0.02
    assert metrics.p50_execution_time >= 0.02 * 0.95


def test_execution_times_are_within_five_percent(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=8)
    measured: list[float] = []
    rng = random.Random(5)

    def work(resource: LedgerResource, seconds: float) -> None:
        began = time.monotonic()
        with resource.use():
            gevent.sleep(seconds)
            measured.append(time.monotonic() - began)

    # Long enough that what lies between our stamps and the runner's is nothing beside it.
    handles = [runner.submit(work, rng.uniform(0.02, 0.1)) for _ in range(100)]
    for handle in handles:
        handle.get(timeout=20)

    metrics = runner.metrics()
    measured.sort()

    def percentile(share: float) -> float:
        return measured[math.ceil(share * len(measured)) - 1]

    slack = 0.004  # seconds between the two pairs of stamps, at most
    for said, true in [
        (metrics.p50_execution_time, percentile(0.50)),
        (metrics.p95_execution_time, percentile(0.95)),
        (metrics.p99_execution_time, percentile(0.99)),
    ]:
        assert true * 0.95 - slack <= said <= true * 1.05 + slack
    assert metrics.min_execution_time == pytest.approx(measured[0], abs=slack)
    assert metrics.max_execution_time == pytest.approx(measured[-1], abs=slack)
    assert metrics.average_execution_time == pytest.approx(sum(measured) / len(measured), abs=slack)


def test_waits_are_measured_apart_from_runs(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    for _ in range(9):
        runner.submit(touch, 1)
    gevent.sleep(0.05)
    assert runner.metrics().longest_wait >= 0.05

    held.release()
    runner.stop()

    metrics = runner.metrics()
    assert metrics.longest_wait == 0
    assert metrics.max_wait_time >= 0.05
    assert metrics.p50_wait_time >= 0.05 * 0.95
    assert metrics.p50_wait_time <= metrics.p95_wait_time <= metrics.p99_wait_time <= metrics.max_wait_time * 1.05
    assert metrics.average_wait_time >= 0.05 * 0.9
    assert metrics.p50_execution_time < 0.05


def test_the_wait_of_a_retried_task_does_not_hold_its_first_run(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    begun: list[int] = []

    def slow_then_quick(resource: LedgerResource) -> None:
        with resource.use():
            begun.append(1)
            if len(begun) == 1:
                gevent.sleep(0.1)
                raise UnfitError

    runner.queue_task(slow_then_quick)

    assert runner.metrics().max_wait_time < 0.1


def test_percentiles_are_ordered_and_min_max_bound_them(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=2)
    rng = random.Random(9)

    def work(resource: LedgerResource) -> None:
        with resource.use():
            gevent.sleep(rng.random() * 0.003)

    for handle in [runner.submit(work) for _ in range(200)]:
        handle.get(timeout=10)

    metrics = runner.metrics()
    assert (
        0 < metrics.min_execution_time * 0.95 <= metrics.p50_execution_time
        <= metrics.p95_execution_time <= metrics.p99_execution_time <= metrics.max_execution_time * 1.05
    )  # fmt: skip
    assert metrics.min_execution_time <= metrics.average_execution_time <= metrics.max_execution_time


def test_the_rates_are_of_a_recent_window(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=2).start()
    for number in range(100):
        runner.queue_task(touch, number)
    gevent.sleep(0.3)

    metrics = runner.metrics()

    # Tasks per second over at most ten seconds, or since the start if that is less.
    assert metrics.task_arrival_rate >= 100 / 10 * 0.9
    assert metrics.task_completion_rate >= 100 / 10 * 0.9
    assert metrics.task_arrival_rate <= 100 / 0.3 * 1.1


def test_resources_are_counted(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, max_retries=0, create_backoff=(0.001, 0.002)).start()
    ledger.creating.fail(times=2)
    with pytest.raises(UnfitError):
        runner.queue_task(unfit)
    assert runner.queue_task(touch, 1, timeout=10) == 1
    eventually(lambda: runner.stats().live_resources == 2)

    metrics = runner.metrics()
    assert (metrics.resources_created, metrics.resources_destroyed, metrics.create_failures) == (3, 1, 2)
    runner.stop()
    assert runner.metrics().resources_destroyed == 3


def test_the_totals_balance_after_a_stop(make_runner: MakeRunner, call: SpawnCall) -> None:
    rng = random.Random(11)
    runner = make_runner(worker_count=2, max_retries=1)

    def work(resource: LedgerResource) -> None:
        with resource.use():
            gevent.sleep(rng.random() * 0.002)
            if rng.random() < 0.2:
                raise rng.choice([UnfitError, ValueError])

    callers = []
    for _ in range(200):
        callers.append(call(runner.queue_task, work, timeout=rng.choice([None, 0.003, 1.0])))
        if rng.random() < 0.2:
            rng.choice(callers).greenlet.kill(block=False)
        if rng.random() < 0.3:
            gevent.sleep(0.001)
    for caller in callers:
        caller.join()
    runner.stop()

    metrics = runner.metrics()
    ended = metrics.total_tasks_completed + metrics.total_tasks_failed + metrics.total_tasks_cancelled
    assert metrics.total_tasks_arrived == ended
    assert metrics.total_tasks_timed_out > 0
    assert metrics.success_rate + metrics.failure_rate == pytest.approx(1)


def test_the_original_names_are_there() -> None:
    names = {field.name for field in dataclasses.fields(TaskMetrics)}

    assert {
        "average_execution_time", "min_execution_time", "max_execution_time", "p95_execution_time",
        "p99_execution_time", "average_wait_time", "task_arrival_rate", "task_completion_rate",
        "total_tasks_completed", "total_tasks_failed", "total_tasks_retried", "success_rate", "failure_rate",
    } <= names  # fmt: skip


@pytest.mark.parametrize("backlog", [100, 10_000])
def test_looking_takes_the_same_time_whatever_has_run_and_waits(
    make_runner: MakeRunner, held: HeldTask[str], backlog: int
) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    for _ in range(backlog):
        runner.submit(touch, 1)
    runner.metrics()
    steps = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal steps
        steps += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        runner.stats()
        runner.metrics()
        runner.leases()
        repr(runner)
    finally:
        sys.setprofile(None)

    # Counted in calls, not seconds: no bound that a slow machine could break.
    assert steps < 3000
    runner.purge()
    held.release()
