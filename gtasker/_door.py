"""The door: who waits for room in a bounded backlog.

Invariant: nobody waits here while there is room, and whoever is let in is so by the one who makes the room, in the same
step: no latecomer can take it in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from greenlet import getcurrent

from gtasker._backlog import Backlog
from gtasker._events import TaskRejected
from gtasker._extras import DONE, name_of
from gtasker._line import Line
from gtasker._site import Site
from gtasker._task import Task
from gtasker.errors import QueueFullError

R = TypeVar("R")


class _Knock:
    """Somebody with a task, before the door."""

    __slots__ = ("error", "is_inside", "lane", "on_error", "priority", "queued_at", "seq", "task", "waiter")

    def __init__(self, task: Task[Any], seq: int, *, is_inside: bool = False) -> None:
        self.task = task
        self.is_inside = is_inside  # a task of the runner's asks, or who has a resource on loan
        self.priority = task.priority
        self.seq = seq
        self.queued_at = task.queued_at
        self.lane: Any = None
        self.waiter: Any = None
        self.on_error: Callable[[BaseException], object] | None = None
        self.error: BaseException | None = None

    def wake(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter.switch()


class Door(Generic[R]):
    """Lets tasks into the backlog, as many as `max_queued` allows."""

    def __init__(self, site: Site[R], backlog: Backlog[R]) -> None:
        self._site = site
        self._backlog = backlog
        self._limit = site.config.max_queued
        self.knocking: Line[_Knock] = Line()
        self._letting_in = False
        # Wired by the core and the desk:
        self.on_entered: Callable[[Task[Any]], object] = lambda task: None
        self.on_wait: Callable[[Task[Any]], object] = lambda task: None
        self.on_waited: Callable[[], object] = lambda: None
        self.is_inside: Callable[[], bool] = lambda: False

    def enter(self, task: Task[Any]) -> None:
        """Put `task` into the backlog. Switches while that is full; raises QueueFullError."""
        backlog = self._backlog
        if self._limit is None or (self._has_room() and not self.knocking):
            backlog.push(task)
            self.on_entered(task)
            return
        patience = self._site.config.enqueue_timeout
        if patience == 0 or getcurrent() is self._site.hub:
            raise self._rejected(task)
        self._wait(task, patience)

    def let_in(self) -> None:
        """There is room: let in who is first. Never switches."""
        if self._letting_in:  # who is let in may make room for the next at once: the loop below sees to him
            return
        self._letting_in = True
        try:
            while self.knocking and self._has_room():
                knock = self.knocking.pop()
                if knock.task.state < DONE:  # it may have been cancelled, or timed out, before the door
                    self._backlog.push(knock.task)
                    self.on_entered(knock.task)
                self._site.turn.soon(knock)
        finally:
            self._letting_in = False

    def drop(self, task: Task[Any]) -> None:
        """`task` has answered: whoever knocks for it need not wait. Never switches."""
        for knock in list(self.knocking):
            if knock.task is task:
                self.knocking.withdraw(knock)
                self._site.turn.soon(knock)

    def move(self, task: Task[Any], priority: int) -> None:
        """Let whoever knocks for `task` wait with another priority, at the place of his number. Never switches."""
        task.priority = priority
        for knock in [knock for knock in self.knocking if knock.task is task]:
            self.knocking.withdraw(knock)
            knock.priority = priority
            self.knocking.put_back(knock)

    def turn_away(self, make_error: Callable[[], BaseException], *, outsiders_only: bool = False) -> None:
        """Nobody (from outside) is let in any more; each is told so by an error of his own. Never switches."""
        for knock in list(self.knocking):
            if outsiders_only and knock.is_inside:
                continue
            self.knocking.withdraw(knock)
            error = make_error()
            knock.error = error
            if knock.on_error is not None:
                knock.on_error(error)
            self._site.turn.soon(knock)

    def stand_in(self, task: Task[Any], on_error: Callable[[BaseException], object]) -> None:
        """Who knocked for `task` has left, and others still want it: let it wait by itself. Never switches."""
        knock = _Knock(task, self._backlog.number())
        knock.on_error = on_error
        self.knocking.push(knock)
        self.let_in()

    def _has_room(self) -> bool:
        # What an idle worker is about to begin does not count as waiting.
        backlog = self._backlog
        return backlog.fresh < (self._limit or 0) + backlog.about_to_serve

    def _wait(self, task: Task[Any], patience: float | None) -> None:
        site = self._site
        knock = _Knock(task, self._backlog.number(), is_inside=self.is_inside())
        knock.waiter = getcurrent()
        entries = []
        if patience is not None:
            entries.append(site.deadlines.after(patience, lambda: self._reject(knock)))
        if task.deadline is not None:  # then it is answered: it timed out
            entries.append(site.deadlines.at(task.deadline.when, lambda: self._give_up(knock, None)))
        self.knocking.push(knock)
        try:
            if not entries:
                self.on_wait(task)
            while knock.lane is not None:
                site.hub.switch()
        finally:
            self.on_waited()
            knock.waiter = None
            for entry in entries:
                entry.cancel()
            if knock.lane is not None:
                self.knocking.withdraw(knock)
        if knock.error is not None and task.state < DONE:
            raise knock.error

    def _reject(self, knock: _Knock) -> None:
        if knock.lane is not None:
            self._give_up(knock, self._rejected(knock.task))

    def _give_up(self, knock: _Knock, error: BaseException | None) -> None:
        if knock.lane is not None:
            self.knocking.withdraw(knock)
            knock.error = error
            knock.wake()

    def _rejected(self, task: Task[Any]) -> QueueFullError:
        site, name = self._site, name_of(task.fn)
        site.meter.rejected += 1
        if site.listening:
            site.emit(TaskRejected, task=name)
        return QueueFullError(f"{name} was refused: {self._backlog.fresh} wait already (max_queued={self._limit})")
