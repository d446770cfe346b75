"""The watch over the event loop: it says when the loop was not polled for too long, and which tasks ran meanwhile.

Invariant: the span it tells is what passed between the end of one poll and the beginning of the next, no more.
"""

from __future__ import annotations

import logging
import sys
from time import monotonic
from typing import Any, Generic, TypeVar

from gevent.events import EventLoopBlocked, subscribers

from gtasker._crew import Crew
from gtasker._events import HubBlocked
from gtasker._extras import name_of
from gtasker._site import Site
from gtasker._task import Task

R = TypeVar("R")

# So many of the tasks begun since the last poll are named.
_NAMED = 16
# The last to run before libev polls, after the callbacks, which are a prepare watcher too.
_LAST = -2


class Watch(Generic[R]):
    """Two watchers around the poll; none without `hub_blocked_after`."""

    def __init__(self, site: Site[R], crew: Crew[R]) -> None:
        self._site = site
        self._crew = crew
        self._begun: dict[str, None] = {}
        self._where = ""  # the line that gevent's monitor thread saw at work since the last poll
        self._polled_at = 0.0
        self._watchers: list[Any] = []

    def open(self) -> None:
        """Begin to watch. Never switches."""
        if self._site.config.hub_blocked_after is not None:
            loop = self._site.hub.loop
            self._polled_at = monotonic()
            after, before = loop.check(ref=False), loop.prepare(ref=False, priority=_LAST)
            after.start(self._after_poll)
            before.start(self._before_poll)
            self._watchers = [after, before]
            subscribers.append(self._look)

    def close(self) -> None:
        """Watch no more. Never switches."""
        if self._look in subscribers:
            subscribers.remove(self._look)
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        self._watchers.clear()

    def begin(self, task: Task[Any]) -> None:
        """An attempt of `task` begins. Never switches."""
        if len(self._begun) < _NAMED:
            self._begun[name_of(task.fn)] = None

    def _after_poll(self) -> None:
        self._polled_at = monotonic()

    def _before_poll(self) -> None:
        span = monotonic() - self._polled_at
        limit = self._site.config.hub_blocked_after
        if limit is not None and span > limit and not self._site.forked:
            self._tell(span)
        self._begun.clear()
        self._where = ""

    def _look(self, event: object) -> None:
        # In the OS thread of gevent's monitor, while the loop's own thread is at work. The first look counts: at the
        # last one the block may be over.
        if isinstance(event, EventLoopBlocked) and event.hub is self._site.hub and not self._where:
            frame = sys._current_frames().get(self._site.thread)
            if frame is not None:
                self._where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"

    def _tell(self, span: float) -> None:
        under_way = [name_of(w.attempt.fn) for w in self._crew.workers if w.attempt is not None and w.attempt.fn]
        # Those that began meanwhile are the likely ones; others may have gone on after a wait.
        tasks = tuple(self._begun) or tuple(under_way[:_NAMED])
        where, names = self._where, ", ".join(tasks)
        at_work = f"; at work: {where}" if where else ""
        self._site.log(logging.WARNING, "the event loop was blocked for %.3g s; tasks: %s%s", span, names, at_work)
        if self._site.listening:
            self._site.emit(HubBlocked, seconds=span, tasks=tasks, where=where)
