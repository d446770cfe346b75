"""Attempts: a task is called where it was handed in, and judged as a worker would.

Invariant: a resource that was taken has come back when the call ends, by whatever road it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, TypeVar

from gevent import GreenletExit, Timeout, getcurrent

from gtasker import (
    AcquireTimeoutError,
    Config,
    LeaseKind,
    MaxRetriesExceededError,
    Priority,
    ResourceUnavailableError,
    TaskCancelledError,
    TaskState,
    TaskTimeoutError,
    TooManyWaitersError,
    WouldDeadlockError,
)
from gtasker.events import TaskRetried, TaskTimedOut
from gtasker.testing._immediate_task import ImmediateTask
from gtasker.testing._shelf import Copy, Shelf
from gtasker.testing._tally import Tally

R = TypeVar("R")


class Attempts(Generic[R]):
    """Calls tasks on the resources of one shelf."""

    def __init__(self, config: Config[R], shelf: Shelf[R], tally: Tally, emit: Callable[..., None]) -> None:
        self._config = config
        self._shelf = shelf
        self._tally = tally
        self._emit = emit
        self._waiting = 0
        self.workers = config.max_worker_count if config.burst_task_threshold else config.worker_count

    def run(self, task: ImmediateTask[Any]) -> None:
        """Call it until it has answered. What is thrown into the caller meanwhile is raised. Switches as it does."""
        while not task.ready():
            try:
                copy = self._take_for(task)
            except (ResourceUnavailableError, WouldDeadlockError, TaskTimeoutError) as error:
                self._fail(task, error, monotonic())
            except BaseException:  # the caller is sent away while it waits
                if task.settle(TaskState.CANCELLED, failure=TaskCancelledError(f"{task.name} was cancelled")):
                    self._tally.cancelled += 1
                raise
            else:
                self._attempt(task, copy)

    def borrow(self, kind: LeaseKind, task: str | None, priority: int, timeout: float | None) -> Copy[R]:
        """A resource for the current greenlet. Switches while others have all. Raises the real runner's errors."""
        limit = self._config.acquire_timeout if timeout is None else timeout
        until = None if limit is None else monotonic() + limit
        while (copy := self._take(kind)) is None:
            most = self._config.max_waiting
            if most is not None and self._waiting >= most:
                raise TooManyWaitersError(f"{most} wait already ({self._account()})")
            if not self._wait_for(self._shelf.out, until):
                self._tally.acquire_timeouts += 1
                within = "ever" if limit is None else f"within {limit:g} s"
                raise AcquireTimeoutError(f"no resource {within}: {self._account()}")
        copy.lend(kind, task, priority)
        return copy

    def _take_for(self, task: ImmediateTask[Any]) -> Copy[R]:
        while True:
            at_work = [copy for copy in self._shelf.out if copy.kind is LeaseKind.WORKER]
            copy = self._take(LeaseKind.WORKER) if len(at_work) < self.workers else None
            if copy is not None:
                copy.lend(LeaseKind.WORKER, task.name, task.priority)
                return copy
            blocking = at_work if len(at_work) >= self.workers else self._shelf.out
            if not self._wait_for(blocking, task.ends_by):
                if task.limit is None:
                    raise WouldDeadlockError(f"{task.name} waits for what only its caller could give back")
                raise self._late(task)

    def _take(self, kind: LeaseKind) -> Copy[R] | None:
        try:
            return self._shelf.take(kind)
        except Exception as error:
            raise ResourceUnavailableError(f"no resource is left, and none can be made: {error!r}") from error

    def _wait_for(self, blocking: list[Copy[R]], until: float | None) -> bool:
        """Wait until something comes back; false if that is in vain: the caller has all, or the time is up."""
        current = getcurrent()
        if all(copy.holder is current for copy in blocking) or (until is not None and monotonic() >= until):
            return False
        self._shelf.came_back.clear()
        self._waiting += 1
        try:
            return self._shelf.came_back.wait(None if until is None else until - monotonic())
        finally:
            self._waiting -= 1

    def _attempt(self, task: ImmediateTask[Any], copy: Copy[R]) -> None:
        task.state, task.runs_in = TaskState.RUNNING, getcurrent()
        task.attempts += 1
        started = monotonic()
        timer = Timeout(self._limit_of(task, started))
        try:
            with timer:
                value = task.context.run(task.fn, copy.value, *task.args)
        except BaseException as error:
            self._failed(task, copy, error, started, is_late=error is timer)
        else:
            self._shelf.give_back(copy, None)
            if task.settle(TaskState.DONE, value):
                self._tally.end(task.queued_at, started, is_failure=False)
        finally:
            task.runs_in = None

    def _limit_of(self, task: ImmediateTask[Any], now: float) -> float | None:
        own = self._config.task_timeout
        left = None if task.ends_by is None else max(0.0, task.ends_by - now)
        return min((limit for limit in (own, left) if limit is not None), default=None)

    def _failed(
        self, task: ImmediateTask[Any], copy: Copy[R], error: BaseException, started: float, *, is_late: bool
    ) -> None:
        healthy = self._shelf.give_back(copy, error)
        if is_late:
            self._fail(task, self._late(task), started)
        elif healthy or task.once or not self._config.max_retries:
            self._fail(task, error, started)
        elif task.attempts > self._config.max_retries:
            spent = MaxRetriesExceededError(f"{task.name} failed {task.attempts} times", task.attempts)
            spent.__cause__ = error
            self._fail(task, spent, started)
        elif not task.ready():
            task.state = TaskState.RETRYING
            self._tally.retry()
            self._emit(TaskRetried, task=task.name, attempts=task.attempts, error=error, next_attempt_in=0.0)
        # These are not the task's alone: they were thrown into the greenlet, which is the caller's.
        if not is_late and isinstance(error, (GreenletExit, Timeout, KeyboardInterrupt)):
            raise error

    def _fail(self, task: ImmediateTask[Any], error: BaseException, started: float) -> None:
        is_late = isinstance(error, TaskTimeoutError)
        if task.settle(TaskState.FAILED, failure=error):
            self._tally.end(task.queued_at, started, is_failure=True)
            if is_late:
                self._tally.timed_out += 1
                self._emit(TaskTimedOut, task=task.name)

    def _late(self, task: ImmediateTask[Any]) -> TaskTimeoutError:
        if task.ends_by is not None and monotonic() >= task.ends_by:
            return TaskTimeoutError(f"{task.name} did not answer within {task.limit:g} s")
        if self._config.task_timeout is not None and task.attempts:
            return TaskTimeoutError(f"{task.name} ran longer than {self._config.task_timeout:g} s")
        return TaskTimeoutError(f"{task.name} would not answer within {task.limit:g} s: its caller has what it needs")

    def _account(self) -> str:
        shelf = self._shelf
        held = sum(copy.kind is not LeaseKind.WORKER for copy in shelf.out)
        return (
            f"{shelf.count} of {shelf.limit} exist, {len(shelf.out) - held} held by workers, {held} by leases; "
            f"{self._waiting} waiting"
        )


HIGH = int(Priority.HIGH)
"""What a `run_task` waits as."""
