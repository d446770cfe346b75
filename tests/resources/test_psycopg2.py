"""psycopg2 as a resource: libpq gets what is asked of it, and nothing is committed twice without the user's word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import psycopg2
import pytest
from gevent import GreenletExit
from psycopg2 import extras, sql

from gtasker.events import DestroyReason
from gtasker.integrations.psycopg2 import GreenConnection, is_healthy, may_have_committed, resource
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.proxy import FaultProxy, Mode
from tests.postgres._fleet import Crowd
from tests.postgres._server import PATIENCE, Observer, eventually
from tests.postgres.conftest import Connect, MakeFleet
from tests.resources._tls import CERTIFICATE, TlsDoor

pytestmark = pytest.mark.postgres

SURE = {"replay_unknown_commit": False}


@pytest.fixture
def deeds(observer: Observer) -> Iterator[Callable[[], int]]:
    """A table of what was done; how much that is, by another's count."""
    observer.ask("CREATE TABLE deeds (id text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    yield lambda: int(observer.ask("SELECT count(*) FROM deeds")[0][0])
    observer.ask("DROP TABLE deeds")


@pytest.fixture
def door(server: ThrowAwayPostgres) -> Iterator[TlsDoor]:
    with TlsDoor(str(server.socket_path)) as door:
        yield door


Commit = Callable[[GreenConnection], Any]


def by_commit(connection: GreenConnection) -> None:
    connection.commit()


def by_text(connection: GreenConnection) -> None:
    connection.cursor().execute("COMMIT")


def by_object(connection: GreenConnection) -> None:
    connection.cursor().execute(sql.Composed([sql.SQL("COMMIT "), sql.SQL("AND CHAIN")]))


def by_bytes(connection: GreenConnection) -> None:
    connection.cursor().execute(b"INSERT INTO deeds VALUES (NULL); end")


class Deed:
    """A task that inserts a row, and whose first COMMIT nobody hears the answer of: the line breaks in its middle."""

    def __init__(self, proxy: FaultProxy, commit: Commit = by_commit) -> None:
        self.attempts = 0
        self._proxy = proxy
        self._commit = commit

    def __call__(self, connection: GreenConnection, name: str | None = None) -> None:
        self.attempts += 1
        self._proxy.set_mode(Mode.UP)
        cursor = connection.cursor()
        statement = "INSERT INTO deeds SELECT %s WHERE NOT EXISTS (SELECT FROM deeds WHERE id = %s)"
        cursor.execute(statement, [name, name])
        if self.attempts == 1:
            self._proxy.set_mode(Mode.RESET)
        self._commit(connection)


@pytest.mark.parametrize("commit", [by_commit, by_text, by_object, by_bytes])
def test_what_may_have_been_committed_is_not_done_again(
    make_fleet: MakeFleet, proxy: FaultProxy, proxied: str, deeds: Callable[[], int], commit: Commit
) -> None:
    fleet = make_fleet(dsn=proxied, connecting=SURE)
    deed = Deed(proxy, commit)

    with pytest.raises(psycopg2.OperationalError) as caught:
        fleet.runner.queue_task(deed, "one")

    assert may_have_committed(caught.value)
    assert deed.attempts == 1
    assert deeds() >= 1
    proxy.set_mode(Mode.UP)
    fleet.refills()
    assert fleet.reasons == {DestroyReason.RESET_FAILED: 1}  # the connection is not anybody's next


def test_a_block_of_psycopg2s_is_a_commit_and_its_cause_is_seen(
    make_fleet: MakeFleet, proxy: FaultProxy, proxied: str, deeds: Callable[[], int]
) -> None:
    fleet = make_fleet(dsn=proxied, connecting=SURE)
    attempts = []

    def insert(connection: GreenConnection) -> None:
        attempts.append(connection)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("INSERT INTO deeds VALUES ('one')")
                proxy.set_mode(Mode.RESET)
        except psycopg2.Error as error:
            raise LookupError("the shop is closed") from error

    with pytest.raises(LookupError) as caught:
        fleet.runner.queue_task(insert)

    assert may_have_committed(caught.value)
    assert len(attempts) == deeds() == 1
    proxy.set_mode(Mode.UP)


def test_with_the_users_word_and_a_unique_id_it_is_tried_again_and_has_its_effect_once(
    make_fleet: MakeFleet, proxy: FaultProxy, proxied: str, deeds: Callable[[], int]
) -> None:
    fleet = make_fleet(dsn=proxied, connecting={"replay_unknown_commit": True})
    deed = Deed(proxy)

    fleet.runner.queue_task(deed, "one")

    assert deed.attempts == 2
    assert deeds() == 1


def test_with_the_users_word_and_no_id_it_may_be_done_twice(
    make_fleet: MakeFleet, proxy: FaultProxy, proxied: str, deeds: Callable[[], int]
) -> None:
    fleet = make_fleet(dsn=proxied, connecting={"replay_unknown_commit": True})

    fleet.runner.queue_task(Deed(proxy))

    assert deeds() == 2


def test_once_is_at_most_once_whatever_the_word(
    make_fleet: MakeFleet, proxy: FaultProxy, proxied: str, deeds: Callable[[], int]
) -> None:
    fleet = make_fleet(dsn=proxied, connecting={"replay_unknown_commit": True})
    deed = Deed(proxy)

    with pytest.raises(psycopg2.OperationalError) as caught:
        fleet.runner.queue_task_once(deed)

    assert may_have_committed(caught.value)
    assert deed.attempts == deeds() == 1
    proxy.set_mode(Mode.UP)


def test_what_broke_before_its_commit_is_tried_again(
    make_fleet: MakeFleet, observer: Observer, deeds: Callable[[], int]
) -> None:
    fleet = make_fleet(connecting=SURE)
    attempts = []

    def insert(connection: GreenConnection) -> None:
        attempts.append(connection)
        with connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO deeds VALUES ('one')")
            if len(attempts) == 1:
                observer.terminate(connection.info.backend_pid)
            cursor.execute("SELECT 1")

    fleet.runner.queue_task(insert)

    assert len(attempts) == 2
    assert deeds() == 1
    assert fleet.reasons == {DestroyReason.UNHEALTHY: 1}


def test_a_commit_on_a_connection_that_was_lost_before_has_committed_nothing(
    make_fleet: MakeFleet, observer: Observer, deeds: Callable[[], int]
) -> None:
    fleet = make_fleet(connecting=SURE)
    attempts = []

    def insert(connection: GreenConnection) -> None:
        attempts.append(connection)
        cursor = connection.cursor()
        cursor.execute("INSERT INTO deeds VALUES ('one')")
        if len(attempts) == 1:
            observer.terminate(connection.info.backend_pid)
            with pytest.raises(psycopg2.Error):
                cursor.execute("SELECT 1")
        connection.commit()

    fleet.runner.queue_task(insert)

    assert len(attempts) == 2
    assert deeds() == 1


@pytest.mark.parametrize(
    ("readonly", "statement", "is_sure"),
    [
        (None, "SELECT 1", True),
        (None, " select id from deeds", True),
        (None, "SELECT id INTO others FROM deeds", False),
        (None, "WITH gone AS (DELETE FROM deeds RETURNING id) SELECT id FROM gone", False),
        (None, "INSERT INTO deeds VALUES ('first')", False),
        (True, "WITH one AS (SELECT 1) SELECT * FROM one", True),
    ],
)
def test_in_autocommit_each_statement_is_a_commit_unless_it_plainly_reads(
    make_fleet: MakeFleet,
    observer: Observer,
    deeds: Callable[[], int],
    readonly: bool | None,
    statement: str,
    is_sure: bool,
) -> None:
    fleet = make_fleet(connecting={**SURE, "autocommit": True, "readonly": readonly})
    asked = []

    def ask(connection: GreenConnection) -> None:
        asked.append(connection)
        if len(asked) == 1:
            observer.terminate(connection.info.backend_pid)
        connection.cursor().execute(statement)

    task = fleet.runner.submit(ask)
    task.wait()

    assert len(asked) == (2 if is_sure else 1)
    assert task.successful() is is_sure
    assert task.exception is None or may_have_committed(task.exception)


def test_a_commit_that_the_server_refuses_is_certain(
    make_fleet: MakeFleet, observer: Observer, deeds: Callable[[], int]
) -> None:
    fleet = make_fleet(connecting=SURE)
    observer.ask("INSERT INTO deeds VALUES ('one')")

    def insert(connection: GreenConnection) -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO deeds VALUES ('one')")

    with pytest.raises(psycopg2.errors.UniqueViolation) as caught:  # at its COMMIT: the constraint is deferred
        fleet.runner.queue_task(insert)

    assert not may_have_committed(caught.value)
    assert is_healthy(caught.value)
    assert deeds() == 1
    assert not fleet.reasons


def test_other_errors_leave_nothing_open() -> None:
    assert not may_have_committed(ZeroDivisionError())
    assert not may_have_committed(psycopg2.OperationalError("no such server"))


def shown(connection: GreenConnection, *settings: str) -> list[str]:
    cursor = connection.cursor()
    values = []
    for setting in settings:
        cursor.execute(f"SHOW {setting}")
        [(value,)] = cursor.fetchall()
        values.append(value)
    return values


def leave_autocommit(connection: GreenConnection) -> None:
    connection.autocommit = False


def leave_read_only(connection: GreenConnection) -> None:
    connection.readonly = False


def leave_both(connection: GreenConnection) -> None:
    connection.autocommit = False
    connection.set_session(readonly=False, isolation_level="SERIALIZABLE")
    connection.cursor().execute("SELECT 1")


@pytest.mark.parametrize("spoil", [leave_autocommit, leave_read_only, leave_both])
def test_a_session_is_as_its_options_say_for_every_use(
    make_fleet: MakeFleet, application: str, spoil: Callable[[GreenConnection], None]
) -> None:
    fleet = make_fleet(
        worker_count=1,
        max_worker_count=1,
        resource_pool_size=0,
        connecting={"readonly": True, "autocommit": True, "options": "-c statement_timeout=150ms -c search_path=shop"},
    )
    names = ("application_name", "transaction_read_only", "statement_timeout", "search_path", "transaction_isolation")
    wanted = [application, "on", "150ms", "shop", "read committed"]

    for _ in range(3):
        assert fleet.runner.queue_task(shown, *names) == wanted
        fleet.runner.queue_task(spoil)
    assert not fleet.reasons


def test_a_property_that_asks_the_server_gets_its_own_answer(connect: Connect, server: ThrowAwayPostgres) -> None:
    connection = connect(autocommit=True)
    resource(server.dsn)["reset"](connection)

    with gevent.Timeout(PATIENCE):
        for number in range(300):  # the answer may be there before anybody waits for it
            connection.readonly = not number % 2

    assert shown(connection, "transaction_read_only") == ["off"]


def test_who_is_interrupted_while_connecting_leaves_no_session_though_somebody_keeps_the_error(
    observer: Observer, application: str, proxy: FaultProxy, proxied: str, cooperative: None
) -> None:
    proxy.delay = 0.2
    proxy.set_mode(Mode.SLOW)
    create = resource(proxied, application_name=application, autocommit=True, readonly=True)["on_create"]
    statement = "SELECT query FROM pg_stat_activity WHERE application_name = %s AND query LIKE 'SET%%'"
    crowd = Crowd()
    user = crowd.call(create)
    eventually(lambda: observer.ask(statement, application), "the session is being configured")

    user.kill(interrupt := GreenletExit())

    assert crowd.wait() == [interrupt]
    eventually(lambda: not observer.sessions(application), "the session has ended")
    proxy.set_mode(Mode.UP)


def test_a_statement_that_takes_too_long_for_the_server_is_the_tasks_error_and_costs_nothing(
    make_fleet: MakeFleet, observer: Observer, application: str
) -> None:
    fleet = make_fleet(connecting={"options": "-c statement_timeout=50ms"})

    with pytest.raises(psycopg2.errors.QueryCanceled):
        fleet.runner.queue_task(lambda connection: connection.cursor().execute("SELECT pg_sleep(600)"))

    assert observer.active(application) == 0
    assert fleet.runner.queue_task(shown, "statement_timeout") == ["50ms"]
    assert not fleet.reasons


def test_writing_in_a_read_only_session_is_the_tasks_error(make_fleet: MakeFleet, deeds: Callable[[], int]) -> None:
    fleet = make_fleet(connecting={"readonly": True})

    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        fleet.runner.queue_task(lambda connection: connection.cursor().execute("INSERT INTO deeds VALUES ('one')"))

    assert deeds() == 0
    assert not fleet.reasons


def test_a_named_cursor_fetches_part_by_part_and_other_greenlets_run_meanwhile(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(connecting={"cursor_factory": extras.NamedTupleCursor})

    def read(connection: GreenConnection) -> list[int]:
        cursor: Any
        with connection, connection.cursor("many") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT number, pg_sleep(0.0001) FROM generate_series(1, 1000) AS number")
            return [row.number for row in cursor]

    crowd = Crowd()
    for _ in range(4):
        crowd.call(fleet.runner.queue_task, read)

    assert crowd.wait() == [[*range(1, 1001)]] * 4
    assert not fleet.reasons


def test_a_named_cursor_that_is_left_open_is_not_the_next_ones(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(worker_count=1, max_worker_count=1, resource_pool_size=0)

    def leave(connection: GreenConnection) -> None:
        cursor = connection.cursor("left")
        cursor.execute("SELECT generate_series(1, 100000)")
        cursor.fetchone()

    for _ in range(3):
        fleet.runner.queue_task(leave)

    assert not fleet.reasons


def test_tls_goes_through_and_an_interrupted_statement_is_cancelled_through_it(
    make_fleet: MakeFleet, door: TlsDoor, observer: Observer, application: str
) -> None:
    fleet = make_fleet(
        dsn=f"host=localhost port={door.port} user=postgres dbname=postgres sslmode=verify-full",
        connecting={"sslrootcert": str(CERTIFICATE), "gssencmode": "disable"},
    )
    assert fleet.runner.queue_task(lambda connection: connection.info.ssl_in_use)
    sessions = observer.sessions(application)
    crowd = Crowd()
    user = crowd.call(fleet.runner.run_task, lambda connection: connection.cursor().execute("SELECT pg_sleep(600)"))
    eventually(lambda: observer.active(application), "the statement runs")

    user.kill()

    fleet.refills()
    assert observer.active(application) == 0
    assert observer.sessions(application) == sessions  # kept, for it could be cancelled
    assert all(door.ciphers)


def test_a_certificate_that_cannot_be_trusted_is_refused(door: TlsDoor, cooperative: None) -> None:
    create = resource(host="localhost", port=door.port, user="postgres", sslmode="verify-full", sslrootcert="system")[
        "on_create"
    ]

    with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
        create()


def test_a_server_without_tls_is_refused_where_that_is_asked_for(connect: Connect, proxy: FaultProxy) -> None:
    with pytest.raises(psycopg2.OperationalError, match="server does not support SSL"):
        connect(host=proxy.host, port=proxy.port, sslmode="require", gssencmode="disable")


def test_a_lease_lost_in_its_commit_tells_so_too(
    make_fleet: MakeFleet, proxy: FaultProxy, proxied: str, deeds: Callable[[], int]
) -> None:
    fleet = make_fleet(dsn=proxied, connecting=SURE)

    def use_a_lease() -> None:
        with fleet.runner.lease() as connection:
            connection.cursor().execute("INSERT INTO deeds VALUES ('one')")
            proxy.set_mode(Mode.RESET)
            connection.commit()

    with pytest.raises(psycopg2.OperationalError) as caught:
        use_a_lease()

    assert may_have_committed(caught.value)
    assert deeds() == 1
    proxy.set_mode(Mode.UP)
    fleet.refills()
