"""Deadlocks: every worker waits, without a time-out, for a task that only they could run.

Invariant: it is said only when it is certain. A worker that is idle, caring for its resource or lending it may go on;
so may one that wants a resource, unless those who hold all there may be are stuck; and so may one whose attempt, or
what it waits for, has a deadline. A crew that may still grow does so instead, and the last worker that is not stuck is
not let go.

A `gevent.Timeout` of the user's own around a wait does not count, for nobody can see it: the loop does not list its
timers, and a `with` keeps the Timeout where no frame shows it. The error says which time-out does count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from greenlet import getcurrent

from gtasker._crew import Crew
from gtasker._extras import DONE, name_of
from gtasker._task import Task
from gtasker._worker import Worker
from gtasker.errors import WouldDeadlockError

R = TypeVar("R")


class Deadlocks(Generic[R]):
    """Knows which workers wait for which tasks."""

    def __init__(self, crew: Crew[R]) -> None:
        self._crew = crew
        self._blocked: dict[Any, Task[Any]] = {}
        self._timed: set[Any] = set()  # workers whose wait ends by itself
        # Wired by the core:
        self.refuse: Callable[[Task[Any], BaseException], object] = lambda task, error: None

    def begin_wait(self, task: Task[Any]) -> None:
        """The current greenlet waits for `task` without a time-out. Raises WouldDeadlockError. Never switches."""
        current: Any = getcurrent()
        if isinstance(current, Worker) and current in self._crew.workers and current.attempt is not None:
            if self._is_certain(current, task) and not self._crew.relieve():
                raise self._error(current, task)
            self._blocked[current] = task

    def begin_timed_wait(self) -> None:
        """The current greenlet waits for a task, for some time. Never switches."""
        current: Any = getcurrent()
        if isinstance(current, Worker):
            self._timed.add(current)

    def end_wait(self) -> None:
        """The current greenlet waits no more. Never switches."""
        if self._blocked or self._timed:
            current: Any = getcurrent()
            self._blocked.pop(current, None)
            self._timed.discard(current)

    def _error(self, worker: Any, task: Task[Any]) -> WouldDeadlockError:
        waiting, awaited, number = name_of(worker.attempt.fn), name_of(task.fn), len(self._crew.workers)
        return WouldDeadlockError(
            f"{waiting} waits for {awaited}, and so do all {number} workers for tasks that only they could run "
            f"(with timeout= a wait ends by itself)"
        )

    def _is_certain(self, current: Worker[R], task: Task[Any]) -> bool:
        workers = self._crew.workers
        if _ends_by_itself(task) or _ends_by_itself(current.attempt):
            return False
        # Who waits by a direct switch is the waiter of another worker's attempt.
        waiting = {worker.attempt.waiter for worker in workers if worker.attempt is not None}
        return all(worker is current or self._is_stuck(worker, waiting) for worker in workers)

    def reconsider(self) -> None:
        """If all are stuck now, for one has lost its last chance of a resource, tell one so. Never switches."""
        for worker, task in self._blocked.items():
            if worker.attempt is not None and self._is_certain(worker, task) and not self._crew.relieve():
                self.refuse(task, self._error(worker, task))
                return

    def is_needed(self, worker: Any) -> bool:
        """Whether all other workers are stuck, so that only this one can go on. Never switches."""
        if not self._blocked:
            return False
        others = [other for other in self._crew.workers if other is not worker]
        waiting = {other.attempt.waiter for other in others if other.attempt is not None}
        return all(self._is_stuck(other, waiting) for other in others)

    def _is_stuck(self, worker: Worker[R], waiting: set[Any]) -> bool:
        if worker.attempt is None:
            return worker.resource is None and not self._crew.may_start()
        if _ends_by_itself(worker.attempt):
            return False
        task = self._blocked.get(worker)
        if task is None:
            return worker in waiting and worker not in self._timed
        return not _ends_by_itself(task)


def _ends_by_itself(task: Task[Any] | None) -> bool:
    if task is None or task.state >= DONE:
        return True
    worker = task.worker
    return task.deadline is not None or (worker is not None and worker.attempt is task and worker.limit is not None)
