"""Doors: operations of a fake that a test may count, hold, slow down or break.

Invariant: what went in has come out, or is inside; whatever ended it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gevent import sleep
from gevent.event import Event

PATIENCE = 10.0
"""Seconds after which what must happen counts as never happening; long, so that a slow machine is no fault."""


class LedgerError(AssertionError):
    """A rule of the books was broken: used by two, used after destroy, destroyed twice, above the bound."""


class Door:
    """One operation of a ledger, which a test may count, hold, slow down or break.

    A call is counted as entered, waits while the door is held, sleeps `delay` seconds, then raises if the door is
    told to fail; whatever ends it, it is counted as left.
    """

    def __init__(self, name: str, default_error: type[Exception] = RuntimeError) -> None:
        self.name = name
        self.delay = 0.0
        self.entered = 0
        self.left = 0
        self._default_error = default_error
        self._open = Event()
        self._open.set()
        self._error: BaseException | type[BaseException] | None = None
        self._failures_left = 0.0
        self._entry = Event()

    @property
    def inside(self) -> int:
        """Calls under way."""
        return self.entered - self.left

    def hold(self) -> None:
        """Let nobody through until `release`. Never switches."""
        self._open.clear()

    def release(self) -> None:
        """Let through who waits and who comes. Never switches."""
        self._open.set()

    def fail(self, error: BaseException | type[BaseException] | None = None, *, times: float = math.inf) -> None:
        """Raise `error` in the next `times` calls; an exception class is built anew for each. Never switches."""
        self._error = self._default_error if error is None else error
        self._failures_left = times

    def heal(self) -> None:
        """Fail no more and be slow no more. Never switches."""
        self._failures_left = 0
        self.delay = 0.0

    def wait_entered(self, count: int) -> None:
        """Return when `count` calls have begun since the ledger was made; raise when they never do. Switches."""
        deadline = time.monotonic() + PATIENCE
        while self.entered < count:
            if not self._entry.wait(max(0.0, deadline - time.monotonic())):
                raise LedgerError(f"{self.name}: {self.entered} calls began, {count} were awaited")

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Count the call in and out of the block, which is entered when the door lets it through. Switches."""
        self.entered += 1
        # A fresh event for the next entry: whoever waits on this one is woken by this entry alone.
        entry, self._entry = self._entry, Event()
        entry.set()
        try:
            self._open.wait()
            if self.delay:
                sleep(self.delay)
            if self._failures_left > 0:
                self._failures_left -= 1
                raise self._make_error()
            yield
        finally:
            self.left += 1

    def _make_error(self) -> BaseException:
        error = self._error
        assert error is not None, "a door that fails has an error"
        return error(f"{self.name}: told to fail") if isinstance(error, type) else error

    def __repr__(self) -> str:
        held = "" if self._open.is_set() else ", held"
        return f"<Door {self.name}: {self.entered} in, {self.left} out{held}>"
