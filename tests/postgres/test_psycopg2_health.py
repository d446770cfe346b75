"""What an error says about its connection: judged by state, severity and SQLSTATE, on errors a real server made."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
import psycopg2
import pytest
from psycopg2 import errorcodes, extensions

from gtasker.integrations.psycopg2 import ClosedConnectionError, GreenConnection, is_healthy
from tests.postgres._server import Observer, eventually
from tests.postgres.conftest import Connect


def error_of(statement: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011  # any: what it is, is the question
        statement()
    return raised.value


def query(connection: GreenConnection, statement: str) -> Callable[[], object]:
    return lambda: connection.cursor().execute(statement)


def terminated(connection: GreenConnection, observer: Observer) -> None:
    pid = connection.info.backend_pid
    observer.terminate(pid)
    eventually(lambda: not observer.ask("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid), "the session is gone")


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("SELECT 1 / 0", errorcodes.DIVISION_BY_ZERO),
        ("SELECT no_such_column", errorcodes.UNDEFINED_COLUMN),
        ("SELEC", errorcodes.SYNTAX_ERROR),
        ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(60)", errorcodes.QUERY_CANCELED),
        ("CREATE TEMP TABLE one (n int UNIQUE); INSERT INTO one VALUES (1), (1)", errorcodes.UNIQUE_VIOLATION),
        ("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", errorcodes.SERIALIZATION_FAILURE),
        ("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$", errorcodes.DISK_FULL),
    ],
)
def test_a_statement_that_failed_leaves_its_connection_healthy(connect: Connect, statement: str, code: str) -> None:
    connection = connect()

    error = error_of(query(connection, statement))

    assert isinstance(error, psycopg2.Error)
    assert error.pgcode == code
    assert is_healthy(error)


def test_a_statement_in_a_failed_transaction_leaves_its_connection_healthy(connect: Connect) -> None:
    connection = connect()
    error_of(query(connection, "SELECT 1 / 0"))

    assert is_healthy(error_of(query(connection, "SELECT 1")))


def test_mistakes_in_calls_leave_the_connection_healthy(connect: Connect) -> None:
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("SELECT 1")

    assert is_healthy(error_of(lambda: connection.set_session(autocommit=True)))
    assert is_healthy(error_of(lambda: cursor.execute("SELECT %s", [object()])))
    assert is_healthy(error_of(lambda: cursor.execute("SELECT %s", [])))
    cursor.close()
    assert is_healthy(error_of(lambda: cursor.execute("SELECT 1")))
    assert is_healthy(error_of(cursor.fetchone))


def test_errors_that_are_not_of_the_database_say_nothing_about_it() -> None:
    assert is_healthy(ValueError())
    assert is_healthy(KeyboardInterrupt())
    assert is_healthy(ConnectionResetError())


def test_an_administrator_ended_the_session_in_mid_query(connect: Connect, observer: Observer) -> None:
    connection = connect()
    victim = gevent.spawn(lambda: error_of(query(connection, "SELECT pg_sleep(600)")))
    eventually(lambda: connection.in_flight, "it is in flight")

    observer.terminate(connection.info.backend_pid)

    error = victim.get()
    # psycopg2 has no code for last words that come together with the end of the line.
    assert isinstance(error, psycopg2.OperationalError)
    assert error.pgcode in (errorcodes.ADMIN_SHUTDOWN, None)
    assert not is_healthy(error)


def test_an_administrator_ended_the_session_between_two_queries(connect: Connect, observer: Observer) -> None:
    connection = connect()
    terminated(connection, observer)

    assert not is_healthy(error_of(query(connection, "SELECT 1")))
    # And once more, after psycopg2 has noticed.
    assert not is_healthy(error_of(query(connection, "SELECT 1")))


@pytest.mark.parametrize(
    ("setting", "autocommit", "code"),
    [
        ("idle_in_transaction_session_timeout", False, errorcodes.IDLE_IN_TRANSACTION_SESSION_TIMEOUT),
        ("idle_session_timeout", True, errorcodes.IDLE_SESSION_TIMEOUT),
    ],
)
def test_a_time_out_ended_the_session(
    connect: Connect, observer: Observer, setting: str, autocommit: bool, code: str
) -> None:
    connection = connect(autocommit=autocommit)
    pid = connection.info.backend_pid
    query(connection, f"SET {setting} = 10")()
    eventually(lambda: not observer.ask("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid), "the session is gone")

    error = error_of(query(connection, "SELECT 1"))

    assert isinstance(error, psycopg2.Error)
    assert error.pgcode in (code, None)
    assert not is_healthy(error)


def test_a_commit_that_was_not_answered_is_unhealthy(connect: Connect, observer: Observer) -> None:
    connection = connect()
    connection.cursor().execute("SELECT 1")
    terminated(connection, observer)

    error = error_of(connection.commit)

    assert isinstance(error, psycopg2.Error)
    assert error.cursor is None
    assert not is_healthy(error)


def test_a_lost_connection_is_seen_behind_the_error_of_its_block(connect: Connect, observer: Observer) -> None:
    connection = connect()

    def transfer() -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            terminated(connection, observer)
            cursor.execute("SELECT 1")

    error = error_of(transfer)

    assert isinstance(error, ClosedConnectionError), "the block's rollback is what failed last"
    assert isinstance(error, psycopg2.InterfaceError)
    assert not is_healthy(error)


def test_a_lost_connection_is_seen_behind_what_wraps_it(connect: Connect, observer: Observer) -> None:
    connection = connect()
    terminated(connection, observer)
    lost = error_of(query(connection, "SELECT 1"))

    def wrap(how: str) -> None:
        try:
            raise lost
        except psycopg2.Error as error:
            if how == "on purpose":
                raise LookupError("no such account") from error
            if how == "by accident":
                raise LookupError("a mistake in the handler")  # noqa: B904
            raise LookupError("dealt with") from None

    assert not is_healthy(error_of(lambda: wrap("on purpose")))
    assert not is_healthy(error_of(lambda: wrap("by accident")))
    assert is_healthy(error_of(lambda: wrap("knowingly")))


def test_a_chain_that_bites_its_tail_is_walked_once() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first

    assert is_healthy(first)


def test_a_closed_connection_is_told_from_a_closed_cursor(connect: Connect) -> None:
    connection = connect()
    cursor = connection.cursor()
    connection.close()

    for call in (connection.cursor, connection.commit, lambda: cursor.execute("SELECT 1")):
        error = error_of(call)
        assert isinstance(error, ClosedConnectionError)
        assert not is_healthy(error)


@pytest.mark.parametrize("code", ["08000", "08006", "57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "53300"])
def test_codes_of_a_lost_session_are_unhealthy_without_a_severity(code: str) -> None:
    error: Any = psycopg2.OperationalError("in any language")
    error.__setstate__({"pgerror": "in any language", "pgcode": code})

    assert not is_healthy(error)


@pytest.mark.parametrize(("severity", "healthy"), [("ERROR", True), ("FATAL", False), ("PANIC", False), (None, True)])
def test_a_fatal_error_of_any_code_is_unhealthy(severity: str | None, healthy: bool) -> None:
    # A standby says 40001 to a query that it cancels, and to a session that it ends.
    class Conflict(psycopg2.errors.SerializationFailure):
        pgcode = "40001"
        diag: Any = SimpleNamespace(severity_nonlocalized=severity)

    assert is_healthy(Conflict()) is healthy


def test_the_connection_counts_even_where_the_error_does_not(connect: Connect) -> None:
    connection = connect()
    error = error_of(query(connection, "SELECT 1 / 0"))
    assert is_healthy(error)

    extensions.connection.close(connection)

    assert not is_healthy(error)
