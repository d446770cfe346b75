"""Time-outs that were not needed: they cost no switch, keep nothing alive, and are over with what they were for.

Invariant: each test says what is left of a limit after the task or the attempt that it was for has ended.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from time import monotonic
from typing import Any, cast
from weakref import WeakSet

import gevent
import pytest
from gevent.event import Event

from gtasker import Collector, Runner, Task, TaskMetrics, TaskTimes
from gtasker._alarm import Alarm
from gtasker._timeouts import Timeouts
from gtasker.errors import QueueFullError, TaskCancelledError, TaskTimeoutError
from tests.conftest import MakeRunner
from tests.ledger import Ledger
from tests.proof.test_counts import CALLS, answer, count_calls, count_switches, least
from tests.sockets import SocketPair

LONG = 60.0
FUNCTIONS = {"a deadline": 14, "a bound": 3, "a limit of attempts": 16}


class Value:
    """What a task may answer with, and can be missed."""


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    """One that nothing else uses, and that the loop goes on for."""
    alarm = Alarm(gevent.get_hub(), ref=True)
    yield alarm
    alarm.close()


@pytest.mark.parametrize(
    ("options", "limits", "what"),
    [
        ({}, {"timeout": LONG}, "a deadline"),
        ({"max_queued": 5}, {}, "a bound"),
        ({"task_timeout": LONG}, {}, "a limit of attempts"),
    ],
    ids=FUNCTIONS,
)
def test_a_limit_costs_no_switch(ledger: Ledger, options: dict[str, Any], limits: dict[str, Any], what: str) -> None:
    runner: Runner[Any] = Runner(**ledger.options(), worker_count=1, resource_pool_size=0, **options)
    with runner:

        def call() -> Any:
            return runner.queue_task(answer, **limits)

        assert least(lambda: count_switches(call)) == {"direct": 2 * CALLS}
        entered = least(lambda: count_calls(call))

    assert sum(entered.values()) <= FUNCTIONS[what], entered


def test_nothing_is_kept_of_what_answered_in_time_behind_one_that_still_waits(ledger: Ledger) -> None:
    release, alive = Event(), WeakSet[Value]()

    def make(_: object) -> Value:
        value = Value()
        alive.add(value)
        return value

    runner: Runner[Any] = Runner(**ledger.options(), worker_count=2, resource_pool_size=0)
    with runner:
        first = runner.submit(lambda _: release.wait(LONG), timeout=LONG)
        gevent.idle()
        for _ in range(20):
            runner.queue_task(make, timeout=LONG)
            runner.submit(make, timeout=LONG).get()
        gevent.idle()  # the hub is still where it woke this greenlet for the last answer
        gc.collect()

        assert not alive
        release.set()
        assert first.get(timeout=LONG)


def test_a_deadline_outlives_its_caller_with_his_attempt(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    begun, ended = Event(), Event()

    def attempt(_: object) -> None:
        begun.set()
        try:
            gevent.sleep(LONG)
        finally:
            ended.set()

    caller = gevent.spawn(lambda: runner.queue_task(attempt, timeout=0.1))
    assert begun.wait(LONG)
    caller.kill()

    assert ended.wait(LONG), "the deadline interrupts what runs for nobody"
    assert runner.metrics().total_tasks_timed_out == 1
    assert runner.queue_task(answer) == 1


def test_the_limit_of_an_attempt_is_over_with_it(make_runner: MakeRunner) -> None:
    runner = make_runner(
        worker_count=1,
        resource_pool_size=0,
        task_timeout=LONG,
        max_retries=1,
        retry_backoff=(0.0, 0.0),
        check_health=lambda error: False,
    )
    runner.queue_task(answer)
    assert runner._core is not None
    limits = runner._core.limits._attempts.of(LONG)
    held: list[int] = []

    def attempt(_: object) -> str:
        held.append(limits.live)
        if len(held) == 1:
            raise OSError("unhealthy")
        return "at the second attempt"

    assert runner.queue_task(attempt) == "at the second attempt"
    assert held == [1, 1]
    assert limits.live == 0


def test_an_attempt_that_runs_too_long_is_interrupted(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, task_timeout=0.02)

    with pytest.raises(TaskTimeoutError, match="ran longer"):
        runner.queue_task(lambda _: gevent.sleep(LONG))


def test_a_bound_holds_for_those_who_come_one_after_another(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_queued=2, enqueue_timeout=0)
    runner.queue_task(answer)
    release = Event()
    callers = [gevent.spawn(lambda: runner.queue_task(lambda _: release.wait(LONG))) for _ in range(3)]
    gevent.idle()

    with pytest.raises(QueueFullError):
        runner.queue_task(answer)
    assert runner.stats().queued_tasks == 2

    release.set()
    assert len(gevent.joinall(callers, timeout=LONG, raise_error=True)) == len(callers)
    assert runner.queue_task(answer) == 1


def test_the_loop_goes_on_for_those_who_wait_and_no_longer(alarm: Alarm) -> None:
    expired: list[str] = []
    timeouts: Timeouts[str] = Timeouts(alarm, lambda who, seconds: expired.append(who))
    length = timeouts.of(LONG)

    for _ in range(2):
        waits = [length.begin(who, 0.0) for who in ("first", "second")]
        assert _holds(alarm)
        for wait in waits:
            assert _holds(alarm)
            wait.end()
        assert not _holds(alarm)

    assert len(alarm) == 1, "the entry stays, for whoever comes next"
    assert not expired


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_an_entry_holds_the_loop_once_however_often_it_is_asked_to(alarm: Alarm, end: str) -> None:
    entry, other = alarm.after(LONG, lambda: None), alarm.after(LONG, lambda: None)

    entry.hold()
    other.release()
    other.release()
    assert _holds(alarm)
    entry.release()
    assert not _holds(alarm)
    entry.hold()
    assert _holds(alarm)
    alarm.close() if end == "close" else entry.cancel()
    assert not _holds(alarm)
    entry.hold()
    assert not _holds(alarm), "it will not be called"


@pytest.mark.parametrize("bad", [Decimal(2), "2", [2.0], float("nan"), 10**400], ids=repr)
def test_what_is_no_time_out_is_refused_and_harms_nobody_else(make_runner: MakeRunner, bad: Any) -> None:
    runner = make_runner(worker_count=1)
    runner.queue_task(answer)

    with pytest.raises((TypeError, ValueError, OverflowError)):
        runner.queue_task(answer, timeout=bad)

    assert runner.queue_task(answer, timeout=2.0) == 1
    assert runner.submit(answer, timeout=2).get() == 1
    assert runner.metrics().total_tasks_arrived == runner.metrics().total_tasks_completed == 3


def test_any_number_is_a_time_out(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    runner.queue_task(answer)

    for timeout in (Fraction(1, 64), 1 / 64):
        with pytest.raises(TaskTimeoutError, match=r"within 0\.0156"):
            runner.queue_task(lambda _: gevent.sleep(LONG), timeout=cast("float", timeout))


def test_a_bound_holds_though_a_look_fills_the_backlog(make_runner: MakeRunner) -> None:
    looks: list[Callable[[], object]] = []

    class Looked(SocketPair):
        def fileno(self) -> int:
            while looks:
                looks.pop()()
            return super().fileno()

    runner = make_runner(
        on_create=Looked,
        on_destroy=SocketPair.close,
        check_readable=True,
        worker_count=1,
        resource_pool_size=0,
        max_queued=1,
        enqueue_timeout=0,
    )
    runner.queue_task(answer)
    tasks: list[Task[int]] = []

    def fill() -> None:
        with suppress(QueueFullError):
            while True:
                tasks.append(runner.submit(answer))

    looks.append(fill)
    with pytest.raises(QueueFullError):
        runner.queue_task(answer)

    assert [task.get(timeout=LONG) for task in tasks] == [1] * len(tasks)
    assert tasks


def test_an_attempt_that_goes_on_after_its_time_does_not_keep_the_loop(alarm: Alarm) -> None:
    timeouts: Timeouts[str] = Timeouts(alarm, lambda who, seconds: None)
    length = timeouts.of(0.0)
    stubborn = length.begin("stubborn", 0.0)
    gevent.sleep(0.001)
    length.begin("quick", monotonic() + LONG).end()

    assert not _holds(alarm)
    stubborn.end()
    assert length.live == 0


def test_a_time_out_is_told_before_its_caller_goes_on(make_runner: MakeRunner) -> None:
    told: list[str] = []
    runner = make_runner(worker_count=1, on_event=lambda event: told.append(type(event).__name__))
    runner.queue_task(answer)

    with pytest.raises(TaskTimeoutError):
        runner.queue_task(lambda _: gevent.sleep(LONG), timeout=0.01)

    assert "TaskTimedOut" in told


def test_who_is_told_of_those_let_in_may_cancel_what_is_about_to_begin(ledger: Ledger) -> None:
    cancelled: list[bool] = []
    tasks: list[Task[int]] = []

    class Canceller(Collector):
        def record_arrival(self) -> None:
            if len(tasks) == 2 and not cancelled:
                cancelled.append(tasks[1].cancel())

        def record_completion(self, times: TaskTimes) -> None:
            pass

        def record_failure(self, times: TaskTimes) -> None:
            pass

        def record_retry(self) -> None:
            pass

        def snapshot(self) -> TaskMetrics:
            return TaskMetrics()

    runner: Runner[Any] = Runner(
        **ledger.options(), worker_count=1, resource_pool_size=0, max_queued=1, collector=Canceller()
    )
    with runner:
        release = Event()
        tasks.append(runner.submit(lambda _: len(str(release.wait(LONG)))))
        gevent.idle()
        tasks.append(runner.submit(answer))
        last = gevent.spawn(runner.submit, answer)  # it waits before the door
        gevent.idle()
        release.set()

        assert last.get(timeout=LONG).get(timeout=LONG) == 1
        assert cancelled == [True]
        with pytest.raises(TaskCancelledError):
            tasks[1].get(timeout=LONG)


def _holds(alarm: Alarm) -> bool:
    return alarm._timer is not None and bool(alarm._timer.ref)


LOOP = """
import gevent
from gtasker import Runner
runner = Runner(worker_count=1, on_create=object, on_destroy=lambda _: None, task_timeout=1000)
for _ in range(3):
    assert runner.queue_task(lambda _: "in time", timeout=1000) == "in time"
    assert runner.submit(lambda _: "in time", timeout=1000).get() == "in time"
gevent.wait()
print("waited")
"""


def test_limits_that_were_not_needed_let_the_loop_end() -> None:
    done = subprocess.run([sys.executable, "-c", LOOP], check=False, capture_output=True, text=True, timeout=LONG)
    assert "waited" in done.stdout, done.stderr
