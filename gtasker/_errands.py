"""Errands: what may switch, run in greenlets of the runner's own, where nobody's kill or time-out reaches it.

Invariant: every greenlet of the runner is in `pool`, and while a job waits, one is called for it. A job is taken by the
greenlet that does it, in the step in which it begins; so it is never lost with a greenlet that was to do it.

Making and unmaking resources, their checks and resets, done-callbacks and the shutdown run here. A greenlet whose job
did not wait does the next one too; those without a job are kept for the next (a few microseconds against the 25 of a
spawn).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import Greenlet
from gevent.pool import Pool

from gtasker._turn import Turn

if TYPE_CHECKING:

    class _Greenlet(Greenlet[..., object]):
        """The stubs ask for a callable where a subclass has `_run`."""

        def __init__(self) -> None: ...

else:
    _Greenlet = Greenlet

# So many greenlets wait for their next errand; more than that end.
_KEPT = 8

Job = tuple[Callable[..., object], tuple[Any, ...]]


class _Errand(_Greenlet):
    """One greenlet that does one job after another."""

    def __init__(self, errands: Errands) -> None:
        super().__init__()
        self._errands = errands
        self.parked = False
        self.started_at = 0.0  # of the job

    def has_ended_since(self, moment: float) -> bool:
        """Whether the job that was under way at that moment is over. Never switches."""
        return self.parked or self.started_at > moment

    def wake(self) -> None:
        """End, for there will be no more to do, unless it was given something meanwhile. In the hub."""
        if self.parked:
            self.parked = False
            self.switch()

    def _run(self) -> None:
        errands = self._errands
        while not errands.inert:
            job = errands.take(self)
            if job is not None:
                errands.do(*job)
                del job
            elif not errands.park(self):
                return


class Errands:
    """The greenlets of one runner, the jobs that wait for one, and the greenlets that wait for a job."""

    __slots__ = ("_hub", "_is_called", "_jobs", "_parked", "_turn", "_until", "busy", "closed", "inert", "on_done",
                 "on_failure", "pool")  # fmt: skip

    def __init__(self, hub: Any, turn: Turn, on_failure: Callable[[Any, BaseException], object]) -> None:
        self._hub = hub
        self._turn = turn
        self._jobs: deque[Job] = deque()  # not begun
        self._is_called = False
        self._until = 0.0  # no further job is begun after this, before the next call
        self._parked: list[_Errand] = []
        self.pool = Pool()
        self.busy = 0  # jobs that have not ended
        self.closed = False
        self.inert = False  # inherited by a forked child
        self.on_failure = on_failure
        self.on_done: Callable[[], object] = lambda: None  # a job ended

    def run(self, fn: Callable[..., object], *args: Any) -> None:
        """Have `fn(*args)` run soon, in a greenlet of its own for as long. Never switches."""
        self.busy += 1
        self._jobs.append((fn, args))
        if not self._is_called:
            self._call()

    def _call(self) -> None:
        self._is_called = True
        self._turn.soon(self)

    def wake(self) -> None:
        """Have all jobs begun, while there is time. In the hub. Switches to one greenlet after another."""
        now = monotonic()
        self._until = self._turn.chores_until(now)
        try:
            while self._jobs and now <= self._until and not self.inert:
                self._next().switch()
                now = monotonic()
        finally:
            self._is_called = bool(self._jobs) and not self.inert
            if self._is_called:
                self._turn.after_poll(self)

    def _next(self) -> _Errand:
        if self._parked:
            errand = self._parked.pop()
            errand.parked = False
        else:
            errand = _Errand(self)
            self.pool.start(errand)
        return errand

    def take(self, errand: _Errand) -> Job | None:
        """The next job for `errand`, if there is one and it may begin now. Never switches."""
        if not self._jobs:
            return None
        errand.started_at = monotonic()
        return self._jobs.popleft() if errand.started_at <= self._until else None

    def do(self, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Do one job. Switches as that does."""
        try:
            fn(*args)
        except BaseException as error:
            self.on_failure(fn, error)
        finally:
            self.busy -= 1
            self.on_done()

    def park(self, errand: _Errand) -> bool:
        """Wait for a job; False if there is none to wait for. Survives whatever is thrown in. Switches."""
        if self.closed or len(self._parked) >= _KEPT:
            return False
        self._parked.append(errand)
        errand.parked = True
        while errand.parked:
            try:
                self._hub.switch()
            except BaseException:  # an idle greenlet is not ours to lose; only close() ends it
                continue
        return True

    def close(self) -> None:
        """Let parked greenlets end, and those at work when they are done. Never switches."""
        self.closed = True
        for errand in self._parked:
            self._turn.soon(errand)
        self._parked.clear()
