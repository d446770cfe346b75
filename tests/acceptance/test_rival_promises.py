"""What the best pools of other houses promise, kept here too.

Each test is named by the promise; its docstring says whose it is.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker.errors import AcquireTimeoutError, ResourceUnavailableError, RunnerKilledError, TooManyWaitersError
from gtasker.events import (
    BackendUp,
    LeaseGranted,
    LeaseRequested,
    LeaseReturned,
    ResourceCreated,
    ResourceCreateFailed,
    ResourceCreating,
    ResourceDestroyed,
)
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Call, Recorder, eventually, let_run, note, whole
from tests.conftest import MakeRunner
from tests.ledger import CreateFailedError, HeldTask, Ledger, LedgerResource, UnfitError, touch


def number_of(resource: LedgerResource) -> int:
    """Return the resource's number, using it."""
    with resource.use():
        return resource.number


# --- HikariCP


def test_a_client_waits_at_most_the_timeout_even_if_a_destroy_blocks(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    """HikariCP: getConnection honours its time-out, also while a close blocks."""
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1).start()
    ledger.destroying.hold()
    runner.recycle()
    ledger.destroying.wait_entered(1)

    with pytest.raises(AcquireTimeoutError):
        runner.run_task(touch, 1, timeout=0.02)

    ledger.destroying.release()


def test_users_block_on_the_pool_alone_and_never_on_a_create_they_do_not_need(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    """HikariCP: user threads only ever block on the pool itself."""
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=3).start()
    ledger.creating.hold()

    with runner.lease() as one, runner.lease() as other:
        third = call(runner.run_task, number_of)
        ledger.creating.wait_entered(3)
        numbers = {one.number, other.number}

    # What came back serves it first; the create that is still under way is not waited for.
    assert third.result() in numbers
    ledger.creating.release()


def test_a_resource_in_use_is_never_retired(make_runner: MakeRunner, ledger: Ledger, held: HeldTask[str]) -> None:
    """HikariCP: an in-use connection is never retired, only when it is returned."""
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, max_lifetime=0.01, max_idle=0.01)
    handle = runner.submit(held)
    held.wait_begun()
    runner.recycle()
    gevent.sleep(0.03)
    assert ledger.destroying.entered == 0

    held.release()

    assert handle.get(timeout=10) == "held"
    eventually(lambda: ledger.destroyed == 1)


def test_an_idle_one_is_not_retired_before_its_time(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    """HikariCP: an idle connection is never retired before idleTimeout."""
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=3, max_idle=1000.0).start()
    callers = [call(runner.run_task, held) for _ in range(3)]
    held.wait_begun(3)
    held.release()
    for caller in callers:
        caller.result()
    gevent.sleep(0.05)

    assert ledger.destroyed == 0
    assert runner.stats().live_resources == 3


def test_a_spike_makes_no_more_than_it_can_use(make_runner: MakeRunner, ledger: Ledger, call: SpawnCall) -> None:
    """HikariCP's and psycopg_pool's spike: 50 clients of 2 ms, a connect of 150 ms, five there: not 45 are made."""
    runner = make_runner(worker_count=1, resource_pool_size=4, max_resources=50).start()
    ledger.creating.delay = 0.15

    def work(resource: LedgerResource) -> None:
        with resource.use():
            gevent.sleep(0.002)

    for caller in [call(runner.run_task, work) for _ in range(50)]:
        caller.result()

    # At most `max_creating` had been begun when the first came back, and nobody waited for them any more.
    assert ledger.creating.entered <= 5 + 4
    ledger.creating.heal()


def test_the_last_create_error_is_told_with_a_timeout(make_runner: MakeRunner, ledger: Ledger) -> None:
    """HikariCP: the last error of a connect is chained to the time-out's."""
    ledger.creating.fail(CreateFailedError("password authentication failed"))
    runner = make_runner(worker_count=1, create_backoff=(0.001, 0.002))

    with pytest.raises(AcquireTimeoutError, match="password authentication failed"):
        runner.run_task(touch, 1, timeout=0.02)


def test_thousands_of_recycles_while_in_use_lose_nothing(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    """HikariCP: ten thousand evictions by two threads."""
    runner = make_runner(worker_count=2, resource_pool_size=2, max_resources=4, max_worker_count=2).start()
    done = [False]

    def use() -> None:
        while not done[0]:
            runner.run_task(touch, 1)
            gevent.sleep(0)

    users = [call(use) for _ in range(4)]
    for _ in range(1000):
        runner.recycle()
        gevent.sleep(0)
    done[0] = True
    for user in users:
        user.result()

    eventually(lambda: whole(runner, 2, 2))
    assert ledger.peak <= 4


# --- psycopg_pool


@pytest.mark.parametrize("how", ["kill", "time-out"])
def test_no_connection_is_lost_to_dead_clients(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str], how: str
) -> None:
    """psycopg_pool's test_dead_client, with what it loses all four slots to: clients killed while they wait."""
    runner = make_runner(worker_count=1, resource_pool_size=3, max_resources=4, max_worker_count=1).start()
    holders = [call(runner.run_task, held) for _ in range(4)]
    held.wait_begun(4)

    class GoneError(Exception):
        pass

    def wait() -> None:
        with gevent.Timeout(0.01 if how == "time-out" else None, GoneError):
            runner.run_task(touch, 1)

    waiters = [call(wait) for _ in range(4)]
    eventually(lambda: runner.stats().waiting_leases == 4)
    for waiter in waiters:
        if how == "kill":
            waiter.greenlet.kill()
        waiter.join()
    held.release()
    for holder in holders:
        holder.result()

    eventually(lambda: whole(runner, 1, 3))
    assert ledger.created == 4


def test_a_waiting_client_is_served_by_whatever_comes_first(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    """psycopg_pool: a waiting client is served the existing connection, if that returns before the new one is made."""
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=2, max_worker_count=1).start()
    holder = call(runner.run_task, held)
    held.wait_begun()
    ledger.creating.hold()
    waiter = call(runner.run_task, number_of)
    ledger.creating.wait_entered(2)

    held.release()

    assert waiter.result() == 1
    holder.result()
    ledger.creating.release()


def test_after_any_outage_the_pool_refills_with_no_client(make_runner: MakeRunner, ledger: Ledger) -> None:
    """psycopg_pool gives up after reconnect_timeout and then waits for a client to ask: here nobody has to."""
    runner = make_runner(worker_count=2, resource_pool_size=2, create_backoff=(0.002, 0.01), fail_fast_after=0.02)
    runner.start()
    ledger.creating.fail()
    runner.recycle()
    eventually(lambda: runner.stats().live_resources == 0)
    ledger.creating.wait_entered(4 + 20)

    ledger.creating.heal()

    eventually(lambda: whole(runner, 2, 2))


def test_eight_stale_connections_cost_no_pause(make_runner: MakeRunner, ledger: Ledger) -> None:
    """psycopg_pool backs off between checks of different connections, and loses 30 s with a healthy server."""
    runner = make_runner(
        worker_count=1, resource_pool_size=8, check_resource=ledger.probe, check_idle=0.0,
        create_backoff=(1000.0, 1000.0), hook_timeout=1000.0,
    ).start()  # fmt: skip
    for resource in ledger.live.values():
        resource.stale = True

    assert runner.run_task(number_of, timeout=5) > 9


def test_a_client_killed_while_its_connection_is_checked_loses_no_slot(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    """psycopg_pool's cancel_on_check."""
    runner = make_runner(
        worker_count=1, resource_pool_size=1, max_resources=2, check_resource=ledger.probe, check_idle=0.0
    ).start()
    ledger.probing.hold()
    client = call(runner.run_task, touch, 1)
    ledger.probing.wait_entered(1)
    bullet = gevent.GreenletExit()

    client.greenlet.kill(bullet)
    ledger.probing.release()

    assert client.error is bullet
    eventually(lambda: whole(runner, 1, 1))


def test_a_client_killed_while_its_connection_is_reset_loses_no_slot(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    """psycopg_pool's cancel_on_rollback: here the client is away before the reset begins."""
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=2, reset=ledger.reset).start()
    ledger.resetting.hold()
    client = call(runner.run_task, touch, "answer")
    assert client.result() == "answer"

    client.greenlet.kill()
    ledger.resetting.release()

    eventually(lambda: whole(runner, 1, 1))
    assert ledger.destroyed == 0


def test_too_many_waiters_are_told_at_once(make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    """psycopg_pool: max_waiting, TooManyRequests."""
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, max_waiting=1)
    runner.submit(held)
    held.wait_begun()
    call(runner.run_task, touch, 1)
    let_run()

    with pytest.raises(TooManyWaitersError):
        runner.run_task(touch, 1)
    held.release()


def test_a_hundred_greedy_clients_are_served_evenly(make_runner: MakeRunner, call: SpawnCall) -> None:
    """psycopg_pool: Jain's index of 1.00 where six of seven pools have 0.04."""
    runner = make_runner(worker_count=1, resource_pool_size=3, max_resources=4, max_worker_count=1).start()
    served = Counter[int]()

    def greedy(number: int) -> None:
        while sum(served.values()) < 5000:
            with runner.lease():
                served[number] += 1
                gevent.sleep(0)

    for client in [call(greedy, number) for number in range(100)]:
        client.result()

    total, squares = sum(served.values()), sum(count * count for count in served.values())
    assert total * total / (100 * squares) >= 0.99


# --- SQLAlchemy


class ExitLikeError(BaseException):
    """Ends a greenlet, like an exit."""


@pytest.mark.parametrize("exit_like", [gevent.GreenletExit, KeyboardInterrupt, ExitLikeError])
def test_a_connection_hit_by_an_exit_is_invalidated_and_the_rest_is_not(
    make_runner: MakeRunner, ledger: Ledger, exit_like: type[BaseException]
) -> None:
    """SQLAlchemy: a connection hit by GreenletExit or KeyboardInterrupt is of unknown state; the others are not."""
    runner = make_runner(worker_count=2, resource_pool_size=2).start()

    def hit(resource: LedgerResource) -> None:
        with resource.use():
            raise exit_like

    with pytest.raises(exit_like):
        runner.run_task(hit)

    eventually(lambda: whole(runner, 2, 2))
    assert ledger.destroyed == 1


def test_with_a_check_the_pool_silently_reconnects_and_work_in_progress_is_not_replayed(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    """SQLAlchemy: with pre_ping the pool reconnects silently, but work in progress is lost, never replayed."""
    runner = make_runner(
        worker_count=1, resource_pool_size=0, max_resources=1, check_resource=ledger.probe, check_idle=0.0
    ).start()
    begun: list[int] = []

    def drop_in_progress(resource: LedgerResource) -> None:
        with resource.use():
            begun.append(1)
            raise UnfitError("server closed the connection unexpectedly")

    with pytest.raises(UnfitError):
        runner.run_task(drop_in_progress)
    for resource in ledger.live.values():
        resource.stale = True

    assert runner.run_task(number_of) >= 2
    assert begun == [1]


def test_a_connect_that_hangs_holds_nobody_up_while_others_come_back(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    """SQLAlchemy's hanging_connect_within_overflow."""
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=3, max_creating=1).start()
    ledger.creating.hold()
    holders = [call(runner.run_task, held) for _ in range(2)]
    held.wait_begun(2)
    waiters = [call(runner.run_task, touch, number) for number in range(10)]
    ledger.creating.wait_entered(3)

    held.release()

    assert [waiter.result() for waiter in waiters] == list(range(10))
    for holder in holders:
        holder.result()
    ledger.creating.release()


# --- pgx, puddle


def test_a_client_that_leaves_does_not_cancel_the_connect(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    """pgx: cancelling makes Acquire return at once, but does not cancel the creation of the resource."""
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=2, max_worker_count=1).start()
    runner.submit(held)
    held.wait_begun()
    ledger.creating.hold()
    client = call(runner.run_task, touch, 1)
    ledger.creating.wait_entered(2)

    client.greenlet.kill()
    assert client.ended
    ledger.creating.release()

    eventually(lambda: ledger.created == 2)
    assert runner.run_task(number_of) == 2
    held.release()


def test_clients_that_leave_do_not_snowball_into_more_connections(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    """pgx#2425: cancellations snowballed into more connections than the maximum."""
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=3).start()
    ledger.creating.delay = 0.005
    ledger.destroying.delay = 0.005

    def work(resource: LedgerResource) -> None:
        with resource.use():
            gevent.sleep(0.05)

    for _ in range(30):
        clients = [call(runner.run_task, work) for _ in range(6)]
        gevent.sleep(0.001)
        for client in clients:
            client.greenlet.kill(block=False)
        gevent.sleep(0.001)

    eventually(lambda: runner.stats().waiting_leases == 0)
    assert ledger.peak <= 3


def test_a_reset_is_safe_with_resources_out(make_runner: MakeRunner, ledger: Ledger) -> None:
    """pgx: Reset is safe with resources out; they are destroyed when they come back."""
    runner = make_runner(worker_count=1, resource_pool_size=1).start()

    with runner.lease() as resource:
        runner.recycle()
        eventually(lambda: ledger.destroyed == 1)
        touch(resource, 1)

    eventually(lambda: ledger.destroyed == 2 and whole(runner, 1, 1))


@pytest.mark.parametrize("seed", range(5))
def test_a_stress_of_everything_balances_its_books(make_runner: MakeRunner, ledger: Ledger, seed: int) -> None:
    """Puddle's TestStress: take, take with hardly any time, look; give back, destroy."""
    rng = random.Random(seed)
    size = 5
    runner = make_runner(worker_count=1, resource_pool_size=size - 1, max_resources=size, max_worker_count=1).start()

    def one(roll: float) -> None:
        try:
            lease = runner.lease(timeout=rng.choice([None, 0.0001, 0.001]))
            with lease as resource, resource.use():
                if roll < 0.1:
                    lease.discard()
                if roll < 0.3:
                    gevent.sleep(0)
        except AcquireTimeoutError:
            runner.stats()

    def many() -> None:
        for _ in range(60):
            one(rng.random())

    calls: list[Call[Any]] = [Call(many) for _ in range(2 * size)]
    for call in calls:
        call.result()

    eventually(lambda: whole(runner, 1, size - 1))
    assert ledger.peak <= size


# --- MongoDB's CMAP


def test_at_most_max_creating_connects_are_under_way_and_a_returned_one_serves_meanwhile(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    """CMAP: at most maxConnecting are established at once; a waiter takes a returned one while others connect."""
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=10, max_creating=2, max_worker_count=1)
    runner.start()
    holder = call(runner.run_task, held)
    held.wait_begun()
    ledger.creating.hold()
    waiters = [call(runner.run_task, touch, number) for number in range(5)]
    ledger.creating.wait_entered(1 + 2)
    let_run()
    assert ledger.creating.inside == 2

    held.release()

    assert [waiter.result() for waiter in waiters] == list(range(5))
    holder.result()
    assert ledger.creating.entered == 3
    ledger.creating.release()


def test_a_timed_out_waiter_leaves_the_queue_at_once(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    """CMAP: timed-out members leave the wait queue at once."""
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.submit(held)
    held.wait_begun()
    for _ in range(3):
        with pytest.raises(AcquireTimeoutError):
            runner.run_task(touch, 1, timeout=0.005)
        assert runner.stats().waiting_leases == 0
    held.release()


def test_waiters_are_served_in_the_order_in_which_they_came(
    make_runner: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    """CMAP: the wait queue is fair."""
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.submit(held)
    held.wait_begun()
    order: list[int] = []
    waiters = []
    for number in range(20):
        waiters.append(call(runner.run_task, note, order, number))
        let_run(2)
        assert runner.stats().waiting_leases == number + 1

    held.release()
    for waiter in waiters:
        waiter.result()

    assert order == list(range(20))


def test_clearing_evicts_all_waiters_with_an_error_that_is_no_timeout(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    """CMAP: when the pool is cleared, all waiters are evicted with an error that is no time-out."""
    ledger.creating.fail()
    runner = make_runner(worker_count=1, fail_fast_after=0.02, create_backoff=(0.002, 0.004))
    waiters = [call(runner.run_task, touch, 1) for _ in range(5)]

    for waiter in waiters:
        error = waiter.failure()
        assert isinstance(error, ResourceUnavailableError)
        assert not isinstance(error, TimeoutError)


def test_ids_are_one_two_three(make_runner: MakeRunner, ledger: Ledger) -> None:
    """CMAP: connection ids count up from 1, in order of creation, and none is used twice."""
    recorder = Recorder()
    runner = make_runner(worker_count=2, resource_pool_size=2, on_event=recorder).start()
    runner.recycle()
    eventually(lambda: ledger.destroyed == 4 and whole(runner, 2, 2))

    assert [event.resource_id for event in recorder.of(ResourceCreating)] == list(range(1, 9))


@pytest.mark.parametrize("backoff", [(0.0, 0.0), (0.001, 0.002)])
def test_the_order_of_events_is_fixed(make_runner: MakeRunner, ledger: Ledger, backoff: tuple[float, float]) -> None:
    """CMAP: creating before created before granted before returned before destroyed; a failed create is told, too."""
    recorder = Recorder()
    ledger.creating.fail(times=2)
    runner = make_runner(
        worker_count=1, resource_pool_size=0, max_resources=1, create_backoff=backoff, on_event=recorder
    )
    runner.run_task(touch, 1)
    runner.stop()

    lives = [ResourceCreating, ResourceCreated, ResourceCreateFailed, ResourceDestroyed]
    loans = [LeaseRequested, LeaseGranted, LeaseReturned]
    assert [type(event) for event in recorder.events if type(event) in lives] == [
        ResourceCreating, ResourceCreateFailed, ResourceCreating, ResourceCreateFailed, ResourceCreating,
        ResourceCreated, ResourceDestroyed,
    ]  # fmt: skip
    assert [type(event) for event in recorder.events if type(event) in loans] == loans
    whole_life = [ResourceCreating, ResourceCreated, LeaseGranted, LeaseReturned, ResourceDestroyed]
    made = recorder.of(ResourceCreated)[0].resource_id
    assert [type(event) for event in recorder.events if getattr(event, "resource_id", None) == made] == whole_life


# --- PyMongo, pgbouncer, Go's database/sql, redis-py, urllib3, httpcore, asyncpg


@pytest.mark.parametrize("seed", range(4))
def test_a_churn_of_kills_brings_the_counters_back_to_zero(make_runner: MakeRunner, ledger: Ledger, seed: int) -> None:
    """PyMongo's test_gevent_kill_churn_deadlock: kills at check-out, at check-in, and between."""
    rng = random.Random(seed)
    runner = make_runner(
        worker_count=1, resource_pool_size=3, max_resources=4, max_worker_count=1, create_backoff=(0.001, 0.002)
    ).start()
    ledger.creating.delay = 0.0005
    ledger.destroying.delay = 0.0005

    def client() -> None:
        while True:
            with runner.lease() as resource, resource.use():
                gevent.sleep(rng.choice([0, 0, 0.0005]))

    clients = [Call(client) for _ in range(12)]
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        victim = rng.randrange(len(clients))
        clients[victim].greenlet.kill(block=False)
        clients[victim] = Call(client)
        gevent.sleep(rng.choice([0, 0, 0.0005, 0.001]))
    gevent.killall([one.greenlet for one in clients])

    eventually(lambda: whole(runner, 1, 3), f"whole again: {runner!r}")
    assert runner.stats().waiting_leases == 0
    assert ledger.peak <= 4


def test_a_reconnect_interrupts_no_running_transaction(
    make_runner: MakeRunner, ledger: Ledger, held: HeldTask[str]
) -> None:
    """pgbouncer: RECONNECT does not interrupt running transactions."""
    runner = make_runner(worker_count=1, resource_pool_size=0)
    handle = runner.submit(held)
    held.wait_begun()

    runner.recycle()
    let_run()
    assert not handle.ready()
    held.release()

    assert handle.get(timeout=10) == "held"


def test_while_the_backend_is_down_errors_are_quick_and_one_prober_finds_it_back(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    """pgbouncer: check_fast_fail, waiters get the cached login error."""
    recorder = Recorder()
    refused = CreateFailedError("refused")
    ledger.creating.fail(refused)
    runner = make_runner(worker_count=1, fail_fast_after=0.01, create_backoff=(0.002, 0.01), on_event=recorder)
    with pytest.raises(ResourceUnavailableError):
        runner.queue_task(touch, 1)

    for _ in range(50):
        with pytest.raises(ResourceUnavailableError) as caught:
            runner.run_task(touch, 1)
        assert caught.value.__cause__ is refused
    ledger.creating.heal()
    eventually(lambda: recorder.of(BackendUp))

    assert runner.queue_task(touch, "again") == "again"


def test_another_callers_answer_is_never_read(make_runner: MakeRunner, call: SpawnCall) -> None:
    """redis-py#1134: a killed caller's connection was recycled with the reply pending, and the next got its value."""
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=2)
    pending: dict[int, str] = {}

    def ask(resource: LedgerResource, question: str, wait: Event | None) -> str:
        assert resource.number not in pending, "somebody else's reply is still to be read"
        with resource.use():
            pending[resource.number] = question
            if wait is not None:
                wait.wait()
            return pending.pop(resource.number)

    for number in range(10):
        client = call(runner.run_task, ask, f"killed {number}", Event())
        eventually(lambda: len(pending) > 0)
        client.greenlet.kill()
        assert runner.run_task(ask, f"next {number}", None) == f"next {number}"
        assert runner.queue_task(ask, f"next {number}", None) == f"next {number}"
        pending.clear()


def test_a_killed_waiter_gives_back_nothing_it_never_had(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    """urllib3: a killed waiter put back a token it never took, and 430 innocent callers got FullPoolError."""
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.submit(held)
    held.wait_begun()
    for _ in range(20):
        waiter = call(runner.run_task, touch, 1)
        let_run(2)
        waiter.greenlet.kill()

    assert runner.stats().waiting_leases == 0
    assert runner.stats().available_resources == 0
    held.release()
    assert [runner.run_task(touch, number) for number in range(5)] == list(range(5))
    assert ledger.peak == ledger.peak_in_use == 1


def test_a_client_that_leaves_between_hand_over_and_use_leaves_no_phantom(
    make_runner: MakeRunner, call: SpawnCall
) -> None:
    """httpcore: 55 to 77 phantom "active" requests stayed in its list after a storm."""
    runner = make_runner(worker_count=1, resource_pool_size=1, max_resources=2, max_worker_count=1).start()
    for _ in range(100):
        clients = [call(runner.run_task, lambda _resource: gevent.sleep(0)) for _ in range(5)]
        gevent.sleep(0)
        for client in clients:
            client.greenlet.kill(block=False)
        gevent.sleep(0)

    eventually(lambda: whole(runner, 1, 1))
    assert runner.leases() == []


def test_a_nested_acquire_with_nothing_left_answers(make_runner: MakeRunner) -> None:
    """asyncpg#5: a nested acquire with all connections out waited for ever."""
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1, acquire_timeout=0.02)

    with pytest.raises(AcquireTimeoutError):
        runner.run_task(lambda _resource: runner.run_task(touch, 1))
    assert runner.run_task(touch, "works") == "works"


def test_close_with_a_timeout_closes_what_is_still_out(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall, held: HeldTask[str]
) -> None:
    """asyncpg, puddle: close waited for ever for what was out; here it is interrupted at the time-out."""
    runner = make_runner(worker_count=1, resource_pool_size=1)
    client = call(runner.run_task, held)
    held.wait_begun()

    assert runner.stop(timeout=0.02).complete

    assert isinstance(client.failure(), RunnerKilledError)
    assert ledger.existing == 0


def test_close_while_a_create_is_under_way_destroys_what_comes(
    make_runner: MakeRunner, ledger: Ledger, call: SpawnCall
) -> None:
    """Puddle 1.1 and 2.0.1: three bugs where the pool was closed while a create was in flight."""
    ledger.creating.hold()
    runner = make_runner(worker_count=2, resource_pool_size=2)
    starting = call(runner.start)
    ledger.creating.wait_entered(4)
    stopping = call(runner.stop)
    let_run()

    ledger.creating.release()

    assert stopping.result().complete
    starting.join()
    assert ledger.existing == 0
