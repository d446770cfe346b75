"""A runner over connections that die: who waits gets an answer, and capacity comes back by itself."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import psycopg2
import pytest
from gevent import monkey

from gtasker import MaxRetriesExceededError, ResourceError, ResourceUnavailableError
from gtasker.events import DestroyReason
from gtasker.integrations.psycopg2 import GreenConnection
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.proxy import FaultProxy, Mode
from tests.postgres._fleet import Crowd, Fleet, answer
from tests.postgres._server import Observer, eventually, play
from tests.postgres.conftest import MakeFleet

PATCHED = monkey.is_module_patched("socket")


def shoot(observer: Observer, application: str, share: int = 1) -> int:
    """End each ``share``-th session of the application; how many that were."""
    doomed = sorted(observer.sessions(application))[::share]
    observer.terminate(*doomed)
    return len(doomed)


def test_sessions_ended_under_load_cost_nobody_an_answer(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet(
        worker_count=5, max_worker_count=15, burst_task_threshold=10, burst_worker_count=5, resource_pool_size=5
    )
    observer.watch(application)
    crowd = Crowd()
    for number in range(600):
        crowd.call(fleet.runner.queue_task, answer, number, 0.005)

    for _ in range(3):
        eventually(lambda: observer.active(application) >= 10, "ten transactions are in flight")
        assert shoot(observer, application, share=2)

    assert sorted(crowd.wait()) == list(range(600))
    assert fleet.runner.metrics().total_tasks_retried > 0
    assert fleet.reasons[DestroyReason.UNHEALTHY] > 0
    seen = observer.watch(None)
    assert seen["samples"] > 0
    assert seen["peak"] <= fleet.runner.config.max_resources


def test_sessions_that_died_idle_are_replaced_without_an_error(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet(worker_count=4, resource_pool_size=4)
    for use in (fleet.runner.queue_task, fleet.runner.run_task):
        crowd = Crowd()
        for number in range(4):
            crowd.call(use, answer, number, 0.02)
        assert sorted(crowd.wait()) == list(range(4))

    before = observer.sessions(application)
    assert shoot(observer, application) == len(before) == 8
    eventually(lambda: not before & observer.sessions(application), "all sessions have ended")

    for use in (fleet.runner.queue_task, fleet.runner.run_task):
        crowd = Crowd()
        for number in range(4):
            crowd.call(use, answer, number, 0.02)
        assert sorted(crowd.wait()) == list(range(4))
    assert fleet.runner.metrics().total_tasks_retried == 0, "none began on a dead connection"
    assert fleet.reasons[DestroyReason.READABLE] >= 8


def test_notifications_destroy_nothing_healthy(make_fleet: MakeFleet, observer: Observer, application: str) -> None:
    fleet = make_fleet(worker_count=2, resource_pool_size=1)
    sessions = observer.sessions(application)

    def listen(connection: GreenConnection) -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute("LISTEN news")
            cursor.execute("SELECT pg_sleep(0.02)")

    gevent.joinall([gevent.spawn(fleet.runner.queue_task, listen) for _ in range(2)], raise_error=True)
    fleet.runner.run_task(listen)

    for number in range(20):
        observer.ask("NOTIFY news, 'extra'")
        gevent.sleep(0.002)
        assert fleet.runner.queue_task(answer, number) == number
        assert fleet.runner.run_task(answer, number) == number

    assert not fleet.reasons
    assert observer.sessions(application) == sessions


def test_no_transaction_waits_for_the_next_task(make_fleet: MakeFleet, observer: Observer, application: str) -> None:
    fleet = make_fleet(worker_count=2, resource_pool_size=1)

    def leave_open(connection: GreenConnection) -> None:
        connection.cursor().execute("SELECT 1")

    fleet.runner.queue_task(leave_open)
    fleet.runner.run_task(leave_open)

    eventually(
        lambda: (
            observer.ask("SELECT DISTINCT state FROM pg_stat_activity WHERE application_name = %s", application)
            == [["idle"]]
        ),
        "every session is idle, and none in a transaction",
    )


def test_a_task_on_a_server_that_always_hangs_up_is_tried_a_bounded_number_of_times(
    make_fleet: MakeFleet, observer: Observer
) -> None:
    fleet = make_fleet(max_retries=2)
    attempts = []

    def suicide(connection: GreenConnection) -> None:
        attempts.append(connection.info.backend_pid)
        connection.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(MaxRetriesExceededError) as raised:
        fleet.runner.queue_task(suicide)

    assert raised.value.attempts == len(attempts) == len(set(attempts)) == 3
    assert isinstance(raised.value.__cause__, psycopg2.OperationalError)
    fleet.refills()


def refuse(proxy: FaultProxy) -> None:
    proxy.set_mode(Mode.REFUSE)
    proxy.cut()


def swallow(proxy: FaultProxy) -> None:
    proxy.set_mode(Mode.BLACK_HOLE)


def reset(proxy: FaultProxy) -> None:
    proxy.set_mode(Mode.RESET)


@pytest.mark.parametrize("break_line", [refuse, swallow, reset])
def test_an_outage_under_load_ends_by_itself(
    make_fleet: MakeFleet,
    proxy: FaultProxy,
    proxied: str,
    observer: Observer,
    application: str,
    break_line: Callable[[FaultProxy], None],
) -> None:
    # Given callers that go on calling through the whole outage, whatever they are told.
    fleet = make_fleet(
        dsn=proxied,
        connecting={"connect_timeout": 0.2, "cancel_timeout": 0.05},
        task_timeout=0.3,
        fail_fast_after=0.3,
        max_retries=1,
    )
    observer.watch(application)
    answers: list[object] = []
    over = False

    def go_on(use: Callable[..., int]) -> None:
        while not over:
            try:
                with gevent.Timeout(0.3, TimeoutError):
                    answers.append(use(answer, 7, 0.001))
            except (psycopg2.Error, MaxRetriesExceededError, ResourceError, TimeoutError) as error:
                answers.append(error)
                gevent.sleep(0.01)

    uses = (fleet.runner.queue_task, fleet.runner.run_task)
    callers = [gevent.spawn(go_on, use) for use in uses for _ in range(8)]
    eventually(lambda: 7 in answers, "it works")

    break_line(proxy)
    eventually(lambda: any(isinstance(one, ResourceUnavailableError) for one in answers), "it fails fast")
    proxy.set_mode(Mode.UP)

    answers.clear()
    eventually(lambda: 7 in answers, "it works again")
    over = True
    gevent.joinall(callers, raise_error=True)
    fleet.refills()
    seen = observer.watch(None)
    assert seen["peak"] <= fleet.runner.config.max_resources
    # What the black hole held reaches the server when it opens: sessions nobody has any more, gone as soon as seen.
    eventually(lambda: len(observer.sessions(application)) == fleet.runner.stats().live_resources, "none is left over")
    assert observer.active(application) == 0


def test_after_an_outage_capacity_is_back_without_traffic(
    make_fleet: MakeFleet, proxy: FaultProxy, proxied: str, observer: Observer, application: str
) -> None:
    # Given that every connection is known to be lost, and then nobody calls.
    fleet = make_fleet(dsn=proxied, connecting={"connect_timeout": 0.2}, max_retries=0)
    refuse(proxy)
    crowd = Crowd()
    for use in (fleet.runner.queue_task, fleet.runner.run_task):
        for number in range(12):
            crowd.call(use, answer, number)
    eventually(lambda: fleet.runner.stats().live_resources == 0, "none is left")

    proxy.set_mode(Mode.UP)

    fleet.refills()
    assert len(observer.sessions(application)) == fleet.runner.stats().live_resources
    assert len(crowd.wait()) == crowd.size


def test_idle_connections_that_died_are_found_without_traffic(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet(connecting={"keepalive": 0.05})
    before = observer.sessions(application)

    shoot(observer, application)

    eventually(lambda: fleet.is_full and len(observer.sessions(application) - before) == 6, "all six were made anew")


@pytest.mark.parametrize("how", ["restart", "crash"])
def test_a_server_that_goes_and_comes_back(how: str, cooperative: None) -> None:
    with ThrowAwayPostgres(tcp=True) as own_server:
        fleet = Fleet(own_server.dsn, {"connect_timeout": 1})
        with fleet.runner:
            crowd = Crowd()
            for number in range(40):
                crowd.call(fleet.runner.queue_task, answer, number, 0.01)
            gevent.sleep(0.02)

            getattr(own_server, how)()
            own_server.start()

            assert sorted(crowd.wait()) == list(range(40))
            fleet.refills()


def test_too_many_connections_are_waited_for(cooperative: None) -> None:
    # Given a server that lets fewer sessions in than the runner may have.
    settings = {"max_connections": 10, "superuser_reserved_connections": 0, "reserved_connections": 0}
    with ThrowAwayPostgres(settings=settings) as small:
        others = [psycopg2.connect(small.dsn) for _ in range(8)]
        fleet = Fleet(small.dsn, {}, worker_count=4, resource_pool_size=0)
        crowd = Crowd()
        for number in range(12):
            crowd.call(fleet.runner.queue_task, answer, number, 0.002)

        assert sorted(crowd.wait()) == list(range(12))
        assert fleet.runner.metrics().create_failures > 0
        for other in others:
            other.close()
        fleet.refills()
        fleet.runner.stop()


def test_a_forked_child_has_connections_of_its_own_and_the_parent_keeps_its() -> None:
    out = play("fork_a_runner", patched=PATCHED)

    assert out.split() == ["child", "7", "apart", "parent", "8", "same"]
