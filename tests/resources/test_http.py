"""A runner over HTTP clients and a server with faults: bounds, kills in mid-answer, and what one use leaves behind."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import gevent
import httpx
import pytest
import requests
import urllib3
from gevent import GreenletExit

from gtasker import Runner, RunnerEvent, StartError, TaskTimeoutError
from gtasker.events import DestroyReason, ResourceDestroyed
from gtasker.integrations.http import OpenResponseError
from gtasker.integrations.http import httpx as our_httpx
from gtasker.integrations.http import requests as our_requests
from gtasker.integrations.http import urllib3 as our_urllib3
from gtasker.testing.proxy import FaultProxy, Mode
from tests.postgres._fleet import Crowd
from tests.postgres._server import eventually
from tests.resources._web_server import WebServer


class Library(NamedTuple):
    """One of the three, in the words of the tests."""

    resource: Callable[..., Any]
    get: Callable[[Any, str], str]
    stream: Callable[[Any, str], AbstractContextManager[Iterator[bytes]]]
    open: Callable[[Any, str], Any]
    lost: type[Exception]
    late: type[Exception]


@contextmanager
def stream_requests(session: requests.Session, url: str) -> Iterator[Iterator[bytes]]:
    with session.get(url, stream=True) as response:
        yield response.iter_content(1024)


@contextmanager
def stream_urllib3(manager: urllib3.PoolManager, url: str) -> Iterator[Iterator[bytes]]:
    response = manager.request("GET", url, preload_content=False)
    try:
        yield response.stream(1024)
    finally:
        response.close()
        response.release_conn()


@contextmanager
def stream_httpx(client: httpx.Client, url: str) -> Iterator[Iterator[bytes]]:
    with client.stream("GET", url) as response:
        yield response.iter_raw(1024)


LIBRARIES = {
    "requests": Library(
        our_requests.resource,
        lambda session, url: str(session.get(url).text),
        stream_requests,
        lambda session, url: session.get(url, stream=True),
        requests.ConnectionError,
        requests.ReadTimeout,
    ),
    "urllib3": Library(
        our_urllib3.resource,
        lambda manager, url: str(manager.request("GET", url).data.decode()),
        stream_urllib3,
        lambda manager, url: manager.request("GET", url, preload_content=False),
        urllib3.exceptions.MaxRetryError,
        urllib3.exceptions.MaxRetryError,
    ),
    "httpx": Library(
        our_httpx.resource,
        lambda client, url: str(client.get(url).text),
        stream_httpx,
        lambda client, url: client.send(client.build_request("GET", url), stream=True),
        httpx.TransportError,
        httpx.ReadTimeout,
    ),
}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    return LIBRARIES[request.param]


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def web_proxy(web: WebServer) -> Iterator[FaultProxy]:
    with FaultProxy(web.address) as proxy:
        yield proxy


@pytest.fixture
def url(web: WebServer) -> str:
    host, port = web.address
    return f"http://{host}:{port}"


@pytest.fixture
def proxied_url(web_proxy: FaultProxy) -> str:
    return f"http://{web_proxy.host}:{web_proxy.port}"


class Fleet:
    """A runner over clients, and why it destroyed which."""

    def __init__(self, **options: Any) -> None:
        self.reasons: Counter[DestroyReason] = Counter()
        self.runner: Runner[Any] = Runner(
            **{"worker_count": 1, "resource_pool_size": 1, "max_worker_count": 1, "on_event": self._note, **options}
        )

    def _note(self, event: RunnerEvent) -> None:
        if isinstance(event, ResourceDestroyed):
            self.reasons[event.reason] += 1

    def __enter__(self) -> Runner[Any]:
        return self.runner.start()

    def __exit__(self, *_: object) -> None:
        self.runner.kill()
        metrics = self.runner.metrics()
        assert metrics.resources_created == metrics.resources_destroyed == self.reasons.total()

    def refills(self) -> None:
        """Wait until both clients are there, idle."""

        def is_full() -> bool:
            stats = self.runner.stats()
            return (
                stats.active_workers == stats.available_resources == 1
                and stats.live_resources == 2
                and not stats.busy_workers
            )

        eventually(is_full, "the runner fills up by itself")


def word(library: Library, client: Any, url: str) -> str:
    """A task: the word that the server says."""
    return library.get(client, url).split()[0]


def test_a_crowd_has_as_many_connections_as_there_are_clients(library: Library, web: WebServer, url: str) -> None:
    with Fleet(**library.resource()) as runner:
        crowd = Crowd()
        for number in range(40):
            crowd.call(runner.run_task, lambda client, number=number: word(library, client, f"{url}/echo/{number}"))

        assert sorted(crowd.wait(), key=int) == [str(number) for number in range(40)]
        assert 0 < web.peak <= 2
    eventually(lambda: not web.connections, "the server sees the end of all")


@pytest.mark.parametrize("interrupt", [GreenletExit(), gevent.Timeout(5)])
@pytest.mark.parametrize("path", ["/stall", "/long"])
def test_an_interrupted_use_costs_its_client_and_nobody_gets_its_answer(
    library: Library, web: WebServer, url: str, path: str, interrupt: BaseException
) -> None:
    fleet = Fleet(**library.resource())

    def use(client: Any) -> None:
        if path == "/stall":
            library.get(client, url + path)
        with library.stream(client, url + path) as parts:
            for _ in parts:
                pass

    with fleet as runner:
        crowd = Crowd()
        user = crowd.call(runner.run_task, use)
        eventually(lambda: web.asked[path], "the server is asked")

        user.kill(interrupt)

        assert crowd.wait() == [interrupt]
        fleet.refills()
        assert fleet.reasons == {DestroyReason.INTERRUPTED: 1}
        web.release()
        for number in "012345":
            assert runner.run_task(lambda client, path: word(library, client, path), f"{url}/echo/{number}") == number
        eventually(lambda: web.connections <= 2, "the server has no orphan")


def test_a_task_that_takes_too_long_loses_its_client(library: Library, web: WebServer, url: str) -> None:
    fleet = Fleet(**library.resource(), task_timeout=0.5)
    with fleet as runner:
        with pytest.raises(TaskTimeoutError):
            runner.queue_task(library.get, f"{url}/stall")

        fleet.refills()
        assert fleet.reasons == {DestroyReason.INTERRUPTED: 1}
        web.release()


@pytest.mark.parametrize("path", ["/stall", "/long"])  # before its answer, and in the middle of it
def test_a_server_that_is_late_is_not_asked_again(library: Library, web: WebServer, url: str, path: str) -> None:
    fleet = Fleet(**library.resource(timeout=0.5))
    with fleet as runner:
        with pytest.raises((library.late, requests.ConnectionError)):  # what requests says in the middle
            runner.queue_task(library.get, f"{url}{path}")

        web.release()
        assert web.asked[path] == 1
        assert not fleet.reasons


def test_a_connection_that_breaks_off_costs_the_client_and_the_task_is_tried_again(
    library: Library, web_proxy: FaultProxy, proxied_url: str
) -> None:
    fleet = Fleet(**library.resource())
    attempts = []

    def get(client: Any) -> str:
        attempts.append(client)
        web_proxy.set_mode(Mode.RESET if len(attempts) == 1 else Mode.UP)
        return word(library, client, f"{proxied_url}/echo/again")

    with fleet as runner:
        assert runner.queue_task(get) == "again"

        assert len({id(client) for client in attempts}) == 2
        fleet.refills()
        assert fleet.reasons == {DestroyReason.UNHEALTHY: 1}


def test_a_task_that_must_not_be_repeated_gets_the_librarys_error(
    library: Library, web_proxy: FaultProxy, proxied_url: str
) -> None:
    with Fleet(**library.resource()) as runner:
        web_proxy.set_mode(Mode.REFUSE)

        with pytest.raises(library.lost):
            runner.queue_task(library.get, f"{proxied_url}/echo/once", once=True)


def test_a_probe_makes_an_outage_known_and_its_end(
    library: Library, web: WebServer, web_proxy: FaultProxy, proxied_url: str
) -> None:
    web_proxy.set_mode(Mode.REFUSE)
    fleet = Fleet(**library.resource(probe=f"{proxied_url}/missing"))
    with pytest.raises(StartError) as caught:
        fleet.runner.start()
    assert isinstance(caught.value.__cause__, library.lost)
    web_proxy.set_mode(Mode.UP)

    with fleet as runner:
        assert web.asked["/missing"] == 2  # once for each client, and any status will do
        assert runner.queue_task(lambda client: word(library, client, f"{proxied_url}/echo/up")) == "up"


def test_a_client_that_idled_is_asked_by_its_probe(library: Library, web: WebServer, url: str) -> None:
    with Fleet(**library.resource(probe=f"{url}/echo/probe"), check_idle=0) as runner:
        asked = web.asked["/echo/probe"]

        runner.run_task(library.get, f"{url}/echo/1")

        assert web.asked["/echo/probe"] == asked + 1


def test_cookies_and_headers_of_one_use_are_not_the_next_ones(library: Library, web: WebServer, url: str) -> None:
    def use(client: Any) -> str:
        client.headers["X-Own"] = "secret"
        library.get(client, f"{url}/login")
        return library.get(client, f"{url}/echo/first")

    with Fleet(**library.resource(), resource_pool_size=0) as runner:
        assert "secret" in runner.queue_task(use)

        second = runner.queue_task(library.get, f"{url}/echo/second")

        assert second.split() == ["second"]
        assert runner.metrics().resources_created == 1


@pytest.mark.parametrize("name", ["requests", "httpx"])
def test_what_configuring_leaves_is_what_each_use_begins_with(name: str, web: WebServer, url: str) -> None:
    library = LIBRARIES[name]

    def log_in(client: Any) -> None:
        client.headers["X-Own"] = "app"
        client.get(f"{url}/login")

    def use(client: Any) -> str:
        found = library.get(client, f"{url}/echo/hello")
        client.headers.clear()
        client.cookies.clear()
        return found

    with Fleet(**library.resource(configure=log_in), resource_pool_size=0) as runner:
        assert [runner.queue_task(use).split() for _ in range(2)] == [["hello", "who=me", "app"]] * 2


@pytest.mark.parametrize("name", ["requests", "httpx"])
def test_cookies_stay_where_they_are_to(name: str, web: WebServer, url: str) -> None:
    library = LIBRARIES[name]
    with Fleet(**library.resource(keep_cookies=True), resource_pool_size=0) as runner:
        runner.queue_task(library.get, f"{url}/login")

        assert "who=me" in runner.queue_task(library.get, f"{url}/echo/hello")


@pytest.mark.parametrize("name", ["requests", "httpx"])
def test_a_client_that_cannot_be_configured_is_not_a_resource(name: str) -> None:
    def refuse(client: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        LIBRARIES[name].resource(configure=refuse)["on_create"]()


def test_who_is_interrupted_while_connecting_leaves_no_connection_though_somebody_keeps_the_error(
    library: Library, web: WebServer, url: str
) -> None:
    create = library.resource(probe=f"{url}/stall")["on_create"]
    crowd = Crowd()
    for switches in range(12):
        user = crowd.call(create)
        for _ in range(switches):
            gevent.sleep(0)
        user.kill()
        gc.collect()  # a socket that is freed unclosed is a warning, which fails the test

    assert all(isinstance(one, GreenletExit) for one in crowd.wait())
    web.release()
    eventually(lambda: not web.connections, "the server sees the end of all")


def test_a_response_that_outlives_its_use_costs_the_client(
    library: Library, web: WebServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Fleet(**library.resource())
    with fleet as runner:
        kept = runner.run_task(library.open, f"{url}/long")

        eventually(lambda: fleet.reasons, "the client is replaced")
        assert fleet.reasons == {DestroyReason.RESET_FAILED: 1}
        assert any(isinstance(one.exc_info[1], OpenResponseError) for one in caplog.records if one.exc_info)
        web.release()
        kept.close()


def test_a_response_that_was_dropped_unread_costs_the_client(library: Library, web: WebServer, url: str) -> None:
    fleet = Fleet(**library.resource())

    def drop(client: Any) -> None:
        library.open(client, f"{url}/long")
        gc.collect()

    with fleet as runner:
        runner.run_task(drop)

        eventually(lambda: fleet.reasons, "the client is replaced")
        assert fleet.reasons == {DestroyReason.RESET_FAILED: 1}
        web.release()
        assert runner.run_task(lambda client: word(library, client, f"{url}/echo/next")) == "next"


def test_a_response_that_was_read_or_closed_costs_nothing(library: Library, web: WebServer, url: str) -> None:
    fleet = Fleet(**library.resource())

    def read(client: Any) -> int:
        with library.stream(client, f"{url}/long") as parts:
            return sum(map(len, parts))

    def leave(client: Any) -> None:
        with library.stream(client, f"{url}/long") as parts:
            next(iter(parts))

    web.release()
    with fleet as runner:
        assert runner.run_task(read) == 8192
        runner.run_task(leave)
        assert runner.run_task(lambda client: word(library, client, f"{url}/echo/next")) == "next"
        assert not fleet.reasons


def test_a_use_that_wants_two_connections_of_httpx_is_told_so(web: WebServer, url: str) -> None:
    def want_two(client: httpx.Client) -> None:
        with client.stream("GET", f"{url}/long"):
            client.get(f"{url}/echo/second")

    with Fleet(**our_httpx.resource()) as runner, pytest.raises(httpx.PoolTimeout):
        runner.queue_task(want_two)
    web.release()
    assert not web.asked["/echo/second"]


def test_a_client_that_was_closed_in_use_is_replaced(web: WebServer, url: str) -> None:
    fleet = Fleet(**our_httpx.resource())
    with fleet as runner:
        runner.queue_task(lambda client: client.close())

        fleet.refills()
        assert fleet.reasons == {DestroyReason.RESET_FAILED: 1}


@pytest.mark.parametrize(
    ("is_healthy", "error", "healthy"),
    [
        (our_requests.is_healthy, requests.ConnectionError(), False),
        (our_requests.is_healthy, requests.ConnectTimeout(), False),
        (our_requests.is_healthy, requests.exceptions.ChunkedEncodingError(), False),
        (our_requests.is_healthy, requests.ReadTimeout(), True),
        (our_requests.is_healthy, requests.HTTPError(), True),
        (our_requests.is_healthy, requests.TooManyRedirects(), True),
        (our_urllib3.is_healthy, urllib3.exceptions.ProtocolError(), False),
        (our_urllib3.is_healthy, urllib3.exceptions.ConnectTimeoutError(), False),
        (our_urllib3.is_healthy, urllib3.exceptions.SSLError(), False),
        (our_urllib3.is_healthy, urllib3.exceptions.ReadTimeoutError(None, "/", ""), True),  # type: ignore[arg-type]
        (our_urllib3.is_healthy, urllib3.exceptions.DecodeError(), True),
        (our_httpx.is_healthy, httpx.ConnectError(""), False),
        (our_httpx.is_healthy, httpx.ReadError(""), False),
        (our_httpx.is_healthy, httpx.RemoteProtocolError(""), False),
        (our_httpx.is_healthy, httpx.ConnectTimeout(""), False),
        (our_httpx.is_healthy, httpx.ReadTimeout(""), True),
        (our_httpx.is_healthy, httpx.PoolTimeout(""), True),
        (our_httpx.is_healthy, httpx.DecodingError(""), True),
    ],
)
def test_an_error_is_judged_by_whether_the_connection_is_lost(
    is_healthy: Callable[[BaseException], bool], error: Exception, healthy: bool
) -> None:
    assert is_healthy(error) is healthy


def test_a_forked_child_has_clients_of_its_own_and_the_parents_go_on(
    library: Library, web: WebServer, url: str
) -> None:
    with Fleet(**library.resource()) as runner:
        runner.run_task(library.get, f"{url}/echo/before")
        child = os.fork()
        if not child:
            try:
                runner.run_task(library.get, "http://127.0.0.1:1/")
            except library.lost:
                os._exit(0)  # it was its own connection that was refused
            finally:
                os._exit(2)

        assert os.waitpid(child, 0)[1] == 0
        assert runner.run_task(lambda client: word(library, client, f"{url}/echo/after")) == "after"
        assert web.connections == 1
