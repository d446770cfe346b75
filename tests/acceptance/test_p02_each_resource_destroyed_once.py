"""P2: every created resource is destroyed exactly once, never while somebody uses it.

The ledger fails each of these tests by itself when a resource is destroyed twice, in use, or not at all.
"""

from __future__ import annotations

import random
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker.errors import RunnerKilledError, StartError
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Call, Stubborn, eventually, let_run, settled, whole
from tests.conftest import MakeRunner
from tests.ledger import Condition, HeldTask, Ledger, LedgerResource, UnfitError, touch


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_end_destroys_all_that_was_created(make_runner: MakeRunner, ledger: Ledger, end: str) -> None:
    runner = make_runner(worker_count=3, resource_pool_size=2).start()
    assert ledger.created == 5

    report = getattr(runner, end)()

    assert report.complete
    assert ledger.destroyed == ledger.created == 5


def test_a_resource_whose_creation_outlives_the_kill_is_destroyed(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.hold()
    runner = make_runner(worker_count=1, resource_pool_size=0)
    handle = runner.submit(touch, 1)
    ledger.creating.wait_entered(1)

    killing = gevent.spawn(runner.kill)
    let_run()
    ledger.creating.release()
    killing.get(timeout=10)

    assert isinstance(handle.exception, RunnerKilledError)
    eventually(lambda: ledger.existing == 0, "the late resource destroyed")


def test_a_create_that_ignores_its_time_out_is_destroyed_when_it_comes(make_runner: MakeRunner, ledger: Ledger) -> None:
    slow_began, let_go = Event(), Event()
    first = [True]

    def create() -> LedgerResource:
        if first:
            first.clear()
            slow_began.set()
            while not let_go.is_set():
                try:
                    let_go.wait()
                except BaseException:  # deaf to the time-out, like a C library
                    continue
        return ledger.create()

    runner = make_runner(
        on_create=create, worker_count=1, resource_pool_size=0, max_resources=2, create_timeout=0.02,
        create_backoff=(0.001, 0.001),
    )  # fmt: skip
    try:
        assert runner.queue_task(touch, "by another", timeout=5) == "by another"
        assert runner.stats().abandoned == 1
    finally:
        let_go.set()

    eventually(lambda: runner.stats().abandoned == 0)
    eventually(lambda: ledger.created == 2 and ledger.destroyed == 1, "the late one destroyed")


def test_a_resource_is_not_destroyed_while_a_lease_uses_it(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1)
    inside, leave = Event(), Event()

    def lend() -> int:
        with runner.lease() as resource, resource.use():
            inside.set()
            leave.wait()
            assert resource.condition is Condition.ALIVE
            return resource.number

    holder = call(lend)
    inside.wait(10)
    stopping = call(runner.stop)
    let_run()
    assert not stopping.ended

    leave.set()

    assert stopping.result().complete
    holder.result()
    assert ledger.existing == 0


def test_a_resource_is_not_destroyed_while_run_task_uses_it(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1)
    caller = call(runner.run_task, held)
    held.wait_begun()
    stopping = call(runner.stop)
    let_run()
    assert not stopping.ended

    held.release()

    assert caller.result() == "held"
    assert stopping.result().complete
    assert ledger.existing == 0


def test_a_recycle_replaces_a_resource_in_use_only_when_it_comes_back(
    make_runner: MakeRunner, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    numbers: list[int] = []

    def use(resource: LedgerResource) -> str:
        numbers.append(resource.number)
        return held(resource)

    handle = runner.submit(use)
    held.wait_begun()

    runner.recycle()
    let_run()
    held.release()

    assert handle.get(timeout=10) == "held"
    runner.queue_task(use, timeout=10)
    assert numbers == [1, 2]


def test_a_deaf_task_keeps_its_resource_until_it_returns(
    make_runner: MakeRunner, ledger: Ledger, stubborn: Stubborn
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    handle = runner.submit(stubborn)
    stubborn.entered.wait(10)
    resource = stubborn.resource
    assert resource is not None

    assert handle.cancel()
    let_run()

    assert resource.condition is Condition.ALIVE
    stubborn.let_go()
    eventually(lambda: ledger.destroyed == 1, "the interrupted resource destroyed")
    assert resource.condition is Condition.DESTROYED
    eventually(lambda: whole(runner, 1, 0))


def test_a_failing_destroy_is_not_repeated(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.destroying.fail()
    runner = make_runner(worker_count=2, resource_pool_size=2).start()

    assert runner.stop().complete

    assert ledger.destroyed == 4


def test_a_destroy_that_hangs_is_abandoned_and_not_repeated(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.destroying.hold()
    runner = make_runner(worker_count=1, resource_pool_size=1, destroy_timeout=0.02).start()

    report = runner.stop(timeout=5)

    assert report.complete
    assert ledger.destroying.entered == 2


def test_a_start_that_fails_destroys_what_it_had_made(make_runner: MakeRunner, ledger: Ledger) -> None:
    made: list[int] = []

    def create() -> LedgerResource:
        if len(made) == 3:
            raise ConnectionRefusedError("no more")
        made.append(1)
        return ledger.create()

    runner = make_runner(on_create=create, worker_count=3, resource_pool_size=2)

    with pytest.raises(StartError):
        runner.start()

    assert ledger.created == ledger.destroyed == 3


@pytest.mark.parametrize("seed", range(6))
def test_after_a_storm_every_resource_was_destroyed_once(make_runner: MakeRunner, ledger: Ledger, seed: int) -> None:
    rng = random.Random(seed)
    runner = make_runner(
        worker_count=3,
        resource_pool_size=2,
        burst_task_threshold=3,
        burst_interval=0.005,
        create_backoff=(0.001, 0.004),
        max_lifetime=0.05,
        max_idle=0.01,
    )
    ledger.creating.delay = 0.001
    ledger.destroying.delay = 0.001

    def work(resource: LedgerResource, roll: float) -> None:
        with resource.use():
            gevent.sleep(roll * 0.005)
            if roll < 0.2:
                raise UnfitError

    def lend(roll: float) -> None:
        with runner.lease(timeout=1) as resource:
            work(resource, roll)

    calls: list[Call[Any]] = []
    for _ in range(200):
        fn = rng.choice([lend, lambda roll: runner.run_task(work, roll), lambda roll: runner.queue_task(work, roll)])
        calls.append(Call(fn, rng.random()))
        if rng.random() < 0.3:
            rng.choice(calls).greenlet.kill(block=False)
        if rng.random() < 0.05:
            runner.recycle()
        gevent.sleep(rng.random() * 0.002)

    report = runner.kill() if seed % 2 else runner.stop()

    assert report.complete
    for one in calls:
        one.join()
    assert ledger.created == ledger.destroyed
    assert ledger.peak <= runner.config.max_resources


def test_a_user_that_swallows_the_kill_of_the_runner_keeps_its_resource(
    make_runner: MakeRunner, ledger: Ledger, stubborn: Stubborn
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    handle = runner.submit(stubborn)
    stubborn.entered.wait(10)

    report = runner.kill(timeout=0.02)

    assert isinstance(settled(handle), RunnerKilledError)
    assert report.abandoned == 1
    assert stubborn.resource is not None
    assert stubborn.resource.condition is Condition.ALIVE
    stubborn.let_go()
    let_run()
    # What was abandoned may or may not be destroyed when it returns at last; twice it may not.
    ledger.abandoned = ledger.existing
