"""A runner over psycopg 3's connections: interrupted, broken and dirty ones, and what the server sees of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import gevent
import psycopg
import pytest
from gevent import GreenletExit
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from sqlalchemy import text

from gtasker import Runner, RunnerEvent, TaskTimeoutError
from gtasker.events import DestroyReason, ResourceDestroyed
from gtasker.integrations.psycopg3 import GreenConnection, adopt, is_healthy, may_have_committed, resource
from gtasker.integrations.psycopg3._cancelling import cancel_in_thread
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.proxy import FaultProxy, Mode
from tests.postgres._fleet import Crowd
from tests.postgres._server import Observer, eventually
from tests.resources.conftest import MakeEngine

pytestmark = pytest.mark.postgres


class Fleet:
    """A runner over psycopg's connections, and why it destroyed which."""

    def __init__(self, dsn: str, connecting: dict[str, Any], **options: Any) -> None:
        self.reasons: Counter[DestroyReason] = Counter()
        settings: dict[str, Any] = {"worker_count": 2, "resource_pool_size": 2, "on_event": self._note}
        self.runner: Runner[GreenConnection] = Runner(**{**resource(dsn, **connecting), **settings, **options})

    def _note(self, event: RunnerEvent) -> None:
        if isinstance(event, ResourceDestroyed):
            self.reasons[event.reason] += 1

    def refills(self) -> None:
        """Wait until every connection is there, idle."""

        def is_full() -> bool:
            stats = self.runner.stats()
            idle = stats.active_workers == 2 and stats.available_resources == 2
            return idle and not stats.busy_workers and not stats.creating_resources and stats.live_resources == 4

        eventually(is_full, "the runner fills up by itself")


class MakeFleet(Protocol):
    """Start a runner; ``connecting`` goes to ``resource``, ``options`` to ``Config``."""

    def __call__(
        self, *, dsn: str | None = None, connecting: dict[str, Any] | None = None, **options: Any
    ) -> Fleet: ...


@pytest.fixture
def make_fleet(server: ThrowAwayPostgres, application: str) -> Iterator[MakeFleet]:
    fleets: list[Fleet] = []

    def make(*, dsn: str | None = None, connecting: dict[str, Any] | None = None, **options: Any) -> Fleet:
        fleet = Fleet(dsn or server.dsn, {"application_name": application, **(connecting or {})}, **options)
        fleets.append(fleet)
        fleet.runner.start()
        return fleet

    yield make
    for fleet in fleets:
        fleet.runner.kill()
        metrics = fleet.runner.metrics()
        assert metrics.resources_created == metrics.resources_destroyed == fleet.reasons.total()


def answer(connection: GreenConnection, number: int, sleep: float = 0.0) -> int:
    with connection:
        row = connection.execute("SELECT %s::int, pg_sleep(%s)", [number, sleep]).fetchone()
    assert row is not None
    return int(row[0])


def by_execute(connection: GreenConnection) -> None:
    connection.execute("SELECT pg_sleep(600)")


def by_transaction(connection: GreenConnection) -> None:
    with connection.transaction():
        connection.execute("SELECT pg_sleep(600)")


def by_named_cursor(connection: GreenConnection) -> None:
    with connection.cursor("named") as cursor:
        cursor.execute("SELECT pg_sleep(600)")
        cursor.fetchone()


def by_copy_out(connection: GreenConnection) -> None:
    with connection.cursor().copy("COPY (SELECT pg_sleep(600)) TO STDOUT") as copy:
        copy.read()


def by_pipeline(connection: GreenConnection) -> None:
    with connection.pipeline():
        connection.execute("SELECT pg_sleep(600)").fetchone()


def by_executemany(connection: GreenConnection) -> None:
    connection.cursor().executemany("SELECT pg_sleep(%s)", [[600.0], [600.0], [600.0]])


USES = [by_execute, by_transaction, by_named_cursor, by_copy_out, by_pipeline, by_executemany]
KEPT = [by_execute, by_transaction, by_named_cursor]


@pytest.mark.parametrize("interrupt", [GreenletExit(), gevent.Timeout(5)])
@pytest.mark.parametrize("use", USES)
def test_an_interrupted_use_ends_on_the_server_and_raises_the_interrupt_itself(
    make_fleet: MakeFleet,
    observer: Observer,
    application: str,
    use: Callable[[GreenConnection], None],
    interrupt: BaseException,
) -> None:
    fleet = make_fleet()
    sessions = observer.sessions(application)
    crowd = Crowd()
    user = crowd.call(fleet.runner.run_task, use)
    eventually(lambda: observer.active(application), "the statement runs")

    user.kill(interrupt)

    assert crowd.wait() == [interrupt]
    fleet.refills()
    eventually(lambda: observer.active(application) == 0, "nothing runs on the server")
    assert [fleet.runner.run_task(answer, number) for number in range(8)] == list(range(8))
    if use in KEPT:
        assert not fleet.reasons
        assert observer.sessions(application) == sessions
    else:
        assert +fleet.reasons <= Counter({DestroyReason.INTERRUPTED: 1})


def test_without_keeping_it_costs_the_connection(make_fleet: MakeFleet, observer: Observer, application: str) -> None:
    fleet = make_fleet(connecting={"keep_on_interrupt": False})
    crowd = Crowd()
    user = crowd.call(fleet.runner.run_task, by_execute)
    eventually(lambda: observer.active(application), "the statement runs")

    user.kill()

    fleet.refills()
    assert fleet.reasons == {DestroyReason.INTERRUPTED: 1}


def test_before_libpq_17_cancelling_is_done_in_a_thread_and_stops_nobody(
    make_fleet: MakeFleet, proxy: FaultProxy, proxied: str, observer: Observer, application: str
) -> None:
    fleet = make_fleet(dsn=proxied)

    def sleep_until_cancelled(connection: GreenConnection) -> None:
        # Through the proxy, which is a greenlet of this process: whoever waits in C would wait for ever.
        gevent.spawn_later(0.05, cancel_in_thread, connection)
        connection.execute("SELECT pg_sleep(600)")

    with pytest.raises(psycopg.errors.QueryCanceled):
        fleet.runner.run_task(sleep_until_cancelled)

    assert observer.active(application) == 0
    assert not fleet.reasons


def test_a_second_interrupt_does_not_shorten_the_cancelling(
    make_fleet: MakeFleet, proxy: FaultProxy, proxied: str
) -> None:
    fleet = make_fleet(dsn=proxied)
    crowd = Crowd()
    began = gevent.event.Event()

    def sleep(connection: GreenConnection) -> None:
        began.set()
        connection.execute("SELECT pg_sleep(600)")

    user = crowd.call(fleet.runner.run_task, sleep)
    began.wait()
    gevent.sleep(0.05)
    proxy.delay = 0.1
    proxy.set_mode(Mode.SLOW)  # so that the cancelling is under way when the second one comes

    user.kill(first := GreenletExit("first"), block=False)
    gevent.sleep(0.05)
    user.kill(GreenletExit("second"), block=False)

    assert crowd.wait() == [first]
    proxy.set_mode(Mode.UP)
    fleet.refills()
    assert not fleet.reasons


def test_a_server_that_does_not_answer_the_cancelling_costs_the_connection_within_its_bound(
    make_fleet: MakeFleet, proxy: FaultProxy, proxied: str, observer: Observer, application: str
) -> None:
    fleet = make_fleet(dsn=proxied, connecting={"cancel_timeout": 0.2})
    crowd = Crowd()
    user = crowd.call(fleet.runner.run_task, by_execute)
    eventually(lambda: observer.active(application), "the statement runs")
    proxy.set_mode(Mode.BLACK_HOLE)

    user.kill(interrupt := GreenletExit())

    assert crowd.wait() == [interrupt]
    proxy.set_mode(Mode.UP)
    fleet.refills()
    assert fleet.reasons == {DestroyReason.INTERRUPTED: 1}
    assert fleet.runner.run_task(answer, 1) == 1
    alive = set(fleet.runner.map(lambda connection, _: connection.info.backend_pid, range(8)))
    observer.terminate(*(observer.sessions(application) - alive))


def test_a_task_that_takes_too_long_ends_on_the_server(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet(task_timeout=0.1)

    with pytest.raises(TaskTimeoutError):
        fleet.runner.queue_task(by_execute)

    fleet.refills()
    assert observer.active(application) == 0
    assert not fleet.reasons


def test_a_lost_connection_is_replaced_and_its_task_tried_again(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet()
    attempts = []

    def lose_once(connection: GreenConnection) -> int:
        attempts.append(connection)
        if len(attempts) == 1:
            observer.terminate(connection.info.backend_pid)
        return answer(connection, 5)

    assert fleet.runner.queue_task(lose_once) == 5

    assert len(attempts) == 2
    fleet.refills()
    assert fleet.reasons == {DestroyReason.UNHEALTHY: 1}


def test_the_transaction_status_decides_when_a_task_swallows_the_loss(
    make_fleet: MakeFleet, observer: Observer
) -> None:
    fleet = make_fleet()

    def swallow(connection: GreenConnection) -> str:
        observer.terminate(connection.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        return "all is well"

    assert fleet.runner.queue_task(swallow) == "all is well"

    fleet.refills()
    assert fleet.reasons == {DestroyReason.RESET_FAILED: 1}


def test_a_statement_left_in_flight_is_no_ones_next(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet()

    def leave_running(connection: GreenConnection) -> None:
        connection.pgconn.send_query(b"SELECT pg_sleep(600)")
        while connection.pgconn.flush():
            gevent.sleep(0.001)

    fleet.runner.run_task(leave_running)

    fleet.refills()
    assert fleet.reasons == {DestroyReason.RESET_FAILED: 1}
    eventually(lambda: observer.active(application) == 0, "it was ended on the server")


def test_what_a_use_leaves_behind_is_not_the_next_ones(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(worker_count=1, resource_pool_size=0, max_worker_count=1)

    def leave(connection: GreenConnection) -> None:
        connection.row_factory = dict_row
        connection.autocommit = True
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE left_behind ()")

    def look(connection: GreenConnection) -> tuple[Any, ...]:
        status = connection.info.transaction_status
        row = connection.execute("SELECT to_regclass('left_behind')").fetchone()
        return status, connection.autocommit, connection.isolation_level, row

    fleet.runner.queue_task(leave)

    assert fleet.runner.queue_task(look) == (TransactionStatus.IDLE, False, None, (None,))
    assert not fleet.reasons


def insert_by_commit(connection: GreenConnection, break_line: Callable[[], None]) -> None:
    connection.execute("INSERT INTO deeds VALUES ('one')")
    break_line()
    connection.commit()


def insert_by_block(connection: GreenConnection, break_line: Callable[[], None]) -> None:
    with connection:
        connection.execute("INSERT INTO deeds VALUES ('one')")
        break_line()


def insert_by_transaction(connection: GreenConnection, break_line: Callable[[], None]) -> None:
    with connection.transaction():
        with connection.transaction():
            connection.execute("INSERT INTO deeds VALUES ('one')")
        break_line()


def insert_by_itself(connection: GreenConnection, break_line: Callable[[], None]) -> None:
    connection.autocommit = True
    break_line()
    connection.execute("INSERT INTO deeds VALUES ('one')")


WAYS = [insert_by_commit, insert_by_block, insert_by_transaction, insert_by_itself]


@pytest.fixture
def deeds(observer: Observer) -> Iterator[Callable[[], int]]:
    """A table of what was done; how much that is, by another's count."""
    observer.ask("CREATE TABLE deeds (id text)")
    yield lambda: int(observer.ask("SELECT count(*) FROM deeds")[0][0])
    observer.ask("DROP TABLE deeds")


@pytest.mark.parametrize("insert", WAYS)
@pytest.mark.parametrize("replay", [False, True])
def test_what_may_have_been_committed_is_not_done_again_without_the_users_word(
    make_fleet: MakeFleet,
    proxy: FaultProxy,
    proxied: str,
    deeds: Callable[[], int],
    insert: Callable[[GreenConnection, Callable[[], None]], None],
    replay: bool,
) -> None:
    fleet = make_fleet(dsn=proxied, connecting={"replay_unknown_commit": replay})
    attempts = []

    def insert_on_a_line_that_breaks(connection: GreenConnection) -> None:
        attempts.append(connection)
        proxy.set_mode(Mode.UP)
        insert(connection, lambda: proxy.set_mode(Mode.RESET if len(attempts) == 1 else Mode.UP))

    task = fleet.runner.submit(insert_on_a_line_that_breaks)
    task.wait()
    proxy.set_mode(Mode.UP)

    assert len(attempts) == deeds() == (2 if replay else 1)
    assert task.successful() is replay
    assert task.exception is None or may_have_committed(task.exception)
    fleet.refills()
    assert fleet.reasons == {DestroyReason.UNHEALTHY if replay else DestroyReason.RESET_FAILED: 1}


def test_a_pipeline_that_breaks_may_have_committed(
    make_fleet: MakeFleet, proxy: FaultProxy, proxied: str, deeds: Callable[[], int]
) -> None:
    fleet = make_fleet(dsn=proxied)
    attempts = []

    def insert(connection: GreenConnection) -> None:
        attempts.append(connection)
        with connection.pipeline():
            connection.execute("INSERT INTO deeds VALUES ('one')")
            connection.commit()
            proxy.set_mode(Mode.RESET)

    with pytest.raises(psycopg.OperationalError) as caught:
        fleet.runner.queue_task(insert)
    proxy.set_mode(Mode.UP)

    assert may_have_committed(caught.value)
    assert len(attempts) == 1


def test_what_broke_before_its_commit_is_tried_again(
    make_fleet: MakeFleet, observer: Observer, deeds: Callable[[], int]
) -> None:
    fleet = make_fleet()
    attempts = []

    def insert(connection: GreenConnection) -> None:
        attempts.append(connection)
        with connection.transaction():
            connection.execute("INSERT INTO deeds VALUES ('one')")
            if len(attempts) == 1:
                observer.terminate(connection.info.backend_pid)
            connection.execute("SELECT 1")

    fleet.runner.queue_task(insert)

    assert (len(attempts), deeds()) == (2, 1)


def test_a_commit_on_a_connection_that_was_lost_before_has_committed_nothing(
    make_fleet: MakeFleet, observer: Observer, deeds: Callable[[], int]
) -> None:
    fleet = make_fleet()
    attempts = []

    def insert(connection: GreenConnection) -> None:
        attempts.append(connection)
        connection.execute("INSERT INTO deeds VALUES ('one')")
        if len(attempts) == 1:
            observer.terminate(connection.info.backend_pid)
            with pytest.raises(psycopg.Error):
                connection.execute("SELECT 1")
        connection.commit()

    fleet.runner.queue_task(insert)

    assert (len(attempts), deeds()) == (2, 1)


def test_a_read_only_session_in_autocommit_is_tried_again(make_fleet: MakeFleet, observer: Observer) -> None:
    fleet = make_fleet(connecting={"autocommit": True, "read_only": True, "options": "-c statement_timeout=9s"})
    attempts = []

    def ask(connection: GreenConnection) -> Any:
        attempts.append(connection)
        if len(attempts) == 1:
            observer.terminate(connection.info.backend_pid)
        return connection.execute("SHOW statement_timeout").fetchone()

    assert fleet.runner.queue_task(ask) == ("9s",)
    assert len(attempts) == 2


def test_session_locks_of_an_interrupted_use_are_let_go(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet()

    def lock(connection: GreenConnection) -> None:
        connection.execute("SELECT pg_advisory_lock(7)")
        by_execute(connection)

    crowd = Crowd()
    user = crowd.call(fleet.runner.run_task, lock)
    eventually(lambda: observer.active(application), "it sleeps with the lock")
    user.kill()
    fleet.refills()

    assert observer.ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [[0]]
    assert not fleet.reasons


def test_a_storm_of_kills_never_opens_more_than_the_bound_and_mixes_no_answers(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet(max_resources=4, max_worker_count=2, acquire_timeout=None)
    observer.watch(application)
    crowd = Crowd()
    for number in range(150):
        user = crowd.call(lambda number=number: (number, fleet.runner.run_task(answer, number, 0.005)))
        gevent.sleep(0.001)
        if number % 3 == 0:
            user.kill(block=False)

    answers = crowd.wait()

    right = [one for one in answers if isinstance(one, tuple)]
    assert all(asked == found for asked, found in right)
    assert len(right) + sum(isinstance(one, GreenletExit) for one in answers) == 150
    assert len(right) >= 100
    fleet.refills()
    assert observer.active(application) == 0
    assert observer.watch(None)["peak"] <= 4


def test_an_outage_heals_by_itself(make_fleet: MakeFleet, proxy: FaultProxy, proxied: str) -> None:
    fleet = make_fleet(dsn=proxied)
    proxy.set_mode(Mode.REFUSE)
    proxy.cut()
    with pytest.raises(psycopg.OperationalError):
        fleet.runner.run_task(answer, 1)

    proxy.set_mode(Mode.UP)

    assert fleet.runner.queue_task(answer, 2) == 2
    fleet.runner.recycle()
    fleet.refills()


def test_who_is_interrupted_while_connecting_leaves_no_session_though_somebody_keeps_the_error(
    observer: Observer, application: str, proxy: FaultProxy, proxied: str
) -> None:
    proxy.delay = 0.2
    proxy.set_mode(Mode.SLOW)
    create = resource(proxied, application_name=application, connect_timeout=20)["on_create"]
    crowd = Crowd()
    user = crowd.call(create)
    eventually(lambda: observer.sessions(application), "the server has let it in, and it does not know")

    user.kill(interrupt := GreenletExit())

    assert crowd.wait() == [interrupt]
    eventually(lambda: not observer.sessions(application), "the session has ended")
    proxy.set_mode(Mode.UP)


def test_connecting_to_a_server_that_says_nothing_ends_in_time_and_blocks_nobody(
    proxy: FaultProxy, proxied: str
) -> None:
    proxy.set_mode(Mode.BLACK_HOLE)
    ticks: list[None] = []

    def tick() -> None:
        while True:
            ticks.append(None)
            gevent.sleep(0.01)

    ticker = gevent.spawn(tick)
    with pytest.raises(psycopg.OperationalError):
        resource(proxied, connect_timeout=2)["on_create"]()
    ticker.kill()
    assert len(ticks) > 50


@pytest.mark.parametrize(
    ("error", "healthy"),
    [
        (psycopg.OperationalError("the connection is closed"), False),
        (psycopg.errors.AdminShutdown(), False),
        (psycopg.errors.ConnectionFailure(), False),
        (psycopg.errors.IdleInTransactionSessionTimeout(), False),
        (psycopg.errors.TooManyConnections(), False),
        (psycopg.errors.QueryCanceled(), True),
        (psycopg.errors.UniqueViolation(), True),
        (psycopg.errors.DeadlockDetected(), True),
        (psycopg.errors.LockNotAvailable(), True),
        (psycopg.ProgrammingError("no results to fetch"), True),
        (ZeroDivisionError(), True),
    ],
)
def test_an_error_is_judged_by_its_sqlstate(error: Exception, healthy: bool) -> None:
    assert is_healthy(error) is healthy


def test_an_error_is_judged_by_what_caused_it(make_fleet: MakeFleet, observer: Observer) -> None:
    def wrap(connection: GreenConnection) -> None:
        observer.terminate(connection.info.backend_pid)
        try:
            connection.execute("SELECT 1")
        except psycopg.Error as error:
            raise LookupError("no such user") from error

    fleet = make_fleet(max_retries=0)
    with pytest.raises(LookupError):
        fleet.runner.queue_task(wrap)

    fleet.refills()
    assert fleet.reasons == {DestroyReason.UNHEALTHY: 1}


def test_only_a_plain_connection_is_adopted(server: ThrowAwayPostgres) -> None:
    class Own(psycopg.Connection[Any]):
        pass

    with psycopg.connect(server.dsn) as plain, Own.connect(server.dsn) as own:
        assert isinstance(adopt(plain), GreenConnection)
        assert type(adopt(own)) is Own
        plain.execute("SELECT 1")
        plain.close()


@pytest.mark.parametrize("interrupt", [GreenletExit(), gevent.Timeout(5)])
def test_sqlalchemy_over_psycopg_3_ends_an_interrupted_statement_on_the_server(
    make_engine: MakeEngine, observer: Observer, application: str, interrupt: BaseException
) -> None:
    engine = make_engine(driver="psycopg", pool_size=2, max_overflow=0)

    def sleep() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_sleep(600)"))

    crowd = Crowd()
    user = crowd.call(sleep)
    eventually(lambda: observer.active(application), "the statement runs")

    user.kill(interrupt)

    assert crowd.wait() == [interrupt]
    assert observer.active(application) == 0
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 3")) == 3
    eventually(lambda: len(observer.sessions(application)) == 2, "the pool fills up by itself")
