"""Admission: whether this caller may come in, here and now.

Invariant: nothing is accepted by a runner that will not answer it: the check and the acceptance that follows it are one
step without a switch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from greenlet import getcurrent

from gtasker._lifecycle import State
from gtasker._loan import Resource
from gtasker._site import Site, get_ident
from gtasker.errors import RunnerStoppedError, WouldBlockHubError, WrongThreadError

R = TypeVar("R")


def check_timeout(timeout: float | None) -> None:
    """Raise TypeError or ValueError for what is no number of seconds; None is no bound. Never switches."""
    if timeout is not None and timeout + 0.0 != timeout:
        raise ValueError("a time-out is a number of seconds, not nan")


class Admission(Generic[R]):
    """The door of one runner."""

    __slots__ = ("_records", "_site", "is_over", "on_first_use")

    def __init__(self, site: Site[R], records: dict[int, Resource[R]]) -> None:
        self._site = site
        self._records = records
        self.is_over = False  # nothing is under way any more that might still come in
        # Wired by the core:
        self.on_first_use: Callable[[], object] = lambda: None

    def check_place(self, *, blocking: bool = True) -> None:
        """Raise if this is another OS thread, or the hub and the call would block. Never switches."""
        site = self._site
        if get_ident() != site.thread:
            raise WrongThreadError(f"runner {site.config.name!r} belongs to another thread; give each thread its own")
        if blocking and getcurrent() is site.hub:
            raise WouldBlockHubError("this call would block the event loop; make it in a greenlet")

    def enter(self, *, blocking: bool = True) -> None:
        """Raise if the caller cannot be served; start the runner on its first use. Never switches."""
        self.check_place(blocking=blocking)
        life = self._site.life
        if life.state is State.NEW:
            self.on_first_use()
        if not life.is_open and (self.is_over or life.state is not State.STOPPING or not self.is_inside()):
            raise RunnerStoppedError(f"runner {self._site.config.name!r} is {life.state.value}")

    def is_inside(self) -> bool:
        """Whether the current greenlet is one of the runner's, or has a resource on loan. Never switches."""
        current: Any = getcurrent()
        if current in self._site.errands.pool:
            return True
        return any(resource.holder is current for resource in self._records.values())
