"""A statement whose greenlet is interrupted: the exception arrives, the server stops working, the connection lives."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import gevent
import psycopg2
import pytest
from gevent import Greenlet, GreenletExit, monkey
from psycopg2 import extensions

from gtasker.integrations.psycopg2 import ClosedConnectionError, GreenConnection, ResourceOptions, _cancelling
from gtasker.testing.postgres import ThrowAwayPostgres
from tests.postgres._server import Observer, eventually, play
from tests.postgres.conftest import Connect

PATCHED = monkey.is_module_patched("socket")
FOREVER = 600  # seconds; what sleeps this long ends by being cancelled

Statement = Callable[[GreenConnection], Any]


def execute(connection: GreenConnection) -> None:
    connection.cursor().execute("SELECT pg_sleep(%s)", [FOREVER])


def execute_in_a_block(connection: GreenConnection) -> None:
    # Leaving the block rolls back, on the connection that has just been interrupted.
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [FOREVER])


def execute_many(connection: GreenConnection) -> None:
    connection.cursor().executemany("SELECT pg_sleep(%s)", [[0], [FOREVER], [FOREVER]])


def call_a_function(connection: GreenConnection) -> None:
    connection.cursor().callproc("pg_sleep", [FOREVER])


def commit(connection: GreenConnection) -> None:
    cursor = connection.cursor()
    cursor.execute("CREATE TEMP TABLE slow (number int)")
    cursor.execute(
        "CREATE FUNCTION pg_temp.sleep_long() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN PERFORM pg_sleep({FOREVER}); RETURN NULL; END $$"
    )
    cursor.execute(
        "CREATE CONSTRAINT TRIGGER sleeps AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION pg_temp.sleep_long()"
    )
    cursor.execute("INSERT INTO slow VALUES (1)")
    connection.commit()


def fetch_from_the_server(connection: GreenConnection) -> None:
    cursor = connection.cursor("on_the_server")
    cursor.execute("SELECT pg_sleep(%s) FROM generate_series(1, 3)", [FOREVER])
    cursor.fetchone()


def iterate_over_the_server(connection: GreenConnection) -> None:
    cursor = connection.cursor("on_the_server")
    cursor.execute("SELECT pg_sleep(%s) FROM generate_series(1, 3)", [FOREVER])
    for _ in cursor:
        pass


STATEMENTS = [
    execute,
    execute_in_a_block,
    execute_many,
    call_a_function,
    commit,
    fetch_from_the_server,
    iterate_over_the_server,
]


class Victim:
    """A greenlet that runs a statement and keeps what it raised."""

    def __init__(self, statement: Statement, connection: GreenConnection) -> None:
        self.raised: list[BaseException] = []
        self.greenlet = gevent.spawn(self._run, statement, connection)

    def _run(self, statement: Statement, connection: GreenConnection) -> None:
        try:
            statement(connection)
        except BaseException as error:
            self.raised.append(error)

    @property
    def error(self) -> BaseException | None:
        self.greenlet.join()
        return self.raised[0] if self.raised else None


def is_usable(connection: GreenConnection) -> bool:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT 7")
        return bool(cursor.fetchone() == (7,))


def works_on_it(observer: Observer, application: str) -> Callable[[], bool]:
    """Whether the server sleeps for us: it is past BEGIN, and past what prepares a slow commit."""
    return lambda: bool(
        observer.ask(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND wait_event = 'PgSleep'", application
        )
    )


@pytest.mark.parametrize("interrupt", [GreenletExit(), gevent.Timeout(5), ZeroDivisionError(), KeyboardInterrupt()])
@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_exception_arrives_and_the_connection_lives(
    connect: Connect,
    hooks: ResourceOptions,
    observer: Observer,
    application: str,
    statement: Statement,
    interrupt: BaseException,
) -> None:
    connection = connect()
    session = connection.info.backend_pid
    victim = Victim(statement, connection)
    eventually(works_on_it(observer, application), "the server sleeps")

    victim.greenlet.kill(interrupt)

    assert victim.error is interrupt
    assert interrupt.__context__ is None, "it carries no frames of the statement"
    assert observer.active(application) == 0
    assert hooks["on_interrupt"] is not None
    assert hooks["on_interrupt"](connection) is True
    assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE
    assert is_usable(connection)
    assert connection.info.backend_pid == session


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("wait", range(1, 5))
def test_an_interrupt_at_any_wait_is_not_lost(
    connect: Connect, hooks: ResourceOptions, observer: Observer, application: str, autocommit: bool, wait: int
) -> None:
    # Given a statement of several waits (psycopg2 sends BEGIN as one of its own) and an interrupt at one of them.
    interrupt = GreenletExit()

    class Interrupted(extensions.connection):
        polls = -1  # not yet

        def poll(self) -> int:
            if self.polls >= 0:
                self.polls += 1
            if self.polls == wait:
                gevent.get_hub().loop.run_callback(gevent.getcurrent().throw, interrupt)
            return super().poll()

    connection = connect(connection_factory=Interrupted, autocommit=autocommit)

    def statement(connection: Any) -> None:
        connection.polls = 0
        connection.cursor().executemany("SELECT %s", [[1], [2]])
        # Where there were fewer waits than that, this is one more of them.
        connection.polls = wait - 1
        connection.cursor().execute("SELECT pg_sleep(%s)", [FOREVER])

    victim = Victim(statement, connection)

    assert victim.error is interrupt
    assert observer.active(application) == 0
    assert connection.closed or (hooks["on_interrupt"] and hooks["on_interrupt"](connection))
    assert connection.closed or is_usable(connection)


@pytest.mark.parametrize(
    ("first", "second", "wins"),
    [
        (GreenletExit(1), GreenletExit(2), 0),
        (GreenletExit(1), gevent.Timeout(2), 0),
        (gevent.Timeout(1), gevent.Timeout(2), 0),
        # A time-out's catcher goes on: a kill that came in between would never be heard of.
        (gevent.Timeout(1), GreenletExit(2), 1),
        (gevent.Timeout(1), ZeroDivisionError(), 1),
    ],
)
def test_a_second_interrupt_while_cancelling_neither_leaks_nor_hides_a_kill(
    connect: Connect,
    hooks: ResourceOptions,
    observer: Observer,
    application: str,
    first: BaseException,
    second: BaseException,
    wins: int,
) -> None:
    connection = connect()
    victim = Victim(execute, connection)
    eventually(works_on_it(observer, application), "the server sleeps")

    for interrupt in (first, second):
        gevent.get_hub().loop.run_callback(victim.greenlet.throw, interrupt)

    assert victim.error is (first, second)[wins]
    assert observer.active(application) == 0
    assert hooks["on_interrupt"] is not None
    assert hooks["on_interrupt"](connection) is True


def test_an_interrupt_between_statements_leaves_a_connection_to_be_kept(
    connect: Connect, hooks: ResourceOptions
) -> None:
    connection = connect()
    connection.cursor().execute("SELECT 1")

    assert hooks["on_interrupt"] is not None
    assert hooks["on_interrupt"](connection) is True

    assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE


def test_what_an_interrupted_use_did_is_rolled_back(connect: Connect, hooks: ResourceOptions) -> None:
    connection = connect()

    def statement(connection: GreenConnection) -> None:
        connection.cursor().execute("CREATE TABLE half_done ()")
        execute(connection)

    victim = Victim(statement, connection)
    eventually(lambda: connection.get_transaction_status() == extensions.TRANSACTION_STATUS_ACTIVE, "it runs")
    victim.greenlet.kill()

    assert hooks["on_interrupt"] is not None
    assert hooks["on_interrupt"](connection) is True
    cursor = connection.cursor()
    cursor.execute("SELECT to_regclass('half_done')")
    assert cursor.fetchone() == (None,)


def test_session_locks_of_an_interrupted_use_are_let_go(
    connect: Connect, hooks: ResourceOptions, observer: Observer
) -> None:
    connection = connect(autocommit=True)
    connection.cursor().execute("SELECT pg_advisory_lock(4711)")

    assert hooks["on_interrupt"] is not None
    assert hooks["on_interrupt"](connection) is True

    assert observer.ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [[0]]


def test_nobody_vouches_for_a_closed_connection(connect: Connect, hooks: ResourceOptions) -> None:
    connection = connect()
    connection.close()

    assert hooks["on_interrupt"] is not None
    assert hooks["on_interrupt"](connection) is False


def test_without_keeping_the_connection_is_closed_and_the_statement_ends(
    connect: Connect, server: ThrowAwayPostgres, observer: Observer, application: str
) -> None:
    connection = connect(keep_on_interrupt=False)
    victim = Victim(execute, connection)
    eventually(works_on_it(observer, application), "the server sleeps")

    victim.greenlet.kill(interrupt := GreenletExit())

    assert victim.error is interrupt
    assert connection.closed
    assert observer.active(application) == 0
    with pytest.raises(ClosedConnectionError):
        connection.cursor()


@pytest.mark.parametrize("through_the_door", [False, True])
def test_a_call_without_a_door_costs_the_connection_and_nothing_else(
    connect: Connect, server: ThrowAwayPostgres, observer: Observer, application: str, through_the_door: bool
) -> None:
    # psycopg2's own classes, or a cursor that goes past ours: nobody would raise what the callback keeps.
    if through_the_door:
        connection: Any = connect()
    else:
        connection = psycopg2.connect(server.dsn, application_name=application)
    victim = Victim(lambda it: extensions.cursor.execute(it.cursor(), "SELECT pg_sleep(600)"), connection)
    eventually(works_on_it(observer, application), "the server sleeps")

    victim.greenlet.kill(interrupt := GreenletExit())

    assert victim.error is interrupt
    assert connection.closed
    assert observer.active(application) == 0


@pytest.mark.parametrize(
    "cancel", [_cancelling.cancel_cooperatively, _cancelling.cancel_in_thread, GreenConnection.cancel]
)
def test_each_way_of_cancelling_cancels(
    connect: Connect,
    observer: Observer,
    application: str,
    cancel: Callable[[GreenConnection], None],
) -> None:
    connection = connect()
    victim = Victim(execute, connection)
    eventually(works_on_it(observer, application), "the server sleeps")

    cancel(connection)

    assert isinstance(victim.error, psycopg2.errors.QueryCanceled)
    assert observer.active(application) == 0


def test_a_cancel_of_nothing_does_not_hit_the_next_statement(connect: Connect) -> None:
    connection = connect(autocommit=True)
    for _ in range(50):
        _cancelling.cancel_cooperatively(connection)

        assert is_usable(connection)


@pytest.mark.parametrize("way", ["cooperative", "thread"])
def test_a_server_that_says_nothing_delays_an_interrupt_by_the_bound_and_stops_nobody(way: str) -> None:
    assert play("interrupt_in_a_black_hole", way, patched=PATCHED).split() == ["interrupted", "closed", "ticking"]


def test_another_greenlets_statement_is_waited_for_by_nobody() -> None:
    out = play("touch_a_connection_in_flight", patched=PATCHED)

    assert out.split() == ["refused"] * 6 + ["closed", "OperationalError"]


def test_a_thousand_interrupts_leave_every_connection_and_no_statement(
    connect: Connect, hooks: ResourceOptions, observer: Observer, application: str
) -> None:
    # Given connections whose users are interrupted at moments of chance, mid-query and between queries alike.
    chance = random.Random(20)
    connections = [connect(autocommit=bool(number % 2)) for number in range(8)]
    sessions = {connection.info.backend_pid for connection in connections}
    survivors: list[int] = []

    def use(connection: GreenConnection) -> None:
        cursor = connection.cursor()
        while True:
            cursor.execute("SELECT pg_sleep(%s)", [chance.choice([0, 0, 0.002, FOREVER])])

    def suffer(connection: GreenConnection) -> None:
        for _ in range(125):
            interrupt = chance.choice([GreenletExit(), gevent.Timeout(5)])
            victim = Victim(use, connection)
            gevent.sleep(chance.choice([0, 0.0005, 0.003]))
            victim.greenlet.kill(interrupt)
            # A greenlet killed before its first switch has run no line.
            assert victim.raised in ([interrupt], [])
            assert hooks["on_interrupt"] is not None
            assert hooks["on_interrupt"](connection) is True
        survivors.append(connection.info.backend_pid)

    sufferers: list[Greenlet[..., None]] = [gevent.spawn(suffer, connection) for connection in connections]
    gevent.joinall(sufferers, raise_error=True)

    assert set(survivors) == sessions == observer.sessions(application)
    assert observer.active(application) == 0
