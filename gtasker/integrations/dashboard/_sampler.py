"""The sampler: looks at this process' runners once a second, and lays what it saw on the shelf.

Invariant: a snapshot is plain JSON without a resource's parameters, a task's arguments or an error's message, unless
`details` allows them. Looking never switches.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from time import monotonic
from typing import Any

import gtasker
from gtasker import LeaseInfo, Runner
from gtasker.integrations._growth import Growth
from gtasker.integrations._instruments import Reading, read
from gtasker.integrations._ticking import LoopLag, Ticker
from gtasker.integrations.dashboard._history import Look, Track, totals
from gtasker.integrations.dashboard._journal import Journal
from gtasker.integrations.dashboard._orders import Orders
from gtasker.integrations.dashboard._shelf import Shelf

_log = logging.getLogger("gtasker.dashboard")

INTERVAL = 1.0
"""Seconds between two looks."""
STACKS = 20
"""Uses whose stacks are shown, the longest; formatting one takes about a tenth of a millisecond."""
WATCHED_FOR = 5.0
"""Seconds after the last request for which stacks are formatted: it costs, and only for somebody who looks."""
_WATCHED = "watched-page"
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)


class Sampler:
    """Snapshots of this process, and those that others laid on the shelf."""

    def __init__(self, journal: Journal, shelf: Shelf | None, orders: Orders, *, details: bool) -> None:
        self._journal = journal
        self._shelf = shelf
        self._orders = orders
        self._details = details
        self._ticker = Ticker(self.look, INTERVAL)
        self._lag = LoopLag()
        self._growth: Growth[tuple[str, str]] = Growth()
        self._tracks: dict[str, Track] = {}
        self._pid = 0
        self._started_at = 0.0
        self._watched_at = -WATCHED_FOR
        self._latest: dict[str, Any] = {}
        self._is_hidden = False

    def start(self) -> None:
        """Look once a second from now on. Harmless when begun; begins anew in a forked child. Never switches."""
        if self._pid == os.getpid():
            return
        is_child = self._pid != 0
        self._pid = os.getpid()
        self._started_at = monotonic()
        self._growth.forget()
        self._tracks.clear()
        if is_child:
            self._journal.forget()
        self._ticker.start()
        self._lag.start()
        atexit.register(self._leave)
        for runner in gtasker.runners():  # what was before is no news
            reading = read(runner)
            self._growth.take(runner, totals(reading))
        self.look()

    def stop(self) -> None:
        """Look no more, and take the snapshot away. Never switches."""
        if self._pid:
            self._ticker.stop()
            self._lag.stop()
            self._leave()
            atexit.unregister(self._leave)
            self._pid = 0

    def watch(self) -> list[dict[str, Any]]:
        """The snapshots of all processes, this one's first; somebody looks at them. Never switches."""
        now = monotonic()
        if now - self._watched_at > WATCHED_FOR / 2:
            self._watched_at = now
            self.look()
            self._lay(_WATCHED, {"at": now})
        return [self._latest, *self._others()]

    def _others(self) -> Iterator[dict[str, Any]]:
        if self._shelf is None:
            return
        for name, found in self._shelf.take("snapshot"):
            if not _exists(found["pid"]):
                self._shelf.drop(name)
            elif name != self._name():
                yield found

    def look(self) -> None:
        """Take a snapshot now. Never switches."""
        if self._pid != os.getpid():
            self.start()  # which looks
            return
        self._orders.look()
        now = monotonic()
        runners = gtasker.runners()
        readings = [read(runner) for runner in self._growth.roll(runners)]
        self._track(readings)
        present = [reading for reading in readings if reading.runner in runners]
        names = {reading.runner.config.name for reading in present}
        self._tracks = {name: track for name, track in self._tracks.items() if name in names}
        self._latest = self._snapshot(now, present)
        self._lay(self._name(), self._latest)

    def _track(self, readings: list[Reading]) -> None:
        named: dict[str, list[Look]] = {}
        for reading in readings:
            grown = self._growth.take(reading.runner, totals(reading))
            named.setdefault(reading.runner.config.name, []).append(Look(grown, reading))
        for name, looks in named.items():
            self._tracks.setdefault(name, Track()).add(looks)

    def _lay(self, name: str, content: dict[str, Any]) -> None:
        if self._shelf is None:
            return
        try:
            self._shelf.put(name, content)
            self._is_hidden = False
        except OSError as error:  # a full disk is no reason to fail; told once, and not each second
            if not self._is_hidden:
                _log.warning("the other processes' pages do not show this one: %s", error)
            self._is_hidden = True

    def _snapshot(self, now: float, readings: list[Reading]) -> dict[str, Any]:
        is_watched = self._is_watched(now)
        return {
            "at": now,
            "pid": self._pid,
            "uptime": now - self._started_at,
            "lag": self._lag.worst(),
            "runners": [self._describe(reading, is_watched=is_watched) for reading in readings],
            "tracks": {name: track.slots() for name, track in self._tracks.items()},
            "events": self._journal.lines(),
        }

    def _describe(self, reading: Reading, *, is_watched: bool) -> dict[str, Any]:
        runner = reading.runner
        backend = _plain(reading.backend)
        if not self._details:
            del backend["last_message"]
        return {
            "name": runner.config.name,
            "stats": {**_plain(reading.stats), "state": reading.stats.state.value},
            "metrics": _plain(reading.metrics),
            "backend": backend,
            "bounds": _plain(reading.bounds),
            "resources": [_plain(resource) for resource in runner.resources()],
            "uses": list(self._uses(runner)) if is_watched else [],
        }

    def _uses(self, runner: Runner[Any]) -> Iterator[dict[str, Any]]:
        for info in runner.leases(limit=STACKS):
            yield {**_plain(info), "stack": self._stack(info)}

    def _stack(self, info: LeaseInfo) -> str:
        if self._details:
            return info.stack
        # Of each frame its place, but not its line, where a literal may say what nobody should read.
        return "\n".join(f"{_short(path)}:{line} in {name}" for path, line, name in _FRAME.findall(info.stack))

    def _is_watched(self, now: float) -> bool:
        if now - self._watched_at <= WATCHED_FOR:
            return True
        marks = self._shelf.take(_WATCHED.partition("-")[0]) if self._shelf is not None else ()
        return any(now - mark["at"] <= WATCHED_FOR for _, mark in marks)

    def _name(self) -> str:
        return f"snapshot-{self._pid}"

    def _leave(self) -> None:
        # A child that forked and has not looked yet has nothing there; the file is its parent's.
        if self._shelf is not None and self._pid == os.getpid():
            self._shelf.drop(self._name())


def _plain(snapshot: Any) -> dict[str, Any]:
    """The fields of a frozen snapshot, plain values all: `asdict` would copy each of them, at ten times the cost."""
    return {name: getattr(snapshot, name) for name in snapshot.__dataclass_fields__}


@lru_cache(maxsize=1024)
def _short(path: str) -> str:
    """A file as it is found by an import: where all of them are installed is nobody's business."""
    folders = [folder.rstrip("/") + "/" for folder in sys.path if folder]
    above = max((folder for folder in folders if path.startswith(folder)), key=len, default="")
    return path[len(above) :] if above else os.path.basename(path)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
