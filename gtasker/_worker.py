"""A worker: a greenlet that serves one task after another with a resource of its own.

Invariant: `attempt` is what it is to begin in this very step, or what runs in user code at this moment. The worker is
thrown into only while `attempt` is the very task that is to be interrupted, so no throw hits its own code or another
task; whatever else is thrown in while it is idle it survives.

A task is answered by a direct switch back to its caller, if nobody is in line behind it, nobody is to be woken, and the
resource needs nothing more: no pass through the hub, which would cost two to three times as much. In every other case
the caller is woken in the hub, after those who were answered before him, and the worker goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gevent import Greenlet

from gtasker._backlog import Backlog
from gtasker._events import DestroyReason
from gtasker._extras import DONE, RUNNING
from gtasker._judging import CLEAN, FIT, Judge, Verdict
from gtasker._loan import Resource
from gtasker._metrics import FOLD_AT
from gtasker._outcomes import Outcomes, waiting_since
from gtasker._site import Site
from gtasker._task import Task
from gtasker._timeouts import Wait

if TYPE_CHECKING:

    class _Greenlet(Greenlet[..., object]):
        """The stubs ask for a callable where a subclass has `_run`."""

        def __init__(self) -> None: ...

else:
    _Greenlet = Greenlet

R = TypeVar("R")
T = TypeVar("T")


class Worker(_Greenlet, Generic[R]):
    """One worker. It outlives its resources: when one is unfit it asks for another."""

    # Slots are found by their place; a greenlet's `__dict__` is searched.
    __slots__ = (
        "_backlog",
        "_judge",
        "_outcomes",
        "_site",
        "attempt",
        "cared_at",
        "caring",
        "dismissed",
        "judged",
        "limit",
        "resource",
        "started_at",
        "struck",
    )

    def __init__(self, site: Site[R], backlog: Backlog[R], judge: Judge[R], outcomes: Outcomes[R]) -> None:
        super().__init__()
        self._site = site
        self._backlog = backlog
        self._judge = judge
        self._outcomes = outcomes
        self.attempt: Task[Any] | None = None
        self.resource: Resource[R] | None = None
        self.started_at = 0.0  # of the attempt; set by who gives it
        self.judged: Task[Any] | None = None  # its error is before check_health; it may have to be tried again
        self.limit: Wait[Any] | None = None  # of the attempt
        self.struck: BaseException | None = None  # what was thrown into the attempt
        self.caring = False  # for its resource, in a hook
        self.cared_at = 0.0  # since when
        self.dismissed = False

    def has_ended_since(self, moment: float) -> bool:
        """Whether the attempt that ran at that moment is over. Never switches."""
        if self.caring:
            return self.cared_at > moment
        return self.attempt is None or self.started_at > moment

    def wake(self) -> None:
        """End, if dismissed; if at work, it will see for itself. In the hub."""
        if self.dismissed and self.attempt is None and not self.caring and not self.dead:
            self.switch()

    def _run(self) -> None:
        # One function: a call for each step would cost as much as all the rest of a task.
        backlog, outcomes, turn, meter = self._backlog, self._outcomes, self._site.turn, self._site.meter
        is_plain, settle = self._judge.is_plain, self._judge.settle
        idle, woken, waits, runs = backlog.idle, turn.woken, meter.waits.append, meter.runs.append
        begin = outcomes.begin if outcomes.is_watched else None
        resource: Any = None
        while True:
            task = self.attempt
            if task is None:
                resource = None  # what is destroyed meanwhile is not to be kept
                if not self._park():
                    return
                continue
            resource = self.resource
            task.state, task.worker = RUNNING, self
            task.attempts += 1
            started = self.started_at
            turn.left -= 1
            if turn.left <= 0 or started > turn.until:
                self._count(started)
            if begin is not None:
                begin(self, task)
            try:
                if task.args:
                    value: Any = task.context.run(task.fn, resource.value, *task.args)
                else:
                    value = task.context.run(task.fn, resource.value)
            except BaseException as error:
                self._failed(task, error)
                continue
            self.attempt = None
            if self.limit is not None or task.deadline is not None:
                self._disarm(task)
            finished = resource.idle_since = monotonic()
            if finished > turn.until:
                self._count(finished)
            if not outcomes.is_direct or task.state is not RUNNING or task.extras is not None:
                verdict: Any = None
            elif is_plain and finished < resource.good_until:
                verdict = FIT
            else:
                verdict = settle(resource, finished)  # the hooks may have called back
                if verdict is FIT and not (task.extras is None and task.state is RUNNING and outcomes.is_direct):  # type: ignore[redundant-expr]
                    verdict = None
            if verdict is not FIT:
                self._succeeded(task, value, finished, verdict)
                value = None
                continue
            task._value, task.state = value, DONE
            waits(started - task.queued_at)
            runs(finished - started)
            waiter = task.waiter
            if waiter is None or backlog.waiting or woken or task.owner is not None:
                if task.owner is not None:  # its handle may be kept for long
                    task.let_go()
                if waiter is not None:
                    woken.append(task)
                    if not turn.scheduled:
                        turn.schedule()
                backlog.take(self, finished if is_plain else monotonic())
                value = waiter = None
                continue
            idle.append(self)
            task = value = resource = None
            try:
                waiter.switch()
            except BaseException:  # it is idle, and not to be lost; only _park() ends it
                pass
            waiter = None

    def _count(self, now: float) -> None:
        meter = self._site.meter
        self._site.turn.checkpoint(now)
        if now >= meter.next_mark:
            meter.mark(now)
        if len(meter.runs) >= FOLD_AT:
            meter.fold()

    def _rest_in_child(self) -> None:
        # A forked child: this attempt, its task and its caller are the parent's.
        while True:
            try:
                self._site.hub.switch()
            except BaseException:
                pass

    def _park(self) -> bool:
        # Wait to be given something; False when there will be nothing any more.
        if self.dismissed or self._site.forked:
            return False
        try:
            self._site.hub.switch()
        except BaseException:  # it is idle, and not to be lost
            pass
        return True

    def _succeeded(self, task: Task[Any], value: Any, finished: float, verdict: Verdict | DestroyReason | None) -> None:
        resource = self.resource
        assert resource is not None
        if self._site.forked:
            self._rest_in_child()
        if self.struck is not None:  # it was interrupted, and swallowed that
            self._end_strike()
            self._done(resource, self._care(self._judge.vouch, resource))
            return
        site, outcomes, judge = self._site, self._outcomes, self._judge
        if (
            task.extras is None and task.state is RUNNING and site.collector is None and outcomes.on_answer is None
        ):  # as below, without a call for each step
            task._value = value
            task.state = DONE
            site.meter.waits.append(self.started_at - task.queued_at)
            site.meter.runs.append(finished - self.started_at)
            task.let_go()
            if task.waiter is not None:
                site.turn.soon(task)
        elif task.settle_value(value):
            site.meter.waits.append(self.started_at - waiting_since(task))
            site.meter.runs.append(finished - self.started_at)
            outcomes.complete(task, self.started_at, finished)
        if verdict is None and (not judge.is_plain or finished >= resource.good_until):
            verdict = judge.settle(resource, finished)
        if verdict is CLEAN:
            verdict = self._care(judge.reset, resource, finished)
        self._done(resource, verdict if isinstance(verdict, DestroyReason) else None)

    def _disarm(self, task: Task[Any]) -> None:
        # It is answered in this step, or was already.
        if self._site.forked:
            self._rest_in_child()
        self.end_limit()
        task.disarm()

    def end_limit(self) -> None:
        """The attempt is over, or its worker. Never switches."""
        limit, self.limit = self.limit, None
        if limit is not None:
            limit.end()

    def _failed(self, task: Task[Any], error: BaseException) -> None:
        if self._site.forked:
            self._rest_in_child()
        self.attempt = None
        self.end_limit()
        resource = self.resource
        assert resource is not None
        site, outcomes, started = self._site, self._outcomes, self.started_at
        finished = resource.idle_since = monotonic()
        if finished > site.turn.until:
            self._count(finished)
        if self.struck is not None or not isinstance(error, Exception):
            if isinstance(error, KeyboardInterrupt) and task.waiter is not site.hub.parent:
                site.tell_main(error)
            self._end_strike()
            outcomes.fail(task, error, started, finished)
            self._done(resource, self._care(self._judge.vouch, resource))
        elif self._is_healthy(task, error):
            outcomes.fail(task, error, started, finished)
            self._done(resource, self._care(self._judge.clean, resource, finished))
        else:
            # Back in line first: what is free next may serve it, and nobody overtakes it.
            outcomes.retry_or_fail(task, error, started, finished)
            self._done(resource, DestroyReason.UNHEALTHY)

    def _is_healthy(self, task: Task[Any], error: Exception) -> bool:
        self.judged = task
        try:
            return self._care(self._judge.is_healthy, error)
        finally:
            self.judged = None

    def _care(self, hook: Callable[..., T], *args: Any) -> T:
        # While a hook runs the worker is neither idle nor in an attempt; nobody may switch to it.
        self.caring = True
        self.cared_at = monotonic()
        try:
            return hook(*args)
        finally:
            self.caring = False

    def _end_strike(self) -> None:
        self.struck = None
        self._outcomes.struck.pop(self, None)

    def _done(self, resource: Resource[R], reason: DestroyReason | None) -> None:
        if self.dismissed:
            self._backlog.replace(resource, reason or DestroyReason.KILLED)
        elif reason is not None:
            self._backlog.replace(resource, reason)
        else:
            self._backlog.take(self, monotonic())
        if self._outcomes.on_answer is not None:  # the runner is closing, and waits for this worker too
            self._outcomes.on_answer()
