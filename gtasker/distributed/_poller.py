"""The poller: one greenlet of a process asks for the results of all messages it has sent.

Invariant: it lives while an answer is awaited and not longer, a handle that nobody has any more is not asked for, and
an answer that cannot be read is one, too: it costs no other handle its own.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent import Greenlet
from gevent.event import Event

from gtasker.distributed._handle import RemoteTask
from gtasker.distributed.errors import DistributedError, EngineUnavailableError

_log = logging.getLogger("gtasker.distributed")
_BATCH = 500  # results asked for in one round trip
_SHORTEST, _LONGEST = 0.005, 0.1  # seconds between two rounds; the longer nothing came, the longer
_SLOWER = 1.5
_REST = 3.0  # times as long as a round took
_AWAY = 0.5  # seconds, when the results cannot be asked for
Ask = Callable[[Sequence[RemoteTask[Any]]], Sequence[Any]]


class Poller:
    """`ask(handles)` returns for each what it has, or None; `settle(handle, found)` makes the answer of it."""

    def __init__(self, ask: Ask, settle: Callable[[RemoteTask[Any], Any], None]) -> None:
        self._ask = ask
        self._settle = settle
        self._pid = os.getpid()
        self._pending: deque[weakref.ref[RemoteTask[Any]]] = deque()
        self._greenlet: Greenlet[[], None] | None = None
        self._news = Event()

    def watch(self, handle: RemoteTask[Any]) -> None:
        """Ask for the answer of `handle` from now on. Never switches."""
        if self._pid != os.getpid():
            # A forked child: the parent's handles are the parent's.
            self._pid, self._greenlet, self._news = os.getpid(), None, Event()
            self._pending.clear()
        self._pending.append(weakref.ref(handle))
        self._news.set()
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = Greenlet(self._run)
            self._greenlet.start()

    def close(self) -> None:
        """Ask no more: who still waits is told so. Switches."""
        greenlet, self._greenlet = self._greenlet, None
        if self._pid != os.getpid():
            return
        if greenlet is not None:
            greenlet.kill()
        for handle in filter(None, (ref() for ref in self._pending)):
            handle.settle_error(EngineUnavailableError(f"the engine was closed before {handle.name} had answered"))
        self._pending.clear()

    def _run(self) -> None:
        pid = os.getpid()
        pause = _SHORTEST
        # In a forked child this greenlet is there as well, and must ask for nothing.
        while self._pending and pid == os.getpid():
            self._news.clear()
            began = time.monotonic()
            try:
                found = self._round()
            except Exception as error:
                _log.warning("results cannot be asked for: %s", error)
                gevent.sleep(_AWAY)
                continue
            # The more handles there are, the longer a round takes: let asking be a quarter of the time, about.
            gevent.sleep(min(max(_SHORTEST, _REST * (time.monotonic() - began)), _LONGEST / 2))
            pause = _SHORTEST if found or self._news.is_set() else min(pause * _SLOWER, _LONGEST)
            if not found:
                # A handle that is sent meanwhile is asked for at once, not after the longest pause.
                self._news.wait(pause)

    def _round(self) -> int:
        """Ask for the next batch; return how many have answered."""
        refs = [self._pending.popleft() for _ in range(min(_BATCH, len(self._pending)))]
        asked = [handle for ref in refs if (handle := ref()) is not None]
        try:
            answers = self._ask(asked) if asked else ()
        except BaseException:
            self._pending.extend(refs)
            raise
        count = 0
        for handle, answer in zip(asked, answers, strict=True):
            if answer is None:
                self._pending.append(weakref.ref(handle))
            else:
                self._answer(handle, answer)
                count += 1
        return count

    def _answer(self, handle: RemoteTask[Any], found: Any) -> None:
        try:
            self._settle(handle, found)
        except Exception as error:
            unreadable = DistributedError(f"the answer of {handle.name} cannot be read: {error!r}")
            unreadable.__cause__ = error
            handle.settle_error(unreadable)
