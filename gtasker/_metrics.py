"""What happened so far, in numbers: `TaskMetrics`, the `Collector` seam, and the built-in `Meter`.

Invariant: writing costs an append or an increment; reading costs the same after 10**7 tasks as after ten.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple, Protocol, runtime_checkable

from gtasker._histogram import Buckets, LogHistogram

FOLD_AT = 1024
"""Values a `Meter` buffers before they are folded: enough to make sorting pay, 16 KB of pointers."""
RATE_WINDOW = 10.0
"""Seconds that the two rates look back."""
MARK_INTERVAL = 0.1
"""Least seconds between two rate marks: 1 % of the window."""
# Enough to reach back beyond the window however dense they are, with some to spare for rounding.
_MARKS = int(RATE_WINDOW / MARK_INTERVAL) + 3
# A rate over less than a second would claim more tasks than were ever seen.
_LEAST_SPAN = 1.0


class TaskTimes(NamedTuple):
    """When a task was accepted, and when the attempt that answered began and ended; monotonic seconds."""

    queued_at: float
    started_at: float
    finished_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMetrics:
    """What happened since the start. Times are seconds, totals are counts; 0 stands for "nothing yet".

    Execution is the attempt that answered, waiting is from acceptance to its beginning; failed tasks count in both.
    Of the built-in collector percentiles are within 5 % of the true value, everything else is exact.
    """

    average_execution_time: float = 0.0
    min_execution_time: float = 0.0
    max_execution_time: float = 0.0
    p50_execution_time: float = 0.0
    p95_execution_time: float = 0.0
    p99_execution_time: float = 0.0
    average_wait_time: float = 0.0
    max_wait_time: float = 0.0
    p50_wait_time: float = 0.0
    p95_wait_time: float = 0.0
    p99_wait_time: float = 0.0
    longest_wait: float = 0.0
    """Seconds the longest of those waiting now has waited."""
    task_arrival_rate: float = 0.0
    """Accepted tasks per second, over the last 10 s."""
    task_completion_rate: float = 0.0
    """Ended tasks (completed or failed) per second, over the last 10 s."""
    total_tasks_arrived: int = 0
    total_tasks_completed: int = 0
    """Answered with a value."""
    total_tasks_failed: int = 0
    """Answered with an error, time-outs included."""
    total_tasks_retried: int = 0
    """Further attempts, not tasks."""
    total_tasks_cancelled: int = 0
    total_tasks_timed_out: int = 0
    total_tasks_rejected: int = 0
    """Refused; they never arrived."""
    success_rate: float = 0.0
    """Completed of all that ended, 0 to 1."""
    failure_rate: float = 0.0
    """Failed of all that ended, 0 to 1; the two add up to 1 once anything ended."""
    resources_created: int = 0
    resources_destroyed: int = 0
    create_failures: int = 0


class Histograms(NamedTuple):
    """How long tasks waited and ran, in cumulative buckets (seconds); kept also beside a collector of the user's."""

    wait: Buckets
    run: Buckets


@runtime_checkable
class Collector(Protocol):
    """Where a runner reports its tasks. No method may block or raise: they are called between two tasks."""

    def record_arrival(self) -> None:
        """A task was accepted."""

    def record_completion(self, times: TaskTimes) -> None:
        """A task answered with a value."""

    def record_failure(self, times: TaskTimes) -> None:
        """A task answered with an error."""

    def record_retry(self) -> None:
        """A task will be tried again."""

    def snapshot(self) -> TaskMetrics:
        """Tell what was recorded; fields that are not kept may stay 0."""


class _Mark(NamedTuple):
    """What had been counted when a moment began."""

    at: float
    arrived: int
    ended: int


class Meter:
    """The built-in collector. Its owner writes the fields below directly, for speed. Never switches.

    For each attempt that answers, append to `waits` and `runs` (the same two lists for ever) and call `fold()` when
    `len(runs) >= FOLD_AT`; add to `failed_timed` if it was an error, and to `failed_untimed` for an error that has no
    times. A time-out adds to `timed_out` as well. With a time stamp at hand, and *before* counting what it stamps:
    `if now >= meter.next_mark: meter.mark(now)`.
    """

    __slots__ = (
        "_clock",
        "_marks",
        "_run",
        "_wait",
        "acquire_timeouts",
        "arrived",
        "cancelled",
        "create_failures",
        "created",
        "destroyed",
        "failed_timed",
        "failed_untimed",
        "next_mark",
        "rejected",
        "retried",
        "runs",
        "timed_out",
        "waits",
    )

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.waits: list[float] = []
        self.runs: list[float] = []
        self.arrived = 0
        self.failed_timed = 0
        self.failed_untimed = 0
        self.retried = 0
        self.cancelled = 0
        self.timed_out = 0
        self.rejected = 0
        self.created = 0
        self.destroyed = 0
        self.create_failures = 0
        self.acquire_timeouts = 0
        self._clock = clock
        self._wait = LogHistogram()
        self._run = LogHistogram()
        self._marks: deque[_Mark] = deque(maxlen=_MARKS)
        self.next_mark = 0.0
        self.mark(clock())

    @property
    def completed(self) -> int:
        """Tasks that answered with a value."""
        return self._run.count + len(self.runs) - self.failed_timed

    @property
    def ended(self) -> int:
        """Tasks that completed or failed."""
        return self._run.count + len(self.runs) + self.failed_untimed

    def mark(self, now: float) -> None:
        """Remember the counts at `now`, for the rates. At most every `MARK_INTERVAL`: ask `next_mark` first."""
        self._marks.append(_Mark(now, self.arrived, self.ended))
        self.next_mark = now + MARK_INTERVAL

    def rates(self, now: float) -> tuple[float, float]:
        """Arrivals and ends (completed or failed) per second, over the last 10 s or since the start if that is later.

        Never claims more a second than were seen.
        """
        marks = self._marks
        since = now - RATE_WINDOW
        index = bisect_right(marks, since, key=itemgetter(0)) - 1
        if index < 0:
            # So young that no mark was dropped yet: the first is the start, when nothing had been counted.
            span = max(now - marks[0].at, _LEAST_SPAN)
            return self.arrived / span, self.ended / span
        before = marks[index]
        after = marks[index + 1] if index + 1 < len(marks) else _Mark(now, self.arrived, self.ended)
        # Whatever followed a mark did so within the interval, else it had made a mark of its own. Without this,
        # a burst before a silence would be told again when the next one begins.
        share = min(1.0, (since - before.at) / MARK_INTERVAL)
        arrived_before = before.arrived + share * (after.arrived - before.arrived)
        ended_before = before.ended + share * (after.ended - before.ended)
        return (self.arrived - arrived_before) / RATE_WINDOW, (self.ended - ended_before) / RATE_WINDOW

    def fold(self) -> None:
        """Move the buffered times into the buckets; the two lists are empty afterwards."""
        self._wait.take(self.waits)
        self._run.take(self.runs)

    def wait_histogram(self) -> Buckets:
        """Waiting times of all tasks that answered with times."""
        self.fold()
        return self._wait.buckets()

    def run_histogram(self) -> Buckets:
        """Execution times of all tasks that answered with times."""
        self.fold()
        return self._run.buckets()

    def record_arrival(self) -> None:
        """A task was accepted."""
        self._stamp(self._clock())
        self.arrived += 1

    def record_completion(self, times: TaskTimes) -> None:
        """A task answered with a value."""
        self._stamp(times.finished_at)
        self.waits.append(times.started_at - times.queued_at)
        self.runs.append(times.finished_at - times.started_at)
        if len(self.runs) >= FOLD_AT:
            self.fold()

    def record_failure(self, times: TaskTimes) -> None:
        """A task answered with an error."""
        self.record_completion(times)
        self.failed_timed += 1

    def record_retry(self) -> None:
        """A task will be tried again."""
        self.retried += 1

    def _stamp(self, now: float) -> None:
        if now >= self.next_mark:
            self.mark(now)

    def snapshot(self, longest_wait: float = 0.0) -> TaskMetrics:
        """Tell everything so far; `longest_wait` is passed on, for only the backlog knows it."""
        self.fold()
        wait, run = self._wait, self._run
        completed, ended = self.completed, self.ended
        success_rate = completed / ended if ended else 0.0
        arrival_rate, completion_rate = self.rates(self._clock())
        p50, p95, p99 = run.percentiles(0.5, 0.95, 0.99)
        wait_p50, wait_p95, wait_p99 = wait.percentiles(0.5, 0.95, 0.99)
        # fmt: off
        return TaskMetrics(
            average_execution_time=run.mean(), min_execution_time=run.least, max_execution_time=run.greatest,
            p50_execution_time=p50, p95_execution_time=p95, p99_execution_time=p99,
            average_wait_time=wait.mean(), max_wait_time=wait.greatest, longest_wait=longest_wait,
            p50_wait_time=wait_p50, p95_wait_time=wait_p95, p99_wait_time=wait_p99,
            task_arrival_rate=arrival_rate, task_completion_rate=completion_rate,
            total_tasks_arrived=self.arrived, total_tasks_completed=completed, total_tasks_failed=ended - completed,
            total_tasks_retried=self.retried, total_tasks_cancelled=self.cancelled,
            total_tasks_timed_out=self.timed_out, total_tasks_rejected=self.rejected,
            success_rate=success_rate, failure_rate=1.0 - success_rate if ended else 0.0,
            resources_created=self.created, resources_destroyed=self.destroyed, create_failures=self.create_failures,
        )
        # fmt: on
