"""A runner's tasks interrupted in mid-query: the answer, the server's work, and the connection afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable

import gevent
import pytest
from gevent import GreenletExit

from gtasker import RunnerKilledError, TaskCancelledError, TaskTimeoutError
from gtasker.events import DestroyReason
from gtasker.integrations.psycopg2 import GreenConnection
from tests.postgres._fleet import Crowd, Fleet, answer, sleep_on_the_server
from tests.postgres._server import Observer, eventually
from tests.postgres.conftest import MakeFleet


def by_run_task(fleet: Fleet) -> None:
    fleet.runner.run_task(sleep_on_the_server)


def by_lease(fleet: Fleet) -> None:
    with fleet.runner.lease() as connection:
        sleep_on_the_server(connection)


def by_queue_task(fleet: Fleet) -> None:
    fleet.runner.queue_task(sleep_on_the_server)


@pytest.mark.parametrize("interrupt", [GreenletExit(), gevent.Timeout(5), ZeroDivisionError()])
@pytest.mark.parametrize("use", [by_run_task, by_lease])
def test_a_caller_interrupted_in_mid_query_gets_its_own_exception_and_costs_no_connection(
    make_fleet: MakeFleet, observer: Observer, application: str, use: Callable[[Fleet], None], interrupt: BaseException
) -> None:
    fleet = make_fleet()
    sessions = observer.sessions(application)
    crowd = Crowd()
    caller = crowd.call(use, fleet)
    eventually(lambda: observer.active(application), "the query runs")

    caller.kill(interrupt)

    assert crowd.wait() == [interrupt]
    fleet.refills()
    assert observer.active(application) == 0
    if not isinstance(interrupt, Exception):
        assert observer.sessions(application) == sessions
        assert not fleet.reasons


def test_a_caller_of_queue_task_that_leaves_leaves_its_task_to_end_unheard(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet()
    crowd = Crowd()
    caller = crowd.call(fleet.runner.queue_task, sleep_on_the_server, 1.0)
    eventually(lambda: observer.active(application), "the query runs")

    caller.kill(interrupt := GreenletExit())

    assert crowd.wait() == [interrupt]
    assert observer.active(application) == 1
    fleet.refills()
    assert not fleet.reasons


def test_with_cancel_on_abandon_its_query_ends_with_it(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet(cancel_on_abandon=True)
    sessions = observer.sessions(application)
    crowd = Crowd()
    caller = crowd.call(by_queue_task, fleet)
    eventually(lambda: observer.active(application), "the query runs")

    caller.kill(interrupt := GreenletExit())

    assert crowd.wait() == [interrupt]
    fleet.refills()
    assert observer.active(application) == 0
    assert observer.sessions(application) == sessions


def test_a_cancelled_task_ends_on_the_server(make_fleet: MakeFleet, observer: Observer, application: str) -> None:
    fleet = make_fleet()
    sessions = observer.sessions(application)
    task = fleet.runner.submit(sleep_on_the_server)
    eventually(lambda: observer.active(application), "the query runs")

    assert task.cancel()

    with pytest.raises(TaskCancelledError):
        task.get()
    fleet.refills()
    assert observer.active(application) == 0
    assert observer.sessions(application) == sessions


def test_a_task_that_takes_too_long_ends_on_the_server(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet(task_timeout=0.1)
    sessions = observer.sessions(application)

    with pytest.raises(TaskTimeoutError):
        fleet.runner.queue_task(sleep_on_the_server)

    fleet.refills()
    assert observer.active(application) == 0
    assert observer.sessions(application) == sessions
    assert fleet.runner.queue_task(answer, 7) == 7


def test_a_killed_runner_leaves_neither_a_query_nor_a_session(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet()
    crowd = Crowd()
    for use in (by_queue_task, by_run_task, by_lease):
        crowd.call(use, fleet)
    eventually(lambda: observer.active(application) == 3, "the queries run")

    report = fleet.runner.kill()

    assert report.complete
    assert [type(answered) for answered in crowd.wait()] == [RunnerKilledError] * 3
    eventually(lambda: not observer.sessions(application), "the server has heard it")


def test_a_stopped_runner_waits_for_its_queries(make_fleet: MakeFleet, observer: Observer, application: str) -> None:
    fleet = make_fleet()
    crowd = Crowd()
    for number in range(20):
        crowd.call(fleet.runner.queue_task, answer, number, 0.02)
    gevent.sleep(0)

    report = fleet.runner.stop()

    assert report.complete
    assert sorted(crowd.wait()) == list(range(20))
    eventually(lambda: not observer.sessions(application), "the server has heard it")


def test_a_lease_whose_holder_is_gone_is_replaced_and_its_query_ended(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    # Given a holder that ends without leaving its block, while another greenlet uses the connection.
    fleet = make_fleet()
    user: list[gevent.Greenlet[..., None]] = []
    kept = []
    crowd = Crowd()

    def holder() -> None:
        lease = fleet.runner.lease()
        connection = lease.__enter__()
        kept.append(lease)
        user.append(crowd.call(sleep_on_the_server, connection))
        eventually(lambda: connection.in_flight, "the query runs")

    gevent.spawn(holder).get()

    eventually(lambda: fleet.reasons == {DestroyReason.LEAKED: 1}, "it is found out")
    fleet.refills()
    assert len(crowd.wait()) == 1, "the greenlet that used it has its error"
    assert observer.active(application) == 0


def test_a_thousand_tasks_interrupted_in_mid_query(make_fleet: MakeFleet, observer: Observer, application: str) -> None:
    # Given three ways to use a connection, and users that are interrupted in mid-query at moments of chance.
    fleet = make_fleet(worker_count=6, resource_pool_size=4, cancel_on_abandon=True)
    chance = random.Random(1)
    bound = fleet.runner.config.max_resources
    observer.watch(application)
    served = Crowd()

    def interrupt_one(use: Callable[[Fleet], None]) -> None:
        interrupt = chance.choice([GreenletExit(), gevent.Timeout(5)])
        crowd = Crowd()
        caller = crowd.call(use, fleet)
        gevent.sleep(chance.choice([0.001, 0.003, 0.006]))
        caller.kill(interrupt)
        # A greenlet that was killed before it ran answers nothing.
        assert crowd.wait() in ([interrupt], [])

    def interrupt_many() -> None:
        for number in range(100):
            interrupt_one(chance.choice([by_queue_task, by_run_task, by_lease]))
            served.call(fleet.runner.queue_task, answer, number)

    gevent.joinall([gevent.spawn(interrupt_many) for _ in range(10)], raise_error=True)

    assert sorted(served.wait()) == sorted([*range(100)] * 10), "everybody else has the right answer"
    fleet.refills()
    assert observer.active(application) == 0
    seen = observer.watch(None)
    assert seen["samples"] > 0
    assert seen["peak"] <= bound
    assert len(observer.sessions(application)) == fleet.runner.stats().live_resources


def test_what_a_killed_task_did_is_undone_before_the_next_one(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(worker_count=1, resource_pool_size=0, task_timeout=0.1)

    def half_way(connection: GreenConnection) -> None:
        connection.cursor().execute("CREATE TABLE half_way ()")
        sleep_on_the_server(connection)

    def exists(connection: GreenConnection) -> bool:
        cursor = connection.cursor()
        cursor.execute("SELECT to_regclass('half_way') IS NOT NULL")
        [(found,)] = cursor.fetchall()
        return bool(found)

    with pytest.raises(TaskTimeoutError):
        fleet.runner.queue_task(half_way)

    assert not fleet.runner.queue_task(exists)
