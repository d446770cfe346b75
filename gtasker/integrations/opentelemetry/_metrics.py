"""Numbers: observable instruments that read runners when a reader exports, and histograms fed by events.

Invariant: all instruments of one export tell of the same moment, and runners are read once for it. (An export asks for
each instrument by itself: when one is asked for again, another export has begun.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter

import gtasker
from gtasker import Runner, RunnerEvent, events
from gtasker.integrations._growth import Key, Sums, counted, counters
from gtasker.integrations._home import AwayError, Home
from gtasker.integrations._instruments import (
    HUB_LAG,
    INSTRUMENTS,
    POOL,
    RUN_TIME,
    RUNNER,
    WAIT_TIME,
    Instrument,
    Kind,
    Reading,
)
from gtasker.integrations._ticking import LoopLag

_log = logging.getLogger("gtasker.opentelemetry")

QUANTILES = (0.5, 0.95, 0.99)
_QUANTILE = "gtasker.quantile"
# Seconds. The default bounds of the SDK are for milliseconds.
_BOUNDS = tuple(0.0001 * 2**step for step in range(20))

Observations = list[Observation]


def observe(*runners: Runner[Any], meter_provider: MeterProvider | None = None) -> Telemetry:
    """Tell OpenTelemetry of `runners`, or else of every runner that is at work in this thread. Never switches.

    Readers may export in any OS thread; the runners' event loop must turn then.
    """
    meter = get_meter("gtasker", gtasker.__version__, meter_provider)
    return Telemetry(meter, runners)


class Telemetry:
    """The instruments of one meter."""

    def __init__(self, meter: Meter, runners: tuple[Runner[Any], ...]) -> None:
        self._runners = runners
        self._home = Home()
        self._lag = LoopLag()
        self._lag.start()
        self._sums = Sums(_totals)
        self._readings: list[Reading] = []
        self._quantiles: dict[str, Observations] = {}
        self._answered: set[str] = set()  # by the latest reading; who asks again begins another export
        for instrument in INSTRUMENTS:
            _register(meter, instrument, partial(self._observe, instrument))
        for fact in (WAIT_TIME, RUN_TIME):
            about = f"{fact.about} Percentiles of the time since the last export."
            meter.create_observable_gauge(fact.name, [partial(self._tell_quantiles, fact.name)], fact.unit, about)
        meter.create_observable_gauge(HUB_LAG.name, [self._tell_lag], HUB_LAG.unit, HUB_LAG.about)
        self._create_time, self._wait_time, self._use_time = (
            meter.create_histogram(
                f"db.client.connection.{name}", "s", about, explicit_bucket_boundaries_advisory=_BOUNDS
            )
            for name, about in (
                ("create_time", "The time on_create took."),
                ("wait_time", "The time a lease or run_task waited for its resource."),
                ("use_time", "The time a lease or run_task had its resource."),
            )
        )

    def close(self) -> None:
        """Look at the event loop no more. Never switches."""
        self._lag.stop()

    def recorder(self, on_event: Callable[[RunnerEvent], None] | None = None) -> Callable[[RunnerEvent], None]:
        """What a `Config` takes as its `on_event`: fills the histograms of creation, waiting and use.

        Events are passed on to `on_event`. Each recorded one costs some ten microseconds.
        """

        def record(event: RunnerEvent) -> None:
            self._record(event)
            if on_event is not None:
                on_event(event)

        return record

    def _record(self, event: RunnerEvent) -> None:
        attributes = {POOL.name: event.runner}
        if isinstance(event, events.ResourceCreated):
            self._create_time.record(event.seconds, attributes)
        elif isinstance(event, events.LeaseGranted):
            self._wait_time.record(event.waited, attributes)
        elif isinstance(event, events.LeaseReturned):
            self._use_time.record(event.held, attributes)

    def _observe(self, instrument: Instrument, options: CallbackOptions) -> Observations:
        self._refresh(instrument.name)
        found = []
        is_counter = instrument.kind is Kind.COUNTER
        numbers = counted(instrument, self._sums.by_name) if is_counter else instrument.merge(self._readings)
        for (runner, value), number in numbers.items():
            attributes = {instrument.owner.name: runner}
            if instrument.attribute is not None:
                attributes[instrument.attribute.name] = value
            found.append(Observation(number, attributes))
        return found

    def _tell_quantiles(self, name: str, options: CallbackOptions) -> Observations:
        self._refresh(name)
        return self._quantiles.get(name, [])

    def _tell_lag(self, options: CallbackOptions) -> Observations:
        return [Observation(self._lag.worst())]

    def _refresh(self, name: str) -> None:
        if not self._answered or name in self._answered:
            self._answered.clear()
            try:
                self._home.call(self._look)
            except AwayError as error:  # once for an export, not for each instrument
                _log.warning("the numbers are old: %s", error)
        self._answered.add(name)

    def _look(self) -> None:
        looks = self._sums.look(self._runners or gtasker.runners())
        self._quantiles = {WAIT_TIME.name: [], RUN_TIME.name: []}
        for reading, grown in looks:
            for fact, buckets in ((WAIT_TIME, reading.wait), (RUN_TIME, reading.run)):
                counts = [grown.get((fact.name, number), 0.0) for number in range(len(buckets.bounds))]
                told = _quantiles(buckets.bounds, counts, reading.runner.config.name)
                self._quantiles[fact.name].extend(told)
        self._readings = [reading for reading, _ in looks]


def _register(meter: Meter, instrument: Instrument, callback: Callable[[CallbackOptions], Observations]) -> None:
    create = {
        Kind.COUNTER: meter.create_observable_counter,
        Kind.LEVEL: meter.create_observable_up_down_counter,
        Kind.WORST: meter.create_observable_gauge,
    }[instrument.kind]
    create(instrument.name, [callback], instrument.unit, instrument.about)


def _totals(reading: Reading) -> dict[Key, float]:
    totals = counters(reading)
    for fact, buckets in ((WAIT_TIME, reading.wait), (RUN_TIME, reading.run)):
        below = 0
        for number, count in enumerate(buckets.counts):
            totals[fact.name, number] = count - below
            below = count
    return totals


def _quantiles(bounds: tuple[float, ...], counts: list[float], runner: str) -> Iterator[Observation]:
    """The bounds that so large a part of the values does not exceed; nothing if there are none."""
    total = sum(counts)
    reached = 0.0
    wanted = [quantile for quantile in QUANTILES if total]
    for bound, count in zip(bounds, counts, strict=True):
        reached += count
        while wanted and reached >= wanted[0] * total:
            yield Observation(min(bound, bounds[-2]), {RUNNER.name: runner, _QUANTILE: str(wanted.pop(0))})
