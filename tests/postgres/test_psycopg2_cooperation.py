"""psycopg2 waits in gevent's hub, and a connection is made without ever stopping it."""

from __future__ import annotations

import io
import ipaddress
import warnings
from collections.abc import Iterator
from typing import Any

import gevent
import psycopg2
import pytest
from gevent import GreenletExit, get_hub, socket
from gevent.event import AsyncResult
from gevent.exceptions import BlockingSwitchOutError
from gevent.threadpool import ThreadPool
from psycopg2 import extensions, extras

from gtasker.integrations.psycopg2 import (
    ForeignWaitCallbackError,
    GreenConnection,
    ResourceOptions,
    make_cooperative,
    resource,
)
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.proxy import FaultProxy, Mode
from tests.postgres._server import PATIENCE, eventually
from tests.postgres.conftest import Connect


def through(proxy: FaultProxy, **options: Any) -> ResourceOptions:
    return resource(f"host={proxy.host} port={proxy.port} user=postgres dbname=postgres", **options)


def ask(connection: GreenConnection, number: int) -> object:
    cursor = connection.cursor()
    cursor.execute("SELECT %s", [number])
    (answer,) = cursor.fetchone() or [None]
    return answer


class Resolver:
    """A resolver that knows the names it was given, and nobody else does; in the place of gevent's."""

    def __init__(self, **names: list[str]) -> None:
        self.names = {name.replace("_", "."): addresses for name, addresses in names.items()}
        self.asked: list[str] = []

    def getaddrinfo(self, host: Any, port: Any, *rest: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        self.asked.append(name)
        gevent.sleep(0)
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        kinds = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            (kinds[ipaddress.ip_address(address).version], socket.SOCK_STREAM, 6, "", (address, port or 0))
            for address in self.names[name]
        ]


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    hub: Any = gevent.get_hub()
    usual = hub.resolver
    hub.resolver = resolver = Resolver()
    yield resolver
    hub.resolver = usual


@pytest.fixture
def no_callback() -> Iterator[None]:
    extensions.set_wait_callback(None)
    yield
    extensions.set_wait_callback(None)


def test_other_greenlets_run_while_a_query_does(connect: Connect) -> None:
    connection = connect()
    query = gevent.spawn(lambda: connection.cursor().execute("SELECT pg_sleep(0.1)"))

    eventually(lambda: connection.in_flight, "the query waits for the server, and we run")
    query.get()

    assert not connection.in_flight


def test_a_connection_may_be_used_in_one_thread_after_another(connect: Connect) -> None:
    # Given one that has waited in this thread's loop, and then waits in another's.
    connection = connect(autocommit=True)
    pool = ThreadPool(1)

    answers = [
        ask(connection, 1),
        pool.apply(ask, (connection, 2)),
        ask(connection, 3),
        pool.apply(ask, (connection, 4)),
    ]

    assert answers == [1, 2, 3, 4]
    pool.kill()


def test_a_descriptor_that_comes_again_is_waited_for_by_its_new_connection_alone(connect: Connect) -> None:
    first = connect(autocommit=True)
    ask(first, 1)
    descriptor = first.fileno()
    first.close()
    second = connect(autocommit=True)
    assert second.fileno() == descriptor

    assert [ask(second, number) for number in range(3)] == [0, 1, 2]
    with pytest.raises(psycopg2.InterfaceError):
        ask(first, 1)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_statement_in_the_hub_is_refused_and_costs_the_connection(connect: Connect, is_first: bool) -> None:
    # The hub cannot wait; psycopg2 has sent the statement by then.
    connection = connect(autocommit=True)
    if not is_first:
        ask(connection, 1)
    raised: AsyncResult[None] = AsyncResult()

    def statement() -> None:
        try:
            ask(connection, 2)
        except BaseException as error:
            raised.set_exception(error)

    get_hub().loop.run_callback(statement)

    with pytest.raises(BlockingSwitchOutError):
        raised.get(timeout=PATIENCE)
    assert connection.closed


def test_it_may_be_made_cooperative_twice(cooperative: None) -> None:
    ours = extensions.get_wait_callback()

    make_cooperative()

    assert extensions.get_wait_callback() is ours


def test_a_foreign_callback_is_not_overwritten_silently(no_callback: None) -> None:
    extensions.set_wait_callback(extras.wait_select)

    with pytest.raises(ForeignWaitCallbackError, match=r"psycopg2\.extras\.wait_select"):
        make_cooperative()

    assert extensions.get_wait_callback() is extras.wait_select
    make_cooperative(replace=True)
    assert extensions.get_wait_callback() is not extras.wait_select


def test_without_a_callback_a_resource_warns(no_callback: None) -> None:
    with pytest.warns(RuntimeWarning, match="make_cooperative") as warned:
        resource("dbname=postgres")

    assert warned[0].filename == __file__


def test_with_a_callback_nobody_is_warned(no_callback: None) -> None:
    extensions.set_wait_callback(extras.wait_select)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resource("dbname=postgres")


def test_a_wrong_dsn_is_said_at_once(cooperative: None) -> None:
    with pytest.raises(psycopg2.ProgrammingError):
        resource("no such thing")


def test_what_libpq_knows_goes_through(connect: Connect) -> None:
    connection = connect(options="-c statement_timeout=1234", keepalives_idle=7)

    cursor = connection.cursor()
    cursor.execute("SHOW statement_timeout")

    assert cursor.fetchone() == ("1234ms",)
    assert connection.info.dsn_parameters["keepalives_idle"] == "7"
    assert connection.info.dsn_parameters["keepalives_count"] == "3"


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("readonly", [None, True])
def test_a_session_begins_as_asked(connect: Connect, autocommit: bool, readonly: bool | None) -> None:
    connection = connect(autocommit=autocommit, readonly=readonly)

    cursor = connection.cursor()
    cursor.execute("SHOW transaction_read_only")

    assert cursor.fetchone() == ("on" if readonly else "off",)
    assert connection.autocommit is autocommit


def test_the_users_classes_are_kept(connect: Connect) -> None:
    connection = connect(connection_factory=extras.LoggingConnection)
    assert isinstance(connection, extras.LoggingConnection)
    assert isinstance(connection, GreenConnection)
    connection.initialize(log := io.StringIO())

    cursor = connection.cursor()
    cursor.execute("SELECT 7 AS number")

    assert isinstance(cursor, extras.LoggingCursor)
    assert log.getvalue() == "SELECT 7 AS number\n"


def test_the_users_cursors_are_kept(connect: Connect) -> None:
    connection = connect(cursor_factory=extras.RealDictCursor)

    cursor: Any = connection.cursor()
    cursor.execute("SELECT 7 AS number")
    named: Any = connection.cursor("named", cursor_factory=extras.NamedTupleCursor)
    named.execute("SELECT 8 AS number")

    assert cursor.fetchone() == {"number": 7}
    assert [row.number for row in named] == [8]


def test_a_server_that_says_nothing_costs_the_connect_timeout(proxy: FaultProxy, cooperative: None) -> None:
    proxy.set_mode(Mode.BLACK_HOLE)

    with pytest.raises(psycopg2.OperationalError, match=r"connect_timeout=0\.05"):
        through(proxy, connect_timeout=0.05)["on_create"]()

    eventually(lambda: proxy.accepted == 1, "it had tried")


def test_libpqs_own_connect_timeout_is_kept(proxy: FaultProxy, cooperative: None) -> None:
    proxy.set_mode(Mode.BLACK_HOLE)

    with pytest.raises(psycopg2.OperationalError, match="connect_timeout=1 "):
        resource(f"host={proxy.host} port={proxy.port} user=postgres connect_timeout=1")["on_create"]()


@pytest.mark.parametrize("interrupt", [GreenletExit(), gevent.Timeout(5), LookupError("why")])
def test_who_is_interrupted_while_connecting_gets_its_own_exception(
    proxy: FaultProxy, cooperative: None, interrupt: BaseException
) -> None:
    proxy.set_mode(Mode.BLACK_HOLE)
    caught: list[BaseException] = []

    def create() -> None:
        try:
            through(proxy)["on_create"]()
        except BaseException as error:
            caught.append(error)

    creating = gevent.spawn(create)
    eventually(lambda: proxy.accepted, "it waits for the server's first word")
    creating.kill(interrupt)

    assert caught[0] is interrupt
    proxy.set_mode(Mode.UP)
    eventually(lambda: not proxy.open_connections, "nothing of the attempt is left open")


def test_names_are_looked_up_by_gevent_and_kept_for_certificates(
    server: ThrowAwayPostgres, resolver: Resolver, cooperative: None
) -> None:
    resolver.names["database.test"] = ["127.0.0.1"]

    connection = resource(server.dsn, host="database.test")["on_create"]()

    assert resolver.asked == ["database.test"]
    assert connection.info.host == "database.test"
    connection.close()


def test_each_address_of_each_name_is_tried(proxy: FaultProxy, resolver: Resolver, cooperative: None) -> None:
    # Nobody listens at that port of the first two addresses.
    resolver.names["one.test"] = ["127.0.0.2", "127.0.0.3"]
    resolver.names["two.test"] = ["127.0.0.1"]

    connection = through(proxy, host="unknown.test,one.test,two.test")["on_create"]()

    assert resolver.asked == ["unknown.test", "one.test", "two.test"]
    assert connection.info.host == "two.test"
    connection.close()


def test_ports_stay_with_their_hosts(proxy: FaultProxy, resolver: Resolver, cooperative: None) -> None:
    resolver.names["database.test"] = ["127.0.0.1"]
    with FaultProxy(("127.0.0.1", proxy.port)) as closed:
        closed.set_mode(Mode.REFUSE)

        ports = f"{closed.port},{proxy.port}"
        connection = through(proxy, host="127.0.0.1,database.test", port=ports)["on_create"]()

    assert connection.info.port == proxy.port
    connection.close()


def test_a_name_nobody_knows_is_an_operational_error(resolver: Resolver, cooperative: None) -> None:
    with pytest.raises(psycopg2.OperationalError, match=r"unknown\.test"):
        resource("host=unknown.test")["on_create"]()


@pytest.mark.parametrize("where", ["hostaddr=127.0.0.1", "host=127.0.0.1", "host=::1,127.0.0.1"])
def test_an_address_is_not_looked_up(proxy: FaultProxy, resolver: Resolver, cooperative: None, where: str) -> None:
    resource(f"{where} port={proxy.port} user=postgres")["on_create"]().close()

    assert not resolver.asked


def test_a_unix_socket_is_not_looked_up(server: ThrowAwayPostgres, resolver: Resolver, cooperative: None) -> None:
    resolver.names["down.test"] = ["127.0.0.9"]
    folder = server.socket_path.parent

    resource(f"host={folder} port={server.port} user=postgres")["on_create"]().close()
    # Beside a name, the socket's place in the list of addresses is empty.
    resource(f"host=down.test,{folder} port={server.port} user=postgres")["on_create"]().close()

    assert resolver.asked == ["down.test"]


def test_the_connect_bound_covers_the_look_up(resolver: Resolver, cooperative: None) -> None:
    resolver.getaddrinfo = lambda *asked: gevent.sleep(PATIENCE)  # type: ignore[method-assign, assignment]

    with pytest.raises(psycopg2.OperationalError, match="connect_timeout"):
        resource("host=slow.test", connect_timeout=0.02)["on_create"]()
