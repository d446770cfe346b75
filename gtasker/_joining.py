"""Joining: tasks with the same key are one task, with as many handles as there are askers.

Invariant: a key leads to its task while that has not answered and somebody still wants the answer; each handle gets the
outcome of the task it joined, or its own cancellation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from gtasker._backlog import Backlog
from gtasker._door import Door
from gtasker._extras import CANCELLED, DONE, FAILED, QUEUED, TaskState, name_of
from gtasker._outcomes import Outcomes
from gtasker._task import Owner, Task, extras_of
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

    def __init__(self, backlog: Backlog[R], door: Door[R], outcomes: Outcomes[R]) -> None:
        self._backlog = backlog
        self._door = door
        self._outcomes = outcomes
        self._shared: dict[Any, Task[Any]] = {}

    def soon(self, task: Task[Any]) -> None:
        """Have `task.wake()` called in the hub. Never switches."""
        self._outcomes.soon(task)

    def call(self, callback: Callable[[Task[Any]], object], task: Task[Any]) -> None:
        """Call a done-callback in a greenlet of the runner's. Never switches."""
        self._outcomes.call(callback, task)

    def join(self, key: Any, priority: int, make: Callable[[], Task[Any]]) -> tuple[Joined[Any], bool]:
        """A handle of the task with this key; made by `make` if there was none (then True). Never switches."""
        task = self._shared.get(key)
        is_new = task is None
        if task is None:
            task = self._shared[key] = make()
            extras_of(task).key = key
            task.owner = self._outcomes
        if priority < task.priority:
            self._raise(task, priority)
        handle: Joined[Any] = Joined.__new__(Joined)
        handle.shared = task
        handle._own_state = None
        handle.fn = task.fn
        handle.args = ()
        handle.waiter = handle.worker = handle.lane = None
        handle.extras = handle.deadline = None
        handle.owner = self
        extras_of(task).handles.append(handle)
        return handle, is_new

    def on_settled(self, task: Task[Any]) -> None:
        """The shared task answered: so do its handles. Never switches."""
        extras = extras_of(task)
        self._forget(task)
        handles, extras.handles = extras.handles, []
        for handle in handles:
            if task.state is DONE:
                handle._value = task._value
            else:
                handle._error, handle._traceback = task._error, task._traceback
            handle._own_state = task.state
            if task.state is FAILED:
                self._outcomes.listen(handle, name_of(handle.fn))
            handle.let_go()
            self._outcomes.soon(handle)

    def give_up(self, task: Task[Any], error: BaseException) -> None:
        """The shared task was never accepted: its handles answer with the reason. Never switches."""
        if task.settle_error(error):
            task.let_go()
            self.on_settled(task)

    def cancel(self, task: Task[Any], error: BaseException | None = None) -> bool:
        """Settle this handle as cancelled; the last one withdraws the shared task. Never switches."""
        assert isinstance(task, Joined)
        self._outcomes.check_thread()
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

    def tell(self) -> None:
        """Tell `on_event` what has happened. Never switches."""
        self._outcomes.tell()

    def _leave(self, handle: Joined[Any], withdraw: Callable[[Task[Any]], object]) -> bool:
        name = name_of(handle.fn)
        shared = handle.shared
        if not handle.settle_error(TaskCancelledError(f"{name} was cancelled"), CANCELLED):
            return False
        handles = extras_of(shared).handles
        if handle in handles:
            handles.remove(handle)
        handle.let_go()
        self._outcomes.soon(handle)
        if not handles:  # what still runs is nobody's; the next asker gets a task of his own
            self._forget(shared)
            withdraw(shared)
        return True

    def _forget(self, task: Task[Any]) -> None:
        key = extras_of(task).key
        if self._shared.get(key) is task:
            del self._shared[key]

    def _raise(self, task: Task[Any], priority: int) -> None:
        if task.state is QUEUED and task.lane is not None:
            self._backlog.move(task, priority)
        elif not task.seq:  # it has not been let in
            self._door.move(task, priority)
        else:
            task.priority = priority
