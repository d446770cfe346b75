"""What `on_event` is told: each kind of event, when it happens, with what it carries."""

from __future__ import annotations

import dataclasses
import logging
import time
from itertools import pairwise
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import RunnerEvent, State
from gtasker.errors import AcquireTimeoutError, GTaskerError, QueueFullError, TooManyWaitersError
from gtasker.events import (
    BackendDown,
    BackendUp,
    DestroyReason,
    HubBlocked,
    LeaseFailed,
    LeaseFailure,
    LeaseGranted,
    LeaseLeaked,
    LeaseRequested,
    LeaseReturned,
    ResourceCreated,
    ResourceCreateFailed,
    ResourceCreating,
    ResourceDestroyed,
    StateChanged,
    TaskCancelled,
    TaskRejected,
    TaskRetried,
    TaskTimedOut,
    WorkersScaled,
)
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Recorder, eventually, let_run, settled, whole
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch


@pytest.fixture
def recorder() -> Recorder:
    """Keep what is told."""
    return Recorder()


def unfit(resource: LedgerResource) -> None:
    """Fail, the resource being unfit."""
    with resource.use():
        raise UnfitError("unfit")


def reasons(recorder: Recorder) -> list[DestroyReason]:
    """List why resources were destroyed, in order."""
    return [event.reason for event in recorder.of(ResourceDestroyed)]


def test_every_event_has_a_moment_and_a_runner_and_is_frozen(make_runner: MakeRunner, recorder: Recorder) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, name="told", on_event=recorder)
    began = time.monotonic()
    runner.start()
    runner.run_task(touch, 1)
    runner.stop()
    ended = time.monotonic()

    assert recorder.events
    for event in recorder.events:
        assert isinstance(event, RunnerEvent)
        assert event.runner == "told"
        assert began <= event.at <= ended
        with pytest.raises((AttributeError, dataclasses.FrozenInstanceError)):
            event.at = 0.0  # type: ignore[misc]
    moments = [event.at for event in recorder.events]
    assert moments == sorted(moments)


def test_the_life_of_a_resource(make_runner: MakeRunner, ledger: Ledger, recorder: Recorder) -> None:
    ledger.creating.delay = 0.01
    runner = make_runner(worker_count=2, resource_pool_size=1, max_creating=1, on_event=recorder).start()
    runner.stop()

    assert [event.resource_id for event in recorder.of(ResourceCreating)] == [1, 2, 3]
    created = recorder.of(ResourceCreated)
    assert [event.resource_id for event in created] == [1, 2, 3]
    assert all(event.seconds >= 0.01 for event in created)
    assert sorted(event.resource_id for event in recorder.of(ResourceDestroyed)) == [1, 2, 3]
    assert reasons(recorder) == [DestroyReason.STOPPED] * 3
    for number in (1, 2, 3):
        told = [type(event) for event in recorder.events if getattr(event, "resource_id", None) == number]
        assert told == [ResourceCreating, ResourceCreated, ResourceDestroyed]


def test_a_failed_create(make_runner: MakeRunner, ledger: Ledger, recorder: Recorder) -> None:
    error = ConnectionRefusedError("refused")
    ledger.creating.fail(error, times=3)
    runner = make_runner(
        worker_count=1, resource_pool_size=0, max_creating=1, create_backoff=(0.004, 0.01), on_event=recorder
    )
    runner.queue_task(touch, 1)

    failed = recorder.of(ResourceCreateFailed)
    assert [event.error for event in failed] == [error] * 3
    assert all(0 <= event.next_attempt_in <= 0.01 for event in failed)
    assert len(recorder.of(ResourceCreating)) == 4


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("unhealthy", DestroyReason.UNHEALTHY),
        ("interrupted", DestroyReason.INTERRUPTED),
        ("discarded", DestroyReason.DISCARDED),
        ("recycled", DestroyReason.RECYCLED),
        ("reset failed", DestroyReason.RESET_FAILED),
        ("check failed", DestroyReason.CHECK_FAILED),
        ("leaked", DestroyReason.LEAKED),
        ("surplus", DestroyReason.SURPLUS),
        ("killed", DestroyReason.KILLED),
        ("expired", DestroyReason.EXPIRED),
    ],
)
def test_the_reason_why_a_resource_is_destroyed(
    make_runner: MakeRunner, ledger: Ledger, recorder: Recorder, how: str, reason: DestroyReason
) -> None:
    all_options: dict[str, dict[str, Any]] = {
        "reset failed": {"reset": ledger.reset},
        "check failed": {"check_resource": ledger.probe, "check_idle": 0.0},
        "expired": {"max_lifetime": 0.01},
        "surplus": {"max_idle": 0.02},
    }
    runner = make_runner(worker_count=1, resource_pool_size=1, on_event=recorder, **all_options.get(how, {})).start()

    def interrupted(resource: LedgerResource) -> None:
        with resource.use():
            raise gevent.GreenletExit

    if how == "unhealthy":
        with pytest.raises(UnfitError):
            runner.run_task(unfit)
    elif how == "interrupted":
        with pytest.raises(gevent.GreenletExit):
            runner.run_task(interrupted)
    elif how == "discarded":
        lease = runner.lease()
        with lease:
            lease.discard()
    elif how == "recycled":
        runner.recycle()
    elif how == "reset failed":
        ledger.resetting.fail(times=1)
        runner.run_task(touch, 1)
    elif how == "check failed":
        ledger.probing.fail(times=1)
        runner.run_task(touch, 1)
    elif how == "leaked":
        gevent.spawn(lambda: runner.lease().__enter__()).join()
    elif how == "surplus":
        runner.resize(resource_pool_size=0)
    elif how == "killed":
        runner.kill()

    eventually(lambda: reasons(recorder), timeout=5)
    # Of what is more than wanted, either word is true.
    told = {reasons(recorder)[0]} if how == "surplus" else set(reasons(recorder))
    assert told <= {reason, DestroyReason.IDLE} if how == "surplus" else told == {reason}
    ledger.probing.heal()


def test_an_idle_burst_worker_goes_as_idle(make_runner: MakeRunner, recorder: Recorder, held: HeldTask[str]) -> None:
    runner = make_runner(
        worker_count=1,
        resource_pool_size=0,
        burst_task_threshold=1,
        burst_worker_count=1,
        max_worker_count=2,
        burst_interval=0.005,
        max_idle=0.02,
        on_event=recorder,
    )
    for _ in range(6):
        runner.submit(held)
    held.wait_begun(2)
    held.release()

    eventually(lambda: whole(runner, 1, 0))
    # Either word is true of a burst worker that is not needed any more.
    assert set(reasons(recorder)) <= {DestroyReason.IDLE, DestroyReason.SURPLUS}
    scaled = [(event.before, event.after) for event in recorder.of(WorkersScaled)]
    assert scaled[0] == (1, 2)
    assert scaled[-1] == (2, 1)
    assert all(event.why for event in recorder.of(WorkersScaled))


def test_the_life_of_a_lease(make_runner: MakeRunner, recorder: Recorder) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, on_event=recorder).start()
    del recorder.events[:]

    with runner.lease():
        gevent.sleep(0.01)
    runner.run_task(touch, 1)

    kinds = [type(event) for event in recorder.events]
    assert kinds == [LeaseRequested, LeaseGranted, LeaseReturned] * 2
    granted, returned = recorder.of(LeaseGranted)[0], recorder.of(LeaseReturned)[0]
    assert granted.resource_id == returned.resource_id
    assert 0 <= granted.waited < 10
    assert returned.held >= 0.01


def test_a_lease_that_waited_says_how_long(
    make_runner: MakeRunner, recorder: Recorder, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, on_event=recorder)
    runner.submit(held)
    held.wait_begun()
    waiting = call(runner.run_task, touch, 1)
    gevent.sleep(0.02)
    held.release()
    waiting.result()

    assert recorder.of(LeaseGranted)[0].waited >= 0.02


def test_a_lease_that_failed_says_why(
    make_runner: MakeRunner, recorder: Recorder, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, max_waiting=1, on_event=recorder)
    runner.submit(held)
    held.wait_begun()
    with pytest.raises(AcquireTimeoutError):
        runner.run_task(touch, 1, timeout=0.01)
    gone = call(runner.run_task, touch, 1)
    let_run()
    with pytest.raises(TooManyWaitersError):
        runner.run_task(touch, 1)
    gone.greenlet.kill()
    killed = call(runner.run_task, touch, 1)
    let_run()
    runner.kill()
    killed.join()

    assert [event.reason for event in recorder.of(LeaseFailed)] == [
        LeaseFailure.TIMEOUT, LeaseFailure.TOO_MANY_WAITERS, LeaseFailure.LEFT, LeaseFailure.KILLED
    ]  # fmt: skip


def test_a_leaked_lease(make_runner: MakeRunner, recorder: Recorder) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, on_event=recorder).start()
    keep: list[Any] = []

    def leak() -> None:
        gevent.getcurrent().name = "the leaker"  # type: ignore[attr-defined]  # a Greenlet
        keep.append(runner.lease())
        keep[-1].__enter__()

    gevent.spawn(leak).join()

    eventually(lambda: recorder.of(LeaseLeaked), timeout=5)
    info = recorder.of(LeaseLeaked)[0].info
    assert info.holder == "the leaker"
    assert len(recorder.of(LeaseLeaked)) == 1


def test_the_backend_goes_down_and_comes_up(make_runner: MakeRunner, ledger: Ledger, recorder: Recorder) -> None:
    error = ConnectionRefusedError("refused")
    ledger.creating.fail(error)
    runner = make_runner(worker_count=1, fail_fast_after=0.02, create_backoff=(0.002, 0.005), on_event=recorder)
    handle = runner.submit(touch, 1)
    eventually(lambda: recorder.of(BackendDown))
    assert isinstance(settled(handle), GTaskerError)
    assert recorder.of(BackendDown)[0].error is error
    assert recorder.of(BackendUp) == []

    ledger.creating.heal()
    eventually(lambda: recorder.of(BackendUp))

    assert len(recorder.of(BackendDown)) == len(recorder.of(BackendUp)) == 1
    assert 0 <= recorder.of(BackendUp)[0].seconds_down < 10


def test_a_create_that_failed_once_is_no_backend_that_is_down(
    make_runner: MakeRunner, ledger: Ledger, recorder: Recorder
) -> None:
    ledger.creating.fail(times=2)  # two attempts under way together count once
    runner = make_runner(worker_count=1, fail_fast_after=1000.0, create_backoff=(0.001, 0.002), on_event=recorder)
    assert runner.queue_task(touch, 1) == 1

    # Down is what fails again when it is tried again.
    assert recorder.of(BackendDown) == recorder.of(BackendUp) == []


def test_a_retried_task(make_runner: MakeRunner, recorder: Recorder) -> None:
    runner = make_runner(worker_count=1, max_retries=2, retry_backoff=(0.001, 0.002), on_event=recorder)
    settled(runner.submit(unfit))

    retried = recorder.of(TaskRetried)
    assert [event.attempts for event in retried] == [1, 2]
    assert all(isinstance(event.error, UnfitError) for event in retried)
    assert all(0 <= event.next_attempt_in <= 0.002 for event in retried)
    assert all("unfit" in event.task for event in retried)


def test_tasks_timed_out_cancelled_and_rejected(
    make_runner: MakeRunner, recorder: Recorder, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, max_queued=1, enqueue_timeout=0, on_event=recorder)

    def a_task_of_mine(_resource: LedgerResource) -> None:
        """Do nothing."""

    runner.submit(held)
    held.wait_begun()
    settled(runner.submit(a_task_of_mine, timeout=0.01))
    cancelled = runner.submit(a_task_of_mine)
    with pytest.raises(QueueFullError):
        runner.submit(a_task_of_mine)
    cancelled.cancel()
    held.release()

    for kind in (TaskTimedOut, TaskCancelled, TaskRejected):
        told: list[Any] = recorder.of(kind)
        assert len(told) == 1
        assert "a_task_of_mine" in told[0].task


def test_the_states(make_runner: MakeRunner, recorder: Recorder) -> None:
    runner = make_runner(worker_count=1, on_event=recorder).start()
    runner.pause()
    runner.resume()
    runner.stop()

    changes = [(event.before, event.after) for event in recorder.of(StateChanged)]
    assert changes[0][0] is State.NEW
    assert changes[-1][1] is State.CLOSED
    assert all(one[1] is other[0] for one, other in pairwise(changes))
    assert {State.RUNNING, State.PAUSED, State.STOPPING} <= {after for _, after in changes}


def test_a_blocked_hub_is_reported_with_the_tasks_that_ran(make_runner: MakeRunner, recorder: Recorder) -> None:
    runner = make_runner(worker_count=1, hub_blocked_after=0.05, on_event=recorder).start()
    # A loop that waits in its poll, however long, is not blocked.
    gevent.sleep(0.15)
    let_run()
    assert recorder.of(HubBlocked) == []

    def the_blocker(_resource: LedgerResource) -> None:
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            pass

    runner.queue_task(the_blocker)

    eventually(lambda: recorder.of(HubBlocked))
    event = recorder.of(HubBlocked)[0]
    assert event.seconds >= 0.05
    assert any("the_blocker" in task for task in event.tasks)


def test_an_on_event_that_raises_is_logged_and_nothing_more(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[RunnerEvent] = []

    def raise_always(event: RunnerEvent) -> None:
        told.append(event)
        raise RuntimeError("the listener's own")

    with caplog.at_level(logging.DEBUG, "gtasker"):
        runner = make_runner(worker_count=1, resource_pool_size=1, on_event=raise_always).start()
        assert runner.queue_task(touch, 1) == 1
        assert runner.run_task(touch, 2) == 2
        assert runner.stop().complete

    assert len(told) > 5
    assert "the listener's own" in caplog.text


@pytest.mark.parametrize("error", [gevent.GreenletExit, SystemExit, BaseException, gevent.Timeout])
def test_an_on_event_that_raises_anything_hurts_nobody(
    make_runner: MakeRunner, ledger: Ledger, error: type[BaseException]
) -> None:
    def raise_always(_event: RunnerEvent) -> None:
        raise error

    runner = make_runner(worker_count=1, resource_pool_size=1, on_event=raise_always).start()

    assert runner.queue_task(touch, 1) == 1
    assert runner.run_task(touch, 2) == 2
    with runner.lease() as resource:
        assert touch(resource, 3) == 3
    assert whole(runner, 1, 1)
    assert runner.stop().complete


def test_with_no_listener_none_is_built(make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []

    def note(self: Any, *_args: Any, **_kwargs: Any) -> None:
        built.append(self)

    for kind in (ResourceCreating, ResourceCreated, ResourceDestroyed, StateChanged, LeaseRequested, LeaseGranted):
        monkeypatch.setattr(kind, "__init__", note)
    with make_runner(worker_count=1, resource_pool_size=1) as runner:
        runner.run_task(touch, 1)
        runner.queue_task(touch, 1)

    assert built == []


def test_a_listener_may_look_at_the_runner(make_runner: MakeRunner) -> None:
    looked: list[Any] = []
    runners: list[Any] = []

    def look(_event: RunnerEvent) -> None:
        if runners:
            looked.append((runners[0].stats(), runners[0].metrics(), runners[0].leases(), repr(runners[0])))

    runner = make_runner(worker_count=1, resource_pool_size=1, on_event=look)
    runners.append(runner)
    runner.start()
    runner.run_task(touch, 1)
    runner.stop()
    runners.clear()

    assert len(looked) > 5


def test_a_listener_may_submit(make_runner: MakeRunner) -> None:
    runners: list[Any] = []
    done = Event()

    def submit(event: RunnerEvent) -> None:
        if isinstance(event, ResourceCreated) and runners:
            runners.pop().submit(lambda _resource: done.set())

    runner = make_runner(worker_count=1, resource_pool_size=1, on_event=submit)
    runners.append(runner)
    runner.start()

    assert done.wait(10)
