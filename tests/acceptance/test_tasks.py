"""The handle of a task: how it answers, how it is waited for, cancelled, linked, joined by key."""

from __future__ import annotations

import traceback
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import Priority, Task, TaskState
from gtasker.errors import MaxRetriesExceededError, TaskCancelledError, TaskTimeoutError
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Stubborn, eventually, let_run, reached, settled
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch


def fail(resource: LedgerResource, error: BaseException) -> None:
    """Raise `error` while using the resource."""
    with resource.use():
        raise error


# --- answers


def test_a_done_task(make_runner: MakeRunner) -> None:
    handle = make_runner(worker_count=1).submit(touch, "value")
    handle.wait(timeout=10)

    assert handle.ready()
    assert handle.successful()
    assert handle.value == "value"
    assert handle.exception is None
    assert handle.state is TaskState.DONE
    assert handle.attempts == 1
    assert handle.get() == "value"
    assert handle.get(timeout=0) == "value"


def test_a_failed_task(make_runner: MakeRunner) -> None:
    error = ValueError("own")
    handle = make_runner(worker_count=1).submit(fail, error)
    handle.wait(timeout=10)

    assert handle.ready()
    assert not handle.successful()
    assert handle.value is None
    assert handle.exception is error
    assert handle.state is TaskState.FAILED
    assert handle.attempts == 1
    with pytest.raises(ValueError, match="own") as caught:
        handle.get()
    assert caught.value is error


def test_a_task_that_has_not_answered(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    running, waiting = runner.submit(held), runner.submit(touch, 1)
    held.wait_begun()

    assert (running.state, waiting.state) == (TaskState.RUNNING, TaskState.QUEUED)
    assert (running.attempts, waiting.attempts) == (1, 0)
    for handle in (running, waiting):
        assert not handle.ready()
        assert not handle.successful()
        assert handle.value is None
        assert handle.exception is None
    held.release()


def test_a_task_between_two_attempts(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, retry_backoff=(1000.0, 1000.0))
    handles = [runner.submit(fail, UnfitError()) for _ in range(8)]
    eventually(lambda: runner.stats().delayed_tasks >= 6)
    delayed = [handle for handle in handles if handle.state is TaskState.RETRYING]

    assert len(delayed) >= 6
    assert all(handle.attempts >= 1 and not handle.ready() for handle in delayed)
    assert delayed[0].cancel()
    assert delayed[0].state is TaskState.CANCELLED


@pytest.mark.parametrize("value", [None, False, 0, "", (), NotImplemented, ValueError("returned, not raised")])
def test_any_value_is_a_value(make_runner: MakeRunner, value: Any) -> None:
    runner = make_runner(worker_count=1)

    assert runner.submit(touch, value).get(timeout=10) is value
    assert runner.queue_task(touch, value) is value
    assert runner.run_task(touch, value) is value


def test_get_waits_until_the_answer(make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    handle = make_runner(worker_count=1).submit(held)
    getters = [call(handle.get) for _ in range(5)]
    held.wait_begun()
    let_run()
    assert not any(getter.ended for getter in getters)

    held.release()

    assert [getter.result() for getter in getters] == ["held"] * 5


def test_get_with_a_timeout_raises_gevents_and_leaves_the_task_alone(
    make_runner: MakeRunner, held: HeldTask[str]
) -> None:
    handle = make_runner(worker_count=1).submit(held)

    for timeout in (0.01, 0):
        with pytest.raises(gevent.Timeout):
            handle.get(timeout=timeout)

    held.release()
    assert handle.get(timeout=10) == "held"


def test_wait_returns_without_raising(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=2)
    waiting = runner.submit(held)
    failed = runner.submit(fail, ValueError("own"))

    failed.wait(timeout=10)
    waiting.wait(timeout=0.01)

    assert failed.ready()
    assert not waiting.ready()
    held.release()
    waiting.wait()
    assert waiting.ready()
    assert isinstance(failed.exception, ValueError)


def test_every_get_raises_the_same_object_with_the_same_traceback(make_runner: MakeRunner, call: SpawnCall) -> None:
    error = ValueError("own")
    handle = make_runner(worker_count=1).submit(fail, error)
    settled(handle)

    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        handle.get()

    lengths: list[int] = []
    for levels in (0, 5, 0, 10, 0):
        with pytest.raises(ValueError, match="own") as caught:
            deep(levels)
        assert caught.value is error
        del caught
        with pytest.raises(ValueError, match="own") as caught:
            handle.get()
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    for _ in range(5):
        call(handle.get).join()
    with pytest.raises(ValueError, match="own") as caught:
        handle.get()
    lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))

    assert len(set(lengths)) == 1
    assert any(frame.name == "fail" for frame in traceback.extract_tb(caught.value.__traceback__))


def test_a_handle_outlives_its_runner(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    done, failed = runner.submit(touch, 1), runner.submit(fail, ValueError("own"))
    settled(failed)
    runner.stop()

    assert done.get() == 1
    with pytest.raises(ValueError, match="own"):
        failed.get()
    assert not done.cancel()
    heard: list[Any] = []
    done.rawlink(heard.append)
    eventually(lambda: heard == [done])


# --- cancel


def test_cancelling_a_waiting_task_settles_it_at_once(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    ran: list[int] = []
    handle = runner.submit(lambda _resource: ran.append(1))

    assert handle.cancel() is True

    assert handle.ready()
    assert handle.state is TaskState.CANCELLED
    assert handle.attempts == 0
    assert isinstance(handle.exception, TaskCancelledError)
    assert handle.cancel() is False
    held.release()
    runner.stop()
    assert ran == []


def test_cancelling_a_running_task_answers_at_once_and_interrupts_it(
    make_runner: MakeRunner, ledger: Ledger, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    seen: list[BaseException] = []

    def work(resource: LedgerResource) -> None:
        try:
            held(resource)
        except BaseException as error:
            seen.append(error)
            raise

    handle = runner.submit(work)
    held.wait_begun()

    assert handle.cancel() is True
    assert handle.ready()
    assert handle.state is TaskState.CANCELLED

    eventually(lambda: seen)
    assert not isinstance(seen[0], Exception) or isinstance(seen[0], TaskCancelledError)
    eventually(lambda: ledger.destroyed == 1)


def test_cancelling_a_task_that_has_answered_says_no(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    done, failed = runner.submit(touch, "value"), runner.submit(fail, ValueError())
    settled(done)
    settled(failed)

    assert done.cancel() is False
    assert failed.cancel() is False
    assert done.get() == "value"
    assert failed.state is TaskState.FAILED


def test_a_cancel_between_hand_over_and_begin_runs_nothing(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1).start()
    ran: list[int] = []
    handle = runner.submit(lambda _resource: ran.append(1))

    assert handle.cancel()
    let_run()

    assert ran == []
    assert handle.attempts == 0
    assert runner.queue_task(touch, "next") == "next"


def wait_running(task: Task[Any]) -> None:
    """Return when the task runs. Switches."""
    eventually(lambda: task.state is TaskState.RUNNING)


def test_a_cancelled_task_hits_no_other_on_the_same_worker(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    for _ in range(50):
        ending = Event()

        def first(resource: LedgerResource, ending: Event = ending) -> str:
            with resource.use():
                ending.wait()
            return "first"

        one = runner.submit(first)
        other = runner.submit(touch, "other")
        wait_running(one)
        # The end of the first and its cancel meet in one turn of the loop.
        ending.set()
        one.cancel()
        assert other.get(timeout=10) == "other"


def test_a_task_may_cancel_itself(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    handles: list[Any] = []

    def cancel_me(resource: LedgerResource) -> str:
        with resource.use():
            assert handles[0].cancel()
            gevent.sleep(0)
            return "went on"

    handles.append(runner.submit(cancel_me))

    assert isinstance(settled(handles[0]), TaskCancelledError)
    assert runner.queue_task(touch, "next", timeout=10) == "next"


def test_a_getter_is_answered_when_the_task_is_cancelled(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    handle = make_runner(worker_count=1).submit(held)
    getter = call(handle.get)
    held.wait_begun()

    handle.cancel()

    assert isinstance(getter.failure(), TaskCancelledError)


# --- attempts


def test_attempts_are_counted(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, max_retries=4)
    begun: list[int] = []

    def fail_twice(resource: LedgerResource) -> str:
        with resource.use():
            begun.append(1)
            if len(begun) < 3:
                raise UnfitError
        return "third"

    handle = runner.submit(fail_twice)

    assert handle.get(timeout=10) == "third"
    assert handle.attempts == 3


def test_spent_retries_raise_with_the_last_error_as_cause(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, max_retries=2)
    errors = [UnfitError("first"), UnfitError("second"), UnfitError("third")]
    left = list(errors)

    handle = runner.submit(lambda resource: fail(resource, left.pop(0)))

    error = settled(handle)
    assert isinstance(error, MaxRetriesExceededError)
    assert error.attempts == handle.attempts == 3
    assert error.__cause__ is errors[2]
    assert handle.state is TaskState.FAILED


# --- callbacks and links


def test_a_done_callback_gets_the_task_once(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    handle = make_runner(worker_count=1).submit(held)
    heard: list[Any] = []
    handle.add_done_callback(heard.append)
    handle.add_done_callback(heard.append)
    let_run()
    assert heard == []

    held.release()
    handle.get(timeout=10)
    let_run()

    assert heard == [handle, handle]


def test_a_done_callback_added_late_is_called(make_runner: MakeRunner) -> None:
    handle = make_runner(worker_count=1).submit(touch, 1)
    handle.get(timeout=10)
    heard: list[Any] = []

    handle.add_done_callback(heard.append)

    eventually(lambda: heard == [handle])


def test_a_done_callback_may_wait(make_runner: MakeRunner) -> None:
    handle = make_runner(worker_count=1).submit(touch, 1)
    done = Event()

    def callback(_task: Any) -> None:
        gevent.sleep(0.001)
        done.set()

    handle.add_done_callback(callback)
    reached(done)


def test_a_link_is_called_once_and_not_after_unlink(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    handle = make_runner(worker_count=1).submit(held)
    linked: list[Any] = []
    unlinked: list[Any] = []
    handle.rawlink(linked.append)
    handle.rawlink(unlinked.append)
    handle.unlink(unlinked.append)

    held.release()
    handle.get(timeout=10)
    let_run()

    assert linked == [handle]
    assert unlinked == []


def test_a_link_to_an_answered_task_is_called_soon(make_runner: MakeRunner) -> None:
    handle = make_runner(worker_count=1).submit(touch, 1)
    handle.get(timeout=10)
    linked: list[Any] = []

    handle.rawlink(linked.append)

    eventually(lambda: linked == [handle])


def test_gevent_wait_takes_handles(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=3)
    handles: list[Any] = [runner.submit(touch, 1), runner.submit(fail, ValueError()), runner.submit(held)]

    first_two = gevent.wait(handles, count=2, timeout=10)
    assert set(first_two) == set(handles[:2])

    held.release()
    assert set(gevent.wait(handles, timeout=10)) == set(handles)
    settled(handles[1])


def test_gevent_iwait_takes_handles(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=3)
    doors = [Event() for _ in range(3)]

    def wait(_resource: LedgerResource, number: int) -> int:
        doors[number].wait()
        return number

    handles: list[Any] = [runner.submit(wait, number) for number in range(3)]
    came: list[Any] = []
    doors[2].set()
    for handle in gevent.iwait(handles, timeout=10):
        came.append(handle.value)
        if len(came) < 3:
            doors[{2: 0, 0: 1}[handle.value]].set()

    assert came == [2, 0, 1]


def test_gevent_wait_takes_handles_with_other_things(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    handle = make_runner(worker_count=1).submit(held)
    event = Event()
    greenlet = gevent.spawn(lambda: None)
    things: list[Any] = [handle, event, greenlet]

    assert gevent.wait(things, count=1, timeout=10) == [greenlet]
    event.set()
    assert set(gevent.wait(things, count=2, timeout=10)) == {event, greenlet}
    held.release()
    assert handle in gevent.wait(things, timeout=10)


# --- key


def test_a_second_submit_with_a_key_joins_and_gets_the_same_answer(
    make_runner: MakeRunner, held: HeldTask[str], call: SpawnCall
) -> None:
    runner = make_runner(worker_count=2)
    first = runner.submit(held, key="k")
    ran: list[int] = []

    second = runner.submit(lambda _resource: ran.append(1), key="k")
    caller = call(runner.queue_task, lambda _resource: ran.append(1), key="k")
    held.wait_begun()
    third = runner.submit(lambda _resource: ran.append(1), key="k", timeout=0.001)
    gevent.sleep(0.01)
    held.release()

    assert [handle.get(timeout=10) for handle in (first, second, third)] == ["held"] * 3
    assert caller.result() == "held"
    assert ran == []
    assert held.begun == 1


def test_joiners_get_the_same_exception_object(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    error = ValueError("own")
    handles = [runner.submit(fail, error, key=("a", 1)) for _ in range(3)]

    assert [settled(handle) for handle in handles] == [error] * 3


def test_after_the_answer_a_key_begins_anew(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    assert runner.submit(touch, "first", key="k").get(timeout=10) == "first"

    assert runner.submit(touch, "second", key="k").get(timeout=10) == "second"


def test_different_keys_do_not_join(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    keys = ["a", "b", 0, 1.5, ("a",), b"a"]
    handles = [runner.submit(touch, key, key=key) for key in keys]

    assert [handle.get(timeout=10) for handle in handles] == keys


def test_the_best_priority_of_the_joiners_wins(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    ran: list[str] = []
    runner.submit(lambda _r: ran.append("normal"))
    runner.submit(lambda _r: ran.append("keyed"), key="k", priority=Priority.LOW)
    runner.submit(lambda _r: ran.append("never"), key="k", priority=Priority.HIGH)
    runner.submit(lambda _r: ran.append("never"), key="k", priority=Priority.LOW)

    held.release()
    runner.stop()

    assert ran == ["keyed", "normal"]


def test_a_joined_task_is_withdrawn_when_the_last_caller_has_left(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    ran: list[int] = []
    callers = [call(runner.queue_task, lambda _r: ran.append(1), key="k") for _ in range(3)]
    let_run()
    assert runner.stats().queued_tasks == 1

    callers[0].greenlet.kill()
    callers[1].greenlet.kill()
    assert runner.stats().queued_tasks == 1
    callers[2].greenlet.kill()

    assert runner.stats().queued_tasks == 0
    held.release()
    runner.stop()
    assert ran == []


def test_a_joiner_that_leaves_takes_nothing_from_the_others(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    callers = [call(runner.queue_task, touch, "answer", key="k") for _ in range(3)]
    let_run()

    callers[0].greenlet.kill()
    held.release()

    assert [caller.result() for caller in callers[1:]] == ["answer", "answer"]
    assert isinstance(callers[0].error, gevent.GreenletExit)


def test_one_joiner_that_cancels_leaves_the_answer_to_the_others(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    caller = call(runner.queue_task, touch, "answer", key="k")
    let_run()
    first = runner.submit(touch, "never", key="k")

    # It is withdrawn when the last joiner leaves, and not before.
    if first.cancel():
        assert isinstance(settled(first), TaskCancelledError)
    held.release()

    assert caller.result() == "answer"


def test_joining_a_task_that_runs_while_the_first_caller_leaves(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, cancel_on_abandon=True)
    first = call(runner.queue_task, held, key="k")
    held.wait_begun()
    second = call(runner.queue_task, held, key="k")
    let_run()

    first.greenlet.kill()
    held.release()

    assert second.result() == "held"
    assert held.begun == 1


@pytest.mark.parametrize("leaver", [0, 1])
def test_joiners_at_a_full_backlog_lose_nothing_by_one_who_leaves(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str], leaver: int
) -> None:
    runner = make_runner(worker_count=1, max_queued=1)
    runner.submit(held)
    held.wait_begun()
    runner.submit(touch, 1)
    callers = [call(runner.queue_task, touch, "answer", key="k") for _ in range(2)]
    let_run()

    callers[leaver].greenlet.kill()
    held.release()

    assert callers[1 - leaver].result() == "answer"
    assert isinstance(callers[leaver].error, gevent.GreenletExit)


def test_the_first_submits_timeout_counts_for_all(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1)
    first = runner.submit(held, key="k", timeout=0.02)
    second = runner.submit(held, key="k", timeout=1000)

    assert isinstance(settled(first), TaskTimeoutError)
    assert isinstance(settled(second), TaskTimeoutError)


def test_a_deaf_task_that_was_cancelled_frees_its_key(make_runner: MakeRunner, stubborn: Stubborn) -> None:
    runner = make_runner(worker_count=2)
    first = runner.submit(stubborn, key="k")
    reached(stubborn.entered)
    first.cancel()

    assert runner.submit(touch, "anew", key="k").get(timeout=10) == "anew"


def test_a_join_does_not_need_room_in_the_backlog(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=1, max_queued=1, enqueue_timeout=0)
    running = runner.submit(held, key="k")
    held.wait_begun()
    runner.submit(touch, 1)

    joined = runner.submit(held, key="k")

    held.release()
    assert joined.get(timeout=10) == running.get(timeout=10) == "held"
