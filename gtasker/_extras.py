"""What tasks are described with: priorities, states, names, and the side object of the few that need one.

Invariant: none of these decides anything.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable
from typing import Any


class Priority(enum.IntEnum):
    """Common priorities. Any int will do; the lower goes first."""

    HIGH = 0
    NORMAL = 10
    LOW = 20


class TaskState(enum.IntEnum):
    """Where a task is. `DONE` and what follows is final."""

    QUEUED = 0
    RUNNING = 1
    RETRYING = 2
    DONE = 3
    FAILED = 4
    CANCELLED = 5


QUEUED, RUNNING, RETRYING, DONE, FAILED, CANCELLED = TaskState


# A name is looked for below so many wrappers.
_WRAPPED = 8


def name_of(fn: Any) -> str:
    """What a callable is called in messages: its qualified name, found below `functools.partial` and the like."""
    for _ in range(_WRAPPED):  # not for ever: a mock has whatever it is asked for
        if not hasattr(fn, "func"):
            break
        fn = fn.func
    return getattr(fn, "__qualname__", None) or type(fn).__name__


def told(error: BaseException | None, how: Callable[[object], str] = repr) -> str:
    """`repr(error)`, or what can be said of an error that raises when it is asked for it."""
    try:
        return how(error)
    except BaseException as fault:
        return f"<{type(error).__name__}, which cannot be shown: {type(fault).__name__}>"


class Extras:
    """What few tasks have."""

    __slots__ = (
        "callbacks",
        "handles",
        "key",
        "links",
        "returned_at",
        "unheard",
        "waiters",
    )

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], object]] = []  # called in a greenlet of the runner
        self.links: list[Callable[[Any], object]] = []  # called in the hub
        self.waiters: list[Any] = []  # greenlets beyond the first
        self.key: Any = None
        self.handles: list[Any] = []  # of a shared task
        self.returned_at = 0.0  # when it came back into the line to be tried again
        self.unheard: Unheard | None = None


class Unheard:
    """Goes with a failed task until somebody looks at its outcome; reports it if nobody ever did."""

    __slots__ = ("_report",)

    def __init__(self, report: Callable[[], object]) -> None:
        self._report: Callable[[], object] | None = report

    def heard(self) -> None:
        """Somebody has looked."""
        self._report = None

    def __del__(self) -> None:
        if self._report is not None:
            with contextlib.suppress(BaseException):  # this may be the end of the interpreter
                self._report()
