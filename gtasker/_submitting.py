"""Submitting: a call becomes a task, is accepted, and is waited for.

Invariant: a task that was accepted has a number of arrival, or was handed straight to an idle worker; and a caller that
goes away while it waits takes its name off the task before anything else, so that nobody wakes it in a later wait.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from time import monotonic
from typing import Any, Generic, TypeVar

from greenlet import getcurrent

from gtasker._admission import check_timeout
from gtasker._extras import DONE, QUEUED
from gtasker._joining import Joined
from gtasker._rooms import Rooms
from gtasker._task import Owner, Task, extras_of

R = TypeVar("R")


class Submitting(Generic[R]):
    """The desk where tasks are handed in."""

    def __init__(self, rooms: Rooms[R]) -> None:
        self._site = rooms.site
        self._admission = rooms.admission
        self._stock = rooms.stock
        self._backlog = rooms.backlog
        self._door = rooms.door
        self._outcomes = rooms.outcomes
        self._limits = rooms.limits
        self._joining = rooms.joining
        self._asking = rooms.asking
        # Whether a task may be pushed with no more ado: the backlog has no bound, and the backend is not down.
        self.is_plain = False
        self.refresh()
        rooms.door.on_entered = self._arrived
        # Without propagation an attempt still has a context of its own: what it sets is gone with it.
        self.make_context: Callable[[], Context] = copy_context if rooms.site.config.propagate_context else Context

    def refresh(self) -> None:
        """Say anew whether `is_plain` holds. Never switches."""
        self.is_plain = self._site.config.max_queued is None and not self._stock.is_down

    def may_pass(self) -> bool:
        """Whether a bounded backlog has room beyond doubt, and nobody waits before it. Never switches."""
        most = self._site.config.max_queued
        return self._backlog.fresh < (most or 0) and not self._door.knocking.live and not self._stock.is_down

    def queue(self, fn: Any, args: tuple[Any, ...], priority: int, once: bool, timeout: float | None, key: Any) -> Any:
        """Accept, wait for the answer, return or raise it. Switches."""
        try:
            self._admission.enter()
            return self.wait(self._accept(fn, args, priority, once, timeout, key))
        finally:
            self._site.tell()

    def submit(
        self,
        fn: Any,
        args: tuple[Any, ...],
        priority: int,
        once: bool,
        timeout: float | None,
        key: Any,
        callback: Callable[[Task[Any]], object] | None,
    ) -> Task[Any]:
        """Accept, and return the handle. Switches only while a bounded backlog is full."""
        try:
            self._admission.enter(blocking=False)
            return self._accept(fn, args, priority, once, timeout, key, callback, has_handle=True)
        finally:
            self._site.tell()

    def wait(self, task: Task[Any]) -> Any:
        """Wait for a task of the current greenlet's own; if it is thrown out, the task is withdrawn. Switches."""
        outcomes = self._outcomes
        if task.state < DONE:
            owner = task.owner or outcomes
            try:
                owner.begin_wait(task, forever=True)
                task.waiter = getcurrent()
                while task.state < DONE:
                    self._site.hub.switch()
            except BaseException:
                if isinstance(task, Joined):
                    self._joining.leave(task)
                else:
                    outcomes.leave(task)
                raise
            finally:
                task.waiter = None
                owner.end_wait()
        try:
            return task.outcome()
        finally:
            del task  # a failure knows this frame

    def make(self, fn: Any, args: tuple[Any, ...], priority: int, once: bool, owner: Owner | None = None) -> Task[Any]:
        """A task, not accepted yet; `owner` answers for its handle. Never switches."""
        task: Task[Any] = Task()
        task.fn = fn
        task.args = args
        make_context = self.make_context
        task.context = make_context()
        task.priority = priority
        task.once = once
        task.queued_at = monotonic()
        task.state = QUEUED
        task.seq = task.attempts = 0
        task.owner = owner
        task.waiter = task.worker = task.lane = task.extras = task.deadline = None
        return task

    def _accept(
        self,
        fn: Any,
        args: tuple[Any, ...],
        priority: int,
        once: bool,
        timeout: float | None,
        key: Any,
        callback: Callable[[Task[Any]], object] | None = None,
        *,
        has_handle: bool = False,
    ) -> Task[Any]:
        if not callable(fn):
            raise TypeError(f"a task must be callable, not {fn!r}")
        if callback is not None and not callable(callback):
            raise TypeError(f"a callback must be callable, not {callback!r}")
        if key is not None:
            return self._accept_shared(fn, args, priority, once, timeout, key, callback)
        task = self.make(fn, args, priority, once, self._outcomes if has_handle else None)
        if callback is not None:
            extras_of(task).callbacks.append(callback)
        self._take_in(task, timeout)
        return task

    def _accept_shared(
        self,
        fn: Any,
        args: tuple[Any, ...],
        priority: int,
        once: bool,
        timeout: float | None,
        key: Any,
        callback: Callable[[Task[Any]], object] | None,
    ) -> Task[Any]:
        handle, is_new = self._joining.join(key, priority, lambda: self.make(fn, args, priority, once))
        if callback is not None:
            extras_of(handle).callbacks.append(callback)
        if is_new:
            try:
                self._take_in(handle.shared, timeout)
            except Exception as error:  # refused, for all who joined meanwhile
                self._joining.give_up(handle.shared, error)
                raise
            except BaseException:  # its submitter went away at the door; others may have joined meanwhile
                self._joining.leave(handle)
                if handle.shared.state < DONE and not handle.shared.seq:
                    self._door.stand_in(handle.shared, lambda error: self._joining.give_up(handle.shared, error))
                raise
        return handle

    def _take_in(self, task: Task[Any], timeout: float | None) -> None:
        if timeout is not None:
            check_timeout(timeout)
            if timeout <= 0:
                self._outcomes.time_out(task, f"did not answer within {timeout:g} s")
                return
            self._limits.begin_task(task, timeout)
        if self._stock.is_down:
            self._outcomes.refuse(task, self._asking.unavailable())
            return
        try:
            self._door.enter(task)
        except BaseException:
            if task.seq:  # it was let in, and its caller left before he knew
                if task.extras is None or task.extras.key is None:
                    self._outcomes.leave(task)
            elif task.extras is None or task.extras.key is None:
                task.let_go()
            raise

    def _arrived(self, task: Task[Any]) -> None:
        meter = self._site.meter
        if task.queued_at >= meter.next_mark:
            meter.mark(task.queued_at)
        meter.arrived += 1
        self._site.collect("record_arrival")
