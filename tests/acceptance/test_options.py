"""Each option of `Config` does what it says."""

from __future__ import annotations

import contextvars
import logging
import re
import time
from collections.abc import Callable
from math import nan
from operator import attrgetter
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import Config, Load, Priority, Runner, State, TaskMetrics, TaskTimes
from gtasker.errors import (
    AcquireTimeoutError,
    ConfigError,
    MaxRetriesExceededError,
    OnCreateFunctionRequiredError,
    OnDestroyFunctionRequiredError,
    QueueFullError,
    ResourceUnavailableError,
    RunnerStoppedError,
    TaskCancelledError,
    TooManyWaitersError,
    WorkerCountMustBePositiveError,
)
from gtasker.events import DestroyReason, LeaseLeaked, ResourceCreateFailed, ResourceDestroyed, TaskRetried
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Recorder, eventually, let_run, note, reached, settled, whole
from tests.conftest import MakeRunner
from tests.ledger import CreateFailedError, HeldTask, Ledger, LedgerResource, UnfitError, touch
from tests.sockets import SocketPair


def number_of(resource: LedgerResource) -> int:
    """Return the resource's number, using it."""
    with resource.use():
        return resource.number


def unfit(resource: LedgerResource) -> None:
    """Fail, the resource being unfit."""
    with resource.use():
        raise UnfitError


def interrupted(resource: LedgerResource) -> None:
    """End as a kill ends it."""
    with resource.use():
        raise gevent.GreenletExit


def why(recorder: Recorder) -> list[DestroyReason]:
    """List why resources were destroyed, in order."""
    return [event.reason for event in recorder.of(ResourceDestroyed)]


# --- the config itself


def test_the_defaults_are_those_of_the_contract(ledger: Ledger) -> None:
    config = Config(worker_count=3, on_create=ledger.create, on_destroy=ledger.destroy)

    assert config.ctx is None
    assert config.burst_task_threshold == 0
    assert config.burst_worker_count == 2
    assert config.max_worker_count == 5
    assert config.burst_interval == 0.1
    assert config.max_retries == 3
    assert config.resource_pool_size == 3
    assert config.scaling == "threshold"
    assert config.logger is logging.getLogger("gtasker")
    assert re.fullmatch(r"runner-\d+", config.name)
    assert config.max_resources == 8
    assert config.max_creating == 4
    assert (config.create_timeout, config.destroy_timeout, config.hook_timeout) == (30, 5, 5)
    assert config.create_backoff == (0.05, 0.5)
    assert config.fail_fast_after == 10.0
    assert config.acquire_timeout == 30.0
    assert config.max_waiting is None
    assert config.check_resource is None
    assert config.check_idle == 1.0
    assert config.check_readable is False
    assert config.keepalive is None
    assert config.reset is None
    assert config.on_interrupt is None
    assert config.on_forget is None
    assert config.max_lifetime == 3600
    assert config.max_idle == 60
    assert config.leak_warning is None
    assert config.max_queued is None
    assert config.enqueue_timeout is None
    assert config.task_timeout is None
    assert config.retry_backoff == (0.0, 5.0)
    assert config.priority_aging is None
    assert config.cancel_on_abandon is False
    assert config.propagate_context is True
    assert config.hub_blocked_after is None
    assert config.on_event is None


@pytest.mark.parametrize("nothing", [None, 0, -1])
def test_none_and_nothing_mean_the_default_for_burst_and_maximum(ledger: Ledger, nothing: int | None) -> None:
    config = Config(
        worker_count=3, burst_worker_count=nothing, max_worker_count=nothing,
        on_create=ledger.create, on_destroy=ledger.destroy,
    )  # fmt: skip

    assert (config.burst_worker_count, config.max_worker_count) == (2, 5)


def test_a_config_is_frozen_and_keyword_only(ledger: Ledger) -> None:
    config = Config(worker_count=1, **ledger.options())

    with pytest.raises(AttributeError):
        config.worker_count = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Config(ledger.create, ledger.destroy, 1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"worker_count": 0}, WorkerCountMustBePositiveError),
        ({"worker_count": -1}, WorkerCountMustBePositiveError),
        ({"on_create": None}, OnCreateFunctionRequiredError),
        ({"on_create": "no function"}, OnCreateFunctionRequiredError),
        ({"on_destroy": None}, OnDestroyFunctionRequiredError),
        ({"max_worker_count": 1}, ConfigError),
        ({"max_resources": 3}, ConfigError),
        ({"max_resources": 0}, ConfigError),
        ({"resource_pool_size": -1}, ConfigError),
        ({"max_retries": -1}, ConfigError),
        ({"burst_task_threshold": -1}, ConfigError),
        ({"burst_interval": 0}, ConfigError),
        ({"scaling": "by the moon"}, ConfigError),
        ({"scaling": object()}, ConfigError),
        ({"max_creating": 0}, ConfigError),
        ({"create_timeout": 0}, ConfigError),
        ({"destroy_timeout": -1}, ConfigError),
        ({"hook_timeout": 0}, ConfigError),
        ({"create_backoff": (1.0, 0.5)}, ConfigError),
        ({"create_backoff": (-1.0, 0.5)}, ConfigError),
        ({"retry_backoff": (1.0, 0.5)}, ConfigError),
        ({"retry_backoff": 1.0}, ConfigError),
        ({"fail_fast_after": -1}, ConfigError),
        ({"acquire_timeout": -1}, ConfigError),
        ({"max_waiting": -1}, ConfigError),
        ({"check_idle": -1}, ConfigError),
        ({"keepalive": 0}, ConfigError),
        ({"max_lifetime": 0}, ConfigError),
        ({"max_idle": -1}, ConfigError),
        ({"leak_warning": 0}, ConfigError),
        ({"max_queued": 0}, ConfigError),
        ({"enqueue_timeout": -1}, ConfigError),
        ({"task_timeout": 0}, ConfigError),
        ({"priority_aging": 0}, ConfigError),
        ({"hub_blocked_after": 0}, ConfigError),
        ({"check_resource": "no function"}, ConfigError),
        ({"reset": 3}, ConfigError),
        ({"on_event": 3}, ConfigError),
        ({"worker_count": 2.5}, ConfigError),
        ({"max_idle": float("nan")}, ConfigError),
        ({"create_timeout": "soon"}, ConfigError),
    ],
)
def test_a_wrong_value_names_field_and_value(ledger: Ledger, wrong: dict[str, Any], error: type[ConfigError]) -> None:
    ((field, value),) = wrong.items()

    with pytest.raises(error) as caught:
        Config(**{"worker_count": 2, **ledger.options(), **wrong})

    assert isinstance(caught.value, ValueError)
    assert field in str(caught.value)
    if type(value) is not object:
        assert repr(value).strip("()") in str(caught.value)


def test_the_required_three(ledger: Ledger) -> None:
    with pytest.raises(WorkerCountMustBePositiveError):
        Config(on_create=ledger.create, on_destroy=ledger.destroy)  # type: ignore[call-arg]
    with pytest.raises(OnCreateFunctionRequiredError):
        Config(worker_count=1, on_destroy=ledger.destroy)  # type: ignore[call-arg]
    with pytest.raises(OnDestroyFunctionRequiredError):
        Config(worker_count=1, on_create=ledger.create)  # type: ignore[call-arg]


def test_an_unknown_option_is_refused(ledger: Ledger) -> None:
    with pytest.raises(TypeError, match="max_burst"):
        Runner(worker_count=1, max_burst=3, **ledger.options())


def test_the_repr_says_the_sum_and_no_secret(ledger: Ledger) -> None:
    class Connect:
        def __call__(self) -> LedgerResource:
            return ledger.create()

        def __repr__(self) -> str:
            return "Connect(password='hunter2')"

    text = repr(Config(worker_count=20, resource_pool_size=20, on_create=Connect(), on_destroy=ledger.destroy))

    assert "at most 42 resources" in text
    assert "hunter2" not in text


# --- ctx


def test_ctx_set_before_the_start_ends_the_runner_at_first_use(make_runner: MakeRunner) -> None:
    parent = Event()
    parent.set()
    runner = make_runner(worker_count=1, ctx=parent)

    # Accepted and finished, or refused: both are answers; but the runner does not live on.
    try:
        assert runner.submit(touch, 1).get(timeout=5) == 1
    except RunnerStoppedError:
        pass

    eventually(lambda: runner.state is State.CLOSED)


def test_ctx_takes_any_object_that_can_be_linked(make_runner: MakeRunner) -> None:
    class Signal:
        def __init__(self) -> None:
            self.event = Event()

        def is_set(self) -> bool:
            return self.event.is_set()

        def wait(self, timeout: float | None = None) -> bool:
            return self.event.wait(timeout)

        def rawlink(self, callback: Any) -> None:
            self.event.rawlink(callback)

    signal = Signal()
    runner = make_runner(worker_count=1, ctx=signal).start()

    signal.event.set()

    eventually(lambda: runner.state is State.CLOSED)


def test_ctx_waits_for_leases_as_stop_does(make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    parent = Event()
    runner = make_runner(worker_count=1, resource_pool_size=1, ctx=parent).start()
    caller = call(runner.run_task, held)
    held.wait_begun()

    parent.set()
    let_run()
    assert runner.state is State.STOPPING

    held.release()
    assert caller.result() == "held"
    eventually(lambda: runner.state is State.CLOSED)


# --- check_health, retries


def test_without_check_health_every_error_is_healthy(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, check_health=None)
    begun: list[int] = []

    def fail(_resource: LedgerResource) -> None:
        begun.append(1)
        raise UnfitError

    with pytest.raises(UnfitError):
        runner.queue_task(fail)

    assert begun == [1]
    assert ledger.destroyed == 0


def test_check_health_is_asked_with_the_tasks_error(make_runner: MakeRunner) -> None:
    seen: list[BaseException] = []
    error = ValueError("own")

    def judge(given: BaseException) -> bool:
        seen.append(given)
        return True

    def fail(_resource: LedgerResource) -> None:
        raise error

    runner = make_runner(worker_count=1, check_health=judge)
    for ask in (runner.queue_task, runner.run_task):
        with pytest.raises(ValueError, match="own"):
            ask(fail)

    eventually(lambda: seen == [error, error])


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_max_retries_counts_further_attempts(make_runner: MakeRunner, retries: int) -> None:
    runner = make_runner(worker_count=1, max_retries=retries)
    handle = runner.submit(unfit)

    error = settled(handle)

    assert handle.attempts == retries + 1
    if retries:
        assert isinstance(error, MaxRetriesExceededError)
        assert error.attempts == retries + 1
        assert isinstance(error.__cause__, UnfitError)
    else:
        assert isinstance(error, UnfitError)


def test_a_healthy_error_is_never_tried_again(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, max_retries=5)

    def fail(_resource: LedgerResource) -> None:
        raise ValueError

    handle = runner.submit(fail)
    assert isinstance(settled(handle), ValueError)
    assert handle.attempts == 1


def test_retry_backoff_waits_with_full_jitter_out_of_the_workers_way(make_runner: MakeRunner) -> None:
    recorder = Recorder()
    runner = make_runner(worker_count=1, max_retries=6, retry_backoff=(0.004, 0.02), on_event=recorder)
    handle = runner.submit(unfit)
    settled(handle)

    delays = [event.next_attempt_in for event in recorder.of(TaskRetried)]
    bounds = [min(0.02, 0.004 * 2**step) for step in range(6)]
    assert len(delays) == 6
    assert all(0 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))
    assert len(set(delays)) > 1


def test_a_delayed_retry_holds_no_worker_and_no_resource(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_retries=1, retry_backoff=(1000.0, 1000.0))
    handles = [runner.submit(unfit) for _ in range(10)]
    eventually(lambda: runner.stats().delayed_tasks >= 8)

    assert runner.queue_task(touch, "served meanwhile") == "served meanwhile"
    eventually(lambda: whole(runner, 1, 0))

    for handle in handles:
        handle.cancel()


def test_a_delayed_retry_keeps_its_place_in_line(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, max_retries=1, retry_backoff=(0.001, 0.001))
    ran: list[str] = []

    def fail_once(resource: LedgerResource) -> None:
        with resource.use():
            ran.append("first")
            if ran.count("first") == 1:
                raise UnfitError

    first = runner.submit(fail_once)
    runner.submit(held)
    held.wait_begun()
    runner.submit(lambda _r: ran.append("later"))
    eventually(lambda: runner.stats().delayed_tasks == 0)

    held.release()
    first.get(timeout=10)
    runner.stop()

    assert ran == ["first", "first", "later"]


# --- bursting and scaling


def test_without_a_threshold_there_are_no_burst_workers(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, burst_interval=0.001, max_worker_count=5)
    for _ in range(50):
        runner.submit(held)
    held.wait_begun()
    gevent.sleep(0.02)

    assert runner.stats().burst_workers == 0
    held.release()


def test_above_the_threshold_workers_are_added_and_at_it_not(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(
        worker_count=1, burst_task_threshold=5, burst_worker_count=2, max_worker_count=10, burst_interval=1000.0
    )
    runner.submit(held)
    held.wait_begun()
    for _ in range(5):
        runner.submit(held)
    gevent.sleep(0.02)
    assert runner.stats().burst_workers == 0

    # Crossing it wakes the burst manager at once: the interval is far too long to wait for.
    runner.submit(held)

    eventually(lambda: runner.stats().burst_workers == 2)
    held.release()


def test_the_interval_bounds_how_fast_workers_are_added(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(
        worker_count=1, burst_task_threshold=1, burst_worker_count=1, max_worker_count=4, burst_interval=0.01
    )
    for _ in range(30):
        runner.submit(held)

    held.wait_begun(4)
    gevent.sleep(0.03)

    assert runner.stats().burst_workers == 3
    held.release()


def test_burst_workers_go_when_idle_and_base_workers_stay(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(
        worker_count=2, resource_pool_size=1, burst_task_threshold=1, burst_worker_count=2, max_worker_count=4,
        burst_interval=0.005, max_idle=0.02,
    )  # fmt: skip
    for _ in range(20):
        runner.submit(held)
    held.wait_begun(4)
    held.release()

    eventually(lambda: whole(runner, 2, 1))
    gevent.sleep(0.05)
    assert whole(runner, 2, 1)


@pytest.mark.parametrize("scaling", ["threshold", "rate"])
def test_a_failure_does_not_drive_the_workers_up(make_runner: MakeRunner, scaling: str) -> None:
    runner = make_runner(
        worker_count=2, burst_task_threshold=5, burst_interval=0.005, max_worker_count=20, max_resources=30,
        scaling=scaling,
    )  # fmt: skip

    def fail(_resource: LedgerResource) -> None:
        raise ValueError

    for number in range(20):
        runner.queue_task(touch, number)
    for _ in range(20):
        with pytest.raises(ValueError, match=r"^$"):
            runner.queue_task(fail)
    gevent.sleep(0.05)

    assert runner.stats().burst_workers == 0


def test_the_rate_rule_adds_workers_while_arrivals_outrun_the_ends(make_runner: MakeRunner) -> None:
    runner = make_runner(
        worker_count=1, burst_task_threshold=3, burst_interval=0.01, max_worker_count=4, scaling="rate", max_idle=0.05
    )

    def slow(resource: LedgerResource) -> None:
        with resource.use():
            gevent.sleep(0.002)

    handles = [runner.submit(slow)]
    ended = 0

    def two_come_for_each_that_ends() -> bool:
        nonlocal ended
        handles.extend(runner.submit(slow) for _ in range(2))
        handles[ended].get(timeout=10)
        ended += 1
        return runner.stats().burst_workers >= 1  # as many as the lack needs, which depends on the machine

    eventually(two_come_for_each_that_ends, "burst workers")
    for handle in handles:
        handle.get(timeout=20)

    eventually(lambda: runner.stats().burst_workers == 0)


def test_a_scaling_object_decides(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    loads: list[Load] = []

    class OneForEachTwo:
        def decide(self, load: Load) -> int:
            loads.append(load)
            return load.backlog // 2

    runner = make_runner(
        worker_count=1,
        max_worker_count=4,
        max_resources=10,
        burst_task_threshold=1,
        burst_interval=0.005,
        scaling=OneForEachTwo(),
    )
    for _ in range(7):
        runner.submit(held)

    held.wait_begun(4)
    eventually(lambda: any(load.busy_workers == 4 for load in loads))
    gevent.sleep(0.02)

    assert runner.stats().burst_workers == 3
    last = loads[-1]
    assert (last.backlog, last.workers, last.base_workers, last.max_workers) == (3, 4, 1, 4)
    assert (last.busy_workers, last.idle_workers) == (4, 0)
    assert last.oldest_wait > 0
    assert last.arrival_rate >= 0
    with pytest.raises(AttributeError):
        last.backlog = 0  # type: ignore[misc]
    held.release()


def test_a_scaling_object_may_take_workers_away_but_not_below_base(make_runner: MakeRunner) -> None:
    wished = [3]

    class AsWished:
        def decide(self, _load: Load) -> int:
            return wished[0]

    runner = make_runner(
        worker_count=2,
        resource_pool_size=0,
        max_worker_count=4,
        burst_task_threshold=1,
        burst_interval=0.005,
        scaling=AsWished(),
    ).start()
    eventually(lambda: runner.stats().burst_workers == 2)

    wished[0] = -10

    eventually(lambda: whole(runner, 2, 0))
    gevent.sleep(0.02)
    assert whole(runner, 2, 0)


def test_a_scaling_object_that_raises_hurts_nobody(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, held: HeldTask[str]
) -> None:
    asked: list[int] = []

    class Broken:
        def decide(self, _load: Load) -> int:
            asked.append(1)
            raise ZeroDivisionError("the rule's own")

    with caplog.at_level(logging.DEBUG, "gtasker"):
        runner = make_runner(worker_count=1, burst_task_threshold=1, burst_interval=0.005, scaling=Broken())
        handles = [runner.submit(held) for _ in range(5)]
        eventually(lambda: len(asked) > 3)
        held.release()
        assert [handle.get(timeout=10) for handle in handles] == ["held"] * 5

    assert "the rule's own" in caplog.text


# --- collector, logger, name


class CountingCollector:
    """A collector of the user's own."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.times: list[TaskTimes] = []

    def record_arrival(self) -> None:
        self.told.append("arrival")

    def record_completion(self, times: TaskTimes) -> None:
        self.told.append("completion")
        self.times.append(times)

    def record_failure(self, times: TaskTimes) -> None:
        self.told.append("failure")
        self.times.append(times)

    def record_retry(self) -> None:
        self.told.append("retry")

    def snapshot(self) -> TaskMetrics:
        return TaskMetrics(total_tasks_completed=4711)


def test_a_collector_of_ones_own_is_told_and_asked(make_runner: MakeRunner) -> None:
    collector = CountingCollector()
    runner = make_runner(worker_count=1, max_retries=1, collector=collector)

    def slow(resource: LedgerResource) -> None:
        with resource.use():
            gevent.sleep(0.01)

    began = time.monotonic()
    runner.queue_task(slow)
    settled(runner.submit(unfit))
    ended = time.monotonic()

    assert sorted(collector.told) == ["arrival", "arrival", "completion", "failure", "retry"]
    for times in collector.times:
        assert began <= times.queued_at <= times.started_at <= times.finished_at <= ended
    assert collector.times[0].finished_at - collector.times[0].started_at >= 0.01
    assert runner.metrics().total_tasks_completed == 4711


def test_a_collector_that_raises_hurts_nobody(make_runner: MakeRunner) -> None:
    class Broken(CountingCollector):
        def record_arrival(self) -> None:
            raise ZeroDivisionError

        def record_completion(self, times: TaskTimes) -> None:
            raise ZeroDivisionError

    runner = make_runner(worker_count=1, collector=Broken())

    assert runner.queue_task(touch, 1, timeout=10) == 1
    assert runner.submit(touch, 2).get(timeout=10) == 2
    assert runner.run_task(touch, 3) == 3
    assert runner.stop().complete


def test_the_logger_is_the_one_given(make_runner: MakeRunner, ledger: Ledger) -> None:
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage() + str(record.exc_info))

    logger = logging.getLogger("of one's own")
    logger.addHandler(Keep())
    ledger.destroying.fail(RuntimeError("will not go"))
    runner = make_runner(worker_count=1, resource_pool_size=0, logger=logger).start()
    runner.stop()

    assert any("will not go" in line for line in said)


def test_the_name_is_in_repr_and_errors_name_no_other(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, name="payments")

    assert "payments" in repr(runner)
    assert runner.config.name == "payments"


# --- creating


def test_a_failed_create_is_tried_again_with_full_jitter_up_to_the_cap(make_runner: MakeRunner, ledger: Ledger) -> None:
    recorder = Recorder()
    ledger.creating.fail(times=12)
    runner = make_runner(
        worker_count=1, resource_pool_size=0, max_creating=1, create_backoff=(0.002, 0.008), on_event=recorder
    )
    runner.queue_task(touch, 1)

    delays = [event.next_attempt_in for event in recorder.of(ResourceCreateFailed)]
    bounds = [min(0.008, 0.002 * 2**step) for step in range(12)]
    assert len(delays) == 12
    assert all(0 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))
    assert len(set(delays)) > 3


def test_a_create_that_works_resets_the_backoff(make_runner: MakeRunner, ledger: Ledger) -> None:
    recorder = Recorder()
    ledger.creating.fail(times=6)
    runner = make_runner(
        worker_count=1, resource_pool_size=0, max_creating=1, create_backoff=(0.0005, 1000.0), on_event=recorder
    )
    runner.queue_task(touch, 1, timeout=20)
    ledger.creating.fail(times=1)
    with pytest.raises(UnfitError):
        runner.queue_task_once(unfit)
    runner.queue_task(touch, 1, timeout=20)

    delays = [event.next_attempt_in for event in recorder.of(ResourceCreateFailed)]
    assert len(delays) == 7
    assert delays[6] <= 0.0005


def test_create_timeout_ends_a_create_that_takes_too_long(make_runner: MakeRunner, ledger: Ledger) -> None:
    recorder = Recorder()
    ledger.creating.hold()
    runner = make_runner(
        worker_count=1, resource_pool_size=0, create_timeout=0.01, create_backoff=(0.001, 0.002), on_event=recorder
    )
    handle = runner.submit(touch, "at last")
    eventually(lambda: len(recorder.of(ResourceCreateFailed)) >= 2)
    ledger.creating.release()

    assert handle.get(timeout=10) == "at last"
    assert isinstance(recorder.of(ResourceCreateFailed)[0].error, TimeoutError | gevent.Timeout)


def test_destroy_timeout_abandons_a_destroy_that_takes_too_long(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.destroying.hold()
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, destroy_timeout=0.01)
    with pytest.raises(UnfitError):
        runner.queue_task_once(unfit)

    # The ledger's destroy can be interrupted: it ends, so its slot comes back.
    assert runner.queue_task(touch, "next", timeout=10) == "next"
    ledger.destroying.release()


def test_fail_fast_refuses_waiting_and_new_ones_at_once(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    refused = CreateFailedError("refused")
    ledger.creating.fail(refused)
    runner = make_runner(worker_count=1, fail_fast_after=0.03, create_backoff=(0.002, 0.004))

    def lend() -> None:
        with runner.lease():
            raise AssertionError("there is none")

    waiting = [call(lend), call(runner.run_task, touch, 1), call(runner.queue_task, touch, 1)]
    handle = runner.submit(touch, 1)
    for caller in waiting:
        assert isinstance(caller.failure(), ResourceUnavailableError)
    assert isinstance(settled(handle), ResourceUnavailableError)

    new = [call(lend), call(runner.run_task, touch, 1), call(runner.queue_task, touch, 1)]
    let_run(3)
    for caller in new:
        assert caller.ended
        assert isinstance(caller.error, ResourceUnavailableError)
        assert caller.error.__cause__ is refused


def test_fail_fast_waits_while_a_resource_is_left(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, fail_fast_after=0.01, create_backoff=(0.001, 0.002))
    runner.start()
    ledger.creating.fail()
    runner.submit(held)
    held.wait_begun()
    waiting = runner.submit(touch, "served")
    leasing = call(runner.run_task, touch, "leased")
    gevent.sleep(0.1)
    assert not waiting.ready()
    assert not leasing.ended

    held.release()

    assert waiting.get(timeout=10) == "served"
    assert leasing.result() == "leased"


def test_without_fail_fast_they_wait_until_the_backend_is_back(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail()
    runner = make_runner(worker_count=1, fail_fast_after=None, create_backoff=(0.001, 0.002))
    handle = runner.submit(touch, "at last")
    ledger.creating.wait_entered(30)
    assert not handle.ready()

    ledger.creating.heal()

    assert handle.get(timeout=10) == "at last"


# --- waiting


def test_the_acquire_timeout_error_says_who_holds_and_who_waits(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=1, max_resources=3, name="the-runner")

    def lend() -> None:
        with runner.lease() as resource:
            held(resource)

    call(lend)
    held.wait_begun(1)
    for _ in range(2):
        runner.submit(held)
    held.wait_begun(3)
    call(runner.run_task, touch, 1)
    let_run()

    with pytest.raises(AcquireTimeoutError) as caught:
        runner.run_task(touch, 1, timeout=0.02)

    text = str(caught.value)
    assert re.search(r"\b2\b", text), f"the two workers are not in {text!r}"
    assert re.search(r"\b1\b", text), f"the one lease and the one waiter are not in {text!r}"
    held.release()


def test_the_acquire_timeout_error_says_the_last_create_error(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail(CreateFailedError("no route to host"))
    runner = make_runner(worker_count=1, create_backoff=(0.001, 0.002))

    with pytest.raises(AcquireTimeoutError, match="no route to host"):
        runner.run_task(touch, 1, timeout=0.03)


def test_more_than_max_waiting_are_refused_at_once(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, max_waiting=2)
    runner.submit(held)
    held.wait_begun()
    waiting = [call(runner.run_task, touch, number) for number in range(2)]
    eventually(lambda: runner.stats().waiting_leases == 2)

    with pytest.raises(TooManyWaitersError):
        runner.run_task(touch, 1)
    with pytest.raises(TooManyWaitersError), runner.lease():
        pass

    waiting[0].greenlet.kill()
    again = call(runner.run_task, touch, "room again")
    let_run()
    held.release()
    assert waiting[1].result() == 1
    assert again.result() == "room again"


# --- checks


def test_check_resource_is_asked_of_what_was_idle_long_enough(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(
        worker_count=1, resource_pool_size=0, max_resources=1, check_resource=ledger.probe, check_idle=0.03
    ).start()
    runner.queue_task(touch, 1)
    runner.queue_task(touch, 1)
    assert ledger.probing.entered == 0

    gevent.sleep(0.05)
    runner.queue_task(touch, 1)
    assert ledger.probing.entered == 1
    gevent.sleep(0.05)
    runner.run_task(touch, 1)
    assert ledger.probing.entered == 2


@pytest.mark.parametrize("road", ["queue_task", "run_task", "lease"])
@pytest.mark.parametrize("answer", ["false", "error"])
def test_a_stale_resource_is_replaced_before_use(
    make_runner: MakeRunner, ledger: Ledger, road: str, answer: str
) -> None:
    runner = make_runner(
        worker_count=1, resource_pool_size=0, max_resources=1, check_resource=ledger.probe, check_idle=0.0
    ).start()
    if answer == "false":
        for resource in ledger.live.values():
            resource.stale = True
    else:
        ledger.probing.fail(times=1)

    if road == "lease":
        with runner.lease() as resource:
            assert number_of(resource) == 2
    else:
        assert getattr(runner, road)(number_of) == 2

    assert ledger.destroyed == 1


def test_all_stale_ones_are_replaced_with_no_pause_between_two_checks(make_runner: MakeRunner, ledger: Ledger) -> None:
    # A back-off of a thousand seconds that nobody may wait out.
    runner = make_runner(
        worker_count=4, resource_pool_size=4, check_resource=ledger.probe, check_idle=0.0,
        create_backoff=(1000.0, 1000.0),
    ).start()  # fmt: skip
    for resource in ledger.live.values():
        resource.stale = True

    assert runner.run_task(number_of, timeout=5) > 8
    for _ in range(8):
        assert runner.queue_task(number_of, timeout=5) > 8


def test_a_check_that_takes_too_long_counts_as_failed(make_runner: MakeRunner, ledger: Ledger) -> None:
    checked: list[int] = []

    def check(resource: LedgerResource) -> bool:
        checked.append(resource.number)
        if resource.number == 1:
            gevent.sleep(60)
        return True

    runner = make_runner(
        worker_count=1, resource_pool_size=0, max_resources=1, check_resource=check, check_idle=0.0, hook_timeout=0.02
    ).start()

    assert runner.queue_task(number_of, timeout=10) == 2
    assert checked[0] == 1


class SocketResource(LedgerResource, SocketPair):
    """A resource that is one end of a socket pair."""

    def __init__(self, ledger: Ledger, number: int) -> None:
        LedgerResource.__init__(self, ledger, number)
        SocketPair.__init__(self)


class Sockets:
    """Make and unmake socket resources, and keep them."""

    def __init__(self, ledger: Ledger, kind: type[SocketResource] = SocketResource) -> None:
        self.ledger = ledger
        self.kind = kind
        self.made: list[SocketResource] = []

    def create(self) -> SocketResource:
        """Make one on the ledger's books."""
        plain = self.ledger.create()
        resource = self.kind(self.ledger, plain.number)
        self.ledger.live[plain.number] = resource
        self.made.append(resource)
        return resource

    def destroy(self, resource: SocketResource) -> None:
        """Unmake one."""
        self.ledger.destroy(resource)
        resource.close()


@pytest.mark.parametrize("how", ["the peer closed", "the peer said something"])
@pytest.mark.parametrize("road", ["queue_task", "run_task"])
def test_check_readable_replaces_what_is_readable_while_idle(
    make_runner: MakeRunner, ledger: Ledger, how: str, road: str
) -> None:
    sockets = Sockets(ledger)
    recorder = Recorder()
    runner = make_runner(
        on_create=sockets.create, on_destroy=sockets.destroy, worker_count=1, resource_pool_size=0, max_resources=1,
        check_readable=True, on_event=recorder,
    )  # fmt: skip
    ask = getattr(runner, road)
    assert [ask(number_of), ask(number_of)] == [1, 1]

    if how == "the peer closed":
        sockets.made[0].far.close()
    else:
        sockets.made[0].far.sendall(b"unasked")

    assert ask(number_of) == 2
    assert why(recorder) == [DestroyReason.READABLE]


def test_check_readable_lets_the_first_use_pass(make_runner: MakeRunner, ledger: Ledger) -> None:
    sockets = Sockets(ledger)

    def greet() -> SocketResource:
        resource = sockets.create()
        resource.far.sendall(b"welcome")
        return resource

    runner = make_runner(
        on_create=greet, on_destroy=sockets.destroy, worker_count=1, resource_pool_size=0, max_resources=1,
        check_readable=True,
    )  # fmt: skip

    def hear(resource: LedgerResource) -> bytes:
        assert isinstance(resource, SocketResource)
        return resource.near.recv(64)

    assert runner.queue_task(hear) == b"welcome"
    assert runner.queue_task(number_of) == 1


def test_check_readable_leaves_resources_without_a_descriptor_alone(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, check_readable=True)

    assert [runner.queue_task(number_of) for _ in range(3)] == [1, 1, 1]


def test_check_readable_takes_a_closed_descriptor_for_unfit(make_runner: MakeRunner, ledger: Ledger) -> None:
    sockets = Sockets(ledger)
    runner = make_runner(
        on_create=sockets.create, on_destroy=sockets.destroy, worker_count=1, resource_pool_size=0, max_resources=1,
        check_readable=True,
    )  # fmt: skip
    assert runner.queue_task(number_of) == 1

    sockets.made[0].near.close()

    assert runner.queue_task(number_of, timeout=10) == 2


def test_keepalive_probes_idle_resources_and_replaces_the_stale(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(
        worker_count=1, resource_pool_size=2, check_resource=ledger.probe, check_idle=1000.0, keepalive=0.02
    ).start()
    eventually(lambda: ledger.probing.entered >= 6)
    assert ledger.destroyed == 0

    for resource in ledger.live.values():
        resource.stale = True

    eventually(lambda: ledger.destroyed == 3 and whole(runner, 1, 2))


def test_keepalive_leaves_half_of_the_idle_ones_to_those_who_come(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.probing.hold()
    runner = make_runner(
        worker_count=1, resource_pool_size=3, check_resource=ledger.probe, check_idle=1000.0, keepalive=0.02
    ).start()
    eventually(lambda: ledger.probing.entered == 2)
    gevent.sleep(0.1)  # several rounds more, each of which has to leave the other two alone

    assert ledger.probing.entered == 2
    assert runner.run_task(number_of) in ledger.live
    ledger.probing.release()
    eventually(lambda: ledger.probing.entered >= 6)


def test_keepalive_leaves_what_is_in_use_alone(make_runner: MakeRunner, ledger: Ledger, held: HeldTask[str]) -> None:
    runner = make_runner(
        worker_count=1, resource_pool_size=0, max_resources=1, check_resource=ledger.probe, keepalive=0.01
    )
    runner.submit(held)
    held.wait_begun()
    probed = ledger.probing.entered
    gevent.sleep(0.05)

    assert ledger.probing.entered == probed
    held.release()


# --- reset, on_interrupt


@pytest.mark.parametrize("road", ["queue_task", "run_task", "lease", "submit"])
def test_reset_cleans_after_each_use(make_runner: MakeRunner, ledger: Ledger, road: str) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, reset=ledger.reset).start()

    for _ in range(3):
        if road == "lease":
            with runner.lease() as resource:
                touch(resource, 1)
        elif road == "submit":
            runner.submit(touch, 1).get(timeout=10)
        else:
            getattr(runner, road)(touch, 1)

    eventually(lambda: ledger.resetting.left == 3)


def test_reset_is_done_at_once_and_not_before_the_next_use(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, reset=ledger.reset).start()
    runner.queue_task(touch, 1)

    eventually(lambda: ledger.resetting.left == 1, "the reset with nobody asking for the resource")


def test_a_resource_is_not_used_before_its_reset_is_over(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, reset=ledger.reset).start()
    ledger.resetting.hold()
    runner.queue_task(touch, 1)
    waiting = [call(runner.queue_task, touch, 2), call(runner.run_task, touch, 3)]
    let_run()
    assert not any(one.ended for one in waiting)

    ledger.resetting.release()

    assert [one.result() for one in waiting] == [2, 3]


def test_a_reset_that_fails_replaces_the_resource(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, reset=ledger.reset).start()
    ledger.resetting.fail(times=1)

    assert runner.queue_task(number_of) == 1
    assert runner.queue_task(number_of) == 2


def test_a_reset_that_takes_too_long_replaces_the_resource(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(
        worker_count=1, resource_pool_size=0, max_resources=1, reset=ledger.reset, hook_timeout=0.02
    ).start()
    ledger.resetting.hold()

    assert runner.queue_task(number_of) == 1
    eventually(lambda: ledger.destroyed == 1)
    ledger.resetting.release()
    assert runner.queue_task(number_of) == 2


def test_reset_is_asked_after_a_healthy_error_too(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, reset=ledger.reset).start()

    def fail(_resource: LedgerResource) -> None:
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        runner.queue_task(fail)

    eventually(lambda: ledger.resetting.left == 1)
    assert ledger.destroyed == 0


class ResetAtOnce:
    """A reset that says, without waiting, what `answer` says: whether there was nothing to wait for."""

    def __init__(self, ledger: Ledger, answer: Any = True) -> None:
        self.ledger = ledger
        self.answer = answer
        self.asked: list[Any] = []  # the greenlets that were at it

    def __call__(self, resource: LedgerResource) -> None:
        self.ledger.reset(resource)

    def nowait(self, resource: LedgerResource) -> bool:
        assert resource.user is None, "somebody uses it"
        self.asked.append(gevent.getcurrent())
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


def use(runner: Runner[LedgerResource], road: str) -> int:
    """Use a resource, and return its number."""
    if road == "lease":
        with runner.lease() as resource:
            return number_of(resource)
    if road == "submit":
        return runner.submit(number_of).get(timeout=10)
    answer: int = getattr(runner, road)(number_of)
    return answer


@pytest.mark.parametrize("road", ["queue_task", "run_task", "lease", "submit"])
def test_what_was_reset_without_waiting_is_not_reset_again(make_runner: MakeRunner, ledger: Ledger, road: str) -> None:
    reset = ResetAtOnce(ledger)
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, reset=reset).start()

    assert [use(runner, road) for _ in range(3)] == [1, 1, 1]

    eventually(lambda: len(reset.asked) == 3)
    assert ledger.resetting.entered == 0


@pytest.mark.parametrize("road", ["run_task", "lease"])
def test_a_resource_that_was_reset_without_waiting_is_idle_when_its_user_goes_on(
    make_runner: MakeRunner, ledger: Ledger, road: str
) -> None:
    reset = ResetAtOnce(ledger)
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=2, reset=reset).start()

    use(runner, road)

    assert runner.stats().available_resources == 1
    assert reset.asked == [gevent.getcurrent()]


@pytest.mark.parametrize(
    "answer",
    [False, None, 1, ValueError("it broke"), gevent.Timeout()],
    ids=["false", "none", "a mere truth", "an error", "a time-out"],
)
@pytest.mark.parametrize("road", ["queue_task", "run_task", "lease"])
def test_what_was_not_reset_without_waiting_is_reset(
    make_runner: MakeRunner, ledger: Ledger, road: str, answer: Any
) -> None:
    reset = ResetAtOnce(ledger, answer)
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, reset=reset).start()

    assert [use(runner, road) for _ in range(2)] == [1, 1]

    eventually(lambda: ledger.resetting.left == 2)


def test_a_reset_without_waiting_that_raises_is_logged(
    make_runner: MakeRunner, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    reset = ResetAtOnce(ledger, ValueError("it broke"))
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, reset=reset).start()

    runner.run_task(number_of)

    eventually(lambda: "reset.nowait raised ValueError('it broke')" in caplog.text)


@pytest.mark.parametrize("road", ["queue_task", "run_task", "lease"])
def test_what_was_reset_without_waiting_is_looked_at_before_it_is_handed_on(
    make_runner: MakeRunner, ledger: Ledger, road: str
) -> None:
    # Given a line for the one resource, so that nobody looks at it but at the end of a use.
    sockets = Sockets(ledger)
    runner = make_runner(
        on_create=sockets.create, on_destroy=sockets.destroy, worker_count=1, resource_pool_size=0, max_resources=1,
        check_readable=True, reset=ResetAtOnce(ledger),
    ).start()  # fmt: skip
    use(runner, road)

    def leave_an_answer(resource: LedgerResource) -> int:
        assert isinstance(resource, SocketResource)
        resource.far.sendall(b"for nobody else")
        return resource.number

    with runner.lease() as resource:
        waiting = [gevent.spawn(use, runner, road) for _ in range(2)]
        let_run()
        leave_an_answer(resource)

    assert [one.get(timeout=10) for one in waiting] == [2, 2]


class Heard(ResetAtOnce):
    """And says when the resource was heard of."""

    def __init__(self, ledger: Ledger, heard_at: Callable[[LedgerResource], Any]) -> None:
        super().__init__(ledger)
        self.heard_at = heard_at


class Watched(SocketResource):
    """A socket that counts how often it was to be looked at, and knows when it was heard of."""

    looks = 0
    heard_at = 0.0

    def fileno(self) -> int:
        """Counted."""
        self.looks += 1
        return super().fileno()


def hear(resource: LedgerResource) -> int:
    """A use that ends with something heard."""
    assert isinstance(resource, Watched)
    resource.heard_at = time.monotonic()
    return resource.number


@pytest.mark.parametrize("road", ["queue_task", "run_task"])
@pytest.mark.parametrize("next_one", ["is in line", "comes then"])
def test_what_was_heard_of_just_now_is_not_looked_at(
    make_runner: MakeRunner, ledger: Ledger, road: str, next_one: str
) -> None:
    sockets = Sockets(ledger, Watched)
    runner = make_runner(
        on_create=sockets.create, on_destroy=sockets.destroy, worker_count=1, resource_pool_size=0, max_resources=1,
        check_readable=True, reset=Heard(ledger, attrgetter("heard_at")),
    ).start()  # fmt: skip
    ask = getattr(runner, road)

    def two_in_a_row() -> int:
        if next_one == "is in line":
            gevent.joinall([gevent.spawn(ask, hear) for _ in range(2)], raise_error=True)
        else:
            ask(hear)
            ask(hear)
        [resource] = sockets.made
        assert isinstance(resource, Watched)
        resource.looks, looks = 0, resource.looks
        gevent.sleep(0.001)  # the first of two is looked at
        return looks

    two_in_a_row()
    assert min(two_in_a_row() for _ in range(50)) == 1  # a busy machine takes longer now and then


@pytest.mark.parametrize(
    "heard_at",
    [
        lambda _: time.monotonic() - 0.01,
        lambda _: time.monotonic() + 1000,
        lambda _: nan,
        lambda _: "just now",
        lambda _: 1 / 0,
    ],
    ids=["a while ago", "in the future", "never", "no number", "an error"],
)
@pytest.mark.parametrize("road", ["queue_task", "run_task", "lease"])
def test_what_was_not_heard_of_just_now_is_looked_at(
    make_runner: MakeRunner, ledger: Ledger, road: str, heard_at: Callable[[LedgerResource], Any]
) -> None:
    sockets = Sockets(ledger)
    runner = make_runner(
        on_create=sockets.create, on_destroy=sockets.destroy, worker_count=1, resource_pool_size=0, max_resources=1,
        check_readable=True, reset=Heard(ledger, heard_at),
    ).start()  # fmt: skip
    assert use(runner, road) == 1

    with runner.lease() as resource:
        waiting = gevent.spawn(use, runner, road)
        let_run()
        assert isinstance(resource, SocketResource)
        resource.far.sendall(b"for nobody else")
    assert waiting.get(timeout=10) == 2

    sockets.made[1].far.close()
    assert use(runner, road) == 3


@pytest.mark.parametrize("meanwhile", ["it is to go", "it is suspect"])
def test_having_been_heard_of_just_now_spares_no_resource_that_is_not_trusted(
    make_runner: MakeRunner, ledger: Ledger, meanwhile: str
) -> None:
    sockets = Sockets(ledger, Watched)

    def heard_at(resource: LedgerResource) -> float:
        assert isinstance(resource, Watched)
        assert runner._core is not None
        [record] = runner._core.stock.records.values()
        record.condemn(DestroyReason.RECYCLED) if meanwhile == "it is to go" else record.distrust()
        return resource.heard_at

    runner = make_runner(
        on_create=sockets.create, on_destroy=sockets.destroy, worker_count=1, resource_pool_size=0, max_resources=1,
        check_readable=True, check_resource=ledger.probe, reset=Heard(ledger, heard_at),
    ).start()  # fmt: skip

    numbers = [runner.queue_task(hear) for _ in range(3)]

    assert numbers == ([1, 2, 3] if meanwhile == "it is to go" else [1, 1, 1])
    assert ledger.probing.entered == (0 if meanwhile == "it is to go" else 2)


@pytest.mark.parametrize("road", ["queue_task", "run_task", "lease"])
def test_what_is_to_be_replaced_is_not_reset_first(make_runner: MakeRunner, ledger: Ledger, road: str) -> None:
    reset = ResetAtOnce(ledger)
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, reset=reset).start()

    def outdated(resource: LedgerResource) -> int:
        runner.recycle()
        return number_of(resource)

    if road == "lease":
        with runner.lease() as resource:
            outdated(resource)
    else:
        getattr(runner, road)(outdated)

    eventually(lambda: ledger.destroyed == 1)
    assert not reset.asked


@pytest.mark.parametrize("name", ["nowait", "heard_at"])
def test_what_a_reset_knows_besides_must_be_functions(ledger: Ledger, name: str) -> None:
    reset = ResetAtOnce(ledger)
    setattr(reset, name, True)

    with pytest.raises(ConfigError, match=rf"reset\.{name} must be a callable, not True"):
        Config(worker_count=1, reset=reset, **ledger.options())


def test_on_interrupt_is_asked_in_a_greenlet_of_the_runners(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    where: list[Any] = []

    def vouch(resource: LedgerResource) -> bool:
        where.append(gevent.getcurrent())
        gevent.sleep(0.001)
        return ledger.vouch(resource)

    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, on_interrupt=vouch)
    caller = call(runner.run_task, held)
    held.wait_begun()
    caller.greenlet.kill()

    assert runner.queue_task(number_of, timeout=10) == 1
    assert where[0] is not caller.greenlet
    assert where[0] is not gevent.get_hub()


def test_on_interrupt_that_takes_too_long_does_not_vouch(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.vouching.hold()
    runner = make_runner(
        worker_count=1, resource_pool_size=0, max_resources=1, on_interrupt=ledger.vouch, hook_timeout=0.02
    )
    with pytest.raises(gevent.GreenletExit):
        runner.run_task(interrupted)

    assert runner.queue_task(number_of, timeout=10) == 2
    ledger.vouching.release()


def test_on_interrupt_is_not_asked_after_an_unhealthy_error(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, on_interrupt=ledger.vouch)
    with pytest.raises(UnfitError):
        runner.run_task(unfit)

    assert runner.queue_task(number_of, timeout=10) == 2
    assert ledger.vouching.entered == 0


# --- ages


@pytest.mark.parametrize("when", ["before use", "while idle"])
def test_a_resource_older_than_max_lifetime_is_replaced(make_runner: MakeRunner, ledger: Ledger, when: str) -> None:
    recorder = Recorder()
    runner = make_runner(worker_count=1, resource_pool_size=1, max_lifetime=0.05, on_event=recorder).start()

    if when == "before use":
        # The hub is kept from its housekeeping, so that only the use can find it out.
        until = time.monotonic() + 0.06
        while time.monotonic() < until:
            pass
        assert runner.run_task(number_of) > 2
    eventually(lambda: ledger.destroyed >= 2, "the idle ones replaced with no use")
    assert set(why(recorder)) == {DestroyReason.EXPIRED}


def test_a_resource_in_use_is_replaced_only_after_use(
    make_runner: MakeRunner, ledger: Ledger, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, max_lifetime=0.02)
    handle = runner.submit(held)
    held.wait_begun()
    gevent.sleep(0.06)
    assert ledger.destroyed == 0

    held.release()

    assert handle.get(timeout=10) == "held"
    eventually(lambda: ledger.destroyed == 1)


def test_without_max_lifetime_a_resource_stays(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_lifetime=None).start()
    gevent.sleep(0.03)

    assert runner.queue_task(number_of) == 1


def test_a_temporary_resource_goes_after_max_idle(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=4, max_idle=0.03).start()
    callers = [call(runner.run_task, held) for _ in range(4)]
    held.wait_begun(4)
    held.release()
    for caller in callers:
        caller.result()

    eventually(lambda: whole(runner, 1, 1))
    assert ledger.destroyed == 2


# --- leases


def test_a_lease_held_longer_than_leak_warning_is_reported_once(
    make_runner: MakeRunner, call: SpawnCall, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    leave = Event()
    with caplog.at_level(logging.DEBUG, "gtasker"):
        runner = make_runner(worker_count=1, resource_pool_size=1, leak_warning=0.02, on_event=recorder).start()

        def take_it() -> Any:
            lease = runner.lease()
            lease.__enter__()
            return lease

        def sit_on_it() -> None:
            leave.wait()

        def hold() -> None:
            lease = take_it()
            sit_on_it()
            lease.__exit__(None, None, None)

        holder = call(hold)
        eventually(lambda: recorder.of(LeaseLeaked))
        gevent.sleep(0.1)
        leave.set()
        holder.result()

    assert len(recorder.of(LeaseLeaked)) == 1
    info = recorder.of(LeaseLeaked)[0].info
    assert info.age >= 0.02
    assert "sit_on_it" in info.stack
    assert "take_it" in caplog.text, "the stack that took it is reported"
    assert "sit_on_it" in caplog.text, "the holder's current stack is reported"
    eventually(lambda: whole(runner, 1, 1))


def test_a_run_task_that_takes_long_is_reported_and_left_alone(make_runner: MakeRunner, ledger: Ledger) -> None:
    recorder = Recorder()
    runner = make_runner(worker_count=1, resource_pool_size=1, leak_warning=0.02, on_event=recorder).start()

    def long(resource: LedgerResource) -> str:
        with resource.use():
            eventually(lambda: recorder.of(LeaseLeaked))
        return "unhurt"

    assert runner.run_task(long) == "unhurt"
    assert ledger.destroyed == 0


# --- admission


def test_a_submit_waits_for_room_in_the_backlog(make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, max_queued=2)
    runner.submit(held)
    held.wait_begun()
    for _ in range(2):
        runner.submit(touch, 1)
    waiting = [call(runner.submit, touch, "after the wait"), call(runner.queue_task, touch, "after the wait")]
    let_run()
    assert not any(one.ended for one in waiting)
    assert runner.stats().queued_tasks == 2

    held.release()

    assert waiting[0].result().get(timeout=10) == "after the wait"
    assert waiting[1].result() == "after the wait"


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_full_backlog_refuses_after_enqueue_timeout(
    make_runner: MakeRunner, held: HeldTask[str], timeout: float
) -> None:
    runner = make_runner(worker_count=1, max_queued=2, enqueue_timeout=timeout)
    runner.submit(held)
    held.wait_begun()
    for _ in range(2):
        runner.submit(touch, 1)

    for ask in (
        lambda: runner.submit(touch, 1),
        lambda: runner.queue_task(touch, 1),
        lambda: runner.queue_task_with_priority(touch, 1),
        lambda: runner.queue_task_once(touch, 1),
        lambda: runner.queue_task_with_priority_once(touch, 1),
    ):
        with pytest.raises(QueueFullError):
            ask()

    assert runner.metrics().total_tasks_rejected == 5
    held.release()


def test_room_in_the_backlog_is_given_in_order_of_arrival(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, max_queued=1)
    runner.submit(held)
    held.wait_begun()
    ran: list[int] = []
    callers = [call(runner.queue_task, note, ran, number) for number in range(10)]
    let_run()

    held.release()
    for caller in callers:
        caller.result()

    assert ran == list(range(10))


def test_a_cancel_makes_room(make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, max_queued=1)
    runner.submit(held)
    held.wait_begun()
    first = runner.submit(touch, 1)
    waiting = call(runner.submit, touch, "room")
    let_run()
    assert not waiting.ended

    first.cancel()

    handle = waiting.result()
    held.release()
    assert handle.get(timeout=10) == "room"


def test_a_caller_that_leaves_while_it_waits_for_room_takes_none(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, max_queued=1)
    runner.submit(held)
    held.wait_begun()
    ran: list[str] = []
    runner.submit(lambda _r: ran.append("queued"))
    gone = call(runner.submit, lambda _r: ran.append("gone"))
    stays = call(runner.submit, lambda _r: ran.append("stays"))
    let_run()

    gone.greenlet.kill()
    held.release()
    stays.result().get(timeout=10)
    runner.stop()

    assert ran == ["queued", "stays"]


def test_a_retry_needs_no_room(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, max_queued=1, enqueue_timeout=0, max_retries=2)
    begun: list[int] = []

    def fail_twice(resource: LedgerResource) -> str:
        with resource.use():
            begun.append(1)
            if len(begun) == 1:
                runner.submit(touch, "fills the backlog")
            if len(begun) < 3:
                raise UnfitError
        return "third"

    assert runner.submit(fail_twice).get(timeout=10) == "third"


def test_a_kill_answers_those_who_wait_for_room(make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, max_queued=1)
    runner.submit(held)
    held.wait_begun()
    runner.submit(touch, 1)
    waiting = call(runner.submit, touch, 2)
    let_run()

    runner.kill()

    assert isinstance(waiting.failure(), TaskCancelledError | RunnerStoppedError)


# --- callers that go away, contexts


@pytest.mark.parametrize("option", [False, True])
def test_cancel_on_abandon(make_runner: MakeRunner, call: SpawnCall, option: bool) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, cancel_on_abandon=option)
    ended: list[str] = []
    let_go = Event()
    began = Event()

    def work(resource: LedgerResource) -> None:
        with resource.use():
            began.set()
            try:
                let_go.wait()
                ended.append("in its own time")
            except BaseException:
                ended.append("interrupted")
                raise

    caller = call(runner.queue_task, work)
    reached(began)
    caller.greenlet.kill()
    let_run()
    let_go.set()
    eventually(lambda: ended)

    assert ended == (["interrupted"] if option else ["in its own time"])


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


def test_an_attempt_sees_a_copy_of_its_submitters_context(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    def look(_resource: LedgerResource) -> str:
        seen = variable.get()
        variable.set("set by the task")
        return seen

    token = variable.set("the submitter's")
    try:
        handle = runner.submit(look)
        variable.set("changed after the submit")
        assert handle.get(timeout=10) == "the submitter's"
        assert variable.get() == "changed after the submit"
        assert runner.queue_task(look) == "changed after the submit"
    finally:
        variable.reset(token)
    assert runner.queue_task(look) == "nothing"


def test_all_attempts_of_a_task_share_one_copy(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, max_retries=1)
    seen: list[str] = []

    def look(resource: LedgerResource) -> None:
        with resource.use():
            seen.append(variable.get())
            variable.set("set in the first attempt")
            if len(seen) == 1:
                raise UnfitError

    runner.queue_task(look)

    assert seen == ["nothing", "set in the first attempt"]


def test_without_propagate_context_an_attempt_does_not_see_it(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, propagate_context=False)
    context = contextvars.copy_context()

    def look(_resource: LedgerResource) -> str:
        return variable.get()

    def submit() -> str:
        variable.set("the submitter's")
        return runner.queue_task(look)

    assert context.run(submit) == "nothing"


def test_run_task_and_leases_see_the_callers_context(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    context = contextvars.copy_context()

    def ask() -> str:
        variable.set("the caller's")
        return runner.run_task(lambda _resource: variable.get())

    assert context.run(ask) == "the caller's"


def test_a_priority_may_be_any_int(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    ran: list[int] = []
    for priority in (10**9, 0, -(10**9), 10, 3):
        runner.submit(note, ran, priority, priority=priority)

    held.release()
    runner.stop()

    assert ran == [-(10**9), 0, 3, 10, 10**9]
    assert [int(one) for one in (Priority.HIGH, Priority.NORMAL, Priority.LOW)] == [0, 10, 20]
