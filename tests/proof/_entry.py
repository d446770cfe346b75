"""One call of a storm in the books, and which errors it may be answered with.

Invariant: an error of the library's is excused only by a setting, an operation or an end that leads to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gtasker import Task
from gtasker.errors import (
    AcquireTimeoutError,
    MaxRetriesExceededError,
    QueueFullError,
    ResourceUnavailableError,
    RunnerKilledError,
    RunnerStoppedError,
    TaskCancelledError,
    TaskTimeoutError,
    TooManyWaitersError,
    WouldDeadlockError,
)
from tests.proof._plan import Operation


@dataclass
class Situation:
    """What has happened so far that explains errors."""

    options: dict[str, Any]
    closing: bool = False
    killing: bool = False
    purged: bool = False


class Entry:
    """One call: what began for it, what it was answered, and what excuses an error."""

    def __init__(self, operation: Operation, *, nested: bool = False) -> None:
        self.operation = operation
        self.nested = nested
        self.token: object = operation.key or ("answer", operation.number)
        self.begun = 0
        self.answers = 0
        self.called_back = 0
        self.cancelled = False
        self.task: Task[Any] | None = None
        self.raised: list[BaseException] = []  # by its body
        self.thrown: list[BaseException] = []  # into its caller

    def __repr__(self) -> str:
        operation = self.operation
        return f"{operation.number} {operation.name} ({operation.body}{', nested' if self.nested else ''})"

    @property
    def is_settled(self) -> bool:
        """Whether it has its answer, so that nothing may begin for it any more."""
        if self.operation.key is not None:  # others may still wait for it
            return False
        return self.task.ready() if self.task is not None else self.answers > 0

    def knows(self, error: BaseException | None) -> bool:
        """Whether this very object was raised by its body or thrown into its caller."""
        return any(error is known for known in self.raised + self.thrown)

    def call_back(self, task: Task[Any]) -> None:
        """A callback of the task's."""
        self.called_back += 1

    def may_get(self, error: BaseException, now: Situation) -> bool:
        """Whether the storm led to this error."""
        if self.knows(error):
            return True
        excuse = _EXCUSES.get(type(error))
        if excuse is not None:
            return excuse(now, self, error)
        # What the runner throws into a nested call is its own affair; the outer call is judged by its own answer.
        return self.nested and not isinstance(error, Exception)


Excuse = Callable[[Situation, Entry, BaseException], bool]


def _ran_out_of_retries(now: Situation, entry: Entry, error: BaseException) -> bool:
    allowed = now.options["max_retries"]
    return allowed > 0 and entry.begun == allowed + 1 and entry.knows(error.__cause__)


def _waited_too_long(now: Situation, entry: Entry, error: BaseException) -> bool:
    limited = entry.operation.timeout is not None or now.options["acquire_timeout"] < 1
    return limited and entry.operation.name in ("run_task", "lease")


def _took_too_long(now: Situation, entry: Entry, error: BaseException) -> bool:
    return entry.operation.timeout is not None or "task_timeout" in now.options


# Exact classes: RunnerKilledError is a TaskCancelledError, but not every excuse of the one excuses the other.
_EXCUSES: dict[type[BaseException], Excuse] = {
    RunnerStoppedError: lambda now, entry, error: now.closing,
    RunnerKilledError: lambda now, entry, error: now.killing,
    TaskCancelledError: lambda now, entry, error: entry.cancelled or now.purged,
    TaskTimeoutError: _took_too_long,
    MaxRetriesExceededError: _ran_out_of_retries,
    AcquireTimeoutError: _waited_too_long,
    QueueFullError: lambda now, entry, error: "enqueue_timeout" in now.options,
    TooManyWaitersError: lambda now, entry, error: "max_waiting" in now.options,
    ResourceUnavailableError: lambda now, entry, error: "fail_fast_after" in now.options,
    WouldDeadlockError: lambda now, entry, error: entry.nested,
}
