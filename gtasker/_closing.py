"""Closing: the one procedure by which a runner ends, for `stop`, for `kill`, and for one after the other.

Invariant: it is begun once and runs in a greenlet of the runner's, whoever asked for it and whatever becomes of him;
`kill` after `stop` only lets the same procedure wait for less.

    STOPPING   takes nothing from outside; waits until all that was accepted has answered and all loans are back
    KILLED     answers what waits, interrupts what runs, and waits for `timeout` seconds only
    both then  dismiss the workers, destroy every resource, wait for that, and are CLOSED
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, TypeVar
from weakref import ref

from gevent.event import Event
from greenlet import getcurrent

from gtasker._admission import check_timeout
from gtasker._alarm import Entry
from gtasker._calls import Interrupt
from gtasker._events import DestroyReason, LeaseFailure
from gtasker._extras import DONE
from gtasker._lifecycle import State
from gtasker._loan import Resource
from gtasker._outcomes import Strike
from gtasker._rooms import Rooms
from gtasker._snapshots import ShutdownReport
from gtasker.errors import RunnerKilledError, RunnerStoppedError

R = TypeVar("R")

KILL_TIMEOUT = 5.0
"""Seconds that `kill`, and a `stop` whose time is up, wait for what was interrupted."""
_LOOK = 0.05  # seconds between two looks at who still holds a resource


class _HolderStrike:
    """The interruption of a loan's holder, on its way through the hub."""

    __slots__ = ("_error", "_holder", "_resource", "_then")

    def __init__(self, resource: Resource[Any], error: BaseException, then: Callable[[], object]) -> None:
        self._then = then
        self._resource = resource
        self._holder = resource.holder
        self._error = error

    def wake(self) -> None:
        holder = self._holder
        if self._resource.holder is holder and not holder.dead:
            # Nobody else keeps it: it is there for as long as the holder is at it.
            self._resource.struck = ref(self._error)
            holder.throw(self._error)
            self._then()  # it may have ended by this, and left its loan out


class Closing(Generic[R]):
    """The end of one runner."""

    def __init__(self, rooms: Rooms[R]) -> None:
        self._site = rooms.site
        self._calls = rooms.calls
        self._admission = rooms.admission
        self._stock = rooms.stock
        self._backlog = rooms.backlog
        self._door = rooms.door
        self._outcomes = rooms.outcomes
        self._crew = rooms.crew
        self._asking = rooms.asking
        self._returning = rooms.returning
        self._nudged = Event()
        self._closed = Event()
        self._began_at = 0.0
        self._before = (0, 0, 0)
        self._give_up_at: float | None = None
        self._last_call_at = 0.0  # when everybody who still runs is interrupted again
        self._alarm: Entry | None = None
        self.report: ShutdownReport | None = None
        # Wired by the core:
        self.on_state: Callable[[State], object] = lambda state: None
        self.on_closed: Callable[[], object] = lambda: None
        self.reclaim_leaks: Callable[[], object] = lambda: None

    def stop(self, timeout: float | None) -> ShutdownReport:
        """Finish what was accepted, then end; after `timeout` seconds go on as `kill`. Switches, but inside and hub."""
        site = self._site
        check_timeout(timeout)
        self._admission.check_place(blocking=False)
        is_inside = self._admission.is_inside()
        if site.life.state is State.NEW:
            self._close_unopened()
        elif site.life.is_open:
            self.begin_stop()
        if timeout is not None and site.life.state is State.STOPPING:
            at = monotonic() + timeout
            if self._alarm is None or at < self._alarm.when:
                if self._alarm is not None:
                    self._alarm.cancel()
                self._alarm = site.deadlines.at(at, lambda: self._kill(KILL_TIMEOUT))
        return self._wait(is_inside)

    def kill(self, timeout: float) -> ShutdownReport:
        """Interrupt, answer, end; what has not ended after `timeout` seconds is left alone. Switches, as `stop`."""
        check_timeout(timeout)
        self._admission.check_place(blocking=False)
        is_inside = self._admission.is_inside()
        if self._site.life.state is State.NEW:
            self._close_unopened()
        elif self._site.life.state is not State.CLOSED:
            self._kill(timeout)
        return self._wait(is_inside)

    def begin_stop(self) -> None:
        """Stop without waiting for the end; the runner is open. Never switches."""
        self._begin(State.STOPPING)
        name = self._site.config.name
        self._door.turn_away(lambda: RunnerStoppedError(f"runner {name!r} is stopping"), outsiders_only=True)

    def begin_kill(self) -> None:
        """Kill without waiting for the end. Never switches."""
        if self._site.life.state is not State.CLOSED:
            self._kill(KILL_TIMEOUT)

    def nudge(self) -> None:
        """Something ended: look again whether all has. Never switches."""
        self._nudged.set()

    def _begin(self, state: State) -> None:
        site = self._site
        before = site.life.move(state)
        site.home = 0
        self._began_at = monotonic()
        self._before = self._counts()
        self._outcomes.on_answer = self._returning.on_back = self.nudge
        self._crew.on_end = self._calls.on_abandoned = site.errands.on_done = self.nudge
        self._outcomes.refresh()
        self._backlog.attend()
        if state is State.STOPPING:
            self._backlog.paused = False
            self._backlog.dispatch()
        site.errands.run(self._run)
        self.on_state(before)

    def _kill(self, timeout: float) -> None:
        site = self._site
        if site.life.is_open:
            self._begin(State.KILLED)
        elif site.life.state is State.STOPPING:
            self.on_state(site.life.move(State.KILLED))
        give_up_at = monotonic() + timeout
        if self._give_up_at is None or give_up_at < self._give_up_at:
            self._give_up_at = give_up_at
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = site.deadlines.at(give_up_at, self.nudge)
            self._last_call_at = give_up_at - min(1.0, timeout / 4)
            self._insist_later(min(1.0, timeout / 2))
        self._stock.closed = True
        self._stock.closing_reason = DestroyReason.KILLED
        self.reclaim_leaks()
        self._answer_all()
        self.nudge()

    def _answer_all(self) -> None:
        name = self._site.config.name

        def error() -> RunnerKilledError:
            return RunnerKilledError(f"runner {name!r} was killed")

        self._door.turn_away(error)
        self._asking.refuse_all(error, LeaseFailure.KILLED)
        for task in self._backlog.everything():
            self._outcomes.cancel(task, error())
        for worker in tuple(self._crew.workers):
            for begun in (worker.attempt, worker.judged):
                if begun is not None:
                    self._outcomes.cancel(begun, error())
        for resource in self._stock.records.values():
            if resource.holder is not None and resource.struck is None and resource.holder not in self._crew.greenlets:
                self._site.turn.soon(_HolderStrike(resource, error(), self.nudge))
        self._calls.interrupt_all("the runner was killed", spared=("on_destroy",))

    def _insist_later(self, pause: float) -> None:
        if pause > 0:
            at = min(monotonic() + pause, self._last_call_at)
            self._site.housekeeping.at(at, lambda: self._insist(pause))

    def _insist(self, pause: float) -> None:
        # Code that catches `Exception` has survived a RunnerKilledError; this it does not catch. Who is still at what
        # was thrown into him, in a clean-up, is left to it until the time is nearly up.
        is_last, struck = monotonic() >= self._last_call_at, self._outcomes.struck
        for worker, (task, _, thrown) in tuple(struck.items()):
            if is_last or thrown() is None:
                self._site.turn.soon(Strike(worker, task, Interrupt("the runner was killed"), struck))
        for resource in self._stock.records.values():
            if resource.holder is not None and resource.struck and (is_last or resource.struck() is None):
                self._site.turn.soon(_HolderStrike(resource, Interrupt("the runner was killed"), self.nudge))
        if not is_last:
            self._insist_later(pause)

    def _close_unopened(self) -> None:
        self.on_state(self._site.life.move(State.CLOSED))
        self.report = ShutdownReport(finished=0, failed=0, cancelled=0, abandoned=0, duration=0.0, complete=True)
        self._closed.set()
        self.on_closed()
        self._site.tell()

    def _wait(self, is_inside: bool) -> ShutdownReport:
        self._site.tell()
        if self.report is None and not is_inside and getcurrent() is not self._site.hub:
            self._closed.wait()
        return self.report if self.report is not None else self._account(complete=False)

    def _run(self) -> None:
        while self._site.life.state is State.STOPPING and not self._is_quiet():
            self._pause()
            self.reclaim_leaks()
        self._crew.closed = self._stock.closed = self._admission.is_over = True
        self._crew.trim(0)
        while self._backlog.spare:
            self._stock.discard(self._backlog.spare.pop(), self._stock.closing_reason)
        while not self._is_over() and not self._is_overdue():
            # A holder may end without giving back what it has.
            look = self._site.housekeeping.after(_LOOK, self.nudge) if self._is_held() else None
            self._pause()
            if look is not None:
                look.cancel()
            self.reclaim_leaks()
        self._finish()

    def _pause(self) -> None:
        self._nudged.clear()
        try:
            self._nudged.wait()
        except BaseException:  # whoever kills this greenlet wants the runner gone; so it goes on
            pass

    def _is_quiet(self) -> bool:
        backlog = self._backlog
        if backlog.waiting or backlog.delayed or self._outcomes.callbacks:
            return False
        if any(self._is_at_work(worker) for worker in self._crew.workers):
            return False
        return not self._is_held()

    def _is_at_work(self, worker: Any) -> bool:
        # An attempt whose task has answered is only waited for to end, like a hook.
        begun = worker.attempt
        return bool(worker.judged or (begun is not None and begun.state < DONE))

    def _is_over(self) -> bool:
        # One errand is this one. A kill waits for all until its time is up; a stop does not wait for hooks and attempts
        # that go on long after their own time was up.
        alive = len(self._crew.greenlets) + self._site.errands.busy - 1
        if self._site.life.state is State.KILLED:
            return not alive and not self._is_held()
        return alive <= self._calls.given_up + self._outcomes.given_up

    def _is_held(self) -> bool:
        return any(resource.holder is not None for resource in self._stock.records.values())

    def _is_overdue(self) -> bool:
        return self._give_up_at is not None and monotonic() >= self._give_up_at

    def _finish(self) -> None:
        site = self._site
        self.report = self._account(complete=True)
        site.deadlines.close()
        site.housekeeping.close()
        site.errands.close()
        site.turn.leave(self._backlog)
        self.on_state(site.life.move(State.CLOSED))
        self.on_closed()
        site.tell()  # whoever waits for the end has been told of it when he goes on
        # Not at once: by then this greenlet has ended too, and nothing of the runner is left in the loop.
        site.hub.loop.run_callback(self._closed.set)
        if self.report.abandoned:
            site.log(logging.WARNING, "closed; %d things that were interrupted go on", self.report.abandoned)

    def _counts(self) -> tuple[int, int, int]:
        meter = self._site.meter
        return meter.completed, meter.failed_timed + meter.failed_untimed, meter.cancelled

    def _account(self, *, complete: bool) -> ShutdownReport:
        finished, failed, cancelled = (now - then for now, then in zip(self._counts(), self._before, strict=True))
        held = sum(resource.holder is not None for resource in self._stock.records.values())
        return ShutdownReport(
            finished=finished,
            failed=failed,
            cancelled=cancelled,
            abandoned=len(self._outcomes.struck) + held + self._calls.abandoned,
            duration=monotonic() - self._began_at if self._began_at else 0.0,
            complete=complete,
        )
