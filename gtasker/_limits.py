"""Limits: how long a task may take to answer, and an attempt to run.

Invariant: a task that has answered has no `deadline`, and a worker that is at no attempt no `limit`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gtasker._alarm import Alarm
from gtasker._task import Task
from gtasker._timeouts import Timeouts, Wait


class Attempting(Protocol):
    """A worker, as far as its interruption needs it."""

    attempt: Task[Any] | None
    started_at: float
    limit: Wait[Any] | None
    struck: BaseException | None

    def throw(self, error: BaseException) -> object:
        """Switch to it and raise there."""


class Limits:
    """The time-outs of tasks and of attempts of one runner."""

    __slots__ = ("_attempt_limit", "_attempts", "_tasks", "time_out")

    def __init__(self, alarm: Alarm, task_timeout: float | None) -> None:
        self._tasks: Timeouts[Task[Any]] = Timeouts(alarm, self._expire_task)
        self._attempts: Timeouts[Attempting] = Timeouts(alarm, self._expire_attempt)
        self._attempt_limit = None if task_timeout is None else self._attempts.of(task_timeout)
        # Wired by the core: settle a task as timed out, with this message.
        self.time_out: Callable[[Task[Any], str], object] = lambda task, message: None

    def begin_task(self, task: Task[Any], seconds: float) -> None:
        """Time it out `seconds` after its call, unless it is disarmed before. Never switches."""
        task.deadline = self._tasks.of(seconds).begin(task, task.queued_at)

    def begin_attempt(self, worker: Attempting) -> None:
        """Time out what it is at, `task_timeout` after its start. Never switches."""
        if self._attempt_limit is not None:
            worker.limit = self._attempt_limit.begin(worker, worker.started_at)

    def _expire_task(self, task: Task[Any], seconds: float) -> None:
        self.time_out(task, f"did not answer within {seconds:g} s")

    def _expire_attempt(self, worker: Attempting, seconds: float) -> None:
        if worker.attempt is not None:
            self.time_out(worker.attempt, f"ran longer than {seconds:g} s")
