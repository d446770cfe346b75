"""The handle of a task that an immediate runner ran, or will when it is resumed.

Invariant: it answers once; what comes second changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

from gevent import Timeout, get_hub, getcurrent
from gevent.event import Event

from gtasker import Task, TaskCancelledError, TaskState, WouldDeadlockError

T = TypeVar("T")


class ImmediateTask(Task[T]):
    """A `gtasker.Task` in everything that is public of it."""

    def __init__(
        self, fn: Callable[..., T], args: tuple[Any, ...], priority: int, once: bool, timeout: float | None, key: Any
    ) -> None:
        self.fn = fn
        self.args = args
        self.priority = priority
        self.once = once
        self.queued_at = monotonic()
        self.state = TaskState.QUEUED
        self.attempts = 0
        self.key = key
        self.ends_by = None if timeout is None else self.queued_at + timeout
        self.limit = timeout
        self.runs_in: Any = None  # the greenlet
        self.on_cancel: Callable[[ImmediateTask[Any]], object] = lambda task: None
        self.on_callback: Callable[[Callable[[Any], object], Any], object] = lambda callback, task: callback(task)
        self.name = _name(fn)
        self._answer: T | None = None
        self._failure: BaseException | None = None
        self._frames: TracebackType | None = None
        self._answered = Event()
        self._callbacks: list[Callable[[Any], object]] = []
        self._links: list[Callable[[Any], object]] = []

    def __repr__(self) -> str:
        return f"<Task {self.name} {self.state.name} attempts={self.attempts}>"

    def settle(self, state: TaskState, answer: T | None = None, failure: BaseException | None = None) -> bool:
        """Answer; False if it had. Calls the callbacks."""
        if self.ready():
            return False
        self.state, self._answer, self._failure = state, answer, failure
        self._frames = failure.__traceback__ if failure is not None else None
        self._answered.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self.on_callback(callback, self)
        for link in self._links:
            get_hub().loop.run_callback(link, self)
        self._links.clear()
        return True

    def ready(self) -> bool:
        """Whether it has answered. Never switches."""
        return self.state >= TaskState.DONE

    def successful(self) -> bool:
        """Whether it answered with a value. Never switches."""
        return self.state is TaskState.DONE

    @property
    def value(self) -> T | None:
        """The value it answered with, or None. Never switches."""
        return self._answer

    @property
    def exception(self) -> BaseException | None:
        """The exception it answered with, or None. Never switches."""
        return self._failure

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it answered; return whether it has. Switches if it has not. Raises WouldDeadlockError."""
        if not self.ready() and self.runs_in is getcurrent():
            raise WouldDeadlockError(f"{self.name} waits for itself")
        self._answered.wait(timeout)
        return self.ready()

    def get(self, timeout: float | None = None) -> T:
        """The value, or the exception raised. Switches if it has not answered. Raises `gevent.Timeout`."""
        with Timeout(timeout if not self.ready() else None):
            self.wait()
        return self.outcome()

    def outcome(self) -> T:
        """The value, or the exception raised; it has answered. Never switches."""
        if self._failure is not None:
            raise self._failure.with_traceback(self._frames)
        return self._answer  # type: ignore[return-value]  # it is what the task returned

    def cancel(self) -> bool:
        """Settle it as cancelled; False if it had answered. What runs is not interrupted. Never switches."""
        if not self.settle(TaskState.CANCELLED, failure=TaskCancelledError(f"{self.name} was cancelled")):
            return False
        self.on_cancel(self)
        return True

    def add_done_callback(self, fn: Callable[[Task[T]], object]) -> None:
        """Have `fn(task)` called once it answered; at once if it has."""
        if self.ready():
            self.on_callback(fn, self)
        else:
            self._callbacks.append(fn)

    def rawlink(self, callback: Callable[[Task[T]], object]) -> None:
        """Have `callback(task)` called in the hub once it answered. Never switches."""
        if self.ready():
            get_hub().loop.run_callback(callback, self)
        else:
            self._links.append(callback)

    def unlink(self, callback: Callable[[Task[T]], object]) -> None:
        """Take back `rawlink`. Never switches."""
        if callback in self._links:
            self._links.remove(callback)


def _name(fn: Any) -> str:
    while hasattr(fn, "func"):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or type(fn).__name__
