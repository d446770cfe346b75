"""Outcomes: the one door through which every task leaves the runner.

Invariant: a task is settled here, once; settling, counting it and letting go of what it held are one step without a
switch. What follows (waking who waits, callbacks, the interruption of an attempt) happens later, in the hub or in
greenlets of the runner's, so an answer never waits for the end of what it answers.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, TypeVar
from weakref import ref

from greenlet import getcurrent

from gtasker._backlog import Backlog
from gtasker._calls import PATIENCE, Calls, Interrupt
from gtasker._events import TaskCancelled, TaskRetried, TaskTimedOut
from gtasker._extras import CANCELLED, DONE, FAILED, RUNNING, Unheard, name_of, told
from gtasker._limits import Attempting, Limits
from gtasker._metrics import TaskTimes
from gtasker._site import Site, get_ident
from gtasker._task import Owner, Task, extras_of
from gtasker.errors import (
    MaxRetriesExceededError,
    TaskCancelledError,
    TaskTimeoutError,
    WouldBlockHubError,
    WrongThreadError,
)

R = TypeVar("R")


Struck = dict[Attempting, tuple[Task[Any], float, ref[BaseException]]]


class Strike:
    """The interruption of one attempt, on its way through the hub.

    What is thrown is an object of its own, that nobody else keeps: it is there for as long as the attempt is at it.
    """

    __slots__ = ("_error", "_struck", "_task", "_worker")

    def __init__(self, worker: Attempting, task: Task[Any], error: BaseException, struck: Struck) -> None:
        self._worker = worker
        self._task = task
        self._error = error
        self._struck = struck

    def wake(self) -> None:
        """Throw, if the attempt still runs."""
        worker = self._worker
        if worker.attempt is self._task:
            worker.struck = self._error
            thrown = type(self._error)(*self._error.args)
            _, since, _ = self._struck.get(worker, (None, monotonic(), None))
            self._struck[worker] = (self._task, since, ref(thrown))
            worker.throw(thrown)


class Outcomes(Owner, Generic[R]):
    """Settles tasks, and answers for them to their handles."""

    def __init__(self, site: Site[R], calls: Calls[R], backlog: Backlog[R], limits: Limits) -> None:
        self._site = site
        self._calls = calls
        self._backlog = backlog
        self._meter = site.meter
        self._limits = limits
        # Whether an attempt that ended well leaves nothing to do but to see to its resource, and to answer.
        self.is_direct = False
        self.may_be_direct = False  # as far as the settings say
        # Whether attempts are to be told to `begin`.
        self.is_watched = site.config.task_timeout is not None or site.config.hub_blocked_after is not None
        self.callbacks = 0  # done-callbacks that have not returned
        self.struck: Struck = {}  # interrupted attempts that have not ended, since when, and by what last
        # Wired by the core:
        self.on_answer: Callable[[], object] | None = None  # while the runner is closing
        self.on_begin: Callable[[Task[Any]], object] = lambda task: None
        self.on_wait: Callable[[Task[Any]], object] = lambda task: None
        self.on_timed_wait: Callable[[], object] = lambda: None
        self.on_waited: Callable[[], object] = lambda: None
        self.on_settled: Callable[[Task[Any]], object] = lambda task: None  # of a task with a key

    def check_thread(self) -> None:
        """Raise WrongThreadError in another OS thread. Never switches."""
        if get_ident() != self._site.thread:
            raise WrongThreadError("this task belongs to a runner of another thread")

    def refresh(self) -> None:
        """Say anew whether `is_direct` holds; called when one of its reasons changed. Never switches."""
        self.is_direct = self.may_be_direct and self.on_answer is None and not self._backlog.excess

    def complete(self, task: Task[Any], started: float, finished: float) -> None:
        """Answer with the value that stands in `task` already. Never switches."""
        if self._site.collector is not None:
            self._site.collect("record_completion", TaskTimes(waiting_since(task), started, finished))
        self._answer(task)

    def fail(self, task: Task[Any], error: BaseException, started: float, finished: float) -> None:
        """Answer with an exception, unless it was answered before. Never switches."""
        if task.settle_error(error):
            meter = self._meter
            meter.waits.append(started - waiting_since(task))
            meter.runs.append(finished - started)
            meter.failed_timed += 1
            if self._site.collector is not None:
                self._site.collect("record_failure", TaskTimes(waiting_since(task), started, finished))
            self._answer(task)

    def retry_or_fail(self, task: Task[Any], error: Exception, started: float, finished: float) -> None:
        """After an unhealthy error: let it be tried again, if it may. Never switches."""
        config = self._site.config
        if task.state is not RUNNING:
            return
        if task.once or not config.max_retries:
            self.fail(task, error, started, finished)
        elif task.attempts > config.max_retries:
            spent = MaxRetriesExceededError(f"{name_of(task.fn)} failed {task.attempts} times", task.attempts)
            spent.__cause__ = error
            self.fail(task, spent, started, finished)
        else:
            base, cap = config.retry_backoff
            delay = random.uniform(0, min(cap, base * 2 ** min(task.attempts - 1, 60)))
            self._meter.retried += 1
            self._site.collect("record_retry")
            extras = extras_of(task)
            extras.returned_at = finished + delay
            task.worker = None
            name, attempts = name_of(task.fn), task.attempts
            self._backlog.delay(task, delay)
            if self._site.listening:
                self._site.emit(TaskRetried, task=name, attempts=attempts, error=error, next_attempt_in=delay)

    def cancel(self, task: Task[Any], error: BaseException | None = None) -> bool:
        """Settle as cancelled; False if it had answered. A running attempt is interrupted later. Never switches."""
        self.check_thread()
        if task.state >= DONE:
            return False
        name = name_of(task.fn)
        cancelled = error or TaskCancelledError(f"{name} was cancelled")
        self._end(task, cancelled, CANCELLED, error)
        if task.seq:  # else it was never accepted
            self._meter.cancelled += 1
        if self._site.listening:
            self._site.emit(TaskCancelled, task=name)
        return True

    def time_out(self, task: Task[Any], message: str) -> None:
        """Settle as timed out, if it has not answered. A running attempt is interrupted afterwards. Never switches."""
        if task.state >= DONE:
            return
        name = name_of(task.fn)
        meter = self._meter
        now = monotonic()
        self._count_unaccepted(task)
        self._end(task, TaskTimeoutError(f"{name} {message}"))
        meter.timed_out += 1
        meter.failed_untimed += 1
        self._site.collect("record_failure", TaskTimes(task.queued_at, now, now))
        if self._site.listening:
            self._site.emit(TaskTimedOut, task=name)

    def refuse(self, task: Task[Any], error: BaseException) -> None:
        """Settle a task that waits with an error of ours: nothing can run it. Never switches."""
        if task.state >= DONE:
            return
        now = monotonic()
        self._count_unaccepted(task)
        self._meter.failed_untimed += 1
        self._site.collect("record_failure", TaskTimes(task.queued_at, now, now))
        self._end(task, error)

    def _count_unaccepted(self, task: Task[Any]) -> None:
        if not task.seq:  # before the door; it is counted as come, for it is counted as gone
            self._meter.arrived += 1
            self._site.collect("record_arrival")

    def leave(self, task: Task[Any]) -> None:
        """Its caller went away: withdraw it, if it has not begun; nobody will look at the answer. Never switches."""
        task.waiter = None
        task.once = True  # what runs ends unheard, and is not tried again for nobody
        if task.state is not RUNNING or self._site.config.cancel_on_abandon:
            self.cancel(task)

    def begin(self, worker: Attempting, task: Task[Any]) -> None:
        """An attempt begins: time it out after `task_timeout`, and let the watch know. Never switches."""
        self._limits.begin_attempt(worker)
        self.on_begin(task)

    def soon(self, task: Task[Any]) -> None:
        """Have `task.wake()` called in the hub. Never switches."""
        self._site.turn.soon(task)

    def call(self, callback: Callable[[Task[Any]], object], task: Task[Any]) -> None:
        """Call a done-callback in a greenlet of the runner's. Never switches."""
        self.callbacks += 1
        self._site.errands.run(self._call, callback, task)

    def begin_wait(self, task: Task[Any], *, forever: bool) -> None:
        """Raise if the current greenlet cannot wait for `task`, or never to an end. Never switches."""
        site = self._site
        self.check_thread()
        if getcurrent() is site.hub:
            raise WouldBlockHubError("waiting for a task in the hub would stop the event loop")
        if forever:
            self.on_wait(task)
        else:
            self.on_timed_wait()

    def end_wait(self) -> None:
        """Take back `begin_wait`. Never switches."""
        self.on_waited()

    def tell(self) -> None:
        """Tell `on_event` what has happened. Never switches."""
        self._site.tell()

    def _end(
        self, task: Task[Any], error: BaseException, state: Any = None, thrown: BaseException | None = None
    ) -> None:
        was_running = task.state is RUNNING
        self._backlog.withdraw(task)
        worker = task.worker
        task.settle_error(error, state) if state is not None else task.settle_error(error)
        self._answer(task)
        if was_running and worker is not None:
            self._site.turn.soon(Strike(worker, task, thrown or Interrupt(str(error)), self.struck))
            self._site.housekeeping.after(2 * PATIENCE, self._nudge)

    def _answer(self, task: Task[Any]) -> None:
        extras = task.extras
        if task.state is FAILED and task.owner is not None and (extras is None or extras.key is None):
            self.listen(task, name_of(task.fn))
            extras = task.extras
        task.let_go()
        if extras is not None and extras.key is not None:
            self.on_settled(task)
        if task.waiter is not None or extras is not None:
            self._site.turn.soon(task)
        if self.on_answer is not None:
            self.on_answer()

    def listen(self, task: Task[Any], name: str) -> None:
        """Have it logged, once, if nobody ever looks at this failure. Never switches."""
        if task.waiter is None and (task.extras is None or not task.extras.callbacks):
            text = told(task._error)
            site = self._site
            extras_of(task).unheard = Unheard(
                lambda: site.log(logging.ERROR, "%s failed, and nobody looked: %s", name, text)
            )

    def _nudge(self) -> None:
        if self.on_answer is not None:
            self.on_answer()

    @property
    def given_up(self) -> int:
        """How many attempts were interrupted `PATIENCE` seconds ago or longer, and still go on."""
        due = monotonic() - PATIENCE
        return sum(since <= due for _, since, _ in self.struck.values())

    def _call(self, callback: Callable[[Task[Any]], object], task: Task[Any]) -> None:
        try:
            self._calls.call("a done-callback", None, callback, task)
        except BaseException as error:
            self._site.fault(f"the done-callback {name_of(callback)}", error)
        finally:
            self.callbacks -= 1


def waiting_since(task: Task[Any]) -> float:
    """Since when it waited for its present attempt: the run of an earlier one is no waiting."""
    extras = task.extras
    return extras.returned_at if extras is not None and extras.returned_at else task.queued_at
