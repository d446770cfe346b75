"""Plain hooks, for those who keep their worker class: what can be done without one.

Invariant: without a heartbeat of its own a drain is over before the master takes the worker for dead.

Compared with the worker class: connections that a closing listener has just accepted, or has in its backlog, are reset;
the answer is the application's own, or a 500; requests that do not wait for a runner are not interrupted; an idle
connection is kept for all of `keepalive`; and tasks that go on when the last request has ended have `timeout` less a
second, where that is shorter than what is left of `graceful_timeout`.
"""

from __future__ import annotations

import os
import signal
from time import monotonic
from types import FrameType

import gevent
from gevent.event import Event
from gevent.pool import Group
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

import gtasker
from gtasker.integrations._draining import QUICK, Timeline, killing, stopping
from gtasker.integrations.gunicorn._sum import Sum
from gtasker.integrations.gunicorn._worker import SIGNAL_LAG

_HEARTBEAT = 1.0
"""Seconds between two heartbeats of Gunicorn's gevent workers, and between two looks of their master."""


class _Shift:
    """A worker process from the moment its application is there."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._sum = Sum.of(worker.cfg.workers, worker.log, speaks=worker.age == 1)
        self._asked = Event()
        self._asked_at: float | None = None
        self._before = signal.getsignal(signal.SIGTERM)
        self._watch = Group()
        self.quits = False

    def begin(self) -> None:
        signal.signal(signal.SIGTERM, self._on_term)
        signal.siginterrupt(signal.SIGTERM, False)  # as Gunicorn has it: no system call of a request is interrupted
        self._watch.spawn(self._look_on)

    def end(self) -> None:
        now = monotonic()
        if self.quits:
            killing(gtasker.runners(), QUICK).join(QUICK)
            return
        timeline = Timeline.within(max(0.0, self._end_of_grace(now) - now), now)
        if not stopping(gtasker.runners(), self._worker.log).join(timeout=max(0.0, timeline.kill_at - monotonic())):
            left = max(0.0, timeline.leave_at - monotonic())
            killing(gtasker.runners(), left).join(timeout=left)

    def _end_of_grace(self, now: float) -> float:
        cfg = self._worker.cfg
        began_at = self._asked_at if self._asked_at is not None else now
        end: float = began_at + cfg.graceful_timeout - SIGNAL_LAG
        # The heartbeat has ended, one beat ago at the most.
        return min(end, now + cfg.timeout - _HEARTBEAT) if cfg.timeout else end

    def _on_term(self, sig: int, frame: FrameType | None) -> None:
        if self._asked_at is None:
            self._asked_at = monotonic()
            self._asked.set()
        if callable(self._before):
            self._before(sig, frame)

    def _look_on(self) -> None:
        while not self._asked.wait(_HEARTBEAT):
            self._sum.look_at(gtasker.runners())
        assert self._asked_at is not None
        timeline = Timeline.within(max(0.0, self._worker.cfg.graceful_timeout - SIGNAL_LAG), self._asked_at)
        gevent.sleep(max(0.0, timeline.kill_at - monotonic()))
        killing(gtasker.runners(), timeline.leave_at - monotonic()).join()


_shifts: dict[int, _Shift] = {}
"""The shift of this process, by its id: what a child inherits is not its own."""


def post_worker_init(worker: Worker) -> None:
    """Hook: look out for SIGTERM and for runners. Never switches."""
    shift = _shifts[os.getpid()] = _Shift(worker)
    shift.begin()


def worker_int(worker: Worker) -> None:
    """Hook: SIGINT or SIGQUIT came, so the runners will be killed instead of stopped. Never switches."""
    shift = _shifts.get(os.getpid())
    if shift is not None:
        shift.quits = True


def worker_exit(server: Arbiter, worker: Worker) -> None:
    """Hook: end the runners of a worker process, in the time it has left. Switches."""
    shift = _shifts.pop(os.getpid(), None)
    if shift is not None:
        shift.end()
