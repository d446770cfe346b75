"""What the rows and the battery ask of a pool.

Invariant: `work` runs with a connection that the pool handed out, in the pool's own idiom for using and returning one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, TypeVar

from benchmarks.world import Connection, Server

T = TypeVar("T")


class Pool(Protocol):
    """A pool of at most `size` connections to a `Server`: built by `Kind(server, size, checked=...)`.

    `checked` asks for the pool's own check before use, where that is an option.
    """

    name: ClassVar[str]

    def use(self, work: Callable[[Connection], T], timeout: float) -> T:
        """Run `work` with a connection, waiting up to `timeout` seconds for one. Switches."""
        ...

    def cycle(self, times: int) -> None:
        """Take a connection and give it back, that many times, with nothing around it. Switches."""
        ...

    def close(self) -> None:
        """Let go of what the pool holds. Switches."""
        ...


class Kind(Protocol):
    """How a pool is built."""

    def __call__(self, server: Server, size: int, *, checked: bool = False) -> Pool: ...


class AcquireTimeoutError(Exception):
    """No connection in time, for the pools that know no time-out themselves."""
