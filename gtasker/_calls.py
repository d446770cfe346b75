"""Calls of the user's hooks: each is bounded in time, can be interrupted, and is known while it runs.

Invariant: `running` holds exactly the calls under way; a call is thrown into only while it is in there, so what is
thrown never reaches the code after it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, TypeVar

from gevent import GreenletExit
from greenlet import getcurrent

from gtasker._site import Site
from gtasker._timeouts import Timeouts

R = TypeVar("R")
T = TypeVar("T")


# Seconds that an interrupted hook has for its own clean-up before nobody waits for it any more.
PATIENCE = 1.0


class Interrupt(GreenletExit):
    """Thrown into user code that is to end now. No `Exception`, so that `except Exception` does not swallow it."""


class _Call:
    """One call of a hook."""

    __slots__ = ("abandoned_at", "greenlet", "interrupt", "on_abandoned", "on_survived", "what")

    def __init__(
        self, what: str, on_abandoned: Callable[[], object] | None, on_survived: Callable[[], object] | None
    ) -> None:
        self.what = what
        self.on_abandoned = on_abandoned
        self.on_survived = on_survived
        self.greenlet: Any = getcurrent()
        self.interrupt: BaseException | None = None
        self.abandoned_at: float | None = None


class Calls(Generic[R]):
    """The user's hooks that run at this moment."""

    __slots__ = ("_site", "_timeouts", "on_abandoned", "running")

    def __init__(self, site: Site[R]) -> None:
        self._site = site
        self.running: set[_Call] = set()
        self._timeouts: Timeouts[_Call] = Timeouts(site.housekeeping, self._overrun)
        self.on_abandoned: Callable[[], object] = lambda: None  # one may go on after its interruption

    @property
    def abandoned(self) -> int:
        """How many were interrupted and still go on."""
        return sum(call.abandoned_at is not None for call in self.running)

    @property
    def given_up(self) -> int:
        """How many were interrupted `PATIENCE` seconds ago or longer, and still go on."""
        due = monotonic() - PATIENCE
        return sum(call.abandoned_at is not None and call.abandoned_at <= due for call in self.running)

    def call(
        self,
        what: str,
        limit: float | None,
        fn: Callable[..., T],
        *args: Any,
        on_abandoned: Callable[[], object] | None = None,
        on_survived: Callable[[], object] | None = None,
    ) -> T:
        """Return `fn(*args)`; after `limit` seconds it is interrupted and a TimeoutError raised. Switches as `fn` does.

        A hook that swallows the interrupt counts as abandoned until it returns; what it then returns is lost, but for a
        caller who gave `on_abandoned`, and was called by it before the interruption. `on_survived` is called in the hub
        after the interruption, if the hook goes on.
        """
        call = _Call(what, on_abandoned, on_survived)
        self.running.add(call)
        wait = self._timeouts.of(limit).begin(call, monotonic()) if limit is not None else None
        try:
            value = fn(*args)
            if call.abandoned_at is not None and on_abandoned is None:
                raise TimeoutError(f"{what} took longer than {limit} s, and went on after its interruption")
            return value
        except Interrupt as error:
            if error is call.interrupt:
                raise TimeoutError(f"{what} was interrupted: {error}") from None
            raise
        except KeyboardInterrupt as error:
            self._site.tell_main(error)
            raise
        finally:
            self.running.discard(call)
            if wait is not None:
                wait.end()

    def interrupt_all(self, why: str, spared: tuple[str, ...] = ()) -> None:
        """Throw into all running calls but these, from the hub, one after another. Never switches."""
        for call in tuple(self.running):
            if call.what not in spared:
                self._site.turn.soon(_Strike(self, call, why))

    def _overrun(self, call: _Call, limit: float) -> None:
        self.strike(call, f"it took longer than {limit:g} s")
        if call in self.running:
            self._site.log(logging.WARNING, "%s goes on after %g s and its interruption", call.what, limit)

    def _nudge(self) -> None:
        self.on_abandoned()  # whoever it is by then

    def strike(self, call: _Call, why: str) -> None:
        """Throw into `call` if it still runs; if it goes on all the same, it is abandoned. In the hub."""
        if call in self.running and call.greenlet is not getcurrent():
            call.interrupt = Interrupt(why)
            call.abandoned_at = monotonic()
            self._site.housekeeping.after(PATIENCE, self._nudge)
            if call.on_abandoned is not None:
                call.on_abandoned()
            call.greenlet.throw(call.interrupt)
            if call in self.running and call.on_survived is not None:
                call.on_survived()


class _Strike:
    """An interruption on its way."""

    __slots__ = ("_call", "_calls", "_why")

    def __init__(self, calls: Calls[Any], call: _Call, why: str) -> None:
        self._calls = calls
        self._call = call
        self._why = why

    def wake(self) -> None:
        self._calls.strike(self._call, self._why)
