"""The runner's calls, row by row: what each does, and from where it may be called."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import Config, LeaseInfo, Priority, Runner, RunnerStats, ShutdownReport, State, Task, TaskMetrics
from gtasker.errors import (
    AcquireTimeoutError,
    ConfigError,
    QueueFullError,
    RunnerKilledError,
    RunnerStoppedError,
    StartError,
    TaskCancelledError,
    TaskTimeoutError,
)
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import eventually, in_hub, let_run, settled, whole
from tests.conftest import MakeRunner
from tests.ledger import CreateFailedError, HeldTask, Ledger, LedgerResource, UnfitError, touch


def number_of(resource: LedgerResource) -> int:
    """Return the resource's number, using it."""
    with resource.use():
        return resource.number


# --- building and starting


def test_building_makes_nothing(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=2)
    let_run()

    assert ledger.creating.entered == 0
    assert runner.state is State.NEW
    assert runner.stats().live_resources == 0


def test_a_runner_takes_a_config_or_its_options(ledger: Ledger) -> None:
    config = Config(worker_count=1, name="given", **ledger.options())

    for runner in (Runner(config), Runner(worker_count=1, name="given", **ledger.options())):
        assert "given" in repr(runner)
        assert runner.config.worker_count == 1


def test_start_returns_the_runner_when_all_is_ready(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=3, resource_pool_size=2)

    assert runner.start() is runner

    assert ledger.created == 5
    assert whole(runner, 3, 2)
    assert runner.state is State.RUNNING


def test_start_waits_for_the_slowest(make_runner: MakeRunner, ledger: Ledger, call: SpawnCall) -> None:
    ledger.creating.hold()
    runner = make_runner(worker_count=1, resource_pool_size=1)
    starting = call(runner.start)
    ledger.creating.wait_entered(2)
    let_run()
    assert not starting.ended

    ledger.creating.release()

    assert starting.result() is runner


def test_a_second_start_is_harmless(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()

    assert runner.start() is runner
    assert ledger.created == 2


def test_two_starts_at_once_make_everything_once(make_runner: MakeRunner, ledger: Ledger, call: SpawnCall) -> None:
    ledger.creating.delay = 0.005
    runner = make_runner(worker_count=2, resource_pool_size=1)

    starts = [call(runner.start) for _ in range(3)]

    assert [one.result() for one in starts] == [runner] * 3
    assert ledger.created == 3


def test_start_raises_at_the_first_failure(make_runner: MakeRunner, ledger: Ledger) -> None:
    refused = CreateFailedError("refused")
    ledger.creating.fail(refused)
    runner = make_runner(worker_count=2, resource_pool_size=1)

    with pytest.raises(StartError) as caught:
        runner.start()

    assert caught.value.__cause__ is refused
    assert runner.state is State.NEW
    assert ledger.existing == 0


def test_start_with_a_timeout_goes_on_trying_until_it_is_over(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail(times=3)
    runner = make_runner(worker_count=1, resource_pool_size=1, create_backoff=(0.001, 0.005))

    assert runner.start(timeout=10) is runner
    assert whole(runner, 1, 1)


def test_start_raises_at_its_timeout_and_destroys_what_was_made(make_runner: MakeRunner, ledger: Ledger) -> None:
    late = Event()

    def create() -> LedgerResource:
        if ledger.created == 2:
            late.wait()
        return ledger.create()

    runner = make_runner(on_create=create, worker_count=2, resource_pool_size=1, max_creating=1)

    with pytest.raises(StartError):
        runner.start(timeout=0.03)

    assert ledger.created == ledger.destroyed == 2
    assert runner.state is State.NEW


def test_after_a_start_error_the_runner_can_be_started(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail(times=1)
    runner = make_runner(worker_count=1, resource_pool_size=1)
    with pytest.raises(StartError):
        runner.start()

    runner.start()

    assert runner.queue_task(touch, "works") == "works"
    assert whole(runner, 1, 1)


def test_a_start_by_first_use_does_not_raise(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail(times=2)
    runner = make_runner(worker_count=1, create_backoff=(0.001, 0.005))

    assert runner.queue_task(touch, "healed") == "healed"
    assert runner.state is State.RUNNING


def test_run_task_and_lease_start_it_as_well(make_runner: MakeRunner) -> None:
    assert make_runner(worker_count=1).run_task(touch, "works") == "works"
    with make_runner(worker_count=1).lease() as resource:
        assert touch(resource, "works") == "works"


def test_start_after_stop_raises(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1).start()
    runner.stop()

    with pytest.raises(RunnerStoppedError):
        runner.start()


# --- queue_task and its variants


def test_queue_task_returns_the_value(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    assert runner.queue_task(touch, "value") == "value"
    assert runner.queue_task(lambda _resource, *numbers: sum(numbers), 1, 2, 3) == 6
    assert runner.queue_task(lambda _resource: None) is None


def test_queue_task_raises_the_tasks_own_exception(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    error = LookupError("own")

    def fail(_resource: LedgerResource) -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        runner.queue_task(fail)

    assert caught.value is error
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "name", ["queue_task", "queue_task_with_priority", "queue_task_once", "queue_task_with_priority_once"]
)
def test_each_variant_returns_the_value_and_passes_arguments(make_runner: MakeRunner, name: str) -> None:
    runner = make_runner(worker_count=1)

    assert getattr(runner, name)(lambda _resource, *numbers: numbers, 1, 2) == (1, 2)


@pytest.mark.parametrize("name", ["queue_task_with_priority", "queue_task_with_priority_once"])
def test_a_priority_variant_counts_as_a_priority_task(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str], name: str
) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()

    call(getattr(runner, name), touch, 1)
    call(runner.queue_task, touch, 1)
    let_run()

    assert (runner.stats().priority_tasks, runner.stats().queued_tasks) == (1, 1)
    held.release()


def test_queue_task_with_a_timeout_answers_when_it_is_over(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)

    with pytest.raises(TaskTimeoutError):
        runner.queue_task(held, timeout=0.02)


def test_tasks_run_in_parallel_up_to_worker_count(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=3)
    for _ in range(5):
        runner.submit(held)

    held.wait_begun(3)
    let_run()

    assert held.begun == 3
    held.release()


def test_each_worker_keeps_its_resource(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)

    assert {runner.queue_task(number_of) for _ in range(20)} == {1}
    assert ledger.created == 1


# --- submit and callbacks


def test_submit_returns_a_handle_at_once(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    handle = runner.submit(touch, "value")

    assert isinstance(handle, Task)
    assert not handle.ready()
    assert handle.get(timeout=10) == "value"


def test_a_callback_gets_the_answered_task_in_a_greenlet_that_may_wait(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    heard: list[tuple[Any, ...]] = []
    done = Event()

    def callback(task: Task[str]) -> None:
        assert task.ready()
        gevent.sleep(0.001)
        heard.append((task, task.get(timeout=0), gevent.getcurrent() is gevent.get_hub()))
        done.set()

    handle = runner.submit(touch, "value", callback=callback)
    assert done.wait(10)
    let_run()

    assert heard == [(handle, "value", False)]


def test_a_callback_hears_of_failures_and_cancels(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    heard: dict[str, Any] = {}

    def fail(_resource: LedgerResource) -> None:
        raise ValueError("no")

    runner.submit(fail, callback=lambda task: heard.update(failed=task.exception))
    runner.submit(held)
    waiting = runner.submit(touch, 1, callback=lambda task: heard.update(cancelled=task.exception))
    held.wait_begun()
    waiting.cancel()
    eventually(lambda: len(heard) == 2)

    assert isinstance(heard["failed"], ValueError)
    assert isinstance(heard["cancelled"], TaskCancelledError)


def test_a_callback_may_use_the_runner(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    heard: list[str] = []

    runner.submit(touch, 1, callback=lambda _task: heard.append(runner.queue_task(touch, "from the callback")))

    eventually(lambda: heard == ["from the callback"])


def test_submit_may_be_called_in_the_hub(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    handle = in_hub(lambda: runner.submit(touch, "from the hub"))

    assert handle.get(timeout=10) == "from the hub"


def test_a_full_backlog_raises_at_once_in_the_hub(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, max_queued=1)
    runner.submit(held)
    held.wait_begun()
    runner.submit(touch, 1)

    with pytest.raises(QueueFullError):
        in_hub(lambda: runner.submit(touch, 2))
    held.release()


# --- map, imap_unordered


def test_map_returns_the_values_in_order(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=3)

    def late_first(_resource: LedgerResource, item: int) -> int:
        gevent.sleep(0.01 / (item + 1))
        return item * item

    assert runner.map(late_first, range(10)) == [item * item for item in range(10)]
    assert runner.map(late_first, []) == []
    assert runner.map(late_first, iter([2, 1]), priority=Priority.HIGH) == [4, 1]


def test_imap_unordered_yields_as_they_come(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=2)
    door = Event()

    def wait_for_one(_resource: LedgerResource, item: int) -> int:
        if item == 0:
            door.wait()
        return item

    results = iter(runner.imap_unordered(wait_for_one, range(4)))
    early = [next(results) for _ in range(3)]
    door.set()

    assert sorted(early) == [1, 2, 3]
    assert list(results) == [0]


@pytest.mark.parametrize("name", ["map", "imap_unordered"])
def test_the_first_failure_raises_and_cancels_what_has_not_begun(make_runner: MakeRunner, name: str) -> None:
    runner = make_runner(worker_count=1)
    begun: list[int] = []

    def fail_at_two(_resource: LedgerResource, item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("two")
        return item

    with pytest.raises(ValueError, match="two"):
        list(getattr(runner, name)(fail_at_two, range(100)))
    let_run()

    assert len(begun) < 50
    assert runner.stats().queued_tasks == 0


@pytest.mark.parametrize("name", ["map", "imap_unordered"])
def test_an_endless_iterable_is_taken_lazily(make_runner: MakeRunner, name: str) -> None:
    runner = make_runner(worker_count=2)
    taken: list[int] = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    def fail_at_fifty(_resource: LedgerResource, item: int) -> int:
        if item == 50:
            raise ValueError("fifty")
        return item

    with pytest.raises(ValueError, match="fifty"):
        list(getattr(runner, name)(fail_at_fifty, endless()))

    assert 50 < len(taken) < 200


@pytest.mark.parametrize("name", ["map", "imap_unordered"])
def test_an_iterable_that_raises_raises_and_leaves_nothing_waiting(make_runner: MakeRunner, name: str) -> None:
    runner = make_runner(worker_count=1)

    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("the iterable's own")

    with pytest.raises(LookupError, match="the iterable's own"):
        list(getattr(runner, name)(touch, broken()))
    let_run()

    assert runner.stats().queued_tasks == 0


def test_an_imap_left_early_cancels_what_has_not_begun(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    begun: list[int] = []

    results = iter(runner.imap_unordered(lambda _resource, item: begun.append(item), range(1000)))
    next(results)
    results.close()  # type: ignore[attr-defined]  # a generator, as the contract's laziness asks for
    let_run()

    assert len(begun) < 100
    assert runner.stats().queued_tasks == 0


# --- run_task


def test_run_task_runs_in_the_calling_greenlet(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    me = gevent.getcurrent()

    assert runner.run_task(lambda _resource, *rest: (gevent.getcurrent() is me, rest), 1, 2) == (True, (1, 2))


def test_run_task_passes_the_backlog_by(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1)
    runner.submit(held)
    held.wait_begun()
    waiting = [runner.submit(touch, number) for number in range(10)]

    assert runner.run_task(touch, "at once") == "at once"

    assert not any(handle.ready() for handle in waiting)
    held.release()


def test_run_task_takes_the_reserve_first_then_an_idle_workers(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=3).start()

    first = call(runner.run_task, held)
    held.wait_begun(1)
    assert (runner.stats().available_resources, runner.stats().busy_workers) == (0, 0)
    second = call(runner.run_task, held)
    held.wait_begun(2)
    assert (runner.stats().available_resources, runner.stats().busy_workers) == (0, 1)
    assert ledger.created == 2
    third = call(runner.run_task, held)
    held.wait_begun(3)
    assert ledger.created == 3

    held.release()
    for one in (first, second, third):
        assert one.result() == "held"


@pytest.mark.parametrize("road", ["run_task", "lease"])
def test_no_temporary_resource_is_made_while_one_is_idle(make_runner: MakeRunner, ledger: Ledger, road: str) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=2, max_resources=20).start()

    # Often enough to spend the hub's budget many times: who waits for the loop does not wait for a resource.
    for number in range(3000):
        if road == "run_task":
            runner.run_task(touch, number)
        else:
            with runner.lease() as resource:
                touch(resource, number)

    assert ledger.created == 3


def test_a_worker_whose_resource_is_lent_takes_no_task(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1).start()
    lent = call(runner.run_task, held)
    held.wait_begun()

    handle = runner.submit(touch, "after the loan")
    let_run()
    assert not handle.ready()

    held.release()
    lent.result()
    assert handle.get(timeout=10) == "after the loan"


def test_run_task_gives_up_after_its_timeout(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.submit(held)
    held.wait_begun()

    with pytest.raises(AcquireTimeoutError):
        runner.run_task(touch, 1, timeout=0.01)
    assert runner.stats().waiting_leases == 0
    held.release()


def test_the_timeout_of_run_task_does_not_bound_the_run(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    def slow(resource: LedgerResource) -> str:
        with resource.use():
            gevent.sleep(0.05)
        return "slow"

    assert runner.run_task(slow, timeout=0.02) == "slow"


def test_run_task_is_never_retried(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, max_retries=5)
    begun: list[int] = []

    def unfit(resource: LedgerResource) -> None:
        with resource.use():
            begun.append(1)
            raise UnfitError

    with pytest.raises(UnfitError):
        runner.run_task(unfit)

    assert begun == [1]


def test_run_task_inside_run_task_takes_another_resource(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1)

    def outer(resource: LedgerResource) -> tuple[int, int]:
        with resource.use():
            return resource.number, runner.run_task(number_of)

    one, other = runner.run_task(outer)
    assert one != other


# --- lease


def test_a_lease_gives_its_resource_back(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()

    with runner.lease() as resource:
        assert runner.stats().available_resources == 0
        touch(resource, 1)

    assert runner.stats().available_resources == 1
    assert ledger.destroyed == 0


def test_a_lease_left_by_a_healthy_error_gives_it_back(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()

    with pytest.raises(ValueError, match="own"), runner.lease():
        raise ValueError("own")

    eventually(lambda: whole(runner, 1, 1))
    assert ledger.destroyed == 0


def test_a_lease_left_by_an_unhealthy_error_replaces_it(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()

    with pytest.raises(UnfitError), runner.lease():
        raise UnfitError

    eventually(lambda: whole(runner, 1, 1))
    assert ledger.destroyed == 1


def test_a_discarded_lease_is_destroyed_on_exit(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()

    with runner.lease() as resource:
        pass
    lease = runner.lease()
    with lease as again:
        assert again is resource
        lease.discard()
        let_run()
        assert ledger.destroyed == 0

    eventually(lambda: whole(runner, 1, 1))
    assert ledger.destroyed == 1


def test_a_lease_gives_up_after_its_timeout(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.submit(held)
    held.wait_begun()

    with pytest.raises(AcquireTimeoutError), runner.lease(timeout=0.01):
        pass
    held.release()


def test_a_lease_whose_holder_ended_is_noticed_and_its_resource_destroyed(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()
    keep: list[Any] = []

    def leak() -> None:
        keep.append(runner.lease())
        keep[-1].__enter__()

    gevent.spawn(leak).join()

    eventually(lambda: ledger.destroyed == 1, "the leak noticed", timeout=3)
    eventually(lambda: whole(runner, 1, 1))
    assert runner.leases() == []


def test_a_lease_given_back_after_it_was_taken_for_leaked_changes_nothing(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()
    lease = runner.lease()
    gevent.spawn(lease.__enter__).join()
    eventually(lambda: ledger.destroyed == 1, "the leak noticed", timeout=3)

    lease.__exit__(None, None, None)

    eventually(lambda: whole(runner, 1, 1))
    assert ledger.destroyed == 1


def test_a_lease_of_the_main_greenlet_is_no_leak(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()

    with runner.lease() as resource:
        gevent.sleep(1.3)
        touch(resource, 1)

    assert ledger.destroyed == 0


# --- stop


def test_stop_reports_and_closes(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1).start()

    report = runner.stop()

    assert isinstance(report, ShutdownReport)
    assert report.complete
    assert report.abandoned == 0
    assert runner.state is State.CLOSED
    assert ledger.existing == 0


def test_stop_reports_how_the_tasks_ended(make_runner: MakeRunner, held: HeldTask[str], call: SpawnCall) -> None:
    runner = make_runner(worker_count=1)

    def fail(_resource: LedgerResource) -> None:
        raise ValueError

    runner.submit(held)
    held.wait_begun()
    handles: list[Task[Any]] = [
        runner.submit(touch, 1),
        runner.submit(fail),
        runner.submit(fail),
        runner.submit(touch, 1),
    ]
    stopping = call(runner.stop)
    let_run()
    handles[-1].cancel()
    held.release()

    report = stopping.result()

    assert (report.finished, report.failed, report.cancelled) == (2, 2, 1)
    assert isinstance(settled(handles[1]), ValueError)
    assert isinstance(settled(handles[2]), ValueError)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_after_the_end_nothing_is_accepted(make_runner: MakeRunner, end: str) -> None:
    runner = make_runner(worker_count=1).start()
    getattr(runner, end)()

    with pytest.raises(RunnerStoppedError):
        runner.submit(touch, 1)
    with pytest.raises(RunnerStoppedError):
        runner.queue_task(touch, 1)
    with pytest.raises(RunnerStoppedError):
        runner.run_task(touch, 1)
    with pytest.raises(RunnerStoppedError), runner.lease():
        pass
    with pytest.raises(RunnerStoppedError):
        runner.map(touch, [1])
    with pytest.raises(RunnerStoppedError):
        list(runner.imap_unordered(touch, [1]))


def test_while_stopping_tasks_under_way_may_still_submit_and_lease(
    make_runner: MakeRunner, held: HeldTask[str], call: SpawnCall
) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=1)

    def nested(resource: LedgerResource) -> list[str]:
        held(resource)
        with runner.lease() as other:
            leased = touch(other, "leased")
        return [runner.queue_task(touch, "queued"), runner.run_task(touch, "run"), leased]

    handle = runner.submit(nested)
    held.wait_begun()
    stopping = call(runner.stop)
    let_run()
    with pytest.raises(RunnerStoppedError):
        runner.submit(touch, "from outside")
    held.release()

    assert handle.get(timeout=10) == ["queued", "run", "leased"]
    assert stopping.result().complete


def test_stop_resumes_a_paused_runner(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1).start()
    runner.pause()
    handle = runner.submit(touch, "finished")

    assert runner.stop().complete
    assert handle.get(timeout=0) == "finished"


def test_stop_at_its_timeout_goes_on_as_kill(make_runner: MakeRunner, held: HeldTask[str], ledger: Ledger) -> None:
    runner = make_runner(worker_count=1)
    running, waiting = runner.submit(held), runner.submit(touch, 1)
    held.wait_begun()

    report = runner.stop(timeout=0.02)

    assert report.complete
    assert report.cancelled == 2
    assert isinstance(settled(running), RunnerKilledError)
    assert isinstance(settled(waiting), RunnerKilledError)
    assert ledger.existing == 0


def test_a_second_stop_waits_for_the_same_shutdown(
    make_runner: MakeRunner, held: HeldTask[str], call: SpawnCall
) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    stops = [call(runner.stop) for _ in range(3)]
    let_run()
    assert not any(one.ended for one in stops)
    held.release()

    assert all(one.result().complete for one in stops)
    assert runner.stop().complete


def test_a_kill_speeds_up_a_stop(make_runner: MakeRunner, held: HeldTask[str], call: SpawnCall) -> None:
    runner = make_runner(worker_count=1)
    handle = runner.submit(held)
    held.wait_begun()
    stopping = call(runner.stop)
    let_run()

    assert runner.kill().complete

    assert stopping.result().complete
    assert isinstance(settled(handle), RunnerKilledError)


def test_stop_inside_a_task_begins_it_and_returns_at_once(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    def end_it(resource: LedgerResource) -> ShutdownReport:
        with resource.use():
            return runner.stop()

    handle = runner.submit(end_it)
    behind = runner.submit(touch, "finished, too")

    assert not handle.get(timeout=10).complete
    assert behind.get(timeout=10) == "finished, too"
    eventually(lambda: runner.state is State.CLOSED)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_end_inside_a_lease_begins_it_and_returns_at_once(
    make_runner: MakeRunner, ledger: Ledger, end: str
) -> None:
    runner = make_runner(worker_count=1)
    reports: list[ShutdownReport] = []

    def lend() -> None:
        with runner.lease():
            reports.append(getattr(runner, end)())
            gevent.sleep(0.05)

    lending = gevent.spawn(lend)
    lending.join()

    assert not reports[0].complete
    eventually(lambda: runner.state in {State.CLOSED, State.KILLED} and ledger.existing == 0)
    assert runner.stop().complete


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_end_inside_run_task_begins_it_and_returns_at_once(make_runner: MakeRunner, end: str) -> None:
    runner = make_runner(worker_count=1)

    assert not runner.run_task(lambda _resource: getattr(runner, end)()).complete
    assert getattr(runner, end)().complete


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_end_in_the_hub_begins_it_and_returns_at_once(
    make_runner: MakeRunner, end: str, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1)
    handle = runner.submit(held)
    held.wait_begun()

    assert not in_hub(getattr(runner, end)).complete

    held.release()
    settled(handle)
    assert runner.stop().complete


def test_stop_in_a_signal_handlers_greenlet_waits_for_the_shutdown(
    make_runner: MakeRunner, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1)
    handle = runner.submit(held)
    held.wait_begun()
    reports: list[ShutdownReport] = []
    handler = gevent.signal_handler(signal.SIGUSR1, lambda: reports.append(runner.stop()))
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        eventually(lambda: runner.state is State.STOPPING)
        held.release()
        eventually(lambda: reports)
    finally:
        handler.cancel()

    assert reports[0].complete
    assert handle.get(timeout=0) == "held"


def test_stop_of_a_runner_never_started(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1)

    assert runner.stop().complete
    assert ledger.created == 0
    with pytest.raises(RunnerStoppedError):
        runner.submit(touch, 1)


# --- kill


def test_kill_throws_into_workers_run_task_and_leases(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=2)
    seen: dict[str, BaseException] = {}

    def note(resource: LedgerResource, who: str) -> None:
        try:
            held(resource)
        except BaseException as error:
            seen[who] = error
            raise

    def lend() -> None:
        with runner.lease() as resource:
            note(resource, "lease")

    handle = runner.submit(note, "worker")
    callers = [call(runner.run_task, note, "run_task"), call(lend)]
    held.wait_begun(3)

    assert runner.kill().complete

    assert isinstance(settled(handle), RunnerKilledError)
    assert [type(caller.failure()) for caller in callers] == [RunnerKilledError] * 2
    assert isinstance(seen["run_task"], RunnerKilledError)
    assert isinstance(seen["lease"], RunnerKilledError)
    assert "worker" in seen


def test_kill_answers_those_who_wait_for_a_lease(make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.submit(held)
    held.wait_begun()

    def lend() -> None:
        with runner.lease():
            raise AssertionError("there is no resource")

    callers = [call(lend), call(runner.run_task, touch, 1)]
    eventually(lambda: runner.stats().waiting_leases == 2)

    runner.kill()

    assert [type(caller.failure()) for caller in callers] == [RunnerKilledError] * 2


def test_kill_does_not_wait_longer_than_its_timeout(make_runner: MakeRunner, ledger: Ledger) -> None:
    let_go = Event()

    def deaf(resource: LedgerResource) -> None:
        with resource.use():
            while not let_go.is_set():
                try:
                    let_go.wait()
                except BaseException:  # it swallows the kill
                    continue

    runner = make_runner(worker_count=2, resource_pool_size=1)
    handle = runner.submit(deaf)
    eventually(lambda: runner.stats().busy_workers == 1)

    report = runner.kill(timeout=0.03)

    assert report.complete
    assert report.abandoned == 1
    assert handle.ready()
    assert ledger.existing == 1
    let_go.set()
    let_run()
    ledger.abandoned = ledger.existing


def deaf_to_exceptions(_resource: LedgerResource) -> None:
    """Go on, whatever `Exception` comes."""
    while True:
        with contextlib.suppress(Exception):
            Event().wait()


def never_done(_resource: LedgerResource) -> None:
    """Begin a clean-up that has no end."""
    try:
        Event().wait()
    finally:
        Event().wait()


@pytest.mark.parametrize("work", [deaf_to_exceptions, never_done])
@pytest.mark.parametrize("road", ["queue_task", "run_task"])
def test_kill_ends_what_survives_an_exception(
    make_runner: MakeRunner, road: str, work: Callable[[LedgerResource], None]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()
    user = gevent.spawn(getattr(runner, road), work)
    eventually(lambda: len(runner.leases()) == 1)

    report = runner.kill(timeout=1.0)

    assert report.abandoned == 0
    user.join()


def test_a_task_that_cleans_up_within_the_timeout_is_waited_for(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    held: HeldTask[str] = HeldTask("held")
    cleaned: list[int] = []

    def work(resource: LedgerResource) -> None:
        try:
            held(resource)
        finally:
            gevent.sleep(0.03)
            cleaned.append(1)

    runner.submit(work)
    held.wait_begun()

    assert runner.kill().abandoned == 0
    assert cleaned == [1]


# --- with


def test_with_starts_and_stops(make_runner: MakeRunner, ledger: Ledger) -> None:
    with make_runner(worker_count=2, resource_pool_size=1) as runner:
        assert whole(runner, 2, 1)
        handles = [runner.submit(touch, number) for number in range(20)]

    assert [handle.get(timeout=0) for handle in handles] == list(range(20))
    assert runner.state is State.CLOSED


def test_with_kills_on_an_exception(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    error = ValueError("in the block")

    handles: list[Task[str]] = []

    def leave_by_an_error() -> None:
        with runner:
            handles.append(runner.submit(held))
            held.wait_begun()
            raise error

    with pytest.raises(ValueError, match="in the block") as caught:
        leave_by_an_error()

    assert caught.value is error
    assert isinstance(settled(handles[0]), RunnerKilledError)


def test_with_raises_a_start_error(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail()

    with pytest.raises(StartError), make_runner(worker_count=1):
        raise AssertionError("the block was entered")


# --- pause, resume


def test_paused_workers_finish_their_attempt_and_take_no_more(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    running, waiting = runner.submit(held), runner.submit(touch, "later")
    held.wait_begun()

    runner.pause()
    assert runner.state is State.PAUSED
    held.release()
    assert running.get(timeout=10) == "held"
    let_run()
    assert not waiting.ready()
    more = runner.submit(touch, "later still")
    let_run()
    assert not more.ready()

    runner.resume()
    assert runner.state is State.RUNNING
    assert [waiting.get(timeout=10), more.get(timeout=10)] == ["later", "later still"]


def test_pause_and_resume_twice_are_harmless(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1).start()
    runner.resume()
    runner.pause()
    runner.pause()
    runner.resume()
    runner.resume()

    assert runner.queue_task(touch, "works") == "works"


# --- resize


def test_growing_adds_workers_and_reserve(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()

    runner.resize(worker_count=3, max_worker_count=5, resource_pool_size=2, max_resources=7)

    eventually(lambda: whole(runner, 3, 2))
    assert runner.stats().base_workers == 3


def test_shrinking_takes_workers_and_reserve_away(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=4, resource_pool_size=3, max_idle=0.02).start()

    runner.resize(worker_count=1, resource_pool_size=1)

    eventually(lambda: whole(runner, 1, 1))
    assert ledger.destroyed == 5


def test_shrinking_never_interrupts(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=3, resource_pool_size=0, max_idle=0.02)
    handles = [runner.submit(held) for _ in range(3)]
    held.wait_begun(3)

    runner.resize(worker_count=1)
    let_run()
    held.release()

    assert [handle.get(timeout=10) for handle in handles] == ["held"] * 3
    eventually(lambda: whole(runner, 1, 0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"worker_count": 0},
        {"worker_count": -1},
        {"worker_count": 3, "max_worker_count": 2},
        {"max_resources": 1},
        {"resource_pool_size": -1},
    ],
)
def test_a_wrong_resize_raises_and_changes_nothing(make_runner: MakeRunner, wrong: dict[str, int]) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=1).start()

    with pytest.raises(ConfigError):
        runner.resize(**wrong)
    let_run()

    assert whole(runner, 2, 1)


# --- recycle, purge


def test_recycle_replaces_what_is_idle(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=2).start()

    runner.recycle()

    eventually(lambda: ledger.destroyed == 4 and whole(runner, 2, 2))
    assert runner.queue_task(number_of) > 4
    assert runner.run_task(number_of) > 4


def test_recycle_replaces_what_is_lent_when_it_comes_back(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()

    with runner.lease() as resource:
        runner.recycle()
        let_run()
        assert resource.number in ledger.live
        touch(resource, 1)

    eventually(lambda: ledger.destroyed == 2 and whole(runner, 1, 1))


def test_what_was_being_made_at_a_recycle_is_not_used_for_long(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0).start()
    runner.recycle()
    runner.recycle()

    eventually(lambda: ledger.destroyed >= 1 and whole(runner, 1, 0))
    assert runner.queue_task(number_of) >= 2


def test_purge_cancels_what_waits_and_says_how_many(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    running = runner.submit(held)
    held.wait_begun()
    waiting = [runner.submit(touch, number, priority=number) for number in range(5)]

    assert runner.purge() == 5
    assert runner.purge() == 0

    assert [type(settled(handle)) for handle in waiting] == [TaskCancelledError] * 5
    held.release()
    assert running.get(timeout=10) == "held"


def test_purge_by_key_cancels_that_task_alone(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    keyed, other, plain = runner.submit(touch, 1, key="a"), runner.submit(touch, 2, key="b"), runner.submit(touch, 3)

    assert runner.purge(key="nobody's") == 0
    assert runner.purge(key="a") == 1

    assert isinstance(settled(keyed), TaskCancelledError)
    held.release()
    assert [other.get(timeout=10), plain.get(timeout=10)] == [2, 3]


def test_purge_cancels_tasks_that_wait_for_a_further_attempt(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, retry_backoff=(1000.0, 1000.0))

    def unfit(resource: LedgerResource) -> None:
        with resource.use():
            raise UnfitError

    handles = [runner.submit(unfit) for _ in range(20)]
    eventually(lambda: runner.stats().delayed_tasks >= 15)

    runner.purge()

    assert all(isinstance(settled(handle), TaskCancelledError) for handle in handles)
    assert runner.stats().delayed_tasks == 0


# --- looking


def test_stats_and_metrics_are_frozen_snapshots(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1).start()

    stats, metrics = runner.stats(), runner.metrics()

    assert isinstance(stats, RunnerStats)
    assert isinstance(metrics, TaskMetrics)
    with pytest.raises(AttributeError):
        stats.active_workers = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        metrics.total_tasks_completed = 3  # type: ignore[misc]
    runner.queue_task(touch, 1)
    assert metrics.total_tasks_completed == 0
    assert runner.metrics().total_tasks_completed == 1


def test_leases_shows_who_holds_what(make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=2).start()
    assert runner.leases() == []

    def a_function_of_mine(resource: LedgerResource) -> str:
        return held(resource)

    def lend() -> None:
        with runner.lease() as resource:
            a_function_of_mine(resource)

    runner.submit(a_function_of_mine)
    running = call(runner.run_task, a_function_of_mine)
    leasing = call(lend)
    running.greenlet.name = "the runner of it"
    leasing.greenlet.name = "the borrower"
    held.wait_begun(3)

    infos = {str(info.kind): info for info in runner.leases()}

    assert set(infos) == {"worker", "run_task", "lease"}
    assert all(isinstance(info, LeaseInfo) for info in infos.values())
    assert {info.resource_id for info in infos.values()} == {1, 2, 3}
    assert infos["run_task"].holder == "the runner of it"
    assert infos["lease"].holder == "the borrower"
    assert infos["lease"].task is None
    for kind in ("worker", "run_task"):
        assert "a_function_of_mine" in str(infos[kind].task)
    assert infos["worker"].priority == Priority.NORMAL
    for info in infos.values():
        assert 0 <= info.age < 10
        assert "a_function_of_mine" in info.stack
        assert not any(isinstance(value, gevent.Greenlet) for value in (info.holder, info.task, info.stack))
    held.release()
    for one in (running, leasing):
        one.join()
    eventually(lambda: runner.leases() == [])


def test_repr_is_one_line_that_tells_what_there_is(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, name="the-name").start()
    for _ in range(4):
        runner.submit(held)
    held.wait_begun()

    text = repr(runner)

    assert "\n" not in text
    assert "the-name" in text
    assert re.search("running", text, re.IGNORECASE)
    assert re.search(r"\b3\b", text), f"the backlog is not in {text}"
    assert re.search(r"\b2\b", text), f"the resources are not in {text}"
    held.release()


def test_runners_without_a_name_get_numbers(make_runner: MakeRunner) -> None:
    first, second = make_runner(worker_count=1), make_runner(worker_count=1)

    names = [re.search(r"runner-\d+", repr(runner)) for runner in (first, second)]

    assert names[0] is not None
    assert names[1] is not None
    assert names[0].group() != names[1].group()


def test_the_states_a_runner_passes_through(make_runner: MakeRunner, held: HeldTask[str], call: SpawnCall) -> None:
    runner = make_runner(worker_count=1)
    seen = [runner.state]
    handle = runner.submit(held)
    held.wait_begun()
    seen.append(runner.state)
    runner.pause()
    seen.append(runner.state)
    stopping = call(runner.stop)
    let_run()
    seen.append(runner.state)
    held.release()
    stopping.result()
    seen.append(runner.state)

    assert seen == [State.NEW, State.RUNNING, State.PAUSED, State.STOPPING, State.CLOSED]
    assert handle.get(timeout=0) == "held"


def test_a_killed_runner_says_so_until_it_is_closed(make_runner: MakeRunner, ledger: Ledger, call: SpawnCall) -> None:
    runner = make_runner(worker_count=1).start()
    ledger.destroying.hold()

    killing = call(runner.kill)
    let_run()

    assert runner.state is State.KILLED
    ledger.destroying.release()
    assert killing.result().complete
    assert runner.state is State.CLOSED
