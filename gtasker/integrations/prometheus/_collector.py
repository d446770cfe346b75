"""The collector for one process: reads its runners when Prometheus asks.

Invariant: two runners of one name are told as one, for Prometheus refuses a page that tells the same twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import gtasker
from gtasker import Buckets, Runner
from gtasker.integrations._home import AwayError, Home
from gtasker.integrations._instruments import (
    HUB_LAG,
    INSTRUMENTS,
    RUN_TIME,
    RUNNER,
    WAIT_TIME,
    Fact,
    Kind,
    Reading,
    read,
)
from gtasker.integrations._ticking import LoopLag
from gtasker.integrations.prometheus._buckets import coarse, label

_log = logging.getLogger("gtasker.prometheus")


class RunnerCollector(Collector):
    """Reads runners when it is asked. May be asked in any OS thread; the runners' event loop must turn then."""

    def __init__(self, *runners: Runner[Any]) -> None:
        self._runners = runners
        self._home = Home()
        self._lag = LoopLag()
        self._lag.start()
        self._last: list[Metric] = []

    def close(self) -> None:
        """Look at the event loop no more. Never switches."""
        self._lag.stop()

    def describe(self) -> list[Metric]:
        """The names that will be told."""
        return list(_families([], 0.0))

    def collect(self) -> list[Metric]:
        """The numbers of this moment; the last known ones if the runners' event loop does not turn."""
        try:
            self._last = self._home.call(self._look)
        except AwayError as error:
            _log.warning("the numbers are old: %s", error)
        return self._last

    def _look(self) -> list[Metric]:
        return list(_families([read(runner) for runner in self._runners or gtasker.runners()], self._lag.worst()))


def _families(readings: list[Reading], lag: float) -> Iterator[Metric]:
    for instrument in INSTRUMENTS:
        family = CounterMetricFamily if instrument.kind is Kind.COUNTER else GaugeMetricFamily
        told = family(instrument.exposed, instrument.about, labels=instrument.labels)
        for (runner, value), number in instrument.merge(readings).items():
            told.add_metric([runner, value] if instrument.attribute else [runner], number)
        yield told
    yield _histogram(WAIT_TIME, [(reading.runner.config.name, reading.wait) for reading in readings])
    yield _histogram(RUN_TIME, [(reading.runner.config.name, reading.run) for reading in readings])
    yield GaugeMetricFamily(HUB_LAG.exposed, HUB_LAG.about, value=lag)


def _histogram(fact: Fact, parts: list[tuple[str, Buckets]]) -> Metric:
    family = HistogramMetricFamily(fact.exposed, fact.about, labels=[RUNNER.label])
    for runner in dict.fromkeys(runner for runner, _ in parts):
        mine = [buckets for name, buckets in parts if name == runner]
        columns = zip(*(coarse(buckets) for buckets in mine), strict=True)
        counts = [(label(cells[0][0]), sum(count for _, count in cells)) for cells in columns]
        family.add_metric([runner], counts, sum(buckets.total for buckets in mine))
    return family
