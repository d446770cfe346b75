"""Errands: what may switch, run in greenlets of the runner's own, where nobody's kill or time-out reaches it.

Invariant: every greenlet of the runner is in `pool`; one that is parked has no job, and one with a job is woken for it.

Making and unmaking resources, their checks and resets, done-callbacks and the shutdown run here. Greenlets are kept
for the next errand (a few microseconds against the 25 of a spawn).
"""

from __future__ import annotations

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


class _Errand(_Greenlet):
    """One greenlet that runs one job after another."""

    def __init__(self, errands: Errands) -> None:
        super().__init__()
        self.errands = errands
        self.job: tuple[Callable[..., object], tuple[Any, ...]] | None = None
        self.parked = False
        self.started_at = 0.0  # of the job

    def has_ended_since(self, moment: float) -> bool:
        """Whether the job that ran at that moment is over. Never switches."""
        return self.parked or self.started_at > moment

    def _run(self) -> None:
        errands = self.errands
        while True:
            if errands.inert:
                return
            job, self.job = self.job, None
            if job is None:
                if not errands.park(self):
                    return
                continue
            fn, args = job
            self.started_at = monotonic()
            try:
                fn(*args)
            except BaseException as error:
                errands.on_failure(fn, error)
            finally:
                errands.busy -= 1
                errands.on_done()
            del job, fn, args

    def wake(self) -> None:
        if self.parked and (self.job is not None or self.errands.closed):
            self.switch()


class Errands:
    """The greenlets of one runner, and those of them that wait for something to do."""

    __slots__ = ("_hub", "_parked", "_turn", "busy", "closed", "inert", "on_done", "on_failure", "pool")

    def __init__(self, hub: Any, turn: Turn, on_failure: Callable[[Any, BaseException], object]) -> None:
        self._hub = hub
        self._turn = turn
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
        if self._parked:
            errand = self._parked.pop()
            errand.job = (fn, args)
            self._turn.soon(errand)
        else:
            errand = _Errand(self)
            errand.job = (fn, args)
            errand.rawlink(self._ended)
            self.pool.start(errand)

    def close(self) -> None:
        """Let parked greenlets end, and those at work when they are done. Never switches."""
        self.closed = True
        for errand in self._parked:
            self._turn.soon(errand)
        self._parked.clear()

    def park(self, errand: _Errand) -> bool:
        """Wait for a job; False if there is none to wait for. Survives whatever is thrown in. Switches."""
        if self.closed or len(self._parked) >= _KEPT:
            return False
        self._parked.append(errand)
        errand.parked = True
        while errand.job is None and not self.closed:
            try:
                self._hub.switch()
            except BaseException:  # an idle greenlet is not ours to lose; only close() ends it
                continue
        errand.parked = False
        if errand in self._parked:
            self._parked.remove(errand)
        return True

    def _ended(self, errand: _Errand) -> None:
        if errand.job is not None and not self.inert:  # killed before it ran a line: its job is another's
            fn, args = errand.job
            errand.job = None
            self.busy -= 1
            self.run(fn, *args)
