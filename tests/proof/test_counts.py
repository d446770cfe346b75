"""What the hot paths may cost, in things that can be counted: switches, passes through the hub, calls, memory blocks.

Invariant: nothing here depends on the clock, but for the hub's budget; what that may disturb is tried again.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import gevent
import greenlet
import pytest

from gtasker import Runner
from gtasker._turn import ATTEMPTS
from tests.ledger import Ledger
from tests.sockets import SocketPair

CALLS = 20  # fit into half a turn of the hub, so that the budget cannot run out in between
TRIES = 20


def answer(resource: object) -> int:
    """The smallest task."""
    return 1


@pytest.fixture
def runner(ledger: Ledger) -> Iterator[Runner[Any]]:
    """One worker and a reserve of one, warmed up."""
    runner: Runner[Any] = Runner(**ledger.options(), worker_count=1, resource_pool_size=1)
    with runner:
        for _ in range(100):
            runner.queue_task(answer)
            runner.run_task(answer)
            with runner.lease():
                pass
        yield runner


class Reset:
    """Nothing to be done after a use."""

    def __call__(self, resource: SocketPair) -> None:
        raise AssertionError("it was done already")

    def nowait(self, resource: SocketPair) -> bool:
        """All done."""
        return True


@pytest.fixture
def watching() -> Iterator[Runner[SocketPair]]:
    """As `runner`, of resources that are looked at and reset: what a database's are."""
    runner: Runner[SocketPair] = Runner(
        on_create=SocketPair,
        on_destroy=SocketPair.close,
        check_readable=True,
        reset=Reset(),
        worker_count=1,
        resource_pool_size=1,
    )
    with runner:
        for _ in range(3):
            runner.queue_task(answer)
            runner.run_task(answer)
        yield runner


@pytest.fixture(params=["bare", "looked at and reset"])
def workers_only(request: pytest.FixtureRequest) -> Iterator[Runner[SocketPair]]:
    """One worker and no reserve: what is lent is the worker's."""
    hooks: dict[str, Any] = {} if request.param == "bare" else {"check_readable": True, "reset": Reset()}
    runner: Runner[SocketPair] = Runner(
        on_create=SocketPair,
        on_destroy=SocketPair.close,
        worker_count=1,
        max_worker_count=1,
        resource_pool_size=0,
        max_resources=1,
        **hooks,
    )
    with runner:
        for _ in range(3):
            runner.run_task(answer)
        yield runner


def least(count: Callable[[], Counter[str]]) -> Counter[str]:
    """The undisturbed count: the least of several, each begun in a fresh turn of the hub. Switches."""
    counts = []
    for _ in range(TRIES):
        gevent.sleep(0.001)
        counts.append(count())
    return min(counts, key=lambda counted: sum(counted.values()))


def count_switches(call: Callable[[], object], calls: int = CALLS) -> Counter[str]:
    """Count the switches of that many calls, those to and from the hub apart."""
    hub = gevent.get_hub()
    counted: Counter[str] = Counter()

    def trace(event: str, pair: tuple[greenlet.greenlet, greenlet.greenlet]) -> None:
        counted["hub" if hub in pair else "direct"] += 1

    before = greenlet.settrace(trace)
    try:
        for _ in range(calls):
            call()
    finally:
        greenlet.settrace(before)
    return counted


def count_calls(call: Callable[[], object]) -> Counter[str]:
    """Count the Python functions of the package that one call enters, in every greenlet."""
    entered: Counter[str] = Counter()
    profiled(call, entered)
    return entered


def profiled(call: Callable[[], object], entered: Counter[str]) -> None:
    """Make a call, and count in `entered` the functions of the package. Switches as `call` does."""

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_globals.get("__name__", "").startswith("gtasker."):
            entered[f"{frame.f_globals['__name__']}.{frame.f_code.co_name}"] += 1

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)


def count_calls_of_many(call: Callable[[], object], greenlets: int) -> Counter[str]:
    """Count the functions of the package that the calls of so many greenlets enter, until the first has ended."""
    entered: Counter[str] = Counter()
    gevent.joinall([gevent.spawn(profiled, call, entered) for _ in range(greenlets)], raise_error=True)
    return entered


def test_queue_task_switches_once_to_the_worker_and_once_back(runner: Runner[Any]) -> None:
    assert least(lambda: count_switches(lambda: runner.queue_task(answer))) == {"direct": 2 * CALLS}


def test_what_is_looked_at_and_reset_costs_no_switch_more(watching: Runner[SocketPair]) -> None:
    def borrow() -> None:
        with watching.lease():
            pass

    assert least(lambda: count_switches(lambda: watching.queue_task(answer))) == {"direct": 2 * CALLS}
    assert least(lambda: count_switches(lambda: watching.run_task(answer))) == {}
    assert least(lambda: count_switches(borrow)) == {}


@pytest.mark.parametrize(("call", "most"), [("queue_task", 9), ("run_task", 8)])
def test_a_task_enters_few_functions_where_its_resource_is_looked_at(
    watching: Runner[SocketPair], call: str, most: int
) -> None:
    entered = least(lambda: count_calls(lambda: getattr(watching, call)(answer)))
    assert sum(entered.values()) <= most, entered


def test_run_task_does_not_switch(runner: Runner[Any]) -> None:
    assert least(lambda: count_switches(lambda: runner.run_task(answer))) == {}


def test_a_lease_does_not_switch(runner: Runner[Any]) -> None:
    def borrow() -> None:
        with runner.lease():
            pass

    assert least(lambda: count_switches(borrow)) == {}


def test_what_an_idle_worker_has_is_lent_without_a_switch(workers_only: Runner[SocketPair]) -> None:
    def borrow() -> None:
        with workers_only.lease():
            pass

    assert least(lambda: count_switches(borrow)) == {}
    assert least(lambda: count_switches(lambda: workers_only.run_task(answer))) == {}
    assert least(lambda: count_switches(lambda: workers_only.queue_task(answer))) == {"direct": 2 * CALLS}
    assert sum(least(lambda: count_calls(borrow)).values()) <= 10


def test_a_lease_that_waits_enters_few_functions(workers_only: Runner[SocketPair]) -> None:
    cycles, greenlets = 5, 3

    def borrow() -> None:
        for _ in range(cycles):
            with workers_only.lease():
                gevent.sleep(0)

    entered = least(lambda: count_calls_of_many(borrow, greenlets))
    assert entered["gtasker._asking.take"] >= cycles * greenlets - 2, "they do wait"
    assert sum(entered.values()) <= 22 * cycles * greenlets, entered


def test_submit_does_not_switch(runner: Runner[Any]) -> None:
    assert least(lambda: count_switches(lambda: runner.submit(answer))) == {}


def test_a_backlog_is_drained_without_a_switch_between_two_tasks(runner: Runner[Any]) -> None:
    def drain() -> Counter[str]:
        tasks = [runner.submit(answer) for _ in range(CALLS)]
        return count_switches(tasks[-1].get)

    # Into the hub, to the worker, and back to the one who waits for the last; and a pause of the budget's.
    assert sum(least(drain).values()) <= 8


def test_callers_who_were_answered_together_go_on_with_one_switch_each(runner: Runner[Any]) -> None:
    callers, calls = 8, 4  # fit into half a turn, too

    def call() -> None:
        for _ in range(calls):
            runner.queue_task(answer)

    def crowd() -> Counter[str]:
        runner.pause()
        greenlets = [gevent.spawn(call) for _ in range(callers)]
        gevent.sleep(0)
        runner.resume()
        return count_switches(lambda: gevent.joinall(greenlets, raise_error=True), calls=1)

    counted = least(crowd)
    # A round: the hub, the worker, the hub, the first caller, the second and so on, the hub. In the last one all end,
    # and whoever joins them is woken by each.
    assert counted["direct"] == (callers - 1) * (calls - 1), counted
    assert counted["hub"] <= 4 * calls + 4 * callers, counted


def test_callers_wake_one_another_for_so_long_and_then_the_hub_is_back(runner: Runner[Any]) -> None:
    hub = gevent.get_hub()
    streaks = [0]

    def trace(event: str, pair: tuple[greenlet.greenlet, greenlet.greenlet]) -> None:
        if hub in pair:
            streaks.append(0)
        else:
            streaks[-1] += 1

    def call() -> None:
        runner.queue_task(answer)
        runner.queue_task(answer)

    runner.pause()
    greenlets = [gevent.spawn(call) for _ in range(ATTEMPTS)]
    gevent.sleep(0)
    runner.resume()
    before = greenlet.settrace(trace)
    try:
        gevent.joinall(greenlets, raise_error=True)
    finally:
        greenlet.settrace(before)

    # The hub looks at the clock after each 32 who were woken: the first by it, the others one by another.
    assert 16 < max(streaks) < 32


@pytest.mark.parametrize(("call", "most"), [("queue_task", 8), ("run_task", 8)])
def test_a_task_enters_few_functions(runner: Runner[Any], call: str, most: int) -> None:
    entered = least(lambda: count_calls(lambda: getattr(runner, call)(answer)))
    assert sum(entered.values()) <= most, entered


def test_tasks_that_were_run_leave_no_memory_behind(runner: Runner[Any]) -> None:
    def work(rounds: int) -> int:
        for _ in range(rounds):
            runner.queue_task(answer)
            runner.submit(answer).get()
            runner.run_task(answer)
        runner.metrics()
        gc.collect()
        return sys.getallocatedblocks()

    work(3000)
    before = work(3000)
    assert work(3000) - before < 100


def test_a_waiting_task_is_small(runner: Runner[Any]) -> None:
    runner.pause()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tasks = [runner.submit(answer) for _ in range(2000)]
        bytes_each = (tracemalloc.get_traced_memory()[0] - before) / len(tasks)
    finally:
        tracemalloc.stop()
    runner.resume()
    assert gevent.wait(tasks, timeout=10) == tasks
    assert bytes_each < 700
