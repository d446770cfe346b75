"""What an immediate runner has counted, in the words of `gtasker.TaskMetrics`.

Invariant: memory is bounded; totals are exact, percentiles and rates are of the last `_KEPT` tasks.
"""

from __future__ import annotations

from collections import deque
from itertools import accumulate
from math import ceil, inf
from time import monotonic

from gtasker import Buckets, Collector, Histograms, TaskMetrics, TaskTimes

_KEPT = 10_000
_WINDOW = 10.0  # seconds that rates look back
_BOUNDS = (0.001, 0.01, 0.1, 1.0, 10.0, inf)  # seconds


class _Times:
    """How long something took, each time; seconds."""

    def __init__(self) -> None:
        self.kept: deque[float] = deque(maxlen=_KEPT)
        self.count = 0
        self.total = 0.0
        self.least = inf
        self.most = 0.0
        self.counts = [0] * len(_BOUNDS)

    def add(self, seconds: float) -> None:
        self.kept.append(seconds)
        self.count += 1
        self.total += seconds
        self.least = min(self.least, seconds)
        self.most = max(self.most, seconds)
        self.counts[next(place for place, bound in enumerate(_BOUNDS) if seconds <= bound)] += 1

    @property
    def average(self) -> float:
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: int) -> float:
        return sorted(self.kept)[ceil(len(self.kept) * percent / 100) - 1] if self.kept else 0.0

    def buckets(self) -> Buckets:
        return Buckets(_BOUNDS, tuple(accumulate(self.counts)), self.total)


class Tally:
    """The counts of one runner; `collector` is told, too, and asked in its place. Never switches."""

    def __init__(self, collector: Collector | None) -> None:
        self._collector = collector
        self._waits = _Times()
        self._runs = _Times()
        self._arrivals: deque[float] = deque(maxlen=_KEPT)
        self._ends: deque[float] = deque(maxlen=_KEPT)
        self.arrived = self.completed = self.failed = self.retried = self.cancelled = self.timed_out = 0
        self.created = self.destroyed = self.create_failures = self.acquire_timeouts = 0

    def arrive(self) -> None:
        """A task was accepted."""
        self.arrived += 1
        self._arrivals.append(monotonic())
        if self._collector is not None:
            self._collector.record_arrival()

    def end(self, queued_at: float, started_at: float, *, is_failure: bool) -> None:
        """A task answered; `started_at` is when the attempt that answered began (monotonic seconds)."""
        times = TaskTimes(queued_at, started_at, monotonic())
        self._waits.add(max(0.0, started_at - queued_at))
        self._runs.add(times.finished_at - started_at)
        self._ends.append(times.finished_at)
        self.failed += is_failure
        self.completed += not is_failure
        if self._collector is not None:
            (self._collector.record_failure if is_failure else self._collector.record_completion)(times)

    def retry(self) -> None:
        """A task will be tried again."""
        self.retried += 1
        if self._collector is not None:
            self._collector.record_retry()

    def metrics(self) -> TaskMetrics:
        """All of it."""
        if self._collector is not None:
            return self._collector.snapshot()
        waits, runs = self._waits, self._runs
        ended = self.completed + self.failed
        return TaskMetrics(
            average_execution_time=runs.average,
            min_execution_time=runs.least if runs.count else 0.0,
            max_execution_time=runs.most,
            p50_execution_time=runs.percentile(50),
            p95_execution_time=runs.percentile(95),
            p99_execution_time=runs.percentile(99),
            average_wait_time=waits.average,
            max_wait_time=waits.most,
            p50_wait_time=waits.percentile(50),
            p95_wait_time=waits.percentile(95),
            p99_wait_time=waits.percentile(99),
            task_arrival_rate=_rate(self._arrivals),
            task_completion_rate=_rate(self._ends),
            total_tasks_arrived=self.arrived,
            total_tasks_completed=self.completed,
            total_tasks_failed=self.failed,
            total_tasks_retried=self.retried,
            total_tasks_cancelled=self.cancelled,
            total_tasks_timed_out=self.timed_out,
            success_rate=self.completed / ended if ended else 0.0,
            failure_rate=self.failed / ended if ended else 0.0,
            resources_created=self.created,
            resources_destroyed=self.destroyed,
            create_failures=self.create_failures,
        )

    def histograms(self) -> Histograms:
        """Waiting and running, in cumulative buckets."""
        return Histograms(self._waits.buckets(), self._runs.buckets())


def _rate(moments: deque[float]) -> float:
    since = monotonic() - _WINDOW
    return sum(moment >= since for moment in moments) / _WINDOW
