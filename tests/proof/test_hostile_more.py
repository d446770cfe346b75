"""More of what a hostile reading has proved, each as the shortest program that shows it.

Invariant: each test failed before its mend.
"""

from __future__ import annotations

import gevent
import pytest

from gtasker import Runner
from gtasker.errors import TaskTimeoutError
from gtasker.events import ResourceCreateFailed, RunnerEvent, TaskTimedOut
from tests.conftest import MakeRunner
from tests.ledger import PATIENCE, HeldTask, Ledger, LedgerResource, touch

ONE = {"worker_count": 1, "max_worker_count": 1, "resource_pool_size": 0}


def test_a_deadline_is_not_late_for_a_later_one_that_is_set_when_an_earlier_one_is_up(make_runner: MakeRunner) -> None:
    def set_another(event: RunnerEvent) -> None:
        if isinstance(event, TaskTimedOut):
            runner.submit(touch, "later", timeout=100 * PATIENCE)

    runner: Runner[LedgerResource] = make_runner(**ONE, on_event=set_another).start()
    held = HeldTask("held")
    runner.submit(held)
    held.wait_begun()
    earlier, one = (runner.submit(touch, "never", timeout=timeout) for timeout in (0.01, 0.1))

    with gevent.Timeout(PATIENCE), pytest.raises(TaskTimeoutError):
        one.get()

    assert isinstance(earlier.exception, TaskTimeoutError)
    held.release()


def test_the_time_that_a_failed_attempt_took_is_part_of_its_delay(make_runner: MakeRunner, ledger: Ledger) -> None:
    failed: list[ResourceCreateFailed] = []

    def keep(event: RunnerEvent) -> None:
        if isinstance(event, ResourceCreateFailed):
            failed.append(event)

    ledger.creating.fail(times=1)
    ledger.creating.delay = 0.3
    runner = make_runner(**ONE, create_backoff=(0.2, 0.2), on_event=keep)

    assert runner.queue_task(touch, "made by the next attempt") == "made by the next attempt"
    assert [event.next_attempt_in for event in failed] == [0]
