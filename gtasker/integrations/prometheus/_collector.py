"""The collector for one process: reads its runners when Prometheus asks.

Invariant: two runners of one name are told as one, for Prometheus refuses a page that tells the same twice; and its
counters do not fall when one of them ends.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import gtasker
from gtasker import Runner
from gtasker.integrations._growth import Key, Sums, counted
from gtasker.integrations._home import AwayError, Home
from gtasker.integrations._instruments import (
    HUB_LAG,
    INSTRUMENTS,
    RUN_TIME,
    RUNNER,
    WAIT_TIME,
    Fact,
    Instrument,
    Kind,
    Reading,
)
from gtasker.integrations._ticking import LoopLag
from gtasker.integrations.prometheus._buckets import coarse, label
from gtasker.integrations.prometheus._totals import SUM, totals_of

_log = logging.getLogger("gtasker.prometheus")


class RunnerCollector(Collector):
    """Reads runners when it is asked. May be asked in any OS thread; the runners' event loop must turn then."""

    def __init__(self, *runners: Runner[Any]) -> None:
        self._runners = runners
        self._home = Home()
        self._lag = LoopLag()
        self._lag.start()
        self._last: list[Metric] = []
        self._sums = Sums(totals_of)

    def close(self) -> None:
        """Look at the event loop no more. Never switches."""
        self._lag.stop()

    def describe(self) -> list[Metric]:
        """The names that will be told."""
        return list(_families([], {}, 0.0))

    def collect(self) -> list[Metric]:
        """The numbers of this moment; the last known ones if the runners' event loop does not turn."""
        try:
            self._last = self._home.call(self._look)
        except AwayError as error:
            _log.warning("the numbers are old: %s", error)
        return self._last

    def _look(self) -> list[Metric]:
        looks = self._sums.look(self._runners or gtasker.runners())
        return list(_families([reading for reading, _ in looks], self._sums.by_name, self._lag.worst()))


def _families(readings: list[Reading], sums: Mapping[str, Mapping[Key, float]], lag: float) -> Iterator[Metric]:
    for instrument in INSTRUMENTS:
        family = CounterMetricFamily if instrument.kind is Kind.COUNTER else GaugeMetricFamily
        told = family(instrument.exposed, instrument.about, labels=instrument.labels)
        for (runner, value), number in _numbers(instrument, readings, sums).items():
            told.add_metric([runner, value] if instrument.attribute else [runner], number)
        yield told
    bounds = [bound for bound, _ in coarse(readings[0].wait)] if readings else []
    for fact in (WAIT_TIME, RUN_TIME):
        yield _histogram(fact, bounds, sums)
    yield GaugeMetricFamily(HUB_LAG.exposed, HUB_LAG.about, value=lag)


def _numbers(
    instrument: Instrument, readings: list[Reading], sums: Mapping[str, Mapping[Key, float]]
) -> dict[tuple[str, str], float]:
    if instrument.kind is Kind.COUNTER:
        return counted(instrument, sums)
    return instrument.merge(readings)


def _histogram(fact: Fact, bounds: list[float], sums: Mapping[str, Mapping[Key, float]]) -> Metric:
    family = HistogramMetricFamily(fact.exposed, fact.about, labels=[RUNNER.label])
    for runner, totals in sums.items():
        counts = accumulate(totals[fact.name, number] for number in range(len(bounds)))
        family.add_metric([runner], [*zip(map(label, bounds), counts, strict=True)], totals[fact.name, SUM])
    return family
