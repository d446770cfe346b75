"""P3: resources never exceed `max_resources`, workers never exceed `max_worker_count`, whatever is under way."""

from __future__ import annotations

import random
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import AcquireTimeoutError
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Call, Stubborn, eventually, let_run, settled, whole
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch


def test_workers_that_are_still_being_made_count(make_runner: MakeRunner, ledger: Ledger, held: HeldTask[str]) -> None:
    runner = make_runner(
        worker_count=1,
        resource_pool_size=0,
        max_worker_count=3,
        max_resources=50,
        max_creating=50,
        burst_task_threshold=1,
        burst_worker_count=5,
        burst_interval=0.002,
    )
    ledger.creating.hold()
    for _ in range(40):
        runner.submit(held)
    ledger.creating.wait_entered(3)

    # Time for some decisions more, all of them with the backlog above the threshold.
    gevent.sleep(0.03)

    assert ledger.creating.entered == 3
    assert runner.stats().burst_workers == 2
    ledger.creating.release()
    held.wait_begun(3)
    gevent.sleep(0.03)
    assert held.begun == 3
    assert ledger.peak == 3


def test_a_hundred_callers_of_run_task_share_max_resources(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=2, max_resources=6)
    ledger.creating.delay = 0.002

    def work(resource: LedgerResource) -> None:
        with resource.use():
            gevent.sleep(0.002)

    callers = [call(runner.run_task, work) for _ in range(100)]
    for caller in callers:
        caller.result()

    assert ledger.peak <= 6
    assert ledger.peak_in_use > 2


def test_a_resource_counts_until_its_destroy_has_returned(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    ledger.destroying.hold()

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            raise UnfitError

    with pytest.raises(UnfitError):
        runner.queue_task_once(fail)
    ledger.destroying.wait_entered(1)
    waiting = call(runner.queue_task, touch, "next")
    let_run()

    assert ledger.creating.entered == 1
    assert not waiting.ended
    ledger.destroying.release()
    assert waiting.result() == "next"
    assert ledger.peak == 1


def test_an_abandoned_destroy_keeps_its_slot_until_it_returns(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    let_go = Event()

    def destroy(resource: LedgerResource) -> None:
        while not let_go.is_set():
            try:
                let_go.wait()
            except BaseException:  # deaf, like a driver in C
                continue
        ledger.destroy(resource)

    runner = make_runner(
        on_destroy=destroy, worker_count=1, resource_pool_size=0, max_resources=1, destroy_timeout=0.01
    )

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            raise UnfitError

    with pytest.raises(UnfitError):
        runner.queue_task_once(fail)
    eventually(lambda: runner.stats().abandoned == 1)
    waiting = call(runner.queue_task, touch, "next")
    let_run()

    assert ledger.creating.entered == 1
    assert not waiting.ended
    let_go.set()
    assert waiting.result() == "next"
    assert runner.stats().abandoned == 0


def test_an_abandoned_task_keeps_its_slot_until_it_returns(
    make_runner: MakeRunner, ledger: Ledger, stubborn: Stubborn
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    handle = runner.submit(stubborn)
    stubborn.entered.wait(10)
    assert handle.cancel()
    waiting = runner.submit(touch, "next")
    let_run()
    eventually(lambda: runner.stats().abandoned == 1)

    assert not waiting.ready()
    assert ledger.creating.entered == 1

    stubborn.let_go()
    assert waiting.get(timeout=10) == "next"
    eventually(lambda: runner.stats().abandoned == 0 and whole(runner, 1, 0))


def test_a_temporary_resource_is_made_only_within_the_bound(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=3)
    callers = [call(runner.run_task, held) for _ in range(3)]
    held.wait_begun(3)

    with pytest.raises(AcquireTimeoutError):
        runner.run_task(touch, 1, timeout=0.02)

    assert ledger.created == 3
    held.release()
    for caller in callers:
        caller.result()


def test_at_most_max_creating_creates_are_under_way(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=6, resource_pool_size=4, max_creating=2)
    ledger.creating.hold()
    peak = [0]

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], ledger.creating.inside)
            gevent.sleep(0)

    watching = gevent.spawn(watch)
    starting = gevent.spawn(runner.start)
    ledger.creating.wait_entered(2)
    let_run()
    assert ledger.creating.inside == 2
    assert runner.stats().creating_resources == 2
    ledger.creating.release()
    starting.get(timeout=10)
    watching.kill()

    assert peak[0] == 2
    assert ledger.created == 10


def test_shrinking_while_busy_never_goes_above_the_old_bound_nor_interrupts(
    make_runner: MakeRunner, ledger: Ledger, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=4, resource_pool_size=0)
    handles = [runner.submit(held) for _ in range(4)]
    held.wait_begun(4)

    runner.resize(worker_count=1, max_worker_count=1, max_resources=1)
    more = [runner.submit(touch, 1) for _ in range(3)]
    let_run()
    held.release()

    assert [handle.get(timeout=10) for handle in handles] == ["held"] * 4
    assert [handle.get(timeout=10) for handle in more] == [1, 1, 1]
    eventually(lambda: ledger.existing == 1)
    assert whole(runner, 1, 0)
    assert ledger.created == 4


@pytest.mark.parametrize("seed", range(4))
def test_the_bounds_hold_in_a_storm(make_runner: MakeRunner, ledger: Ledger, seed: int) -> None:
    rng = random.Random(seed)
    runner = make_runner(
        worker_count=2,
        resource_pool_size=1,
        max_worker_count=5,
        max_resources=6,
        burst_task_threshold=2,
        burst_worker_count=2,
        burst_interval=0.002,
        max_idle=0.01,
        create_backoff=(0.001, 0.004),
    )
    ledger.creating.delay = 0.003
    ledger.destroying.delay = 0.003
    workers: list[int] = []

    def work(resource: LedgerResource, roll: float) -> None:
        with resource.use():
            stats = runner.stats()
            workers.append(max(stats.base_workers + stats.burst_workers, stats.active_workers))
            gevent.sleep(roll * 0.01)
            if roll < 0.2:
                raise UnfitError

    calls: list[Call[Any]] = []
    for _ in range(200):
        ask = rng.choice([runner.queue_task, runner.queue_task, runner.run_task])
        calls.append(Call(ask, work, rng.random()))
        if rng.random() < 0.2:
            rng.choice(calls).greenlet.kill(block=False)
        gevent.sleep(rng.random() * 0.002)
    runner.stop()
    for one in calls:
        one.join()

    assert ledger.peak <= 6
    assert max(workers) <= 5
    assert max(workers) > 2


def test_a_deaf_create_keeps_its_slot(make_runner: MakeRunner, ledger: Ledger, call: SpawnCall) -> None:
    let_go, began = Event(), [0]

    def create() -> LedgerResource:
        began[0] += 1
        while not let_go.is_set():
            try:
                let_go.wait()
            except BaseException:  # deaf, like a driver in C
                continue
        return ledger.create()

    runner = make_runner(
        on_create=create, worker_count=1, resource_pool_size=0, max_resources=1, create_timeout=0.01,
        create_backoff=(0.001, 0.001), fail_fast_after=None,
    )  # fmt: skip
    handle = runner.submit(touch, "answer")
    eventually(lambda: runner.stats().abandoned == 1)
    let_run()

    assert began[0] == 1
    let_go.set()
    assert settled(handle) is None
    assert ledger.peak == 1
