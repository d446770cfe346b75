"""What a third hostile reading has proved, each as the shortest program that shows it.

Invariant: each test failed before its mend, by a hang, a lost resource, a broken bound or a thing told wrongly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import Mock

import gevent
import gevent.os
import pytest
from gevent.hub import get_hub

from gtasker.errors import AcquireTimeoutError
from tests.conftest import MakeRunner
from tests.ledger import PATIENCE, Ledger, LedgerResource, touch
from tests.proof._world import quiet, settles

ONE = {"worker_count": 1, "max_worker_count": 1, "resource_pool_size": 0}


class MuteError(Exception):
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("there is nothing to be shown")


@contextmanager
def counted_polls(count: Callable[[], int]) -> Iterator[list[int]]:
    """List how much was added to `count` from each poll of the event loop to the next."""
    gaps: list[int] = []
    last = count()

    def polled() -> None:
        nonlocal last
        gaps.append(count() - last)
        last = count()

    watcher = get_hub().loop.check()
    watcher.start(polled)
    try:
        yield gaps
    finally:
        watcher.stop()
        watcher.close()


class Burning:
    """A job that never waits; it takes `seconds` of CPU."""

    def __init__(self, seconds: float) -> None:
        self.calls = 0
        self._seconds = seconds

    def __call__(self, *_: object) -> None:
        """Take it. Never switches."""
        self.calls += 1
        until = time.monotonic() + self._seconds
        while time.monotonic() < until:
            pass


def test_resets_that_never_wait_give_way_to_a_poll(make_runner: MakeRunner) -> None:
    reset = Burning(0.002)
    runners = [make_runner(**ONE | {"resource_pool_size": 20, "reset": reset}).start() for _ in range(2)]
    leases = [runner.lease() for runner in runners for _ in range(20)]
    for lease in leases:
        lease.__enter__()

    with counted_polls(lambda: reset.calls) as gaps:
        for lease in leases:
            lease.__exit__(None, None, None)
        assert settles(lambda: reset.calls == len(leases), PATIENCE)

    assert max(gaps) <= 4  # 5 ms, and the last that began before they were over


def test_creations_that_fail_at_once_and_without_a_pause_give_way_to_a_poll(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    create = Burning(0.002)

    def fail() -> LedgerResource:
        create()
        raise ConnectionError("away")

    runner = make_runner(**ONE, on_create=fail, create_backoff=(0, 0), fail_fast_after=None, logger=quiet)
    with counted_polls(lambda: create.calls) as gaps:
        task = runner.submit(touch, "later")
        assert settles(lambda: create.calls > 100, PATIENCE)

    assert max(gaps) <= 4
    runner.kill()
    assert task.ready()


def test_an_error_that_cannot_be_shown_answers_all_the_same(make_runner: MakeRunner) -> None:
    def fail(_resource: object, _item: object) -> None:
        raise MuteError

    runner = make_runner(**ONE, logger=quiet)

    with gevent.Timeout(PATIENCE), pytest.raises(MuteError):
        runner.map(fail, [1])


def test_a_wait_times_out_though_the_creation_s_error_cannot_be_shown(make_runner: MakeRunner) -> None:
    def fail() -> LedgerResource:
        raise MuteError

    runner = make_runner(**ONE, on_create=fail, logger=quiet)

    with gevent.Timeout(PATIENCE), pytest.raises(AcquireTimeoutError, match="MuteError"), runner.lease(timeout=0.05):
        pass
    assert runner.backend().last_error == "MuteError"


def test_a_callable_that_has_every_attribute_is_named_by_its_type(make_runner: MakeRunner) -> None:
    task = make_runner(**ONE, logger=quiet).submit(Mock(side_effect=MuteError))

    with pytest.raises(MuteError):
        task.get(PATIENCE)
