"""P4: within a priority first come first served, a higher priority always first, no barging; ageing when asked for."""

from __future__ import annotations

import itertools
from collections import Counter

import gevent
import pytest
from gevent.event import Event

from gtasker import Priority, Runner
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import eventually, let_run, note
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch


def one_resource(make_runner: MakeRunner, **options: object) -> Runner[LedgerResource]:
    """Make a runner with one resource for everything."""
    return make_runner(worker_count=1, resource_pool_size=0, max_worker_count=1, max_resources=1, **options)


def test_tasks_of_one_priority_run_in_order_of_arrival(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = one_resource(make_runner)
    runner.submit(held)
    held.wait_begun()
    ran: list[int] = []
    for number in range(100):
        runner.submit(note, ran, number)

    held.release()
    runner.stop()

    assert ran == list(range(100))


def test_a_higher_priority_always_goes_first(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = one_resource(make_runner)
    runner.submit(held)
    held.wait_begun()
    ran: list[tuple[int, int]] = []
    for number in range(60):
        priority = (Priority.LOW, Priority.NORMAL, Priority.HIGH, 5, -3, 99)[number % 6]
        runner.submit(note, ran, (int(priority), number), priority=priority)

    held.release()
    runner.stop()

    assert len(ran) == 60
    assert ran == sorted(ran)


def test_queue_task_with_priority_overtakes(make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    runner = one_resource(make_runner)
    runner.submit(held)
    held.wait_begun()
    ran: list[str] = []
    callers = [
        call(runner.queue_task, note, ran, "normal"),
        call(runner.queue_task_with_priority, note, ran, "high"),
        call(runner.queue_task_with_priority_once, note, ran, "high once"),
        call(runner.queue_task_once, note, ran, "normal once"),
    ]
    eventually(lambda: runner.stats().queued_tasks + runner.stats().priority_tasks == 4)

    held.release()
    for caller in callers:
        caller.result()

    assert ran == ["high", "high once", "normal", "normal once"]


def test_tasks_and_leases_stand_in_one_line(make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    runner = one_resource(make_runner)
    runner.submit(held)
    held.wait_begun()
    order: list[str] = []

    def lend(mark: str, priority: int) -> None:
        with runner.lease(priority=priority):
            order.append(mark)

    callers = []
    for mark, kind, priority in [
        ("1 task", "task", Priority.NORMAL),
        ("2 lease", "lease", Priority.NORMAL),
        ("3 task", "task", Priority.NORMAL),
        ("4 low lease", "lease", Priority.LOW),
        ("5 high task", "task", Priority.HIGH),
        ("6 high lease", "lease", Priority.HIGH),
        ("7 run_task, as high", "run_task", Priority.HIGH),
    ]:
        if kind == "task":
            runner.submit(note, order, mark, priority=priority)
        elif kind == "lease":
            callers.append(call(lend, mark, priority))
        else:
            callers.append(call(runner.run_task, note, order, mark))
        let_run(3)

    held.release()
    for caller in callers:
        caller.result()
    runner.stop()

    assert order == [
        "5 high task", "6 high lease", "7 run_task, as high", "1 task", "2 lease", "3 task", "4 low lease"
    ]  # fmt: skip


def test_greedy_callers_of_lease_are_served_evenly(make_runner: MakeRunner, call: SpawnCall) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=2, max_worker_count=1)
    runner.start()
    served = Counter[int]()
    go_on = [True]

    def greedy(number: int) -> None:
        while go_on[0]:
            with runner.lease():
                served[number] += 1
                if sum(served.values()) >= 3000:
                    go_on[0] = False
                gevent.sleep(0)

    callers = [call(greedy, number) for number in range(30)]
    for caller in callers:
        caller.result()

    assert len(served) == 30
    assert max(served.values()) - min(served.values()) <= 3


def test_greedy_callers_of_queue_task_are_served_evenly(make_runner: MakeRunner, call: SpawnCall) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=0)
    runner.start()
    served = Counter[int]()

    def yielding(resource: LedgerResource, number: int) -> None:
        with resource.use():
            served[number] += 1
            gevent.sleep(0)

    def greedy(number: int) -> None:
        while sum(served.values()) < 3000:
            runner.queue_task(yielding, number)

    callers = [call(greedy, number) for number in range(30)]
    for caller in callers:
        caller.result()

    assert len(served) == 30
    assert max(served.values()) - min(served.values()) <= 3


def test_greedy_callers_whose_tasks_never_wait_are_served_as_they_come(
    make_runner: MakeRunner, call: SpawnCall
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0)
    runner.start()
    tickets = itertools.count()
    ran: list[int] = []

    def quick(_resource: LedgerResource, ticket: int) -> None:
        ran.append(ticket)

    held: HeldTask[str] = HeldTask("held")
    runner.submit(held)
    held.wait_begun()

    def ask() -> None:
        for _ in range(100):
            runner.queue_task(quick, next(tickets))

    callers = [call(ask) for _ in range(10)]
    eventually(lambda: runner.stats().queued_tasks == 10)
    held.release()
    for caller in callers:
        caller.result()

    assert ran == list(range(1000))


def test_a_task_that_arrives_while_a_worker_is_being_handed_over_does_not_barge(make_runner: MakeRunner) -> None:
    runner = one_resource(make_runner)
    held: HeldTask[str] = HeldTask("held")
    first = runner.submit(held)
    held.wait_begun()
    ran: list[str] = []
    runner.submit(note, ran, "waited")
    first.rawlink(lambda _t: runner.submit(note, ran, "came as it came free"))

    held.release()
    first.get(timeout=10)
    eventually(lambda: len(ran) == 2)

    assert ran == ["waited", "came as it came free"]


def test_a_retried_task_keeps_its_place_in_line(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = one_resource(make_runner)
    runner.submit(held)
    held.wait_begun()
    ran: list[str] = []

    def fail_once(_resource: LedgerResource) -> None:
        ran.append("first")
        if ran.count("first") == 1:
            raise UnfitError

    runner.submit(fail_once)
    runner.submit(note, ran, "second")
    runner.submit(note, ran, "third")

    held.release()
    runner.stop()

    assert ran == ["first", "first", "second", "third"]


def test_a_retry_does_not_overtake_a_higher_priority(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = one_resource(make_runner)
    runner.submit(held)
    held.wait_begun()
    ran: list[str] = []

    def fail_once(_resource: LedgerResource) -> None:
        ran.append("normal")
        if ran.count("normal") == 1:
            runner.submit(note, ran, "high", priority=Priority.HIGH)
            raise UnfitError

    runner.submit(fail_once)

    held.release()
    runner.stop()

    assert ran == ["normal", "high", "normal"]


def test_ageing_lets_a_long_wait_make_up_for_a_low_priority(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    # 20 steps between LOW and HIGH are made up for by 20 ms.
    runner = one_resource(make_runner, priority_aging=0.001)
    runner.submit(held)
    held.wait_begun()
    ran: list[str] = []
    runner.submit(note, ran, "low, long ago", priority=Priority.LOW)
    gevent.sleep(0.05)
    runner.submit(note, ran, "high, just now", priority=Priority.HIGH)

    held.release()
    runner.stop()

    assert ran == ["low, long ago", "high, just now"]


@pytest.mark.parametrize("aging", [None, 100.0])
def test_without_enough_waiting_the_priority_decides(
    make_runner: MakeRunner, held: HeldTask[str], aging: float | None
) -> None:
    runner = one_resource(make_runner, priority_aging=aging)
    runner.submit(held)
    held.wait_begun()
    ran: list[str] = []
    runner.submit(note, ran, "low", priority=Priority.LOW)
    gevent.sleep(0.05)
    runner.submit(note, ran, "normal", priority=Priority.NORMAL)
    runner.submit(note, ran, "high", priority=Priority.HIGH)

    held.release()
    runner.stop()

    assert ran == ["high", "normal", "low"]


def test_ageing_holds_for_leases_too(make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    runner = one_resource(make_runner, priority_aging=0.001)
    runner.submit(held)
    held.wait_begun()
    ran: list[str] = []

    def lend() -> None:
        with runner.lease(priority=Priority.LOW):
            ran.append("low lease, long ago")

    leasing = call(lend)
    eventually(lambda: runner.stats().waiting_leases == 1)
    gevent.sleep(0.05)
    runner.submit(note, ran, "high, just now", priority=Priority.HIGH)

    held.release()
    leasing.result()
    runner.stop()

    assert ran == ["low lease, long ago", "high, just now"]


def test_a_freed_reserve_resource_goes_to_leases_only(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1, max_worker_count=1, max_resources=2)
    runner.submit(held)
    held.wait_begun()
    order: list[str] = []
    leave = Event()

    def lend(mark: str) -> None:
        with runner.lease(timeout=5):
            order.append(mark)
            leave.wait()

    first = call(lend, "first lease")
    eventually(lambda: order == ["first lease"])
    task = runner.submit(lambda _r: order.append("task"), priority=Priority.HIGH)
    second = call(lend, "second lease")
    eventually(lambda: runner.stats().waiting_leases == 1)

    leave.set()
    first.result()
    second.result()
    let_run()

    assert order == ["first lease", "second lease"]
    assert not task.ready()
    held.release()
    task.get(timeout=10)


def test_refilling_the_reserve_comes_after_all_who_wait(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    fourth = Event()

    def create() -> LedgerResource:
        if ledger.created == 3:
            fourth.wait()
        return ledger.create()

    runner = make_runner(
        on_create=create, worker_count=1, resource_pool_size=1, max_worker_count=1, max_resources=2, max_creating=1
    )
    runner.start()
    held: HeldTask[str] = HeldTask("held")

    def fail(resource: LedgerResource) -> None:
        held(resource)
        with resource.use():
            raise UnfitError

    failing = [call(runner.run_task, fail) for _ in range(2)]
    held.wait_begun(2)
    waiting = runner.submit(touch, "served")

    held.release()
    for one in failing:
        assert isinstance(one.failure(), UnfitError)

    # Only the third resource can be made now; the reserve has to do without.
    assert waiting.get(timeout=10) == "served"
    assert runner.stats().available_resources == 0
    fourth.set()
    eventually(lambda: runner.stats().available_resources == 1)


def test_many_priorities_and_arrivals_keep_the_order_under_load(make_runner: MakeRunner, call: SpawnCall) -> None:
    runner = one_resource(make_runner)
    started: list[tuple[int, int]] = []
    arrivals = [0]
    held: HeldTask[str] = HeldTask("held")
    runner.submit(held)
    held.wait_begun()

    def submit_some(priority: int) -> None:
        for _ in range(20):
            mark = (priority, arrivals[0])
            arrivals[0] += 1
            runner.submit(note, started, mark, priority=priority)
            gevent.sleep(0)

    submitters = [call(submit_some, number % 4) for number in range(12)]
    for submitter in submitters:
        submitter.result()
    held.release()
    runner.stop()

    assert len(started) == 240
    assert started == sorted(started)
