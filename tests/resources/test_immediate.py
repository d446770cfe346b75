"""The immediate runner answers as the real one does: each promise here is asked of both, but for those at the end."""

from __future__ import annotations

import contextvars
import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

import gevent
import pytest
from gevent import GreenletExit, get_hub, getcurrent
from gevent.event import Event

from gtasker import (
    AcquireTimeoutError,
    ConfigError,
    GTaskerError,
    LeaseKind,
    MaxRetriesExceededError,
    Priority,
    ResourceState,
    ResourceUnavailableError,
    Runner,
    RunnerKilledError,
    RunnerStoppedError,
    StartError,
    State,
    Task,
    TaskCancelledError,
    TaskState,
    TaskTimeoutError,
    TooManyWaitersError,
    WouldBlockHubError,
    WouldDeadlockError,
    WrongThreadError,
)
from gtasker.events import DestroyReason, ResourceCreated, ResourceDestroyed, StateChanged
from gtasker.testing.immediate import ImmediateRunner
from gtasker.testing.ledger import (
    PATIENCE,
    CreateFailedError,
    Door,
    HeldTask,
    Ledger,
    LedgerResource,
    UnfitError,
    touch,
)


class Make(Protocol):
    """Build a runner of one of the two kinds, over the ledger."""

    def __call__(self, **options: Any) -> Runner[LedgerResource]: ...


@pytest.fixture
def books() -> Iterator[Ledger]:
    ledger = Ledger()
    yield ledger
    ledger.assert_balanced()


def maker(kind: type[Runner[Any]], ledger: Ledger) -> Iterator[Make]:
    made: list[Runner[LedgerResource]] = []

    def make(**options: Any) -> Runner[LedgerResource]:
        sizes = {"worker_count": 1, "resource_pool_size": 1}
        runner: Runner[LedgerResource] = kind(**{**ledger.options(), **sizes, **options})
        made.append(runner)
        return runner

    yield make
    for runner in made:
        report = runner.kill()
        assert report.complete
        assert not report.abandoned


@pytest.fixture(params=[Runner, ImmediateRunner])
def make(request: pytest.FixtureRequest, books: Ledger) -> Iterator[Make]:
    """Runners of both kinds, one after the other."""
    yield from maker(request.param, books)


@pytest.fixture
def make_immediate(books: Ledger) -> Iterator[Make]:
    yield from maker(ImmediateRunner, books)


def fail_with(error: BaseException) -> Callable[[LedgerResource], None]:
    def fail(resource: LedgerResource) -> None:
        with resource.use():
            raise error

    return fail


def fail_times(count: int, error: type[BaseException] = UnfitError) -> Callable[[LedgerResource], int]:
    attempts: list[int] = []

    def fail(resource: LedgerResource) -> int:
        attempts.append(resource.number)
        with resource.use():
            if len(attempts) <= count:
                raise error(f"attempt {len(attempts)}")
        assert len(set(attempts)) == len(attempts), "each attempt has a resource of its own"
        return len(attempts)

    return fail


WAYS: dict[str, Callable[[Runner[Any], Callable[..., Any]], Any]] = {
    "queue_task": lambda runner, fn: runner.queue_task(fn),
    "queue_task_with_priority": lambda runner, fn: runner.queue_task_with_priority(fn),
    "queue_task_once": lambda runner, fn: runner.queue_task_once(fn),
    "queue_task_with_priority_once": lambda runner, fn: runner.queue_task_with_priority_once(fn),
    "submit": lambda runner, fn: runner.submit(fn).get(),
    "map": lambda runner, fn: runner.map(lambda resource, _: fn(resource), [None])[0],
    "run_task": lambda runner, fn: runner.run_task(fn),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_returns_the_value(make: Make, way: str) -> None:
    assert WAYS[way](make(), lambda resource: touch(resource, way)) == way


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", [KeyError("own"), TaskTimeoutError("own"), SystemExit(3)])
def test_each_way_raises_the_tasks_own_error(make: Make, way: str, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        WAYS[way](make(), fail_with(error))

    assert caught.value is error


@pytest.mark.parametrize(("failures", "retries"), [(0, 3), (1, 3), (3, 3)])
def test_an_unhealthy_error_is_tried_again_with_another_resource(make: Make, failures: int, retries: int) -> None:
    runner = make(max_retries=retries)

    assert runner.queue_task(fail_times(failures)) == failures + 1

    assert runner.metrics().total_tasks_retried == failures


def test_retries_that_are_spent_say_how_many_there_were_and_why(make: Make) -> None:
    with pytest.raises(MaxRetriesExceededError) as caught:
        make(max_retries=2).queue_task(fail_times(9))

    assert caught.value.attempts == 3
    assert isinstance(caught.value.__cause__, UnfitError)


@pytest.mark.parametrize("call", ["queue_task_once", "run_task"])
def test_what_may_run_once_raises_its_own_error_and_loses_the_resource(make: Make, call: str, books: Ledger) -> None:
    runner = make()

    with pytest.raises(UnfitError):
        getattr(runner, call)(fail_times(1))

    assert runner.queue_task(lambda resource: resource.uses) == 0


def test_without_retries_the_own_error_comes(make: Make) -> None:
    with pytest.raises(UnfitError):
        make(max_retries=0).queue_task(fail_times(1))


def test_a_task_that_takes_too_long_times_out_and_is_not_tried_again(make: Make) -> None:
    runner = make(task_timeout=0.02)
    with pytest.raises(TaskTimeoutError):
        runner.queue_task(lambda resource: gevent.sleep(600))

    assert runner.metrics().total_tasks_timed_out == 1
    assert runner.metrics().total_tasks_failed == 1
    assert runner.metrics().total_tasks_retried == 0


def test_a_call_that_takes_too_long_times_out(make: Make) -> None:
    with pytest.raises(TaskTimeoutError):
        make().queue_task(lambda resource: gevent.sleep(600), timeout=0.02)


def test_a_kill_of_the_caller_reaches_it_unchanged_and_costs_no_capacity(make: Make) -> None:
    runner = make(cancel_on_abandon=True)
    held = HeldTask(None)
    caught: list[BaseException] = []

    def call() -> None:
        try:
            runner.queue_task(held)
        except BaseException as error:
            caught.append(error)
            raise

    caller = gevent.spawn(call)
    held.wait_begun()
    caller.kill(interrupt := GreenletExit())

    assert caught == [interrupt]
    assert runner.queue_task(touch, "next") == "next"


def test_the_users_own_timeout_is_raised_as_itself(make: Make) -> None:
    runner = make(cancel_on_abandon=True)
    timer = gevent.Timeout(0.02)

    with pytest.raises(gevent.Timeout) as caught, timer:
        runner.queue_task(lambda resource: gevent.sleep(600))

    assert caught.value is timer
    assert runner.queue_task(touch, "next") == "next"


def test_a_handle_that_has_answered_is_the_same_handle(make: Make) -> None:
    told: list[Any] = []
    task = make().submit(touch, "value", callback=told.append)
    gevent.wait([task])

    assert isinstance(task, Task)
    assert (task.get(), task.value, task.exception) == ("value", "value", None)
    assert (task.ready(), task.successful(), task.state, task.attempts) == (True, True, TaskState.DONE, 1)
    assert not task.cancel()
    task.add_done_callback(told.append)
    gevent.sleep(0.01)
    assert told == [task, task]


def test_a_failed_handle_raises_the_same_error_with_the_same_traceback(make: Make) -> None:
    task = make().submit(fail_with(KeyError("own")))
    task.wait()
    lengths = []
    for _ in range(3):
        with pytest.raises(KeyError) as caught:
            task.get()
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))

    assert task.state is TaskState.FAILED
    assert len(set(lengths)) == 1


def test_what_is_no_callable_is_refused_at_once(make: Make) -> None:
    runner: Any = make()
    for way in (runner.queue_task, runner.submit, runner.run_task):
        with pytest.raises(TypeError):
            way("no callable")


def test_wrong_settings_are_config_errors(make: Make) -> None:
    with pytest.raises(ConfigError):
        make(worker_count=0)
    with pytest.raises(ConfigError):
        make().resize(worker_count=-1)


def test_a_first_failure_of_map_is_raised(make: Make) -> None:
    def divide(resource: LedgerResource, number: int) -> float:
        with resource.use():
            return 1 / number

    runner = make()

    assert runner.map(divide, [1, 2, 4]) == [1.0, 0.5, 0.25]
    assert sorted(runner.imap_unordered(divide, [1, 2])) == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        runner.map(divide, [1, 0, 2])


def test_it_starts_with_its_base_and_its_reserve(make: Make, books: Ledger) -> None:
    runner = make(worker_count=2, resource_pool_size=3)

    assert runner.state is State.NEW
    assert not books.created
    assert runner.start() is runner
    assert (runner.state, books.created, runner.stats().live_resources) == (State.RUNNING, 5, 5)


def test_a_start_that_fails_undoes_itself_and_may_be_tried_again(make: Make, books: Ledger) -> None:
    runner = make(worker_count=2)
    books.creating.fail(times=1)

    with pytest.raises(StartError) as caught:
        runner.start()

    assert isinstance(caught.value.__cause__, CreateFailedError)
    assert (runner.state, books.existing) == (State.NEW, 0)
    runner.start()
    assert runner.queue_task(touch, "up") == "up"


def test_a_backend_that_is_down_is_told_with_its_cause_and_forgotten_when_it_is_back(make: Make, books: Ledger) -> None:
    runner = make(fail_fast_after=0.0, create_backoff=(0.01, 0.01))
    books.creating.fail()

    for way in (runner.queue_task, runner.run_task):
        with pytest.raises(ResourceUnavailableError) as caught:
            way(touch, "value")
        assert isinstance(caught.value.__cause__, CreateFailedError)
    assert runner.backend().is_down
    assert runner.metrics().create_failures

    books.creating.heal()
    with gevent.Timeout(10):
        while runner.backend().is_down:
            with suppress(ResourceUnavailableError):
                runner.queue_task(touch, "value")
            gevent.sleep(0.01)
    assert runner.queue_task(touch, "value") == "value"


def test_a_lease_gives_back_and_judges(make: Make, books: Ledger) -> None:
    runner = make(worker_count=1, resource_pool_size=1)
    with runner.lease() as resource:
        touch(resource, None)
        [info] = runner.leases()
        assert (info.kind, info.resource_id) == (LeaseKind.LEASE, resource.number)
        assert "test_a_lease_gives_back_and_judges" in info.stack
    assert not runner.leases()

    def leave_with_unfit() -> None:
        with runner.lease() as resource, resource.use():
            raise UnfitError

    with pytest.raises(UnfitError):
        leave_with_unfit()
    with runner.lease() as another:
        touch(another, None)
        assert another.number != resource.number or not resource.unfit_because


def test_a_lease_that_is_discarded_is_destroyed(make: Make, books: Ledger) -> None:
    runner = make().start()
    lease = runner.lease()

    with lease as resource:
        lease.discard()

    with gevent.Timeout(10):
        while resource.number in books.live:
            gevent.sleep(0.001)


def test_an_interrupted_use_is_kept_if_it_is_vouched_for(make: Make, books: Ledger) -> None:
    runner = make(resource_pool_size=0, on_interrupt=books.vouch, task_timeout=0.02)

    def sleep(resource: LedgerResource) -> None:
        with resource.use():
            gevent.sleep(600)

    with pytest.raises(TaskTimeoutError):
        runner.queue_task(sleep)

    assert runner.queue_task(touch, "again") == "again"
    assert (books.vouching.entered, books.created) == (1, 1)


def test_a_use_is_reset_and_a_failed_reset_costs_the_resource(make: Make, books: Ledger) -> None:
    runner = make(resource_pool_size=0, reset=books.reset)
    runner.queue_task(touch, 1)
    runner.queue_task(touch, 2)
    assert books.created == 1

    books.resetting.fail(times=1)
    runner.queue_task(touch, 3)
    runner.queue_task(touch, 4)

    assert books.created == 2


def test_what_idled_is_checked_before_it_is_used(make: Make, books: Ledger) -> None:
    runner = make(resource_pool_size=0, check_resource=books.probe, check_idle=0.0)
    first = runner.queue_task(lambda resource: resource)
    first.stale = True

    second = runner.queue_task(lambda resource: resource)

    assert second is not first
    assert books.probing.entered >= 1


def test_a_crowd_beyond_the_bound_waits_for_its_turn(make: Make, books: Ledger) -> None:
    books.bound = 2
    runner = make(worker_count=1, resource_pool_size=1, max_resources=2)
    callers = [gevent.spawn(runner.run_task, touch_slowly) for _ in range(20)]

    gevent.joinall(callers, raise_error=True)

    assert books.peak == books.peak_in_use == 2


def touch_slowly(resource: LedgerResource) -> None:
    with resource.use():
        gevent.sleep(0.001)


def test_who_waits_in_vain_is_told_so(make: Make) -> None:
    runner = make(resource_pool_size=0, max_resources=1, acquire_timeout=0.02)

    with runner.lease():
        with pytest.raises(AcquireTimeoutError, match="1 of 1"):
            runner.run_task(touch, None)
        with pytest.raises(AcquireTimeoutError):
            runner.lease(timeout=0.01).__enter__()
    assert runner.run_task(touch, "free") == "free"


def test_too_many_waiters_are_refused(make: Make) -> None:
    runner = make(resource_pool_size=0, max_resources=1, max_waiting=1)
    held = HeldTask(None)
    holder = gevent.spawn(runner.run_task, held)
    held.wait_begun()
    waiter = gevent.spawn(runner.run_task, touch, "later")
    gevent.sleep(0)

    with pytest.raises(TooManyWaitersError):
        runner.run_task(touch, None)

    held.release()
    holder.get()
    assert waiter.get() == "later"


def test_a_pause_holds_tasks_back_and_order_is_by_priority_then_arrival(make: Make) -> None:
    runner = make(resource_pool_size=1).start()
    order: list[str] = []

    def note(resource: LedgerResource, name: str) -> None:
        order.append(name)

    runner.pause()
    tasks = [
        runner.submit(note, name, priority=priority)
        for name, priority in (("c", Priority.NORMAL), ("e", Priority.LOW), ("d", 10), ("a", 0), ("b", 5))
    ]
    assert runner.state is State.PAUSED
    assert runner.run_task(touch, "past it") == "past it"
    assert (runner.stats().queued_tasks, runner.stats().priority_tasks) == (3, 2)
    assert not order

    runner.resume()
    gevent.wait(tasks)

    assert order == ["a", "b", "c", "d", "e"]


def test_what_waits_can_be_cancelled_and_purged(make: Make) -> None:
    runner = make().start()
    runner.pause()
    one, two, three = runner.submit(touch, 1), runner.submit(touch, 2, key="k"), runner.submit(touch, 3)

    assert one.cancel()
    assert not one.cancel()
    assert runner.purge(key="k") == 1
    assert runner.purge() == 1

    for task in (one, two, three):
        assert task.state is TaskState.CANCELLED
        with pytest.raises(TaskCancelledError):
            task.get()
    runner.resume()
    assert runner.metrics().total_tasks_cancelled == 3


def test_a_key_is_joined_while_it_waits(make: Make) -> None:
    runner = make().start()
    runner.pause()
    calls: list[int] = []

    def count(resource: LedgerResource) -> int:
        calls.append(1)
        return len(calls)

    tasks = [runner.submit(count, key="same") for _ in range(3)]
    runner.resume()

    assert [task.get() for task in tasks] == [1, 1, 1]
    assert runner.queue_task(count, key="same") == 2


def test_a_stop_finishes_what_waits_and_refuses_what_comes(make: Make, books: Ledger) -> None:
    runner = make().start()
    runner.pause()
    task = runner.submit(touch, "finished")

    report = runner.stop()

    assert (report.finished, report.failed, report.cancelled, report.complete) == (1, 0, 0, True)
    assert task.get() == "finished"
    assert runner.state is State.CLOSED
    for way in (runner.queue_task, runner.submit, runner.run_task):
        with pytest.raises(RunnerStoppedError):
            way(touch, None)
    with pytest.raises(RunnerStoppedError), runner.lease():
        pass
    books.assert_balanced()


def test_a_kill_answers_what_waits_and_strikes_who_holds(make: Make, books: Ledger) -> None:
    runner = make().start()
    held = HeldTask(None)
    holder = gevent.spawn(runner.run_task, held)
    held.wait_begun()
    runner.pause()
    task = runner.submit(touch, "never")

    report = runner.kill()

    assert report.complete
    with pytest.raises(RunnerKilledError):
        task.get()
    with pytest.raises(RunnerKilledError):
        holder.get()
    assert runner.state is State.CLOSED
    books.assert_balanced()


def test_a_stop_from_inside_a_task_only_begins(make: Make) -> None:
    runner = make().start()

    report = runner.queue_task(lambda resource: runner.stop())

    assert not report.complete
    assert runner.stop().complete
    assert runner.state is State.CLOSED


def test_a_block_stops_and_kills_after_an_error(make: Make, books: Ledger) -> None:
    with make() as runner:
        runner.queue_task(touch, 1)
    assert runner.state is State.CLOSED

    def leave_with_an_error(waiting: list[Task[Any]]) -> None:
        with make() as another:
            another.pause()
            waiting.append(another.submit(touch, 1))
            raise ZeroDivisionError

    waiting: list[Task[Any]] = []
    with pytest.raises(ZeroDivisionError):
        leave_with_an_error(waiting)
    with pytest.raises(RunnerKilledError):
        waiting[0].get()


def test_a_runner_that_was_never_used_stops_at_once(make: Make, books: Ledger) -> None:
    assert make().stop().complete
    assert not books.created


def test_recycling_replaces_all(make: Make, books: Ledger) -> None:
    runner = make(worker_count=1, resource_pool_size=0).start()
    before = set(books.live)

    runner.recycle()

    assert runner.queue_task(lambda resource: resource.number) not in before


def test_resizing_changes_the_bounds(make: Make) -> None:
    runner = make().start()

    runner.resize(worker_count=2, resource_pool_size=2)

    bounds = runner.bounds()
    assert (bounds.base_workers, bounds.reserve) == (2, 2)
    assert bounds.max_resources >= bounds.max_workers + bounds.reserve >= 4


def test_context_variables_of_the_submitter_are_seen_and_not_changed(make: Make) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("mine")

    def change(resource: LedgerResource) -> str:
        seen = variable.get()
        variable.set("theirs")
        return seen

    assert make().queue_task(change) == "mine"
    assert variable.get() == "mine"
    assert make(propagate_context=False).queue_task(change) == "none"


def test_the_hub_is_refused(make: Make) -> None:
    runner = make().start()
    errors: list[BaseException] = []

    def call() -> None:
        try:
            runner.run_task(touch, None)
        except GTaskerError as error:
            errors.append(error)

    get_hub().loop.run_callback(call)
    gevent.sleep(0.01)

    assert [type(error) for error in errors] == [WouldBlockHubError]


def test_another_thread_is_refused(make: Make) -> None:
    runner = make().start()
    errors: list[BaseException] = []

    def call() -> None:
        try:
            runner.queue_task(touch, None)
        except GTaskerError as error:
            errors.append(error)

    get_hub().threadpool.spawn(call).get()

    assert [type(error) for error in errors] == [WrongThreadError]


def test_events_tell_the_same_story(make: Make) -> None:
    told: list[Any] = []
    runner = make(on_event=told.append, resource_pool_size=0).start()
    with pytest.raises(UnfitError):
        runner.queue_task_once(fail_times(1))
    runner.queue_task(touch, None)
    runner.stop()

    assert [event.after for event in told if isinstance(event, StateChanged)] == [
        State.RUNNING,
        State.STOPPING,
        State.CLOSED,
    ]
    assert [event.resource_id for event in told if isinstance(event, ResourceCreated)] == [1, 2]
    assert [(event.resource_id, event.reason) for event in told if isinstance(event, ResourceDestroyed)] == [
        (1, DestroyReason.UNHEALTHY),
        (2, DestroyReason.STOPPED),
    ]


def test_the_numbers_add_up(make: Make) -> None:
    runner = make()
    for _ in range(3):
        runner.queue_task(touch, None)
    with pytest.raises(KeyError):
        runner.queue_task(fail_with(KeyError()))
    metrics, histograms = runner.metrics(), runner.histograms()

    assert (metrics.total_tasks_arrived, metrics.total_tasks_completed, metrics.total_tasks_failed) == (4, 3, 1)
    assert (metrics.success_rate, metrics.failure_rate) == (0.75, 0.25)
    assert histograms.run.counts[-1] == 4
    assert metrics.min_execution_time <= metrics.p50_execution_time * 1.06
    assert repr(runner).count("\n") == 0


# What only the immediate one promises.


def test_a_task_runs_in_the_greenlet_that_asks_and_the_traceback_leads_straight_to_it(make_immediate: Make) -> None:
    runner = make_immediate()

    assert runner.queue_task(lambda resource: getcurrent()) is getcurrent()
    with pytest.raises(KeyError) as caught:
        runner.queue_task(fail_with(KeyError("own")))
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[0] == "test_a_task_runs_in_the_greenlet_that_asks_and_the_traceback_leads_straight_to_it"
    assert names[-1] == "fail"


def test_a_submitted_task_has_answered_when_the_call_returns(make_immediate: Make) -> None:
    assert make_immediate().submit(touch, "value").ready()


def test_nothing_is_made_that_is_not_needed(make_immediate: Make, books: Ledger) -> None:
    runner = make_immediate(worker_count=10)

    for _ in range(5):
        runner.queue_task(touch, None)

    assert books.created == 1


def test_a_task_that_waits_for_what_only_it_could_give_back_is_told_so(make_immediate: Make) -> None:
    runner = make_immediate(worker_count=1, resource_pool_size=0)

    def nest(resource: LedgerResource) -> Any:
        return runner.queue_task(touch, "nested")

    with pytest.raises(WouldDeadlockError):
        runner.queue_task(nest)
    with pytest.raises(TaskTimeoutError):
        runner.queue_task(lambda resource: runner.queue_task(touch, 1, timeout=600))
    alone = make_immediate(worker_count=1, max_worker_count=1, resource_pool_size=0, max_resources=1)
    with alone.lease(), pytest.raises(AcquireTimeoutError):
        alone.run_task(touch, None, timeout=600)
    assert runner.queue_task(touch, "still fit") == "still fit"


def test_a_task_within_a_task_has_a_resource_of_its_own_where_there_is_one(make_immediate: Make) -> None:
    runner = make_immediate(worker_count=2)

    def nest(resource: LedgerResource) -> tuple[int, int]:
        return resource.number, runner.queue_task(lambda other: other.number)

    assert runner.queue_task(nest) == (1, 2)


def test_what_another_greenlet_has_is_waited_for(make_immediate: Make) -> None:
    runner = make_immediate(worker_count=1, resource_pool_size=0)
    held = HeldTask("first")
    first = gevent.spawn(runner.queue_task, held)
    held.wait_begun()
    second = gevent.spawn(runner.queue_task, touch, "second")
    gevent.sleep(0)
    assert not second.ready()

    held.release()

    assert (first.get(), second.get()) == ("first", "second")


def test_a_task_that_waits_for_itself_is_told_so(make_immediate: Make) -> None:
    runner = make_immediate().start()
    runner.pause()
    handles: list[Task[Any]] = []
    handles.append(runner.submit(lambda resource: handles[0].get()))

    runner.resume()

    with pytest.raises(WouldDeadlockError):
        handles[0].get()


def test_a_partial_and_a_callable_object_are_named_by_what_they_call(make_immediate: Make) -> None:
    runner = make_immediate(task_timeout=0.01)

    with pytest.raises(TaskTimeoutError, match="wait_long"):
        runner.queue_task(functools.partial(wait_long, seconds=600))


def wait_long(resource: LedgerResource, seconds: float) -> None:
    Event().wait(seconds)


def test_the_bound_holds_while_hooks_wait(books: Ledger) -> None:
    books.bound = 1
    books.creating.hold()
    runner: Runner[Any] = ImmediateRunner(
        **books.options(), worker_count=1, max_resources=1, resource_pool_size=0, max_worker_count=1
    )

    users = [gevent.spawn(runner.run_task, touch, number) for number in range(3)]
    books.creating.wait_entered(1)
    gevent.sleep(0)
    assert runner.stats().creating_resources == 1
    assert [one.state for one in runner.resources()] == [ResourceState.CREATING]
    books.creating.release()

    assert sorted(user.get(timeout=PATIENCE) for user in users) == [0, 1, 2]
    assert books.peak == 1
    runner.kill()


@pytest.mark.parametrize("hook", ["judging", "resetting", "probing", "destroying", "vouching"])
def test_who_is_killed_in_a_hook_leaves_no_resource(hook: str, books: Ledger) -> None:
    hooks = {"reset": books.reset, "check_resource": books.probe, "on_interrupt": books.vouch, "check_idle": 0.0}
    runner: Runner[Any] = ImmediateRunner(**books.options(), **hooks, worker_count=1, resource_pool_size=0)
    runner.run_task(touch, 0)
    door: Door = getattr(books, hook)
    door.hold()

    def use(_: LedgerResource) -> None:
        if hook == "judging":
            raise ValueError
        if hook == "vouching":
            raise gevent.Timeout

    user = gevent.spawn(runner.recycle if hook == "destroying" else lambda: runner.run_task(use))
    door.wait_entered(door.left + 1)
    user.kill()
    door.release()

    assert runner.kill().complete
    assert books.created == books.destroyed == 1
