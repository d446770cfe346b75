"""P6: after any sequence of faults all workers and the whole reserve come back, with no traffic needed."""

from __future__ import annotations

import random
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import Runner
from gtasker.errors import GTaskerError
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Call, Recorder, eventually, let_run, settled, whole, workers_of
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch

BACKOFF = (0.005, 0.02)


def unfit(resource: LedgerResource) -> None:
    """Use the resource up."""
    with resource.use():
        raise UnfitError


def lend_until(runner: Runner[LedgerResource], held: HeldTask[str]) -> None:
    """Lease a resource and hold it."""
    with runner.lease() as resource:
        held(resource)


def test_after_unhealthy_errors_all_workers_are_back(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=3, resource_pool_size=2, max_retries=0).start()
    handles = [runner.submit(unfit) for _ in range(9)]

    for handle in handles:
        assert isinstance(settled(handle), UnfitError)

    eventually(lambda: whole(runner, 3, 2))
    assert ledger.destroyed == 9


def test_after_unfit_leases_the_reserve_is_back(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=3).start()

    for _ in range(3):
        with pytest.raises(UnfitError):
            runner.run_task(unfit)

    eventually(lambda: whole(runner, 1, 3))
    assert ledger.destroyed == 3


@pytest.mark.parametrize("rounds", [1, 3])
def test_after_killed_workers_all_are_back(make_runner: MakeRunner, rounds: int) -> None:
    runner = make_runner(worker_count=3, resource_pool_size=1).start()

    for _ in range(rounds):
        for worker in workers_of(runner, 3):
            worker.kill(block=False)
        let_run()
        eventually(lambda: whole(runner, 3, 1))


def test_after_killed_busy_workers_all_are_back(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=3, resource_pool_size=1).start()
    workers = workers_of(runner, 3)
    handles = [runner.submit(held) for _ in range(3)]
    held.wait_begun(3)

    for worker in workers:
        worker.kill(block=False)
    for handle in handles:
        settled(handle)

    eventually(lambda: whole(runner, 3, 1))


def test_after_killed_callers_the_reserve_is_back(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=2).start()
    callers = [call(runner.run_task, held), call(lend_until, runner, held)]
    held.wait_begun(2)

    for caller in callers:
        caller.greenlet.kill()

    eventually(lambda: whole(runner, 2, 2))


def test_after_timeouts_all_is_back(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=1, task_timeout=0.02).start()
    handles = [runner.submit(held) for _ in range(4)]

    for handle in handles:
        assert isinstance(settled(handle), GTaskerError)

    eventually(lambda: whole(runner, 2, 1))


def test_after_an_outage_all_is_back_with_no_traffic(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=3, resource_pool_size=2, create_backoff=BACKOFF, max_retries=0).start()
    ledger.creating.fail()
    for _ in range(3):
        with pytest.raises(UnfitError):
            runner.queue_task(unfit)
    attempts = ledger.creating.entered
    # The backend stays away for some rounds of back-off.
    ledger.creating.wait_entered(attempts + 4)

    ledger.creating.heal()

    eventually(lambda: whole(runner, 3, 2))


def test_an_outage_from_the_start_heals(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail()
    runner = make_runner(worker_count=2, resource_pool_size=2, create_backoff=BACKOFF)
    handle = runner.submit(touch, "at last")
    ledger.creating.wait_entered(5)
    assert not handle.ready()

    ledger.creating.heal()

    assert handle.get(timeout=10) == "at last"
    eventually(lambda: whole(runner, 2, 2))


def test_after_fail_fast_new_tasks_run_again(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail()
    recorder = Recorder()
    runner = make_runner(worker_count=2, fail_fast_after=0.01, create_backoff=BACKOFF, on_event=recorder)
    assert isinstance(settled(runner.submit(touch, 1)), GTaskerError)

    ledger.creating.heal()

    eventually(lambda: whole(runner, 2, 2))
    assert runner.queue_task(touch, "again") == "again"


def test_creation_never_gives_up(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail()
    runner = make_runner(worker_count=1, resource_pool_size=0, fail_fast_after=0.005, create_backoff=(0.001, 0.002))
    runner.submit(touch, 1)

    ledger.creating.wait_entered(100)
    ledger.creating.heal()

    eventually(lambda: whole(runner, 1, 0))


def test_while_the_backend_is_down_there_is_one_prober(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.fail()
    ledger.creating.delay = 0.002
    runner = make_runner(worker_count=4, resource_pool_size=4, create_backoff=(0.002, 0.004), max_creating=8)
    runner.submit(touch, 1)
    # The first creates were begun together, before anyone could know.
    ledger.creating.wait_entered(12)
    eventually(lambda: ledger.creating.inside <= 1)
    peak = 0

    def probed() -> bool:
        nonlocal peak
        peak = max(peak, ledger.creating.inside)
        return ledger.creating.entered > 40

    while not probed():
        gevent.sleep(0.0005)

    assert peak == 1
    ledger.creating.heal()
    eventually(lambda: whole(runner, 4, 4))


def test_a_destroy_that_raises_costs_no_slot(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.destroying.fail()
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=2, max_retries=0).start()

    for _ in range(5):
        with pytest.raises(UnfitError):
            runner.queue_task(unfit)
        with pytest.raises(UnfitError):
            runner.run_task(unfit)

    eventually(lambda: whole(runner, 1, 1))


def test_a_create_timeout_counts_as_a_failed_create_and_heals(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.hold()
    runner = make_runner(worker_count=1, resource_pool_size=1, create_timeout=0.01, create_backoff=BACKOFF)
    handle = runner.submit(touch, "at last")
    ledger.creating.wait_entered(4)

    ledger.creating.release()

    assert handle.get(timeout=10) == "at last"
    eventually(lambda: whole(runner, 1, 1))
    assert runner.metrics().create_failures >= 2


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout, BaseException, SystemExit])
def test_a_create_that_raises_no_exception_is_tried_again(
    make_runner: MakeRunner, ledger: Ledger, error: type[BaseException]
) -> None:
    ledger.creating.fail(error, times=3)
    runner = make_runner(worker_count=1, resource_pool_size=1, create_backoff=BACKOFF)

    assert runner.queue_task(touch, "answer", timeout=10) == "answer"

    eventually(lambda: whole(runner, 1, 1))


def test_capacity_that_comes_back_by_a_destroy_wakes_who_waits(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, acquire_timeout=None)
    ledger.destroying.hold()
    with pytest.raises(UnfitError):
        runner.run_task(unfit)
    waiting = [call(runner.run_task, touch, number) for number in range(3)]
    eventually(lambda: runner.stats().waiting_leases == 3)

    ledger.destroying.release()

    assert [one.result() for one in waiting] == [0, 1, 2]


def test_capacity_that_comes_back_by_resize_wakes_who_waits(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_worker_count=1, max_resources=1)
    runner.submit(held)
    held.wait_begun()
    leasing = call(runner.run_task, touch, "leased")
    task = runner.submit(touch, "run")
    eventually(lambda: runner.stats().waiting_leases == 1)

    runner.resize(worker_count=2, max_worker_count=2, max_resources=3)

    assert leasing.result() == "leased"
    assert task.get(timeout=10) == "run"
    held.release()


def test_a_leak_heals(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=2).start()

    def leak() -> None:
        runner.lease().__enter__()

    gevent.spawn(leak).join()

    eventually(lambda: ledger.destroyed == 1, "the leaked resource destroyed", timeout=5)
    eventually(lambda: whole(runner, 1, 1))


@pytest.mark.parametrize("seed", range(8))
def test_after_a_storm_all_is_back_with_no_traffic(make_runner: MakeRunner, ledger: Ledger, seed: int) -> None:
    rng = random.Random(seed)
    runner = make_runner(
        worker_count=3,
        resource_pool_size=2,
        create_backoff=BACKOFF,
        max_idle=0.02,
        task_timeout=0.1,
        max_retries=1,
        burst_task_threshold=4,
        burst_interval=0.005,
    )

    def work(resource: LedgerResource, longest: float = 0.012) -> None:
        with resource.use():
            gevent.sleep(rng.random() * longest)
            if rng.random() < 0.2:
                raise UnfitError

    def lend() -> None:
        with runner.lease(timeout=rng.choice([0.001, 0.1])) as resource:
            work(resource)

    calls: list[Call[Any]] = []
    workers = workers_of(runner, 3)
    for step in range(200):
        fn = rng.choice([lend, lambda: runner.run_task(work), lambda: runner.queue_task(work, rng.choice([0.012, 60]))])
        calls.append(Call(fn))
        if rng.random() < 0.2:
            rng.choice(calls).greenlet.kill(block=False)
        if rng.random() < 0.02:
            rng.choice(workers).kill(block=False)
        if step % 40 == 20:
            ledger.creating.fail()
        if step % 40 == 30:
            ledger.creating.heal()
        if rng.random() < 0.5:
            gevent.sleep(rng.random() * 0.003)
    ledger.creating.heal()
    for one in calls:
        one.join()

    eventually(lambda: whole(runner, 3, 2), f"whole again: {runner!r} {runner.stats()}")
    assert runner.stats().queued_tasks == runner.stats().waiting_leases == runner.stats().delayed_tasks == 0


def test_a_missing_reserve_is_refilled_by_max_creating_at_a_time(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=6, max_creating=3).start()
    ledger.creating.hold()

    runner.recycle()
    ledger.creating.wait_entered(8 + 3)
    let_run()

    assert ledger.creating.entered == 11
    ledger.creating.release()
    eventually(lambda: whole(runner, 2, 6))
    assert ledger.created == 16


def test_a_worker_that_dies_while_its_resource_is_made_is_back(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_retries=0).start()
    (worker,) = workers_of(runner, 1)
    ledger.creating.hold()
    handle = runner.submit(unfit)
    assert isinstance(settled(handle), UnfitError)
    ledger.creating.wait_entered(2)

    worker.kill(block=False)
    let_run()
    ledger.creating.release()

    eventually(lambda: whole(runner, 1, 0))
    assert runner.queue_task(touch, "next") == "next"


def test_an_abandoned_slot_is_left_out_and_the_rest_heals(make_runner: MakeRunner) -> None:
    let_go = Event()
    runner = make_runner(worker_count=3, resource_pool_size=0, max_resources=3, max_retries=0)

    def deaf(resource: LedgerResource) -> None:
        with resource.use():
            while not let_go.is_set():
                try:
                    let_go.wait()
                except BaseException:  # it swallows the kill
                    continue

    deaf_one = runner.submit(deaf)
    let_run()
    deaf_one.cancel()
    for _ in range(4):
        assert isinstance(settled(runner.submit(unfit)), UnfitError)

    eventually(lambda: runner.stats().active_workers == 2 and runner.stats().abandoned == 1)
    let_go.set()
    eventually(lambda: whole(runner, 3, 0) and runner.stats().abandoned == 0)
