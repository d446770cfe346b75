"""The flusher, for several processes: writes what happened in this one to the files that prometheus_client adds up.

Invariant: the sum of all that was ever flushed of a runner is what its counters told at the last flush. Levels of a
runner that ended are 0.
"""

from __future__ import annotations

import atexit
import logging
import os
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

import gtasker
from gtasker import Runner
from gtasker.integrations._growth import Growth, Key
from gtasker.integrations._home import AwayError, Home
from gtasker.integrations._instruments import (
    HUB_LAG,
    INSTRUMENTS,
    RUN_TIME,
    RUNNER,
    WAIT_TIME,
    Instrument,
    Kind,
    Reading,
    read,
)
from gtasker.integrations._ticking import LoopLag, Ticker
from gtasker.integrations.prometheus._buckets import coarse
from gtasker.integrations.prometheus._totals import SUM, totals_of

FLUSH_INTERVAL = 1.0
"""Seconds between two flushes: a scrape is at most so much behind."""

_log = logging.getLogger("gtasker.prometheus")


class Flusher:
    """What one process tells. Needs `PROMETHEUS_MULTIPROC_DIR` to have been set when prometheus_client was imported."""

    def __init__(self, *runners: Runner[Any], registry: CollectorRegistry = REGISTRY) -> None:
        self._runners = runners
        self._registry = registry
        self._home = Home()
        self._pid = os.getpid()
        self._growth: Growth[Key] = Growth()
        self._ticker = Ticker(self.flush, FLUSH_INTERVAL)
        self._lag = LoopLag()
        self._levels: dict[tuple[str, Key], float] = {}  # as they were last written
        self._metrics = {instrument.name: _metric(instrument, registry) for instrument in INSTRUMENTS}
        self._histograms: dict[str, Histogram] = {}
        self._children: dict[tuple[str, Key], Any] = {}
        self._hub_lag = Gauge(HUB_LAG.exposed, HUB_LAG.about, registry=registry, multiprocess_mode="livemax")

    def start(self) -> None:
        """Flush once a second from now on, and at the end of the process. Never switches."""
        self._lag.start()
        self._ticker.start()
        atexit.register(self.flush)

    def close(self) -> None:
        """Flush once more, and no more. Never switches."""
        self.flush()
        atexit.unregister(self.flush)
        self._ticker.stop()
        self._lag.stop()

    def flush(self) -> None:
        """Write what happened since the last time. For a process that ends by itself this is done by itself.

        May be called in any OS thread. Never switches.
        """
        try:
            self._home.call(self._flush)
        except AwayError as error:
            _log.warning("not flushed: %s", error)

    def _flush(self) -> None:
        if os.getpid() != self._pid:  # a forked child: its runners begin anew, and it writes files of its own
            self._pid = os.getpid()
            self._growth.forget()
            self._levels.clear()
        at_work = gtasker.runners()
        readings = [read(runner) for runner in self._growth.roll(self._runners or at_work)]
        for reading in readings:
            self._add(reading)
        self._set([reading for reading in readings if reading.runner in at_work])
        self._hub_lag.set(self._lag.worst())

    def _add(self, reading: Reading) -> None:
        totals = totals_of(reading)
        runner = reading.runner.config.name
        if not self._histograms:
            for fact, buckets in ((WAIT_TIME, reading.wait), (RUN_TIME, reading.run)):
                bounds = [bound for bound, _ in coarse(buckets)]
                self._histograms[fact.name] = Histogram(
                    fact.exposed, fact.about, [RUNNER.label], registry=self._registry, buckets=bounds
                )
        for key in totals:  # what is nought is told, too
            self._child(runner, key)
        for key, number in self._growth.take(reading.runner, totals).items():
            self._child(runner, key).inc(number)

    def _set(self, readings: list[Reading]) -> None:
        levels = dict.fromkeys(self._levels, 0.0)
        for instrument in INSTRUMENTS:
            if instrument.kind is not Kind.COUNTER:
                for (runner, value), number in instrument.merge(readings).items():
                    levels[runner, (instrument.name, value)] = number
        for (runner, key), number in levels.items():
            if self._levels.get((runner, key)) != number:
                self._child(runner, key).set(number)
        self._levels = levels

    def _child(self, runner: str, key: Key) -> Any:
        child = self._children.get((runner, key))
        if child is None:
            name, value = key
            if isinstance(value, str):
                child = self._metrics[name].labels(*((runner, value) if value else (runner,)))
            else:
                # Observing one value after another would cost each task; these fields are where `observe` adds.
                histogram = self._histograms[name].labels(runner)
                child = histogram._sum if value == SUM else histogram._buckets[value]
            self._children[runner, key] = child
        return child


def _metric(instrument: Instrument, registry: CollectorRegistry) -> Counter | Gauge:
    name, about, labels = instrument.exposed, instrument.about, instrument.labels
    if instrument.kind is Kind.COUNTER:
        return Counter(name, about, labels, registry=registry)
    mode: Any = "livemax" if instrument.kind is Kind.WORST else "livesum"
    return Gauge(name, about, labels, registry=registry, multiprocess_mode=mode)
