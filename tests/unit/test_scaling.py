"""Scaling is arithmetic: a load in, a wished change out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtasker._scaling import Load, RateScaling, Scaling, ThresholdScaling, clamp

CALM = Load(
    backlog=0, oldest_wait=0.0, arrival_rate=0.0, completion_rate=0.0,
    busy_workers=0, idle_workers=4, workers=4, base_workers=4, max_workers=10,
)  # fmt: skip
BUSY = dataclasses.replace(CALM, busy_workers=4, idle_workers=0)


def load(**changes: Any) -> Load:
    return dataclasses.replace(BUSY, **changes)


@pytest.mark.parametrize(
    ("threshold", "backlog", "change"), [(5, 0, 0), (5, 5, 0), (5, 6, 3), (5, 10_000, 3), (0, 10_000, 0), (1, 2, 3)]
)
def test_the_threshold_rule_adds_a_step_above_its_threshold_only(threshold: int, backlog: int, change: int) -> None:
    assert ThresholdScaling(threshold, 3).decide(load(backlog=backlog)) == change


@pytest.mark.parametrize(
    ("changes", "change", "why"),
    [
        ({"backlog": 6, "arrival_rate": 60, "completion_rate": 40}, 2, "20 a second lack, a worker does 10"),
        ({"backlog": 6, "arrival_rate": 41, "completion_rate": 40}, 1, "a part of a worker is a worker"),
        ({"backlog": 6, "arrival_rate": 400, "completion_rate": 40}, 3, "at most a step"),
        ({"backlog": 6, "arrival_rate": 40, "completion_rate": 40}, 0, "level"),
        ({"backlog": 6, "arrival_rate": 30, "completion_rate": 40}, 0, "it is being worked off"),
        ({"backlog": 5, "arrival_rate": 60, "completion_rate": 40}, 0, "not above the threshold"),
        ({"backlog": 6, "arrival_rate": 9, "completion_rate": 0}, 3, "nothing ended yet"),
        ({"backlog": 6, "arrival_rate": 0, "completion_rate": 0}, 3, "all stuck, and arrived long ago"),
        ({"backlog": 6, "arrival_rate": 9, "completion_rate": 8, "busy_workers": 0}, 3, "a worker's share is unknown"),
        ({"backlog": 6, "arrival_rate": 60, "completion_rate": 5e-324}, 3, "next to nothing ended"),
        ({"backlog": 6, "arrival_rate": 60, "completion_rate": 40, "workers": 5}, 1, "one of two is being started"),
        (
            {"backlog": 6, "arrival_rate": 60, "completion_rate": 40, "workers": 6, "idle_workers": 1},
            1,
            "one is being started, one idles as yet",
        ),
        ({"backlog": 6, "arrival_rate": 60, "completion_rate": 40, "workers": 6}, 0, "both are being started"),
        (
            {"backlog": 6, "arrival_rate": 60, "completion_rate": 40, "workers": 9},
            0,
            "starting more is no wish to shrink",
        ),
    ],
)
def test_the_rate_rule_grows_by_what_is_lacking(changes: dict[str, Any], change: int, why: str) -> None:
    assert RateScaling(5, 3).decide(load(**changes)) == change, why


@pytest.mark.parametrize(
    ("changes", "change", "why"),
    [
        ({"idle_workers": 2, "arrival_rate": 40, "completion_rate": 40}, -2, "level and two to spare"),
        ({"idle_workers": 9, "arrival_rate": 0, "completion_rate": 0}, -3, "silence; at most a step"),
        ({"idle_workers": 2, "arrival_rate": 41, "completion_rate": 40}, 0, "arrivals outrun"),
        ({"idle_workers": 0, "arrival_rate": 40, "completion_rate": 40}, 0, "nobody idles"),
        ({"idle_workers": 2, "arrival_rate": 40, "completion_rate": 40, "backlog": 1}, 0, "somebody waits"),
    ],
)
def test_the_rate_rule_shrinks_when_completions_keep_up_and_workers_idle(
    changes: dict[str, Any], change: int, why: str
) -> None:
    assert RateScaling(5, 3).decide(load(**changes)) == change, why


@pytest.mark.parametrize("changes", [{"backlog": 99, "arrival_rate": 9.0}, {"idle_workers": 4}])
def test_the_rate_rule_is_off_with_a_threshold_of_zero(changes: dict[str, Any]) -> None:
    assert RateScaling(0, 3).decide(load(**changes)) == 0


@pytest.mark.parametrize(
    ("workers", "wish", "change"),
    [
        (4, 3, 3),
        (4, 6, 6),
        (4, 7, 6),
        (10, 1, 0),
        (4, -1, 0),
        (7, -2, -2),
        (7, -9, -3),
        (12, 0, -2),
        (2, 0, 2),
        (7, 0, 0),
    ],
)
def test_a_wish_is_granted_within_the_bounds(workers: int, wish: int, change: int) -> None:
    assert clamp(load(workers=workers), wish) == change


@pytest.mark.parametrize("wish", [1.5, None, "2"])
def test_a_wish_that_is_no_integer_is_a_type_error(wish: Any) -> None:
    with pytest.raises(TypeError):
        clamp(BUSY, wish)


LOADS = st.builds(
    Load,
    backlog=st.integers(0, 10**6),
    oldest_wait=st.floats(0, 1e6),
    arrival_rate=st.floats(0, 1e9),
    completion_rate=st.floats(0, 1e9),
    busy_workers=st.integers(0, 1000),
    idle_workers=st.integers(0, 1000),
    workers=st.integers(0, 3000),
    base_workers=st.integers(1, 1000),
    max_workers=st.integers(1000, 3000),
)


@given(LOADS, st.integers(0, 100), st.integers(1, 50), st.sampled_from([ThresholdScaling, RateScaling]))
def test_a_rule_never_wishes_for_more_than_a_step_nor_grows_without_need(
    load: Load, threshold: int, step: int, rule: type[ThresholdScaling | RateScaling]
) -> None:
    change = rule(threshold, step).decide(load)
    assert -step <= change <= step
    assert change <= 0 or load.backlog > threshold > 0


@given(LOADS, st.integers(-(10**6), 10**6))
def test_whatever_is_wished_the_workers_stay_within_their_bounds(load: Load, wish: int) -> None:
    assert load.base_workers <= load.workers + clamp(load, wish) <= load.max_workers


@pytest.mark.parametrize("rule", [ThresholdScaling(1, 1), RateScaling(1, 1)])
def test_the_built_in_rules_have_the_shape_of_a_rule(rule: object) -> None:
    assert isinstance(rule, Scaling)


def test_a_load_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        BUSY.backlog = 1  # type: ignore[misc]
