"""Joining: tasks with the same key are one task, with as many handles as there are askers.

Invariant: while a key is in `_shared`, its task has not answered and somebody still wants the answer; each handle gets
the outcome of that task, or its own cancellation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from gtasker._backlog import Backlog, extras_of
from gtasker._outcomes import Outcomes
from gtasker._task import CANCELLED, DONE, QUEUED, Extras, Owner, Task, TaskState, name_of
from gtasker.errors import TaskCancelledError

R = TypeVar("R")
T = TypeVar("T")


class Joined(Task[T]):
    """One asker's handle of a shared task."""

    __slots__ = ("_own_state", "shared")

    shared: Task[T]
    _own_state: TaskState | None

    @property
    def state(self) -> TaskState:
        """Where the shared task is, until this handle is settled."""
        return self.shared.state if self._own_state is None else self._own_state

    @state.setter
    def state(self, state: TaskState) -> None:
        self._own_state = state

    @property
    def attempts(self) -> int:
        """How often the shared task was begun."""
        return self.shared.attempts

    @attempts.setter
    def attempts(self, attempts: int) -> None:
        raise AttributeError("the attempts are the shared task's")


class Joining(Owner, Generic[R]):
    """The shared tasks of one runner, by key. It owns their handles."""

    def __init__(self, backlog: Backlog[R], outcomes: Outcomes[R]) -> None:
        self._backlog = backlog
        self._outcomes = outcomes
        self._shared: dict[Any, tuple[Task[Any], list[Joined[Any]]]] = {}

    def soon(self, task: Task[Any]) -> None:
        """Have `task.wake()` called in the hub. Never switches."""
        self._outcomes.soon(task)

    def call(self, callback: Callable[[Task[Any]], object], task: Task[Any]) -> None:
        """Call a done-callback in a greenlet of the runner's. Never switches."""
        self._outcomes.call(callback, task)

    def find(self, key: Any) -> Task[Any] | None:
        """The task that has this key now. Never switches."""
        found = self._shared.get(key)
        return found[0] if found is not None else None

    def join(self, key: Any, priority: int, make: Callable[[], Task[Any]]) -> tuple[Joined[Any], bool]:
        """A handle of the task with this key; made by `make` if there was none (then True). Never switches."""
        found = self._shared.get(key)
        if found is None:
            task = make()
            extras_of(task).key = key
            extras_of(task).owner = self._outcomes
            found = self._shared[key] = (task, [])
        task, handles = found
        is_new = not handles
        if priority < task.priority:
            self._raise(task, priority)
        handle: Joined[Any] = Joined.__new__(Joined)
        handle.shared = task
        handle._own_state = None
        handle.fn = task.fn
        handle.args = ()
        handle.waiter = handle.worker = handle.lane = None
        handle.extras = Extras()
        handle.extras.owner = self
        handles.append(handle)
        return handle, is_new

    def on_settled(self, task: Task[Any]) -> None:
        """The shared task answered: so do its handles. Never switches."""
        assert task.extras is not None
        _, handles = self._shared.pop(task.extras.key, (None, []))
        for handle in handles:
            if task.state is DONE:
                handle._value = task._value
            else:
                handle._error, handle._traceback = task._error, task._traceback
            handle._own_state = task.state
            handle.let_go()
            self._outcomes.soon(handle)

    def give_up(self, key: Any, error: BaseException) -> None:
        """The shared task was never accepted: its handles answer with the reason. Never switches."""
        task, _ = self._shared[key]
        task.settle_error(error)
        task.let_go()
        self.on_settled(task)

    def cancel(self, task: Task[Any], error: BaseException | None = None) -> bool:
        """Settle this handle as cancelled; the last one withdraws the shared task. Never switches."""
        assert isinstance(task, Joined)
        return self._leave(task, self._outcomes.cancel)

    def leave(self, handle: Joined[Any]) -> None:
        """Its caller went away; the last one withdraws the shared task. Never switches."""
        handle.waiter = None
        self._leave(handle, self._outcomes.leave)

    def begin_wait(self, task: Task[Any], *, forever: bool) -> None:
        """Raise if the current greenlet cannot wait for `task`, or never to an end. Never switches."""
        assert isinstance(task, Joined)
        self._outcomes.begin_wait(task.shared, forever=forever)

    def end_wait(self) -> None:
        """Take back `begin_wait`. Never switches."""
        self._outcomes.end_wait()

    def _leave(self, handle: Joined[Any], withdraw: Callable[[Task[Any]], object]) -> bool:
        name = name_of(handle.fn)
        shared = handle.shared
        if not handle.settle_error(TaskCancelledError(f"{name} was cancelled"), CANCELLED):
            return False
        assert shared.extras is not None
        _, handles = self._shared.get(shared.extras.key, (None, []))
        if handle in handles:
            handles.remove(handle)
        handle.let_go()
        self._outcomes.soon(handle)
        if not handles:
            self._shared.pop(shared.extras.key, None)
            withdraw(shared)
        return True

    def _raise(self, task: Task[Any], priority: int) -> None:
        if task.state is QUEUED and task.lane is not None:
            self._backlog.move(task, priority)
        else:
            task.priority = priority
