"""SQLAlchemy on a runner's stock: the same application, with our bounds, our order, and our healing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import GreenletExit
from gevent.event import Event
from sqlalchemy import Connection, Engine, create_engine, event, exc, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from gtasker import RunnerStoppedError, State
from gtasker.integrations.sqlalchemy import GTaskerPool, gtasker_pool
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.proxy import FaultProxy, Mode
from tests.postgres._fleet import Crowd
from tests.postgres._server import Observer, eventually
from tests.resources._scenes import play_here
from tests.resources.conftest import MakeEngine

pytestmark = pytest.mark.postgres


def pool_of(engine: Engine) -> GTaskerPool:
    assert isinstance(engine.pool, GTaskerPool)
    return engine.pool


def number(engine: Engine, value: int, sleep: float = 0.0) -> int:
    """The value, by way of the server."""
    with engine.connect() as connection:
        found, _ = connection.execute(text(f"SELECT {value}, pg_sleep({sleep})")).one()
    return int(found)


def sleep_on_the_server(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_sleep(600)"))


def sleep_raw(engine: Engine) -> None:
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("SELECT pg_sleep(600)")
    finally:
        connection.close()


def is_full(engine: Engine) -> bool:
    """Whether all connections that are kept ready are there, idle, and nothing is under way."""
    pool = pool_of(engine)
    stats = pool.runner.stats()
    return stats.live_resources == pool.size() and not stats.creating_resources and not pool.checkedout()


def refills(engine: Engine) -> None:
    eventually(lambda: is_full(engine), "the pool fills up by itself")


def idle_in_transaction(observer: Observer, application: str) -> int:
    statement = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state LIKE 'idle in transaction%%'"
    )
    [[count]] = observer.ask(statement, application)
    return int(count)


def test_an_application_needs_one_argument_more(make_engine: MakeEngine) -> None:
    engine = make_engine()

    assert number(engine, 7) == 7
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE kept (n int) ON COMMIT DROP"))
        connection.execute(text("INSERT INTO kept VALUES (1)"))
        assert connection.scalar(text("SELECT n FROM kept")) == 1


def test_the_arguments_of_queue_pool_mean_what_they_meant(make_engine: MakeEngine) -> None:
    engine = make_engine(
        pool_size=3, max_overflow=2, pool_timeout=0.5, pool_recycle=900, pool_pre_ping=True, pool_use_lifo=True
    )
    config = pool_of(engine).runner.config

    assert pool_of(engine).size() == 3
    assert config.worker_count + config.resource_pool_size == 3
    assert config.max_resources == 5
    assert config.acquire_timeout == 0.5
    assert config.max_lifetime == 900
    assert config.check_idle == 0
    assert number(engine, 1) == 1


def test_options_of_the_runner_go_through(make_engine: MakeEngine) -> None:
    engine = make_engine(**gtasker_pool(max_creating=1, worker_count=2, name="shop"), pool_size=4)
    config = pool_of(engine).runner.config

    assert (config.max_creating, config.name) == (1, "shop")
    assert (config.worker_count, config.resource_pool_size) == (2, 2)


@pytest.mark.parametrize(
    "options", [{"pool_size": 0}, {"max_overflow": -1}, gtasker_pool(reset=print), gtasker_pool(max_resources=1)]
)
def test_a_pool_without_a_bound_or_with_hooks_of_its_own_is_refused(
    make_engine: MakeEngine, options: dict[str, Any]
) -> None:
    with pytest.raises(exc.ArgumentError):
        make_engine(**options)


def test_making_an_engine_opens_nothing(make_engine: MakeEngine, observer: Observer, application: str) -> None:
    engine = make_engine()

    assert pool_of(engine).runner.state is State.NEW
    assert not observer.sessions(application)


def test_a_crowd_never_opens_more_than_the_bound_and_gets_its_own_answers(
    make_engine: MakeEngine, observer: Observer, application: str
) -> None:
    engine = make_engine(pool_size=2, max_overflow=2)
    observer.watch(application)
    crowd = Crowd()
    for value in range(60):
        crowd.call(number, engine, value, 0.01)

    assert sorted(crowd.wait()) == list(range(60))

    seen = observer.watch(None)
    assert 0 < seen["peak"] <= 4
    assert pool_of(engine).runner.metrics().resources_created <= 4


def test_who_waits_is_served_in_order_of_arrival(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_size=1, max_overflow=0)
    served: list[int] = []

    def use(place: int) -> None:
        for _ in range(3):
            with engine.connect():
                served.append(place)

    with engine.connect():
        users = [gevent.spawn(use, place) for place in range(5)]
        eventually(lambda: pool_of(engine).runner.stats().waiting_leases == 5, "all wait")
    gevent.joinall(users, raise_error=True)

    assert served == [*range(5)] * 3


def test_who_waits_too_long_gets_sqlalchemys_time_out(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=0.05)
    pool_of(engine).runner.start()

    with engine.connect(), pytest.raises(exc.TimeoutError, match="1 waiting"):
        engine.connect()

    assert number(engine, 1) == 1


@pytest.mark.parametrize("interrupt", [GreenletExit(), gevent.Timeout(5), ZeroDivisionError()])
def test_who_is_interrupted_while_it_waits_costs_nothing(make_engine: MakeEngine, interrupt: BaseException) -> None:
    engine = make_engine(pool_size=1, max_overflow=0)
    crowd = Crowd()
    with engine.connect():
        waiter = crowd.call(number, engine, 1)
        eventually(lambda: pool_of(engine).runner.stats().waiting_leases, "it waits")

        waiter.kill(interrupt)

        assert crowd.wait() == [interrupt]
        assert not pool_of(engine).runner.stats().waiting_leases
    assert number(engine, 2) == 2
    assert pool_of(engine).runner.metrics().resources_created == 1


@pytest.mark.parametrize("use", [sleep_on_the_server, sleep_raw])
@pytest.mark.parametrize("interrupt", [GreenletExit(), gevent.Timeout(5)])
def test_a_kill_in_mid_statement_ends_it_on_the_server_and_hands_nothing_dirty_on(
    make_engine: MakeEngine,
    observer: Observer,
    application: str,
    use: Callable[[Engine], None],
    interrupt: BaseException,
) -> None:
    engine = make_engine(pool_size=2, max_overflow=0)
    observer.watch(application)
    crowd = Crowd()
    user = crowd.call(use, engine)
    eventually(lambda: observer.active(application), "the statement runs")

    user.kill(interrupt)

    assert crowd.wait() == [interrupt]
    refills(engine)
    assert observer.active(application) == 0
    # The runner cleans it after the user has gone; nobody gets it before.
    eventually(lambda: idle_in_transaction(observer, application) == 0, "it is rolled back")
    assert [number(engine, value) for value in range(6)] == list(range(6))
    assert observer.watch(None)["peak"] <= 2


def test_a_time_out_that_is_caught_leaves_nothing_of_its_transaction(
    make_engine: MakeEngine, observer: Observer, application: str
) -> None:
    engine = make_engine(pool_size=1, max_overflow=0)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE half_done (n int)"))

    def insert_and_sleep() -> None:
        with gevent.Timeout(0.1), engine.begin() as connection:
            connection.execute(text("INSERT INTO half_done VALUES (1)"))
            connection.execute(text("SELECT pg_sleep(600)"))

    with pytest.raises(gevent.Timeout):
        insert_and_sleep()

    with engine.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM half_done")) == 0
        connection.execute(text("DROP TABLE half_done"))
    assert observer.active(application) == 0


@pytest.mark.parametrize("interrupt", [GreenletExit(), gevent.Timeout(5)])
def test_a_kill_while_a_connection_is_given_back_costs_that_connection_alone(
    make_engine: MakeEngine, proxy: FaultProxy, proxied: str, interrupt: BaseException
) -> None:
    engine = make_engine(dsn=proxied, pool_size=2, max_overflow=0)
    giving_back = Event()

    def use() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            proxy.set_mode(Mode.BLACK_HOLE)  # the rollback gets no answer
            giving_back.set()

    crowd = Crowd()
    user = crowd.call(use)
    giving_back.wait()

    user.kill(interrupt, block=False)
    gevent.sleep(0)
    proxy.set_mode(Mode.UP)

    assert crowd.wait() == [interrupt]
    refills(engine)
    assert [number(engine, value) for value in range(4)] == list(range(4))


def test_a_storm_of_kills_leaves_the_pool_full_and_the_answers_right(
    make_engine: MakeEngine, observer: Observer, application: str
) -> None:
    engine = make_engine(pool_size=3, max_overflow=1, pool_timeout=None)
    observer.watch(application)
    crowd = Crowd()
    for value in range(120):
        user = crowd.call(lambda value=value: (value, number(engine, value, 0.005)))
        gevent.sleep(0.001)
        if value % 3 == 0:
            user.kill(block=False)

    answers = crowd.wait()

    right = [answer for answer in answers if isinstance(answer, tuple)]
    assert all(asked == found for asked, found in right)
    assert len(right) + sum(isinstance(answer, GreenletExit) for answer in answers) == 120
    assert len(right) >= 80
    eventually(lambda: not pool_of(engine).checkedout(), "all is given back")
    assert pool_of(engine).runner.stats().abandoned == 0
    assert observer.active(application) == 0
    assert observer.watch(None)["peak"] <= 4


def test_sessions_that_the_server_ended_while_idle_are_replaced_unnoticed(
    make_engine: MakeEngine, observer: Observer, application: str
) -> None:
    engine = make_engine(pool_size=3, max_overflow=0)
    with engine.connect(), engine.connect(), engine.connect():
        before = observer.sessions(application)
    refills(engine)

    observer.terminate(*before)
    eventually(lambda: not before & observer.sessions(application), "the server has ended them")

    assert [number(engine, value) for value in range(6)] == list(range(6))
    eventually(lambda: len(observer.sessions(application)) == 3, "all are replaced")
    assert not before & observer.sessions(application)


def test_a_connection_lost_in_use_has_all_of_its_age_replaced(
    make_engine: MakeEngine, observer: Observer, application: str
) -> None:
    engine = make_engine(pool_size=3, max_overflow=0)
    number(engine, 0)
    refills(engine)
    before = observer.sessions(application)

    with engine.connect() as connection:
        [pid] = connection.execute(text("SELECT pg_backend_pid()")).one()
        observer.terminate(pid)
        with pytest.raises(exc.OperationalError) as caught:
            connection.execute(text("SELECT 1"))
        assert caught.value.connection_invalidated

    refills(engine)
    eventually(lambda: not before & observer.sessions(application), "every session of that age is gone")
    assert number(engine, 5) == 5


def test_an_outage_answers_with_the_drivers_error_and_heals_by_itself(
    make_engine: MakeEngine, proxy: FaultProxy, proxied: str
) -> None:
    engine = make_engine(dsn=proxied, pool_size=2, max_overflow=0, **gtasker_pool(fail_fast_after=0.1))
    number(engine, 0)
    refills(engine)
    proxy.set_mode(Mode.REFUSE)
    proxy.cut()

    def is_refused() -> bool:
        try:
            number(engine, 1)
        except exc.OperationalError as error:
            return "refused" in str(error.orig)
        return False

    eventually(is_refused, "the outage is told")
    proxy.set_mode(Mode.UP)

    refills(engine)
    assert number(engine, 2) == 2


def test_a_greenlet_that_ends_with_a_connection_loses_it(
    make_engine: MakeEngine, observer: Observer, application: str
) -> None:
    engine = make_engine(pool_size=1, max_overflow=0)
    kept: list[Connection] = []

    def leak() -> None:
        kept.append(engine.connect())
        kept[0].execute(text("SELECT 1"))

    gevent.spawn(leak).join()

    assert number(engine, 3) == 3  # within the pool's bound of one
    assert idle_in_transaction(observer, application) == 0
    with pytest.raises(exc.DBAPIError):
        kept[0].execute(text("SELECT 1"))
    kept[0].close()
    refills(engine)


def test_dispose_closes_what_is_idle_now_and_what_is_out_when_it_comes_back(
    make_engine: MakeEngine, observer: Observer, application: str
) -> None:
    engine = make_engine(pool_size=3, max_overflow=0)
    number(engine, 0)
    refills(engine)
    first = pool_of(engine)

    engine.dispose()
    assert not observer.sessions(application)
    assert pool_of(engine) is not first

    with engine.connect() as connection:
        refills_but_one = eventually(lambda: len(observer.sessions(application)) == 3, "the new pool fills")
        engine.dispose()
        assert refills_but_one
        assert connection.scalar(text("SELECT 4")) == 4
        assert number(engine, 5) == 5  # from a third pool
    engine.dispose()
    eventually(lambda: not observer.sessions(application), "all are closed")


def test_who_comes_while_an_engine_is_disposed_of_gets_a_connection(make_engine: MakeEngine) -> None:
    engine = make_engine()
    assert number(engine, 1) == 1
    refills(engine)

    disposing = gevent.spawn(engine.dispose)
    gevent.sleep(0)

    assert not disposing.ready()
    assert number(engine, 2) == 2
    disposing.get(timeout=20.0)
    assert number(engine, 3) == 3
    refills(engine)


def test_a_disposed_pool_can_be_used_again(make_engine: MakeEngine, observer: Observer, application: str) -> None:
    engine = make_engine()
    number(engine, 0)

    engine.pool.dispose()

    assert not observer.sessions(application)
    assert number(engine, 1) == 1


def test_a_pool_whose_runner_was_stopped_refuses_while_connections_are_out(make_engine: MakeEngine) -> None:
    engine = make_engine()
    runner = pool_of(engine).runner
    crowd = Crowd()
    with engine.connect():
        crowd.call(runner.stop)
        eventually(lambda: runner.state is State.STOPPING, "it stops")
        crowd.call(number, engine, 1)
        eventually(lambda: any(isinstance(one, RunnerStoppedError) for one in crowd.answers), "it is refused")


def test_isolation_and_autocommit_of_one_use_are_not_the_next_ones(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_size=1, max_overflow=0, isolation_level="REPEATABLE READ")

    def level() -> str:
        with engine.connect() as connection:
            return str(connection.scalar(text("SHOW transaction_isolation")))

    assert level() == "repeatable read"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT 1"))
    assert level() == "repeatable read"
    raw = engine.raw_connection()
    assert raw.driver_connection is not None
    raw.driver_connection.isolation_level = "SERIALIZABLE"
    raw.close()
    assert level() == "repeatable read"
    assert pool_of(engine).runner.metrics().resources_created == 1


def test_listeners_hear_what_they_heard_before(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_size=1, max_overflow=0)
    heard: list[str] = []
    for name in ("connect", "checkout", "reset", "checkin", "invalidate", "close", "soft_invalidate"):
        event.listen(engine, name, lambda *_, name=name: heard.append(name))

    number(engine, 1)
    assert heard == ["connect", "checkout", "reset", "checkin"]

    heard.clear()
    with engine.connect() as connection:
        connection.invalidate()
    number(engine, 2)
    assert heard == ["checkout", "invalidate", "close", "checkin", "connect", "checkout", "reset", "checkin"]

    heard.clear()
    raw = engine.raw_connection()
    raw.invalidate(soft=True)
    raw.close()
    expected = ["checkout", "soft_invalidate", "reset", "checkin", "close", "connect"]
    eventually(lambda: heard == expected, f"{expected} are heard")


def test_listeners_may_still_change_how_a_connection_is_made(
    make_engine: MakeEngine, observer: Observer, application: str
) -> None:
    engine = make_engine()

    @event.listens_for(engine, "do_connect")
    def rename(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
        parameters["application_name"] = f"{application} renamed"

    number(engine, 1)

    assert observer.sessions(f"{application} renamed")
    assert not observer.sessions(application)


def test_a_checkout_listener_that_finds_a_connection_bad_gets_another_within_the_bound(
    make_engine: MakeEngine, observer: Observer, application: str
) -> None:
    engine = make_engine(pool_size=1, max_overflow=0)
    number(engine, 0)
    refills(engine)
    bad = observer.sessions(application)
    observer.watch(application)

    @event.listens_for(engine, "checkout")
    def check(connection: Any, record: Any, proxy: Any) -> None:
        if connection.info.backend_pid in bad:
            raise exc.DisconnectionError("bad")

    assert number(engine, 1, 0.1) == 1

    refills(engine)
    assert not bad & observer.sessions(application)
    assert observer.watch(None)["peak"] == 1


def test_a_detached_connection_is_its_users_and_another_takes_its_place(
    make_engine: MakeEngine, observer: Observer, application: str
) -> None:
    engine = make_engine(pool_size=1, max_overflow=0)

    with engine.connect() as connection:
        connection.detach()
        assert number(engine, 1) == 1
        assert connection.scalar(text("SELECT 2")) == 2
        assert len(observer.sessions(application)) == 2

    eventually(lambda: len(observer.sessions(application)) == 1, "its user has closed it")


def test_the_first_connections_do_not_meet_in_sqlalchemys_lock(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_size=4, max_overflow=0)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.cursor().execute("SELECT pg_sleep(0.05)")
        connection.rollback()

    crowd = Crowd()
    for value in range(8):
        crowd.call(number, engine, value)

    assert sorted(crowd.wait()) == list(range(8))
    refills(engine)


def test_a_connection_whose_listener_fails_is_closed(
    make_engine: MakeEngine, observer: Observer, application: str
) -> None:
    engine = make_engine(pool_size=1, max_overflow=0, **gtasker_pool(fail_fast_after=0.05))

    @event.listens_for(engine, "connect")
    def refuse(connection: Any, record: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(exc.OperationalError) as caught:
        number(engine, 1)

    assert isinstance(caught.value.orig, ZeroDivisionError)
    eventually(lambda: len(observer.sessions(application)) <= 1, "none of the failed ones is left")


def test_a_pool_made_before_its_engine_learns_its_driver_from_that(
    make_engine: MakeEngine, server: ThrowAwayPostgres, application: str
) -> None:
    from gtasker.integrations.psycopg2 import resource  # noqa: PLC0415

    create = resource(server.dsn, application_name=application)["on_create"]
    engine = make_engine(pool=GTaskerPool(create, pool_size=1, max_overflow=0))

    with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
        sleep_raw(engine)

    assert number(engine, 1) == 1
    assert pool_of(engine).runner.metrics().resources_created == 1  # cancelled, vouched for, and kept


def test_any_dbapi_is_lent_within_the_bound_and_replaced_after_an_interrupted_use(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'plain.db'}", poolclass=GTaskerPool, pool_size=2, max_overflow=0)

    def hold(held: Event) -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            held.set()
            gevent.sleep(600)

    held = Event()
    holder = gevent.spawn(hold, held)
    held.wait()
    assert pool_of(engine).checkedout() == 1
    holder.kill()

    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 2")) == 2
    eventually(lambda: pool_of(engine).runner.metrics().resources_destroyed == 1, "it is replaced")
    engine.dispose()


def test_sessions_of_the_orm_commit_roll_back_and_give_back(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_size=1, max_overflow=0)

    class Base(DeclarativeBase):
        pass

    class Account(Base):
        __tablename__ = "accounts_of_the_orm"
        id: Mapped[int] = mapped_column(primary_key=True)
        balance: Mapped[int]

    Base.metadata.create_all(engine)
    try:
        with Session(engine) as session, session.begin():
            session.add(Account(id=1, balance=10))
        with Session(engine) as session, session.begin():
            session.execute(update(Account).values(balance=0))
            session.rollback()
        with Session(engine) as session:
            assert session.scalars(select(Account.balance)).one() == 10
    finally:
        Base.metadata.drop_all(engine)
    assert pool_of(engine).runner.metrics().resources_created == 1


def test_a_forked_child_has_connections_of_its_own_and_the_parents_go_on(server: ThrowAwayPostgres) -> None:
    said = play_here("fork", server.dsn)

    assert said.split() == ["child", "own", "parent", "same"]


def test_its_numbers_are_told_in_queue_pools_words(make_engine: MakeEngine) -> None:
    engine = make_engine(pool_size=2, max_overflow=1)
    pool = pool_of(engine)
    number(engine, 0)
    refills(engine)

    with engine.connect(), engine.connect(), engine.connect():
        assert (pool.size(), pool.checkedout(), pool.checkedin(), pool.overflow()) == (2, 3, 0, 1)
    assert pool.timeout() == 30
    eventually(lambda: pool.checkedout() == 0, "all are back")
    assert pool.status() == (
        "Pool size: 2  Connections in pool: 3 Current Overflow: 1 Current Checked out connections: 0"
    )


def test_a_child_that_was_forked_while_its_parent_connected_for_the_first_time_connects_too(
    server: ThrowAwayPostgres,
) -> None:
    assert play_here("fork_at_the_first_connect", server.dsn).split() == ["used", "used"]
