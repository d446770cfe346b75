"""The bench a scenario works at: a pool over a make-believe server, its clients, and what became of them.

Invariant: a client that nobody harmed must be served; any other end of it is counted as a wrong done to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeAlias

import gevent
from gevent.event import Event

from benchmarks.rivals.pool import Kind
from benchmarks.world import Connection, Server

PATIENCE = 5.0
"""Seconds a client waits for a connection where the scenario does not say."""
SETTLE = 0.3
"""Seconds a pool has to mend itself before its slots are counted."""
COUNTING = 2.0
"""Seconds in which all slots have to be taken at once to be counted."""


Client: TypeAlias = "gevent.Greenlet[..., None]"


@dataclass
class Findings:
    """What a scenario left behind. `figure` is the scenario's own number, if it has one."""

    size: int
    slots: int = 0
    peak: int = 0
    dirty: int = 0
    wronged: dict[str, int] = field(default_factory=dict)
    masked: dict[str, int] = field(default_factory=dict)
    figure: float | None = None
    unit: str = ""


class Bench:
    """One pool under test and everything that is done to it."""

    def __init__(self, kind: Kind, size: int = 4, *, connect_delay: float = 0.005, checked: bool = False) -> None:
        self.size = size
        self.server = Server(connect_delay)
        self.pool = kind(self.server, size, checked=checked)
        self.excused = False
        self._harmed: set[object] = set()
        self._wronged: Counter[str] = Counter()
        self._masked: Counter[str] = Counter()

    def client(self, hold: float = 0.005, patience: float = PATIENCE) -> Client:
        """Start a greenlet that takes a connection and runs one query of `hold` seconds on it. Never switches."""
        return self.start(lambda: self.pool.use(lambda connection: connection.query(hold), patience))

    def clients(self, count: int, hold: float = 0.005) -> list[Client]:
        """Start that many clients. Never switches."""
        return [self.client(hold) for _ in range(count)]

    def start(self, body: Callable[[], object]) -> Client:
        """Start a greenlet whose end is judged. Never switches."""
        return gevent.spawn(self._judged, body)

    def kill(self, greenlets: Sequence[Client]) -> None:
        """Kill the greenlets; whatever becomes of them is no wrong, unless they hide the kill. Never switches."""
        for greenlet in greenlets:
            self._harmed.add(greenlet)
            greenlet.kill(block=False)

    @contextmanager
    def all_held(self) -> Iterator[None]:
        """Hold every connection while the block runs, then give them back together and wait for that. Switches."""
        release = Event()

        def hold(_: Connection) -> None:
            release.wait()

        holders = [self.start(lambda: self.pool.use(hold, PATIENCE)) for _ in range(self.size)]
        gevent.sleep(0.2)
        yield
        release.set()
        gevent.joinall(holders, timeout=PATIENCE)

    def findings(self, figure: float | None = None, unit: str = "") -> Findings:
        """Count the slots that still work, and add up what was seen. Switches."""
        gevent.sleep(SETTLE)
        slots = self._count_slots()
        return Findings(
            self.size, slots, self.server.peak, self.server.dirty, dict(self._wronged), dict(self._masked), figure, unit
        )

    def _judged(self, body: Callable[[], object]) -> None:
        me = gevent.getcurrent()
        try:
            body()
        except gevent.GreenletExit:
            self._note_kill(me)
        except Exception as error:
            self._note(me, error)

    def _note_kill(self, greenlet: object) -> None:
        if greenlet not in self._harmed:
            self._wronged["GreenletExit"] += 1

    def _note(self, greenlet: object, error: Exception) -> None:
        if greenlet in self._harmed:
            self._masked[type(error).__name__] += 1
        elif not self.excused:
            self._wronged[type(error).__name__] += 1

    def _count_slots(self) -> int:
        """How many connections can be held at the same time, each one working. Switches."""
        held = most = 0
        full, release = Event(), Event()

        def hold(connection: Connection) -> None:
            nonlocal held, most
            connection.query(0.001)
            held += 1
            most = max(most, held)
            if held == self.size:
                full.set()
            try:
                release.wait()
            finally:
                held -= 1

        def take() -> None:
            with suppress(Exception):
                self.pool.use(hold, COUNTING)

        def persist() -> None:
            end = monotonic() + COUNTING
            while monotonic() < end and not release.is_set():
                take()
                gevent.sleep(0.01)

        takers = [gevent.spawn(persist) for _ in range(self.size)]
        full.wait(COUNTING)
        release.set()
        gevent.joinall(takers, timeout=PATIENCE)
        gevent.killall(takers, block=False)
        return most
