"""The hooks a runner calls on its connections, on every state in which it may find one."""

from __future__ import annotations

import select
import struct
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import psycopg2
import pytest
from gevent import monkey
from psycopg2 import extensions, extras

from gtasker import Runner
from gtasker.integrations.psycopg2 import GreenConnection, ResourceOptions, resource
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.proxy import FaultProxy, Mode
from tests.postgres._server import Observer, eventually, play
from tests.postgres.conftest import Connect

PATCHED = monkey.is_module_patched("socket")


class Counting(extensions.connection):
    """A connection that counts how often something waited for the server or asked it anything."""

    asked = 0

    def poll(self) -> int:
        self.asked += 1
        return super().poll()


def look(connection: GreenConnection) -> bool:
    """Whether the socket is readable, asked as a runner asks: what came unasked is read, if anything is there."""
    if is_readable(connection):
        connection.read_unasked()
    return is_readable(connection)


def is_readable(connection: GreenConnection) -> bool:
    """Whether anything lies in the socket, without taking it out."""
    poll = monkey.get_original("select", "poll")()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def message(kind: bytes, body: bytes) -> bytes:
    """A message of the server's, as the protocol has it."""
    return kind + struct.pack("!i", len(body) + 4) + body


def value(connection: GreenConnection, statement: str) -> Any:
    cursor = connection.cursor()
    cursor.execute(statement)
    return (cursor.fetchone() or [None])[0]


# reset


def test_resetting_a_clean_connection_asks_the_server_nothing(connect: Connect, hooks: ResourceOptions) -> None:
    connection: Any = connect(connection_factory=Counting)
    before = connection.asked

    hooks["reset"](connection)

    assert connection.asked == before


@pytest.mark.parametrize("statement", ["SELECT 1", "SELECT 1 / 0"])
def test_resetting_ends_the_transaction(connect: Connect, hooks: ResourceOptions, statement: str) -> None:
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE of_a_dead_user ()")
    try:
        cursor.execute(statement)
    except psycopg2.errors.DivisionByZero:
        pass

    hooks["reset"](connection)

    assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE
    assert value(connection, "SELECT to_regclass('of_a_dead_user')") is None


def test_resetting_ends_a_transaction_that_psycopg2_does_not_know(connect: Connect, hooks: ResourceOptions) -> None:
    connection = connect(autocommit=True)
    connection.cursor().execute("BEGIN")

    hooks["reset"](connection)

    assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE


def test_resetting_ends_a_transaction_that_the_server_has_ended(connect: Connect, hooks: ResourceOptions) -> None:
    connection = connect()
    connection.cursor().execute("COMMIT")
    assert connection.status == extensions.STATUS_BEGIN

    hooks["reset"](connection)

    assert connection.status == extensions.STATUS_READY


@pytest.mark.parametrize("autocommit", [False, True])
def test_resetting_puts_back_what_psycopg2_remembers(
    connect: Connect, hooks: ResourceOptions, autocommit: bool
) -> None:
    connection: Any = connect(autocommit=autocommit)
    connection.autocommit = not autocommit
    connection.isolation_level = extensions.ISOLATION_LEVEL_SERIALIZABLE
    connection.readonly = True
    connection.deferrable = True
    connection.cursor_factory = extras.DictCursor

    hooks["reset"](connection)

    assert connection.autocommit is autocommit
    assert [connection.isolation_level, connection.readonly, connection.deferrable] == [None] * 3
    assert connection.cursor_factory is None
    assert value(connection, "SHOW transaction_isolation") == "read committed"
    connection.rollback()
    assert value(connection, "SHOW transaction_read_only") == "off"


def test_resetting_keeps_what_was_asked_for(connect: Connect, hooks: ResourceOptions) -> None:
    connection = connect(readonly=True)
    value(connection, "SELECT 1")

    hooks["reset"](connection)

    assert value(connection, "SHOW transaction_read_only") == "on"


def test_resetting_forgets_the_notifications_of_the_last_user(
    connect: Connect, hooks: ResourceOptions, observer: Observer
) -> None:
    connection = connect(autocommit=True)
    connection.cursor().execute("LISTEN news")
    observer.ask("NOTIFY news")
    value(connection, "SELECT 1")
    assert connection.notifies

    hooks["reset"](connection)

    assert not connection.notifies


def test_a_closed_connection_cannot_be_reset(connect: Connect, hooks: ResourceOptions) -> None:
    connection = connect()
    connection.close()

    with pytest.raises(psycopg2.InterfaceError):
        hooks["reset"](connection)


def test_a_connection_in_flight_cannot_be_reset(connect: Connect, hooks: ResourceOptions) -> None:
    connection = connect()
    query = gevent.spawn(value, connection, "SELECT pg_sleep(0.1)")
    eventually(lambda: connection.in_flight, "it is in flight")

    with pytest.raises(psycopg2.OperationalError, match="in flight"):
        hooks["reset"](connection)

    query.get()


# reset.nowait


def settled(hooks: ResourceOptions, connection: GreenConnection) -> bool:
    """Reset it, if that takes no wait; whether it did not."""
    reset: Any = hooks["reset"]
    answer: bool = reset.nowait(connection)
    return answer


@pytest.mark.parametrize("options", [{}, {"autocommit": True}, {"readonly": True}])
def test_a_clean_connection_is_reset_at_once(connect: Connect, hooks: ResourceOptions, options: dict[str, Any]) -> None:
    connection: Any = connect(connection_factory=Counting, **options)
    value(connection, "SELECT 1")
    connection.rollback()
    before = connection.asked

    assert settled(hooks, connection)

    assert connection.asked == before


def _begin(connection: GreenConnection) -> None:
    connection.cursor().execute("BEGIN")


def _change(connection: GreenConnection, **what: Any) -> None:
    for name, new in what.items():
        setattr(connection, name, new)


USES: dict[str, Callable[[GreenConnection], object]] = {
    "a transaction that psycopg2 does not know": _begin,
    "isolation": lambda connection: _change(connection, isolation_level=extensions.ISOLATION_LEVEL_SERIALIZABLE),
    "read-only": lambda connection: _change(connection, readonly=True),
    "deferrable": lambda connection: _change(connection, deferrable=True),
    "autocommit": lambda connection: _change(connection, autocommit=False),
    "a cursor factory": lambda connection: _change(connection, cursor_factory=extras.DictCursor),
    "a closed connection": GreenConnection.close,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_needs_more_is_not_reset_at_once(
    connect: Connect, hooks: ResourceOptions, use: Callable[[GreenConnection], object]
) -> None:
    connection = connect(autocommit=True)
    assert settled(hooks, connection)

    use(connection)

    assert not settled(hooks, connection)


@pytest.mark.parametrize("statement", ["SELECT 1", "COMMIT"])
def test_a_transaction_is_not_left_at_once(connect: Connect, hooks: ResourceOptions, statement: str) -> None:
    connection = connect()
    connection.cursor().execute(statement)

    assert not settled(hooks, connection)

    hooks["reset"](connection)
    assert settled(hooks, connection)


def test_a_transaction_in_two_phases_is_not_left_at_once(connect: Connect, hooks: ResourceOptions) -> None:
    connection = connect()
    connection.tpc_begin(connection.xid(1, "shop", "till"))

    assert not settled(hooks, connection)

    connection.tpc_rollback()


def test_a_connection_in_flight_is_not_reset_at_once(connect: Connect, hooks: ResourceOptions) -> None:
    connection = connect(autocommit=True)
    query = gevent.spawn(value, connection, "SELECT pg_sleep(0.1)")
    eventually(lambda: connection.in_flight, "it is in flight")

    assert not settled(hooks, connection)

    query.get()
    assert settled(hooks, connection)


def test_resetting_at_once_forgets_the_notifications_of_the_last_user(
    connect: Connect, hooks: ResourceOptions, observer: Observer
) -> None:
    connection = connect(autocommit=True)
    connection.cursor().execute("LISTEN news")
    observer.ask("NOTIFY news")
    value(connection, "SELECT 1")
    assert connection.notifies

    assert settled(hooks, connection)

    assert not connection.notifies


def test_news_that_come_at_the_end_of_a_use_cost_no_connection(
    server: ThrowAwayPostgres, application: str, cooperative: None, observer: Observer
) -> None:
    options = resource(server.dsn, autocommit=True, application_name=application)

    def listen(connection: GreenConnection) -> int:
        connection.cursor().execute("LISTEN news")
        observer.ask("NOTIFY news")
        eventually(lambda: is_readable(connection), "the notification has come")
        return connection.info.backend_pid

    runner: Runner[GreenConnection] = Runner(**options, worker_count=1, resource_pool_size=0, max_resources=1)
    with runner:
        assert len({runner.queue_task(listen) for _ in range(3)}) == 1
        with runner.lease() as connection:
            first = listen(connection)
        with runner.lease() as connection:
            assert connection.info.backend_pid == first
            assert not connection.notifies


def test_a_session_that_ends_with_a_use_is_not_handed_on(
    server: ThrowAwayPostgres, application: str, cooperative: None, observer: Observer
) -> None:
    options = resource(server.dsn, autocommit=True, application_name=application)

    def ended(connection: GreenConnection) -> int:
        pid = connection.info.backend_pid
        observer.terminate(pid)
        eventually(lambda: is_readable(connection), "its last words have come")
        return pid

    runner: Runner[GreenConnection] = Runner(**options, worker_count=1, resource_pool_size=0, max_resources=1)
    with runner:
        first = gevent.spawn(runner.queue_task, ended)
        second = gevent.spawn(runner.queue_task, value, "SELECT 7")  # in line: it gets what the first leaves
        assert first.get() > 0
        assert second.get() == 7
        assert runner.metrics().total_tasks_retried == 0, "nobody was served with the dead session"


# check_resource


@pytest.mark.parametrize(
    "options", [{}, {"autocommit": True}, {"readonly": True}, {"autocommit": True, "readonly": True}]
)
def test_a_check_leaves_the_connection_as_it_was(
    connect: Connect, hooks: ResourceOptions, options: dict[str, Any]
) -> None:
    connection = connect(**options)

    assert hooks["check_resource"](connection) is True

    assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE
    assert connection.autocommit is options.get("autocommit", False)
    assert value(connection, "SHOW transaction_read_only") == ("on" if options.get("readonly") else "off")


def test_a_check_of_a_dead_session_fails(connect: Connect, hooks: ResourceOptions, observer: Observer) -> None:
    connection = connect()
    observer.terminate(connection.info.backend_pid)

    with pytest.raises(psycopg2.Error):
        hooks["check_resource"](connection)


def test_a_check_of_a_connection_in_use_fails(connect: Connect, hooks: ResourceOptions) -> None:
    connection = connect()
    value(connection, "SELECT 1")

    assert hooks["check_resource"](connection) is False


def test_an_interrupted_check_leaves_nothing_running(
    connect: Connect, hooks: ResourceOptions, proxy: FaultProxy, observer: Observer, application: str
) -> None:
    # Given a runner that takes its hook_timeout out of a check in mid-question.
    options = resource(
        f"host={proxy.host} port={proxy.port} user=postgres", application_name=application, cancel_timeout=0.05
    )
    connection = options["on_create"]()
    proxy.set_mode(Mode.BLACK_HOLE)
    bound = gevent.Timeout(0.02)

    with pytest.raises(gevent.Timeout) as raised, bound:
        options["check_resource"](connection)

    assert raised.value is bound
    assert connection.closed


# check_readable: the look before a use


def test_a_connection_was_heard_of_when_its_last_statement_was_answered(
    connect: Connect, hooks: ResourceOptions
) -> None:
    connection = connect()
    heard_at = hooks["reset"].heard_at  # type: ignore[attr-defined]
    before = monotonic()

    value(connection, "SELECT pg_sleep(0.01)")

    assert before + 0.01 <= heard_at(connection) <= monotonic()


def test_a_quiet_connection_is_not_readable(connect: Connect, hooks: ResourceOptions) -> None:
    connection = connect()
    hooks["reset"](connection)

    assert not look(connection)


def test_notifications_do_not_make_a_healthy_connection_look_dirty(
    connect: Connect, hooks: ResourceOptions, observer: Observer
) -> None:
    connection = connect(autocommit=True)
    connection.cursor().execute("LISTEN news")
    hooks["reset"](connection)

    observer.ask("NOTIFY news, 'one'")
    eventually(lambda: is_readable(connection), "the notification has come")

    assert not look(connection)
    assert value(connection, "SELECT 7") == 7
    assert not connection.notifies, "they came while nobody waited for them"


@pytest.mark.parametrize(
    "unasked",
    [
        message(b"S", b"TimeZone\0Mars/Olympus\0"),  # ParameterStatus, as after a fail-over
        message(b"N", b"SWARNING\0VWARNING\0C01000\0Mbackup soon\0\0"),  # NoticeResponse
    ],
)
def test_what_a_server_says_unasked_does_not_make_a_connection_look_dirty(
    proxy: FaultProxy, application: str, cooperative: None, unasked: bytes
) -> None:
    options = resource(f"host={proxy.host} port={proxy.port} user=postgres", application_name=application)
    connection = options["on_create"]()
    options["reset"](connection)

    proxy.say(unasked)
    eventually(lambda: is_readable(connection), "it has come")

    assert not look(connection)
    assert value(connection, "SELECT 7") == 7
    options["on_destroy"](connection)


def test_a_terminated_session_is_seen_without_a_question(
    connect: Connect, hooks: ResourceOptions, observer: Observer, application: str
) -> None:
    connection = connect(autocommit=True)
    connection.cursor().execute("LISTEN news")
    hooks["reset"](connection)

    observer.ask("NOTIFY news, 'before the end'")
    observer.terminate(connection.info.backend_pid)
    eventually(lambda: not observer.sessions(application), "the session has ended")
    eventually(lambda: is_readable(connection), "its last words have come")

    assert look(connection)


def test_last_words_are_understood_before_the_line_ends(proxy: FaultProxy, application: str, cooperative: None) -> None:
    # Given a session whose last words have come, after other news, and whose end has not.
    options = resource(f"host={proxy.host} port={proxy.port} user=postgres", application_name=application)
    connection = options["on_create"]()
    options["reset"](connection)

    news = message(b"A", struct.pack("!i", 1) + b"news\0\0") + message(b"N", b"SWARNING\0Mbackup soon\0\0")
    proxy.say(news + message(b"E", b"SFATAL\0VFATAL\0C57P01\0Mgoodbye\0\0"))
    eventually(lambda: is_readable(connection), "they have come")

    assert look(connection)
    assert look(connection), "and stay"
    options["on_destroy"](connection)


def test_a_line_that_was_cut_is_seen_without_a_question(proxy: FaultProxy, application: str, cooperative: None) -> None:
    options = resource(f"host={proxy.host} port={proxy.port} user=postgres", application_name=application)
    connection = options["on_create"]()
    options["reset"](connection)

    proxy.cut()
    eventually(lambda: is_readable(connection), "the end has come")

    with pytest.raises(psycopg2.OperationalError):
        look(connection)
    assert connection.closed


def test_who_waits_for_notifications_finds_them_in_the_socket(
    connect: Connect, hooks: ResourceOptions, observer: Observer
) -> None:
    # Given a lease that listens in the way psycopg2's manual shows: the descriptor first, then a wait, then poll.
    connection = connect(autocommit=True)
    hooks["reset"](connection)
    connection.cursor().execute("LISTEN news")

    observer.ask("NOTIFY news, 'one'")
    eventually(lambda: is_readable(connection), "the notification has come")

    assert look(connection), "the wait ends at once"
    connection.poll()
    assert [notify.payload for notify in connection.notifies] == ["one"]


# on_destroy, on_forget


def test_a_destroyed_connection_is_gone_from_the_server(
    connect: Connect, hooks: ResourceOptions, observer: Observer, application: str
) -> None:
    # Whoever gets its slot may connect at once, and the server still sees no more sessions than there are slots.
    for _ in range(20):
        connection = connect()

        hooks["on_destroy"](connection)

        assert connection.closed
        assert not observer.sessions(application)
        hooks["on_destroy"](connection)


def test_destroying_waits_a_bounded_time_for_a_server_that_says_nothing(
    proxy: FaultProxy, observer: Observer, application: str, cooperative: None
) -> None:
    options = resource(f"host={proxy.host} port={proxy.port} user=postgres", application_name=application)
    connection = options["on_create"]()
    proxy.set_mode(Mode.BLACK_HOLE)

    options["on_destroy"](connection)

    assert connection.closed
    assert observer.sessions(application)
    proxy.set_mode(Mode.UP)


def test_destroying_in_mid_query_ends_the_query_and_never_waits() -> None:
    assert play("destroy_in_flight", patched=PATCHED).split() == ["closed", "0", "ended"]


def test_closing_a_dead_connection_in_flight_never_waits() -> None:
    out = play("close_a_dead_connection_in_flight", patched=PATCHED)

    assert out.splitlines() == ["dead in flight", "ended"]


@pytest.mark.parametrize("state", ["idle", "in_transaction", "in_flight"])
def test_a_forked_child_lets_go_without_a_word_to_the_server(state: str) -> None:
    assert play("forget_in_a_child", state, patched=PATCHED).split() == ["child", "parent", "1"]
