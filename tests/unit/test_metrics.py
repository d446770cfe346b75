"""The meter tells the truth about what it was told, from bounded memory."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtasker._histogram import BOUNDS, Buckets, LogHistogram
from gtasker._metrics import FOLD_AT, MARK_INTERVAL, Collector, Meter, TaskMetrics, TaskTimes

SECONDS = st.floats(1e-7, 1e6)
PROMISED = [
    "average_execution_time", "min_execution_time", "max_execution_time", "p95_execution_time", "p99_execution_time",
    "average_wait_time", "task_arrival_rate", "task_completion_rate", "total_tasks_completed", "total_tasks_failed",
    "total_tasks_retried", "success_rate", "failure_rate", "p50_execution_time", "p50_wait_time", "p95_wait_time",
    "p99_wait_time", "max_wait_time", "total_tasks_arrived", "total_tasks_cancelled", "total_tasks_timed_out",
    "total_tasks_rejected", "resources_created", "resources_destroyed", "create_failures", "longest_wait",
]  # fmt: skip


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def answered(meter: Meter, *runs: float, wait: float = 0.5) -> None:
    for run in runs:
        meter.waits.append(wait)
        meter.runs.append(run)


def arrivals(meter: Meter, clock: Clock, *moments: float) -> None:
    """One arrival and one end at each moment, counted as a runner counts: the mark first."""
    for moment in moments:
        clock.now = moment
        if moment >= meter.next_mark:
            meter.mark(moment)
        meter.arrived += 1
        answered(meter, 0.01)


def nearest_rank(values: list[float], fraction: float) -> float:
    return sorted(values)[math.ceil(fraction * len(values)) - 1]


# Percentiles


@given(st.lists(SECONDS, min_size=1, max_size=300), st.floats(0.001, 1.0))
def test_a_percentile_is_within_five_percent_of_the_sorted_list(values: list[float], fraction: float) -> None:
    histogram = LogHistogram()
    histogram.take(list(values))
    [told] = histogram.percentiles(fraction)
    assert told == pytest.approx(nearest_rank(values, fraction), rel=0.05)


@given(st.lists(st.lists(SECONDS, max_size=20), max_size=20))
def test_taking_in_pieces_tells_the_same_as_taking_at_once(pieces: list[list[float]]) -> None:
    piecemeal, at_once = LogHistogram(), LogHistogram()
    for piece in pieces:
        piecemeal.take(list(piece))
    everything = [value for piece in pieces for value in piece]
    at_once.take(list(everything))
    assert piecemeal.counts == at_once.counts
    assert (piecemeal.count, piecemeal.least, piecemeal.greatest) == (
        len(everything), min(everything, default=0.0), max(everything, default=0.0)
    )  # fmt: skip
    assert piecemeal.total == pytest.approx(math.fsum(everything))


@given(st.lists(st.floats(0, 1e9) | st.sampled_from([*BOUNDS, 0.0]), min_size=1))
def test_the_cumulative_counts_are_the_values_at_or_below_each_bound(values: list[float]) -> None:
    histogram = LogHistogram()
    histogram.take(list(values))
    buckets = histogram.buckets()
    assert buckets.counts == tuple(sum(value <= bound for value in values) for bound in buckets.bounds)
    assert buckets.bounds[-1] == math.inf
    assert buckets.total == pytest.approx(math.fsum(values))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([], 0.0),
        ([0.0], 0.0),
        ([1e-9, 1e-9], 1e-9),
        ([0.25] * 7, 0.25),
        ([5e6, 7e6], 7e6),
    ],
)
def test_the_edges_of_the_range_are_told_by_the_least_and_greatest_value(values: list[float], told: float) -> None:
    histogram = LogHistogram()
    histogram.take(values)
    assert histogram.percentiles(0.5, 0.99) == [told, told]


@pytest.mark.parametrize(
    ("values", "told"),
    [([1e-9, 9e-8], 1e-9), ([0.0, 1.04e-7, 1.04e-7], 1.04e-7), ([1.0, 5e5, 6e5], 5e5), ([1.0, 5e6, 7e6], 7e6)],
)
def test_only_the_first_and_the_last_bucket_are_told_by_the_extremes(values: list[float], told: float) -> None:
    histogram = LogHistogram()
    histogram.take(values)
    assert histogram.percentiles(0.5) == pytest.approx([told], rel=0.05)


def test_taking_empties_the_list_it_was_given() -> None:
    values = [3.0, 1.0]
    LogHistogram().take(values)
    assert values == []


def test_the_bounds_rise_by_the_same_ratio_and_cover_the_range() -> None:
    ratios = [high / low for low, high in pairwise(BOUNDS)]
    assert [min(ratios), max(ratios)] == pytest.approx([2**0.1, 2**0.1])
    assert BOUNDS[0] <= 1e-7
    assert BOUNDS[-1] >= 1e6


# Totals


def test_nothing_yet_is_all_zeros() -> None:
    assert Meter().snapshot() == TaskMetrics()


def test_every_promised_field_is_told_and_no_other() -> None:
    assert sorted(field.name for field in dataclasses.fields(TaskMetrics)) == sorted(PROMISED)


@pytest.mark.parametrize(
    ("counter", "field"),
    [
        ("arrived", "total_tasks_arrived"),
        ("retried", "total_tasks_retried"),
        ("cancelled", "total_tasks_cancelled"),
        ("timed_out", "total_tasks_timed_out"),
        ("rejected", "total_tasks_rejected"),
        ("failed_untimed", "total_tasks_failed"),
        ("created", "resources_created"),
        ("destroyed", "resources_destroyed"),
        ("create_failures", "create_failures"),
    ],
)
def test_a_counter_is_told_in_its_own_field_and_moves_no_other_total(counter: str, field: str) -> None:
    meter = Meter()
    setattr(meter, counter, 3)
    told = dataclasses.asdict(meter.snapshot())
    moved = {name: value for name, value in told.items() if value and not name.endswith("_rate")}
    assert moved == {field: 3}


def test_the_times_of_the_folded_and_the_buffered_are_told_together() -> None:
    meter = Meter()
    answered(meter, 2.0, 4.0, wait=1.0)
    meter.fold()
    answered(meter, 9.0, wait=4.0)
    told = meter.snapshot()
    assert (told.min_execution_time, told.average_execution_time, told.max_execution_time) == (2.0, 5.0, 9.0)
    assert (told.average_wait_time, told.max_wait_time) == (2.0, 4.0)


def test_waits_and_runs_have_percentiles_of_their_own() -> None:
    meter = Meter()
    for step in range(1, 1001):
        answered(meter, step / 1000, wait=float(step))
    told = meter.snapshot()
    assert [told.p50_execution_time, told.p95_execution_time, told.p99_execution_time] == pytest.approx(
        [0.5, 0.95, 0.99], rel=0.05
    )
    assert [told.p50_wait_time, told.p95_wait_time, told.p99_wait_time] == pytest.approx([500, 950, 990], rel=0.05)


@pytest.mark.parametrize(
    ("answers", "failed_timed", "failed_untimed", "completed", "failed", "success"),
    [
        (4, 0, 0, 4, 0, 1.0),
        (4, 1, 0, 3, 1, 0.75),
        (4, 4, 0, 0, 4, 0.0),
        (0, 0, 2, 0, 2, 0.0),
        (3, 1, 2, 2, 3, 0.4),
    ],
)
@pytest.mark.parametrize("folded", [False, True])
def test_what_ended_is_completed_or_failed_and_the_rates_add_up_to_one(
    answers: int, failed_timed: int, failed_untimed: int, completed: int, failed: int, success: float, folded: bool
) -> None:
    meter = Meter()
    answered(meter, *[0.1] * answers)
    meter.failed_timed, meter.failed_untimed = failed_timed, failed_untimed
    if folded:
        meter.fold()
    assert (meter.completed, meter.ended) == (completed, completed + failed)
    told = meter.snapshot()
    assert (told.total_tasks_completed, told.total_tasks_failed) == (completed, failed)
    assert told.success_rate == pytest.approx(success)
    assert told.success_rate + told.failure_rate == 1


def test_the_longest_wait_is_passed_on() -> None:
    assert Meter().snapshot(longest_wait=7.5).longest_wait == 7.5


def test_folding_keeps_the_two_lists_the_worker_holds() -> None:
    meter = Meter()
    waits, runs = meter.waits, meter.runs
    answered(meter, 1.0)
    meter.fold()
    assert meter.waits is waits
    assert meter.runs is runs
    assert (waits, runs) == ([], [])


@pytest.mark.parametrize(("histogram", "total"), [(Meter.run_histogram, 6.0), (Meter.wait_histogram, 2.0)])
def test_an_exporters_histogram_counts_what_is_still_buffered(
    histogram: Callable[[Meter], Buckets], total: float
) -> None:
    meter = Meter()
    answered(meter, 2.0, 4.0, wait=1.0)
    assert (histogram(meter).counts[-1], histogram(meter).total) == (2, total)


def size(meter: Meter) -> int:
    """Bytes of everything that could grow."""
    run, wait, marks = meter._run.counts, meter._wait.counts, meter._marks
    return sum(map(sys.getsizeof, (meter.waits, meter.runs, run, wait, marks))) + len(marks) * sys.getsizeof((0,) * 3)


def test_memory_does_not_grow_with_what_was_run() -> None:
    clock = Clock()
    meter = Meter(clock)

    def run(tasks: int) -> None:
        for _ in range(tasks):
            clock.now += MARK_INTERVAL
            meter.record_arrival()
            meter.record_completion(TaskTimes(clock.now - 2.0, clock.now - 1.0, clock.now))

    run(4 * FOLD_AT)
    before = size(meter)
    run(8 * FOLD_AT)
    assert size(meter) == before


# The collector's protocol


def test_the_meter_is_a_collector_and_half_a_one_is_not() -> None:
    assert isinstance(Meter(), Collector)
    assert not isinstance(dict[str, Any](), Collector)


def test_the_protocol_counts_as_the_direct_way_does() -> None:
    meter = Meter(Clock(10.0))
    meter.record_arrival()
    meter.record_arrival()
    meter.record_retry()
    meter.record_completion(TaskTimes(queued_at=1.0, started_at=2.0, finished_at=5.0))
    meter.record_failure(TaskTimes(queued_at=1.0, started_at=4.0, finished_at=9.0))
    told = meter.snapshot()
    assert (told.total_tasks_arrived, told.total_tasks_completed, told.total_tasks_failed) == (2, 1, 1)
    assert (told.average_wait_time, told.average_execution_time, told.total_tasks_retried) == (2.0, 4.0, 1)


def test_recording_folds_when_the_buffer_is_full() -> None:
    meter = Meter()
    for _ in range(FOLD_AT):
        meter.record_completion(TaskTimes(1.0, 2.0, 3.0))
    assert (meter.runs, meter.completed) == ([], FOLD_AT)


# Rates


def test_a_steady_stream_is_told_at_its_rate() -> None:
    clock = Clock(0.0)
    meter = Meter(clock)
    arrivals(meter, clock, *[step / 100 for step in range(3000)])
    assert meter.rates(30.0) == pytest.approx((100.0, 100.0), rel=0.01)


def test_the_protocol_marks_its_moments_as_the_direct_way_does() -> None:
    clock = Clock(0.0)
    meter = Meter(clock)
    for step in range(3000):
        clock.now = step / 100
        meter.record_arrival()
        meter.record_completion(TaskTimes(clock.now, clock.now, clock.now))
    assert meter.rates(30.0) == pytest.approx((100.0, 100.0), rel=0.01)


def test_an_arrival_marks_its_moment_without_an_end() -> None:
    clock = Clock(0.0)
    meter = Meter(clock)
    for step in range(3000):
        clock.now = step / 100
        meter.record_arrival()
    assert meter.rates(30.0) == pytest.approx((100.0, 0.0), rel=0.01)


@pytest.mark.parametrize("record", ["record_completion", "record_failure"])
def test_an_end_marks_its_moment_without_an_arrival(record: str) -> None:
    meter = Meter(Clock(0.0))
    for step in range(3000):
        getattr(meter, record)(TaskTimes(0.0, 0.0, step / 100))
    assert meter.rates(30.0) == pytest.approx((0.0, 100.0), rel=0.01)


def test_marks_reach_back_over_the_whole_window_when_they_are_densest() -> None:
    clock = Clock(0.0)
    meter = Meter(clock)
    arrivals(meter, clock, *[0.1001 * step for step in range(200)], *[20.05 + step / 1e4 for step in range(500)])
    arrivals(meter, clock, *[20.2001 + 0.1001 * step for step in range(97)])
    assert meter.rates(29.99)[0] == pytest.approx((500 + 97) / 10, abs=0.3)


@pytest.mark.parametrize(("ago", "counted"), [(10.0, 100), (10.025, 75), (10.05, 50), (10.1, 0)])
def test_what_lies_on_the_rim_of_the_window_counts_in_part(ago: float, counted: float) -> None:
    meter = Meter(Clock(300.0))
    meter.arrived += 100
    assert meter.rates(300.0 + ago)[0] == pytest.approx(counted / 10)


def test_a_young_meter_tells_the_rate_since_its_start() -> None:
    clock = Clock(50.0)
    meter = Meter(clock)
    arrivals(meter, clock, *[50.0 + step / 10 for step in range(40)])
    assert meter.rates(54.0) == (10.0, 10.0)


def test_the_first_moments_are_not_blown_up_to_a_rate() -> None:
    meter = Meter(Clock(50.0))
    meter.arrived += 3
    assert meter.rates(50.001) == (3.0, 0.0)


def test_failures_count_as_ends() -> None:
    meter = Meter(Clock(0.0))
    meter.failed_untimed += 20
    assert meter.rates(5.0) == (0.0, 4.0)


@pytest.mark.parametrize("silence", [10.2, 11.0, 1000.0])
def test_after_a_silence_the_rates_are_zero(silence: float) -> None:
    clock = Clock(0.0)
    meter = Meter(clock)
    arrivals(meter, clock, *[step / 1000 for step in range(20_050)])
    assert meter.rates(20.05 + silence) == (0.0, 0.0)


def test_the_rate_fades_while_a_silence_lasts() -> None:
    clock = Clock(0.0)
    meter = Meter(clock)
    arrivals(meter, clock, *[step / 100 for step in range(3000)])
    rates = [meter.rates(30.0 + second)[0] for second in range(11)]
    assert rates == pytest.approx([100.0 - 10 * second for second in range(11)], abs=1.0)


def test_a_burst_before_a_silence_is_not_told_again_when_the_next_begins() -> None:
    clock = Clock(0.0)
    meter = Meter(clock)
    arrivals(meter, clock, *[step / 1000 for step in range(50)])
    arrivals(meter, clock, *[60.0 + step / 100 for step in range(100)])
    assert meter.rates(61.0)[0] == 10.0


@given(st.lists(st.floats(0.0, 40.0), max_size=200), st.floats(10.0, 45.0))
def test_the_rate_is_within_one_mark_of_what_happened_in_the_window(moments: list[float], now: float) -> None:
    """Whatever the times: no more than what fell into the window or its rim, no less than what fell well inside."""
    clock = Clock(0.0)
    meter = Meter(clock)
    past = sorted(moment for moment in moments if moment <= now)
    arrivals(meter, clock, *past)
    counted = meter.rates(now)[0] * 10
    rim = 2 * MARK_INTERVAL
    assert sum(moment > now - 10 + rim for moment in past) - 1e-6 <= counted
    assert counted <= sum(moment >= now - 10 - rim for moment in past) + 1e-6


def test_marks_are_an_interval_apart() -> None:
    clock = Clock(0.0)
    meter = Meter(clock)
    arrivals(meter, clock, *[step / 1000 for step in range(1000)])
    moments = [mark.at for mark in meter._marks]
    assert all(later - earlier >= MARK_INTERVAL - 1e-9 for earlier, later in pairwise(moments))
    assert meter.next_mark == moments[-1] + MARK_INTERVAL
