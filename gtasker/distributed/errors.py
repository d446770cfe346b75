"""The errors of distributed tasks: what each one means, and what to do about it.

Invariant: each is a `GTaskerError`; what a task raised in another process is raised as its own class where that can be
imported here, and as `RemoteTaskError` where not.
"""

from __future__ import annotations

from gtasker.errors import GTaskerError, TaskError

__all__ = [
    "AlreadyBegunError",
    "DistributedError",
    "EngineUnavailableError",
    "LimiterError",
    "LimiterUnavailableError",
    "NoEngineError",
    "NoSlotError",
    "NotJSONError",
    "RemoteTaskError",
]


class DistributedError(GTaskerError):
    """The root of the errors of this package."""


class NoEngineError(DistributedError):
    """The task has no engine to be sent with. Give `engine=` to its decorator, or run it here."""


class NotJSONError(DistributedError, TypeError):
    """An argument, or the value of a task, would not come out of JSON as it went in; `path` says which part of it."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[type[NotJSONError], tuple[str, str]]:
        return type(self), (str(self), self.path)


class EngineUnavailableError(DistributedError):
    """The engine's broker did not answer; `__cause__` says why.

    Whether it has taken the message is unknown: send it again under the same `key`, or make its effect idempotent.
    """


class RemoteTaskError(TaskError):
    """What a task raised in another process: `type_name`, `message`, and its `traceback` there, as text.

    It is the `__cause__` of the task's own exception where that could be rebuilt, and is raised itself where not.
    """

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(type_name, message, traceback)
        self.type_name, self.message, self.traceback = type_name, message, traceback

    def __str__(self) -> str:
        told = f"{self.type_name}: {self.message}"
        return f"{told}\n\n{self.traceback}" if self.traceback else told


class AlreadyBegunError(TaskError):
    """A task with `once=True` was begun by a process that died. It is not begun again; its outcome is unknown."""


class LimiterError(DistributedError):
    """No slot of a limiter was to be had, so no resource was made. Waiting and trying again is safe."""


class NoSlotError(LimiterError):
    """All slots are taken, here or by other processes."""


class LimiterUnavailableError(LimiterError):
    """The place where the slots are counted did not answer; `__cause__` says why."""
