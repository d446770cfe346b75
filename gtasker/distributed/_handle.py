"""The handle of a task that was sent away.

Invariant: it answers once, and every `get` gives the same value or raises the same exception object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

import gevent
from gevent.event import AsyncResult

from gtasker import TaskState

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Handle(Protocol[T_co]):
    """What a `gtasker.Task` and a `RemoteTask` have in common."""

    @property
    def state(self) -> TaskState:
        """Where it stands."""

    @property
    def value(self) -> T_co | None:
        """The value it answered with, or None."""

    @property
    def exception(self) -> BaseException | None:
        """The exception it answered with, or None."""

    def ready(self) -> bool:
        """Whether it has answered."""

    def successful(self) -> bool:
        """Whether it answered with a value."""

    def wait(self, timeout: float | None = None) -> object:
        """Wait for the answer."""

    def get(self, timeout: float | None = None) -> T_co:
        """Wait for the answer; return the value or raise the exception."""

    def rawlink(self, callback: Callable[[Any], object]) -> None:
        """Have `callback` called in the hub once it answered."""

    def unlink(self, callback: Callable[[Any], object]) -> None:
        """Take back `rawlink`."""


class RemoteTask(Generic[T]):
    """The handle of a message; `message_id` is the engine's.

    It never fails by itself: while the broker is away it waits, and so it does when the result was kept no longer
    than the engine keeps results. Give `get` a `timeout`.
    """

    def __init__(self, name: str, message_id: str, *, joined: bool = False) -> None:
        self.name = name
        self.message_id = message_id
        self.joined = joined
        """Whether a message with its `key` was under way already, and this is that one's handle."""
        self._answer: AsyncResult[T] = AsyncResult()
        self._links: dict[Callable[[RemoteTask[T]], object], Callable[[Any], None]] = {}

    def __repr__(self) -> str:
        return f"<RemoteTask {self.name} {self.message_id} {self.state.name.lower()}>"

    @property
    def state(self) -> TaskState:
        """`QUEUED` until it has answered, for nobody knows here; then `DONE` or `FAILED`. Never switches."""
        if not self.ready():
            return TaskState.QUEUED
        return TaskState.DONE if self.successful() else TaskState.FAILED

    @property
    def value(self) -> T | None:
        """The value it answered with, or None. Never switches."""
        return self._answer.value

    @property
    def exception(self) -> BaseException | None:
        """The exception it answered with, or None. Never switches."""
        return self._answer.exception

    def ready(self) -> bool:
        """Whether it has answered. Never switches."""
        return self._answer.ready()

    def successful(self) -> bool:
        """Whether it answered with a value. Never switches."""
        return self._answer.successful()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it answered, `timeout` seconds at most; return whether it has. Switches."""
        self._answer.wait(timeout)
        return self.ready()

    def get(self, timeout: float | None = None) -> T:
        """Wait for the answer; return the value or raise the exception. Switches.

        Raises gevent.Timeout after `timeout` seconds, as `AsyncResult.get` does, and leaves the task alone.
        """
        if not self.ready() and not self.wait(timeout):
            raise gevent.Timeout(timeout)
        error = self._answer.exception
        if error is not None:
            # The traceback it came with: with each raise it would grow.
            raise error.with_traceback(None)
        return cast("T", self._answer.value)

    def rawlink(self, callback: Callable[[RemoteTask[T]], object]) -> None:
        """Have `callback(task)` called in the hub once it answered (for `gevent.wait`, `iwait`). Never switches."""

        def linked(_: Any) -> None:
            callback(self)

        self._links[callback] = linked
        self._answer.rawlink(linked)

    def unlink(self, callback: Callable[[RemoteTask[T]], object]) -> None:
        """Take back `rawlink`. Never switches."""
        linked = self._links.pop(callback, None)
        if linked is not None:
            self._answer.unlink(linked)

    def settle_value(self, value: T) -> None:
        """Answer with a value, once. Never switches. For engines."""
        if not self.ready():
            self._answer.set(value)

    def settle_error(self, error: BaseException) -> None:
        """Answer with an exception, once. Never switches. For engines."""
        if not self.ready():
            self._answer.set_exception(error)
