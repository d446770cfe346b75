"""Home: the OS thread in which runners may be read, and the way there from any other.

Invariant: what is called through a home runs in its thread, and so never beside a task of a runner there.

An exporter may work in an OS thread of its own (where `threading` is not patched); the numbers of a runner may be read
in the runner's thread alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from gevent import monkey
from gevent.hub import get_hub

T = TypeVar("T")

# The native ones: patched, they would tell of greenlets and not of OS threads.
_get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
_make_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")

PATIENCE = 2.0
"""Seconds that another thread waits for an answer. A loop that does not turn for so long has nothing new to tell."""


class AwayError(Exception):
    """The home's event loop did not turn in time."""


class Home:
    """The OS thread that made this object. Its event loop must turn for others to be answered."""

    def __init__(self) -> None:
        self._hub: Any = get_hub()
        self._thread = _get_ident()

    @property
    def is_here(self) -> bool:
        """Whether the caller is in this thread."""
        return _get_ident() == self._thread

    def call(self, fn: Callable[[], T]) -> T:
        """`fn()` in this thread: at once if it is the caller's, else in its hub, where `fn` must not block.

        Blocks the calling OS thread, if it is another. Raises AwayError.
        """
        if self.is_here:
            return fn()
        errand = _Errand(fn)
        self._hub.loop.run_callback_threadsafe(errand.run)
        return errand.wait()


class _Errand(Generic[T]):
    """One call on its way to another thread."""

    def __init__(self, fn: Callable[[], T]) -> None:
        self._fn = fn
        self._values: list[T] = []
        self._error: BaseException | None = None
        self._pending = _make_lock()
        self._pending.acquire()

    def run(self) -> None:
        try:
            self._values.append(self._fn())
        except BaseException as error:
            self._error = error
        self._pending.release()

    def wait(self) -> T:
        if not self._pending.acquire(timeout=PATIENCE):
            raise AwayError(f"the event loop of the runners' thread did not turn for {PATIENCE:g} s")
        if self._error is not None:
            raise self._error
        return self._values[0]
