"""A runner over redis-py's clients and a real server: nobody gets another's answer, and nobody's connection stays."""

from __future__ import annotations

import gc
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import gevent
import pytest
import redis
from gevent import GreenletExit
from redis import exceptions

from gtasker import ResourceUnavailableError, Runner, RunnerEvent, TaskTimeoutError
from gtasker.events import DestroyReason, ResourceDestroyed
from gtasker.integrations.redis import BusyClientError, is_healthy, resource
from gtasker.testing.proxy import FaultProxy, Mode
from gtasker.testing.redis import ThrowAwayRedis
from tests.postgres._fleet import Crowd
from tests.postgres._server import eventually

_names = itertools.count(1)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[ThrowAwayRedis]:
    with ThrowAwayRedis() as server:
        yield server


@pytest.fixture
def redis_proxy(redis_server: ThrowAwayRedis) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", redis_server.port)) as proxy:
        yield proxy


class Observer:
    """A client of the test's own, who asks the server whom it sees."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.client = redis.Redis.from_url(url, decode_responses=True)

    def connections(self) -> list[dict[str, str]]:
        """The connections of the test's clients."""
        clients: Any = self.client.client_list()
        return [client for client in clients if client["name"] == self.name]

    def busy(self, command: str) -> bool:
        """Whether one of them waits in ``command``."""
        return any(client["cmd"].startswith(command) and "b" in client["flags"] for client in self.connections())


@pytest.fixture
def observer(redis_server: ThrowAwayRedis) -> Iterator[Observer]:
    observer = Observer(redis_server.url, f"test-{next(_names)}")
    yield observer
    eventually(lambda: not observer.connections(), "the server sees the end of the test's connections")
    observer.client.flushall()
    observer.client.close()


class Fleet:
    """A runner over clients, and why it destroyed which."""

    def __init__(self, url: str, connecting: dict[str, Any], **options: Any) -> None:
        self.reasons: Counter[DestroyReason] = Counter()
        settings: dict[str, Any] = {"worker_count": 2, "resource_pool_size": 2, "on_event": self._note}
        self.runner: Runner[redis.Redis] = Runner(**{**resource(url, **connecting), **settings, **options})

    def _note(self, event: RunnerEvent) -> None:
        if isinstance(event, ResourceDestroyed):
            self.reasons[event.reason] += 1

    def refills(self) -> None:
        """Wait until every client is there, idle."""

        def is_full() -> bool:
            stats, config = self.runner.stats(), self.runner.config
            return (
                stats.active_workers == config.worker_count
                and stats.available_resources == config.resource_pool_size
                and stats.live_resources == config.worker_count + config.resource_pool_size
                and not stats.busy_workers
            )

        eventually(is_full, "the runner fills up by itself")


class MakeFleet(Protocol):
    """Start a runner; ``connecting`` goes to ``resource``, ``options`` to ``Config``."""

    def __call__(
        self, *, url: str | None = None, connecting: dict[str, Any] | None = None, **options: Any
    ) -> Fleet: ...


@pytest.fixture
def make_fleet(redis_server: ThrowAwayRedis, observer: Observer) -> Iterator[MakeFleet]:
    fleets: list[Fleet] = []

    def make(*, url: str | None = None, connecting: dict[str, Any] | None = None, **options: Any) -> Fleet:
        named = {"client_name": observer.name, "decode_responses": True, **(connecting or {})}
        fleet = Fleet(url or redis_server.url, named, **options)
        fleets.append(fleet)
        fleet.runner.start()
        return fleet

    yield make
    for fleet in fleets:
        fleet.runner.kill()
        metrics = fleet.runner.metrics()
        assert metrics.resources_created == metrics.resources_destroyed == fleet.reasons.total()


@pytest.fixture
def proxied_url(redis_server: ThrowAwayRedis, redis_proxy: FaultProxy) -> str:
    """The server's URL, behind the proxy."""
    return redis_server.url.replace(f":{redis_server.port}/", f":{redis_proxy.port}/")


def echo(client: redis.Redis, value: str) -> Any:
    return client.echo(value)


def echoes(client: redis.Redis, *values: str) -> Any:
    with client.pipeline() as pipeline:
        for value in values:
            pipeline.echo(value)
        return pipeline.execute()


def block(client: redis.Redis) -> None:
    client.blpop(["never"], timeout=0)


def block_in_pipeline(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipeline:
        pipeline.echo("another's")
        pipeline.blpop(["never"], timeout=0)
        pipeline.execute()


def block_in_subscription(client: Any) -> None:
    with client.pubsub() as subscription:
        subscription.subscribe("news")
        for _ in subscription.listen():
            pass


def has_begun(observer: Observer, use: Callable[[redis.Redis], None]) -> bool:
    if use is block_in_subscription:
        return any(int(client["sub"]) for client in observer.connections())
    return observer.busy("blpop")


@pytest.mark.parametrize("interrupt", [GreenletExit(), gevent.Timeout(5)])
@pytest.mark.parametrize("use", [block, block_in_pipeline, block_in_subscription])
def test_an_interrupted_use_costs_its_client_alone_and_nobody_gets_its_answer(
    make_fleet: MakeFleet, observer: Observer, use: Callable[[redis.Redis], None], interrupt: BaseException
) -> None:
    fleet = make_fleet(connecting={"socket_timeout": None})
    crowd = Crowd()
    user = crowd.call(fleet.runner.run_task, use)
    eventually(lambda: has_begun(observer, use), "it waits for the server")

    user.kill(interrupt)

    assert crowd.wait() == [interrupt]
    fleet.refills()
    assert fleet.reasons == {DestroyReason.INTERRUPTED: 1}
    eventually(lambda: len(observer.connections()) == 4, "the server has no orphan")
    assert [fleet.runner.run_task(echo, str(n)) for n in range(8)] == [str(n) for n in range(8)]


def test_a_task_that_takes_too_long_loses_its_client(make_fleet: MakeFleet, observer: Observer) -> None:
    fleet = make_fleet(task_timeout=0.1, connecting={"socket_timeout": None})

    with pytest.raises(TaskTimeoutError):
        fleet.runner.queue_task(block)

    fleet.refills()
    assert fleet.reasons == {DestroyReason.INTERRUPTED: 1}
    eventually(lambda: len(observer.connections()) == 4, "the server has no orphan")


def test_a_storm_of_kills_mixes_no_answers_and_never_opens_more_than_the_bound(
    make_fleet: MakeFleet, observer: Observer
) -> None:
    fleet = make_fleet(max_resources=4, max_worker_count=2, acquire_timeout=None)
    peak = 0
    crowd = Crowd()
    for number in range(200):
        values = [f"{number}-{part}" for part in range(3)]
        user = crowd.call(lambda values=values: (values, fleet.runner.run_task(echoes, *values)))
        if number % 3 == 0:
            gevent.sleep(0.0002)
            user.kill(block=False)
        if number % 20 == 0:
            peak = max(peak, len(observer.connections()))

    answers = crowd.wait()

    right = [one for one in answers if isinstance(one, tuple)]
    assert all(asked == found for asked, found in right)
    assert len(right) + sum(isinstance(one, GreenletExit) for one in answers) == 200
    assert len(right) >= 133
    fleet.refills()
    assert 0 < peak <= 4
    eventually(lambda: len(observer.connections()) == 4, "the server has no orphan")


def test_a_lost_connection_is_replaced_and_its_task_tried_again(make_fleet: MakeFleet, observer: Observer) -> None:
    fleet = make_fleet(connecting={"socket_timeout": None})
    attempts = []

    def wait_once(client: redis.Redis) -> Any:
        attempts.append(client)
        return client.blpop(["never"], timeout=0) if len(attempts) == 1 else client.echo("at last")

    task = fleet.runner.submit(wait_once)
    eventually(lambda: observer.busy("blpop"), "it waits for the server")
    for client in observer.connections():
        if client["cmd"] == "blpop":
            observer.client.client_kill_filter(_id=client["id"])

    assert task.get() == "at last"
    assert len(attempts) == 2
    fleet.refills()
    assert fleet.reasons == {DestroyReason.UNHEALTHY: 1}


def test_a_connection_that_was_closed_while_idle_is_noticed_before_the_next_use(
    make_fleet: MakeFleet, observer: Observer
) -> None:
    fleet = make_fleet(max_retries=0)

    for client in observer.connections():
        observer.client.client_kill_filter(_id=client["id"])

    assert [fleet.runner.run_task(echo, str(n)) for n in range(8)] == [str(n) for n in range(8)]
    assert len(observer.connections()) <= 4


def test_an_outage_is_told_and_heals_by_itself(
    make_fleet: MakeFleet, redis_proxy: FaultProxy, proxied_url: str
) -> None:
    fleet = make_fleet(url=proxied_url, fail_fast_after=0.1)
    redis_proxy.set_mode(Mode.REFUSE)
    redis_proxy.cut()

    def is_refused() -> bool:
        try:
            fleet.runner.run_task(echo, "1")
        except ResourceUnavailableError as error:
            return isinstance(error.__cause__, exceptions.ConnectionError)
        except exceptions.ConnectionError:  # of a client that was there before
            return False
        return False

    eventually(is_refused, "the outage is told")
    redis_proxy.set_mode(Mode.UP)

    fleet.refills()
    assert fleet.runner.queue_task(echo, "2") == "2"


def test_a_reply_that_breaks_off_is_nobodys(make_fleet: MakeFleet, redis_proxy: FaultProxy, proxied_url: str) -> None:
    fleet = make_fleet(url=proxied_url, max_retries=0)
    redis_proxy.set_mode(Mode.RESET)
    with pytest.raises(exceptions.ConnectionError):
        fleet.runner.run_task(echo, "broken")
    redis_proxy.set_mode(Mode.UP)

    assert [fleet.runner.run_task(echo, str(n)) for n in range(8)] == [str(n) for n in range(8)]
    assert fleet.reasons[DestroyReason.UNHEALTHY] == 1


def test_a_client_killed_in_mid_reply_is_nobodys(
    make_fleet: MakeFleet, redis_proxy: FaultProxy, proxied_url: str
) -> None:
    fleet = make_fleet(url=proxied_url)
    crowd = Crowd()
    redis_proxy.set_mode(Mode.BLACK_HOLE)
    user = crowd.call(fleet.runner.run_task, echo, "another's")
    gevent.sleep(0)

    user.kill(interrupt := GreenletExit())
    redis_proxy.set_mode(Mode.UP)  # now the reply comes

    assert crowd.wait() == [interrupt]
    assert [fleet.runner.run_task(echo, str(n)) for n in range(8)] == [str(n) for n in range(8)]


def test_a_subscription_that_outlives_its_use_costs_the_client(make_fleet: MakeFleet, caplog: Any) -> None:
    fleet = make_fleet()
    kept = []

    def keep(client: Any) -> None:
        subscription = client.pubsub()
        subscription.subscribe("news")
        kept.append(subscription)

    fleet.runner.run_task(keep)

    fleet.refills()
    assert fleet.reasons == {DestroyReason.RESET_FAILED: 1}
    assert any(isinstance(record.exc_info[1], BusyClientError) for record in caplog.records if record.exc_info)
    kept[0].close()


@pytest.mark.parametrize("begins", [("MULTI",), ("multi",), ("WATCH", "key"), ("SUBSCRIBE", "news")])
def test_a_mode_that_outlives_its_use_costs_the_client(
    begins: tuple[str, ...], make_fleet: MakeFleet, caplog: Any
) -> None:
    fleet = make_fleet(worker_count=1, resource_pool_size=0, connecting={"protocol": 2})

    def begin(client: Any) -> None:
        client.execute_command(*begins)

    fleet.runner.run_task(begin)

    # In a MULTI it would be queued, and never done; and its user would be told so as if it were the answer.
    assert fleet.runner.run_task(lambda client: client.set("key", 1)) is True
    assert fleet.runner.run_task(lambda client: client.get("key")) == "1"
    assert any(isinstance(record.exc_info[1], BusyClientError) for record in caplog.records if record.exc_info)


def test_a_mode_that_was_ended_costs_nothing(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(worker_count=1, resource_pool_size=0)

    def count(client: Any) -> Any:
        client.execute_command("MULTI")
        client.incr("counted")
        return client.execute_command("EXEC")

    first = fleet.runner.run_task(id)
    assert fleet.runner.run_task(count) == [1]
    assert fleet.runner.run_task(id) == first


def test_a_use_has_one_connection_and_is_told_so_when_it_wants_two(make_fleet: MakeFleet, observer: Observer) -> None:
    fleet = make_fleet()

    def want_two(client: Any) -> None:
        with client.pipeline() as pipeline:
            pipeline.watch("key")
            client.get("key")

    with pytest.raises(exceptions.ConnectionError, match="Too many connections"):
        fleet.runner.run_task(want_two)

    assert len(observer.connections()) == 4


def test_a_lost_watch_and_a_wrong_type_cost_nothing(make_fleet: MakeFleet, observer: Observer) -> None:
    fleet = make_fleet()

    def lose_watch(client: Any) -> None:
        with client.pipeline() as pipeline:
            pipeline.watch("watched")
            observer.client.set("watched", "changed")
            pipeline.multi()
            pipeline.get("watched")
            pipeline.execute()

    def mistake(client: redis.Redis) -> None:
        client.set("text", "not a list")
        client.lpush("text", "item")

    with pytest.raises(exceptions.WatchError):
        fleet.runner.queue_task(lose_watch)
    with pytest.raises(exceptions.ResponseError):
        fleet.runner.queue_task(mistake)

    assert not fleet.reasons


@pytest.mark.parametrize(
    ("error", "healthy"),
    [
        (exceptions.ConnectionError(), False),
        (exceptions.TimeoutError(), False),
        (exceptions.BusyLoadingError(), False),
        (exceptions.AuthenticationError(), False),
        (exceptions.ReadOnlyError(), False),
        (exceptions.InvalidResponse(), False),
        (exceptions.MaxConnectionsError(), True),
        (exceptions.ResponseError(), True),
        (exceptions.WatchError(), True),
        (exceptions.DataError(), True),
        (ZeroDivisionError(), True),
    ],
)
def test_an_error_is_judged_by_its_class(error: Exception, healthy: bool) -> None:
    assert is_healthy(error) is healthy


def test_a_client_that_cannot_be_greeted_is_not_a_resource(redis_server: ThrowAwayRedis, observer: Observer) -> None:
    create = resource(redis_server.url, client_name=observer.name, username="nobody", password="wrong")["on_create"]

    with pytest.raises(exceptions.AuthenticationError):
        create()


def test_who_is_interrupted_while_connecting_leaves_no_connection_though_somebody_keeps_the_error(
    redis_server: ThrowAwayRedis, observer: Observer
) -> None:
    create = resource(redis_server.url, client_name=observer.name)["on_create"]

    def connections() -> int:
        clients: Any = observer.client.info("clients")
        return int(clients["connected_clients"])

    before = connections()
    crowd = Crowd()
    for switches in range(12):
        user = crowd.call(create)
        for _ in range(switches):
            gevent.sleep(0)
        user.kill()
        gc.collect()  # a socket that is freed unclosed is a warning, which fails the test

    made = [one for one in crowd.wait() if isinstance(one, redis.Redis)]
    assert len(made) < 12
    eventually(lambda: connections() == before + len(made), "only those that were made are there")
    for client in made:
        client.connection_pool.disconnect()


def test_a_client_may_come_from_elsewhere(
    make_fleet: MakeFleet, redis_server: ThrowAwayRedis, observer: Observer
) -> None:
    def make() -> redis.Redis:
        return redis.Redis.from_url(redis_server.url, client_name=observer.name, single_connection_client=True)

    fleet = make_fleet(connecting={"make": make})

    assert fleet.runner.queue_task(echo, "own") == b"own"
    assert len(observer.connections()) == 4
    assert not fleet.reasons


def test_a_forked_child_has_clients_of_its_own_and_the_parents_go_on(make_fleet: MakeFleet, observer: Observer) -> None:
    fleet = make_fleet()

    def number(client: redis.Redis) -> int:
        return int(client.client_id())

    before = {client["id"] for client in observer.connections()}
    child = os.fork()
    if not child:
        try:
            own = {str(fleet.runner.run_task(number)) for _ in range(4)}
            fleet.runner.kill()
            os._exit(bool(own & before))
        finally:
            os._exit(2)

    assert os.waitpid(child, 0)[1] == 0
    assert {str(fleet.runner.run_task(number)) for _ in range(4)} <= before
    assert {client["id"] for client in observer.connections()} == before
