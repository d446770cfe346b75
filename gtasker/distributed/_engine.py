"""What a task and the system that carries its messages know of each other.

Invariant: an engine knows names and JSON; resources, closures and callbacks never reach it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gtasker import Runner
from gtasker.distributed._handle import RemoteTask


class Rate(Protocol):
    """What holds attempts back: `RateLimit`."""

    def wait(self, timeout: float | None = None) -> None:
        """Return when one more may begin. Switches."""


class Work(Protocol):
    """What an engine sees of a task: all that `task` was given."""

    @property
    def fn(self) -> Callable[..., Any]:
        """The function, to be called with a resource and the arguments."""

    @property
    def runner(self) -> Runner[Any]:
        """Where the resource comes from."""

    @property
    def name(self) -> str:
        """What a message calls it."""

    @property
    def timeout(self) -> float | None:
        """Bound of one attempt, in seconds."""

    @property
    def once(self) -> bool:
        """Whether at most one attempt may begin."""

    @property
    def retries(self) -> int:
        """Further attempts."""

    @property
    def priority(self) -> int:
        """Its priority."""

    @property
    def rate(self) -> Rate | None:
        """What each attempt has to wait for."""


class Engine(Protocol):
    """An adapter: `DramatiqEngine`, `CeleryEngine`."""

    def declare(self, task: Work) -> None:
        """Make the task known under its name, so that this process can serve its messages."""

    def send(self, task: Work, args: list[Any], key: str | None) -> RemoteTask[Any]:
        """Send a message and return its handle. Switches. Raises EngineUnavailableError."""
