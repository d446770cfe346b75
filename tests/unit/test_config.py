"""A config is right, complete and unchangeable, or it is not there at all."""

from __future__ import annotations

import dataclasses
import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
from gevent.event import Event

from gtasker._config import Config, make_scaling
from gtasker._metrics import Meter
from gtasker._scaling import Load, RateScaling, ThresholdScaling
from gtasker.errors import (
    ConfigError,
    OnCreateFunctionRequiredError,
    OnDestroyFunctionRequiredError,
    WorkerCountMustBePositiveError,
)


def create() -> object:
    return object()


def destroy(resource: object) -> None:
    del resource


def config(**options: Any) -> Config[object]:
    return Config(**{"on_create": create, "on_destroy": destroy, "worker_count": 4, **options})


class Rule:
    """A rule of the user's own."""

    def decide(self, load: Load) -> int:
        return load.backlog


REQUIRED = {
    "on_create": OnCreateFunctionRequiredError,
    "on_destroy": OnDestroyFunctionRequiredError,
    "worker_count": WorkerCountMustBePositiveError,
}

DEFAULTS = {
    "ctx": None, "check_health": None, "burst_task_threshold": 0, "burst_worker_count": 2, "max_worker_count": 6,
    "burst_interval": 0.1, "max_retries": 3, "resource_pool_size": 4, "scaling": "threshold", "collector": None,
    "logger": logging.getLogger("gtasker"), "max_resources": 10, "max_creating": 4, "create_timeout": 30,
    "destroy_timeout": 5, "hook_timeout": 5, "create_backoff": (0.05, 0.5), "fail_fast_after": 10.0,
    "acquire_timeout": 30.0, "max_waiting": None, "check_resource": None, "check_idle": 1.0, "check_readable": False,
    "keepalive": None, "reset": None, "on_interrupt": None, "on_forget": None, "max_lifetime": 3600, "max_idle": 60,
    "leak_warning": None, "max_queued": None, "enqueue_timeout": None, "task_timeout": None,
    "retry_backoff": (0.0, 5.0), "priority_aging": None, "cancel_on_abandon": False, "propagate_context": True,
    "hub_blocked_after": None, "on_event": None,
}  # fmt: skip


# What is required


@pytest.mark.parametrize(("field", "error"), REQUIRED.items())
def test_a_required_field_that_is_left_out_is_named(field: str, error: type[Exception]) -> None:
    options: dict[str, Any] = {"on_create": create, "on_destroy": destroy, "worker_count": 4}
    del options[field]
    with pytest.raises(error, match=rf"^{field} must be .*, not None$"):
        Config(**options)


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "4", None])
def test_the_worker_count_is_an_int_above_zero(value: object) -> None:
    with pytest.raises(WorkerCountMustBePositiveError):
        config(worker_count=value)


# Defaults


def test_the_defaults_are_the_promised_ones() -> None:
    built = config()
    assert {name: getattr(built, name) for name in DEFAULTS} == DEFAULTS


def test_there_is_no_field_without_a_promise() -> None:
    assert {field.name for field in dataclasses.fields(Config)} == {*DEFAULTS, *REQUIRED, "name"}


@pytest.mark.parametrize(
    ("options", "resolved"),
    [
        ({"burst_worker_count": 0}, {"burst_worker_count": 2, "max_worker_count": 6}),
        ({"burst_worker_count": -3}, {"burst_worker_count": 2}),
        ({"burst_worker_count": 1}, {"burst_worker_count": 1, "max_worker_count": 5}),
        ({"worker_count": 1, "max_worker_count": 1}, {"max_worker_count": 1, "max_resources": 2}),
        ({"burst_worker_count": 5}, {"burst_worker_count": 5, "max_worker_count": 9, "max_resources": 13}),
        ({"max_worker_count": 0}, {"max_worker_count": 6}),
        ({"max_worker_count": -1}, {"max_worker_count": 6}),
        ({"max_worker_count": 4}, {"max_worker_count": 4, "max_resources": 8}),
        ({"resource_pool_size": 0}, {"resource_pool_size": 0, "max_resources": 6}),
        ({"resource_pool_size": 7}, {"resource_pool_size": 7, "max_resources": 13}),
        ({"max_resources": 8}, {"max_resources": 8, "max_worker_count": 6}),
        ({"create_backoff": [1, 2]}, {"create_backoff": (1.0, 2.0)}),
    ],
)
def test_what_is_left_open_follows_from_the_rest(options: dict[str, Any], resolved: dict[str, Any]) -> None:
    built = config(**options)
    assert {name: getattr(built, name) for name in resolved} == resolved


def test_unnamed_configs_are_numbered_apart() -> None:
    first, second = config().name, config().name
    assert first.startswith("runner-")
    assert int(second.removeprefix("runner-")) == int(first.removeprefix("runner-")) + 1


# Bounds

POSITIVE = ["burst_interval", "create_timeout", "destroy_timeout", "hook_timeout"]
POSITIVE_OR_NONE = ["max_lifetime", "leak_warning", "task_timeout", "priority_aging", "hub_blocked_after"]
SECONDS = ["check_idle", "max_idle"]
SECONDS_OR_NONE = ["fail_fast_after", "acquire_timeout", "enqueue_timeout"]
PAIRS = ["create_backoff", "retry_backoff"]
COUNTS = {"burst_task_threshold": 0, "max_retries": 0, "max_creating": 1}
COUNTS_OR_NONE = {"max_waiting": 0, "max_queued": 1, "resource_pool_size": 0}
HOOKS = ["check_health", "check_resource", "reset", "on_interrupt", "on_forget", "on_event"]
SWITCHES = ["check_readable", "cancel_on_abandon", "propagate_context"]
NO_NUMBERS: list[Any] = ["1", True, [1], 1j, object()]
NO_SECONDS: list[Any] = [-0.001, -1, math.nan, math.inf, -math.inf, 10**400, *NO_NUMBERS]

WRONG: list[tuple[str, Any]] = [
    *((field, value) for field in (*POSITIVE, *POSITIVE_OR_NONE) for value in (0, 0.0, *NO_SECONDS)),
    *((field, value) for field in (*SECONDS, *SECONDS_OR_NONE) for value in NO_SECONDS),
    *((field, None) for field in (*POSITIVE, *SECONDS, *PAIRS, *COUNTS, *SWITCHES)),
    *((field, least - 1) for field, least in {**COUNTS, **COUNTS_OR_NONE}.items()),
    *((field, value) for field in (*COUNTS, *COUNTS_OR_NONE) for value in (1.0, math.nan, *NO_NUMBERS)),
    *((field, value) for field in ("burst_worker_count", "max_worker_count", "max_resources") for value in NO_NUMBERS),
    *((field, (base, 9)) for field in PAIRS for base in NO_SECONDS),
    *((field, (0, cap)) for field in PAIRS for cap in NO_SECONDS),
    *((field, value) for field in PAIRS for value in ((2, 1), (1,), (1, 2, 3), 1, "12", {1, 2})),
    *((field, value) for field in HOOKS for value in (1, "destroy", object())),
    *((field, value) for field in SWITCHES for value in (0, 1, "yes")),
    *(("name", value) for value in ("", "two\nlines", "bell\a", 7, b"runner")),
    *(("ctx", value) for value in (SimpleNamespace(is_set=bool, wait=bool), Event, 1)),
    *(("logger", value) for value in (None, print, "gtasker", logging.Logger)),
    *(("collector", value) for value in (Meter, object(), Rule())),
    *(("scaling", value) for value in ("ratio", "", None, Rule, Meter(), max)),
    ("max_worker_count", 3),
    ("max_resources", 7),
    ("max_resources", 0),
    ("keepalive", 5.0),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda part: repr(part)[:40])
def test_a_wrong_value_raises_an_error_that_names_the_field(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{field} must be .+, not .+$"):
        config(**{field: value})


@pytest.mark.parametrize("value", [0, *NO_SECONDS])
def test_keepalive_is_checked_where_there_is_something_to_ask(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^keepalive must be finite seconds above 0"):
        config(keepalive=value, check_resource=bool)


RIGHT: list[tuple[str, Any]] = [
    *((field, value) for field in (*POSITIVE, *POSITIVE_OR_NONE) for value in (1, 0.001)),
    *((field, value) for field in (*SECONDS, *SECONDS_OR_NONE) for value in (0, 0.0, 1e9)),
    *((field, None) for field in (*POSITIVE_OR_NONE, *SECONDS_OR_NONE, "max_waiting", "max_queued", *HOOKS)),
    *((field, least) for field, least in {**COUNTS, **COUNTS_OR_NONE}.items()),
    *((field, value) for field in PAIRS for value in ((0.0, 0.0), (1.0, 1.0), (0.5, 8.0))),
    *((field, bool) for field in HOOKS),
    *((field, value) for field in SWITCHES for value in (True, False)),
    ("name", "orders db"),
    ("ctx", Event()),
    ("logger", logging.LoggerAdapter(logging.getLogger("mine"), {})),
    ("collector", Meter()),
    ("scaling", "rate"),
    ("scaling", Rule()),
    ("max_worker_count", 4),
    ("max_resources", 8),
]


@pytest.mark.parametrize(("field", "value"), RIGHT, ids=lambda part: repr(part)[:40])
def test_a_value_at_its_bound_is_taken_as_it_is(field: str, value: object) -> None:
    assert getattr(config(**{field: value}), field) == value


def test_every_field_has_a_wrong_value_in_the_table() -> None:
    tried = {field for field, _ in WRONG}
    assert tried | set(REQUIRED) == {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker_count": 0}, "worker_count must be at least 1, not 0"),
        ({"max_worker_count": 3}, "max_worker_count must be at least 4 (worker_count), not 3"),
        ({"max_resources": 7}, "max_resources must be at least 8 (worker_count + resource_pool_size), not 7"),
        ({"max_retries": -1}, "max_retries must be at least 0, not -1"),
        ({"hook_timeout": 0}, "hook_timeout must be finite seconds above 0, not 0"),
        ({"max_idle": -2.5}, "max_idle must be finite seconds, 0 or more, not -2.5"),
        (
            {"retry_backoff": (2, 1)},
            "retry_backoff must be a pair (base, cap) of finite seconds with 0 <= base <= cap, not (2, 1)",
        ),
        ({"scaling": "ratio"}, "scaling must be 'threshold' or 'rate' or an object with decide, not 'ratio'"),
        ({"ctx": 1}, "ctx must be an object with rawlink, wait, is_set, not 1"),
        ({"keepalive": 5.0}, "keepalive must be None where there is no check_resource to ask, not 5.0"),
    ],
)
def test_an_error_names_the_field_the_value_and_the_bound(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("field", ["on_create", "on_event", "ctx", "logger", "create_timeout", "worker_count"])
def test_an_error_shows_no_secret(field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**{field: "postgres://me:hunter2@db"})
    assert "hunter2" not in str(caught.value)
    assert "an object of type str" in str(caught.value)


# The object itself


def test_the_repr_is_one_line_with_the_sum_a_process_may_open() -> None:
    built = config(name="orders", max_worker_count=6, resource_pool_size=3, max_resources=42)
    assert repr(built) == "<Config orders: workers 4..6, reserve 3, at most 42 resources>"


def test_a_config_cannot_be_changed() -> None:
    built = config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        built.max_idle = 1.0  # type: ignore[misc]


def test_a_config_is_built_by_keyword_only() -> None:
    with pytest.raises(TypeError):
        Config(create, destroy, 4)  # type: ignore[call-arg]


def test_configs_compare_and_hash_by_identity() -> None:
    first, second = config(name="same"), config(name="same")
    assert first != second
    assert len({first, second, first}) == 2


def test_a_replaced_config_keeps_what_was_resolved_and_is_checked_again() -> None:
    built = config()
    assert dataclasses.replace(built, max_idle=1.0).name == built.name
    with pytest.raises(ConfigError, match=r"^max_worker_count must be at least 7"):
        dataclasses.replace(built, worker_count=7)


@pytest.mark.parametrize(
    ("word", "rule"), [("threshold", ThresholdScaling(threshold=9, step=3)), ("rate", RateScaling(threshold=9, step=3))]
)
def test_a_word_stands_for_a_rule_with_the_bursts_numbers(word: str, rule: object) -> None:
    assert make_scaling(config(scaling=word, burst_task_threshold=9, burst_worker_count=3)) == rule


def test_a_rule_of_the_users_is_used_as_it_is() -> None:
    rule = Rule()
    assert make_scaling(config(scaling=rule)) is rule
