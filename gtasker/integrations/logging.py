"""Logging: a runner's events as records with fields, for those who read logs by machine.

Invariant: nothing is logged in the hub, where a handler that waits would stop every greenlet; nothing a task at INFO.

    from gtasker.integrations.logging import EventLog

    log = EventLog()
    runner = Runner(Config(on_event=log.recorder(), ...))

A record has `event` (the name of its class), `runner`, and the event's own fields (`resource_id`, `reason`, `seconds`,
...) as attributes, as `extra` puts them there. What a runner logs by itself needs none of this: its records have
`runner`, and `resource_id` where one is concerned.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from typing import Any

from gevent import Greenlet

from gtasker import LeaseInfo, RunnerEvent, events

WAITING = 1000
"""Events that may wait to be logged; more are dropped and counted, for a slow handler must not fill the memory."""

_LEVELS: dict[type[RunnerEvent], int] = {
    events.BackendDown: logging.ERROR,
    events.LeaseLeaked: logging.ERROR,
    events.BackendUp: logging.WARNING,
    events.ResourceCreateFailed: logging.WARNING,
    events.HubBlocked: logging.WARNING,
    events.StateChanged: logging.INFO,
    events.WorkersScaled: logging.INFO,
}
"""The others, of which there is one for a task, a lease or a resource, are DEBUG."""
Entry = tuple[int, dict[str, Any]]


class EventLog:
    """Logs events in their order, from a greenlet of its own that lives while there is something to log.

    `levels`: other levels for some kinds of event.
    """

    def __init__(
        self, logger: logging.Logger | None = None, levels: dict[type[RunnerEvent], int] | None = None
    ) -> None:
        self._logger = logger if logger is not None else logging.getLogger("gtasker.events")
        self._levels = {**_LEVELS, **(levels or {})}
        self._waiting: deque[Entry] = deque()
        self._dropped = 0
        self._writer: Greenlet[[int], None] | None = None
        self._pid = os.getpid()

    def recorder(self, on_event: Callable[[RunnerEvent], None] | None = None) -> Callable[[RunnerEvent], None]:
        """What a `Config` takes as its `on_event`: logs events, and passes them on to `on_event`."""

        def record(event: RunnerEvent) -> None:
            level = self._levels.get(type(event), logging.DEBUG)
            if self._logger.isEnabledFor(level):
                self._take((level, _fields(event)))
            if on_event is not None:
                on_event(event)

        return record

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all is logged, `timeout` seconds at most; tell whether it is. Switches."""
        writer = self._writer
        if writer is not None:
            writer.join(timeout)
        return not self._waiting and (writer is None or writer.dead)

    def _take(self, entry: Entry) -> None:
        if self._pid != os.getpid():  # a forked child: what waits is its parent's to log
            self._pid = os.getpid()
            self._waiting.clear()
            self._dropped = 0
            self._writer = None
        if len(self._waiting) >= WAITING:
            self._dropped += 1
            return
        self._waiting.append(entry)
        if self._writer is None or self._writer.dead:
            self._writer = Greenlet(self._write, self._pid)
            self._writer.start()

    def _write(self, pid: int) -> None:
        while self._waiting and os.getpid() == pid:
            level, extra = self._waiting.popleft()
            told = " ".join(f"{name}={value}" for name, value in extra.items() if name not in {"runner", "event", "at"})
            self._logger.log(level, "%s: %s %s", extra["runner"], extra["event"], told, extra=extra)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._logger.warning("%d events were not logged: more than %d waited", dropped, WAITING)


def _fields(event: RunnerEvent) -> dict[str, Any]:
    # Values, not the event itself: an error's frames would live as long as the record does.
    found = {field.name: _value(getattr(event, field.name)) for field in fields(event)}
    return {"event": type(event).__name__, **found}


def _value(value: Any) -> Any:
    if isinstance(value, BaseException):
        return repr(value)
    if isinstance(value, LeaseInfo):
        return f"resource {value.resource_id} with {value.holder} for {value.age:.3g} s"
    return value.value if isinstance(value, Enum) else value
