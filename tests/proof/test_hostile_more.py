"""More of what a hostile reading has proved, each as the shortest program that shows it.

Invariant: each test failed before its mend.
"""

from __future__ import annotations

import gevent
import pytest

from gtasker import Runner
from gtasker.errors import TaskTimeoutError
from gtasker.events import RunnerEvent, TaskTimedOut
from tests.conftest import MakeRunner
from tests.ledger import PATIENCE, HeldTask, LedgerResource, touch

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
