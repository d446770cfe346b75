"""The sum over all workers, and the limits it is compared with."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gtasker import ConfigError, Runner
from gtasker.integrations.gunicorn._sum import Sum, limits_of


def runner(name: str, max_resources: int) -> Runner[object]:
    hooks: dict[str, Any] = {"on_create": object, "on_destroy": lambda _: None}
    return Runner(**hooks, name=name, worker_count=1, resource_pool_size=0, max_resources=max_resources)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> logging.Logger:
    caplog.set_level(logging.INFO)
    return logging.getLogger("tests.web")


@pytest.mark.parametrize(
    ("text", "limits"),
    [("", {}), ("97", {"": 97}), (" 97 ", {"": 97}), ("a=1 b=22", {"a": 1, "b": 22}), ("50 a=1", {"": 50, "a": 1})],
)
def test_limits_are_read(text: str, limits: dict[str, int]) -> None:
    assert limits_of({"GTASKER_SERVER_LIMIT": text}) == limits


@pytest.mark.parametrize("text", ["many", "-1", "a=", "a=b", "1.5", "a =1"])
def test_what_is_no_limit_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="GTASKER_SERVER_LIMIT is"):
        limits_of({"GTASKER_SERVER_LIMIT": text})


def test_without_the_variable_there_is_no_limit() -> None:
    assert limits_of({}) == {}


def test_each_runner_is_told_of_once(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    told = Sum(4, {}, log, speaks=True)
    shop, cache = runner("shop", 10), runner("cache", 5)

    told.look_at([])
    told.look_at([shop])
    told.look_at([shop, cache])
    told.look_at([cache])

    assert caplog.messages == [
        "gtasker: runner 'shop' may open 4 workers x 10 resources = 40",
        "gtasker: runner 'cache' may open 4 workers x 5 resources = 20",
    ]


def test_one_process_speaks_for_all(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    Sum(4, {"": 1}, log, speaks=False).look_at([runner("shop", 10)])

    assert not caplog.messages


@pytest.mark.parametrize(
    ("limits", "warnings"),
    [
        ({"": 60, "shop": 40, "cache": 20}, []),
        ({"": 59}, ["gtasker: all runners together may open 60 resources, but the server allows 59"]),
        ({"shop": 39}, ["gtasker: runner 'shop' may open 40 resources, but the server allows 39"]),
        ({"shop": 40, "cache": 19}, ["gtasker: runner 'cache' may open 20 resources, but the server allows 19"]),
    ],
)
def test_a_sum_above_a_limit_is_warned_of(
    log: logging.Logger, caplog: pytest.LogCaptureFixture, limits: dict[str, int], warnings: list[str]
) -> None:
    told = Sum(4, limits, log, speaks=True)

    for _ in range(2):
        told.look_at([runner("shop", 10), runner("cache", 5)])

    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == warnings
