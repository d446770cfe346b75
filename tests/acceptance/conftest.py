"""What acceptance tests share beyond the suite's fixtures: a time limit, and helpers that are let go at the end.

Invariant: what a fixture here handed out has ended before the runners of the test are shut down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import gevent
import pytest

from tests.acceptance.kit import Call, Stubborn
from tests.conftest import MakeRunner
from tests.ledger import HeldTask

V = TypeVar("V")

LIMIT = 30.0
"""Seconds a test may take."""


class HangError(BaseException):
    """The test did not end; no `Exception`, so that nothing under test takes it for a task's error."""


class SpawnCall(Protocol):
    """Call `fn(*args, **kwargs)` in a greenlet of its own."""

    def __call__(self, fn: Callable[..., V], *args: Any, **kwargs: Any) -> Call[V]: ...


@pytest.fixture(autouse=True)
def time_limit(nothing_left_behind: None) -> Iterator[None]:
    """End a test that hangs, by an error in it; unref'd, so that a loop with nothing to wait for still says so."""
    with gevent.Timeout(LIMIT, HangError(f"took longer than {LIMIT:g} s"), ref=False):
        yield


@pytest.fixture
def call(make_runner: MakeRunner) -> Iterator[SpawnCall]:
    """Start calls in greenlets of their own; those under way at the test's end are killed."""
    calls: list[Call[Any]] = []

    def start(fn: Callable[..., V], *args: Any, **kwargs: Any) -> Call[V]:
        calls.append(Call(fn, *args, **kwargs))
        return calls[-1]

    yield start
    gevent.killall([one.greenlet for one in calls], timeout=2.0)


@pytest.fixture
def held(make_runner: MakeRunner) -> Iterator[HeldTask[str]]:
    """A task that holds its resource until released, at the latest when the test ends; it returns "held"."""
    task = HeldTask("held")
    yield task
    task.release()


@pytest.fixture
def stubborn(make_runner: MakeRunner) -> Iterator[Stubborn]:
    """A task that survives interruptions until it is let go, at the latest when the test ends."""
    task = Stubborn()
    yield task
    task.let_go()
    # A short moment to return: what is abandoned is not waited for by the runner.
    gevent.sleep(0.01)
