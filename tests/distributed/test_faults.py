"""Workers that are shot or stopped, and a Redis that goes away, in the middle of tasks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis

from gtasker.distributed import EngineUnavailableError
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.redis import ThrowAwayRedis
from tests.distributed._app import SCHEMA, App
from tests.distributed._workers import PATIENCE, Site, dramatiq_worker, new_name, workers
from tests.distributed.conftest import sender
from tests.postgres._server import Observer, eventually

BEGUN = "SELECT DISTINCT pid FROM attempt WHERE name = %s"
ALL_AGAIN = "SELECT count(DISTINCT number) FROM attempt WHERE name = %s AND pid = %s"
ASLEEP = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state = 'active' AND wait_event = 'PgSleep'"
)
EFFECTS = "SELECT count(*) FROM effect WHERE name = %s"
REDELIVERY = 10.0
"""Seconds within which the tasks of a dead worker run again."""


@pytest.fixture
def own_app(site: Site, cooperative: None) -> Iterator[App]:
    """The sender's side for workers of the test's own."""
    with sender(site) as app:
        yield app


def pids_of(observer: Observer, name: str) -> set[int]:
    return {pid for (pid,) in observer.ask(BEGUN, name)}


def test_the_tasks_of_a_worker_that_is_shot_run_again_within_ten_seconds_and_its_slots_come_back(
    site: Site, own_app: App, observer: Observer
) -> None:
    bound = 4
    with workers(1, lambda: dramatiq_worker(site, bound)) as [victim]:
        handles = [own_app.note.remote(site.name, number, 60.0) for number in range(bound)]
        eventually(lambda: observer.active(site.name) == bound, "all slots are in use", PATIENCE)
        with workers(1, lambda: dramatiq_worker(site, bound)) as [heir]:
            victim.kill()
            shot_at = time.monotonic()
            # The heir can have no connection but with the dead one's slots, for the bound is theirs together.
            eventually(
                lambda: observer.ask(ALL_AGAIN, site.name, heir.pid) == [[bound]], "all tasks run again", PATIENCE
            )
            waited = time.monotonic() - shot_at
    assert waited < REDELIVERY
    assert not any(handle.ready() for handle in handles)


def test_a_worker_that_is_terminated_finishes_what_it_has_begun_and_closes_its_connections(
    site: Site, own_app: App, observer: Observer
) -> None:
    with workers(2, lambda: dramatiq_worker(site)) as [leaver, _]:
        handles = [own_app.note.remote(site.name, number, 0.3) for number in range(80)]
        eventually(lambda: leaver.pid in pids_of(observer, site.name), "it has begun", PATIENCE)

        leaver.terminate()

        assert leaver.wait() == 0
        # Nothing was tried twice: what it had not begun went back.
        assert [handle.get(PATIENCE) for handle in handles] == list(range(80))
        assert observer.ask("SELECT count(*) FROM attempt WHERE name = %s", site.name) == [[80]]
        assert observer.ask(EFFECTS, site.name) == [[80]]
        assert "complete=True" in leaver.log
    eventually(lambda: not observer.sessions(site.name), "all connections are closed")


def test_messages_that_were_lost_on_their_way_to_a_worker_are_put_back(
    site: Site, own_app: App, observer: Observer
) -> None:
    with workers(1, lambda: dramatiq_worker(site)) as [worker]:
        # In the worker's name: for Redis, it has them; the answer with them never came to it.
        broker = own_app.engine.broker
        heartbeats = f"{site.name}:__heartbeats__"
        [name] = eventually(lambda: own_app.engine.client.zrange(heartbeats, 0, -1), "it is heard of", PATIENCE)
        broker.broker_id = name.decode()
        lost: list[bytes] = []
        handles: list[Any] = []
        while not lost:
            handles.append(own_app.note.remote(site.name, len(handles)))
            lost = broker.do_fetch("normal", 100)

        assert [handle.get(PATIENCE) for handle in handles] == list(range(len(handles)))
        assert "messages were lost on their way here, and are put back" in worker.log
    assert observer.ask("SELECT count(*) FROM attempt WHERE name = %s", site.name) == [[len(handles)]]


@pytest.fixture
def own_postgres() -> Iterator[ThrowAwayPostgres]:
    """A Postgres that the test may crash."""
    with ThrowAwayPostgres() as server:
        session = psycopg2.connect(server.dsn)
        with session, session.cursor() as cursor:
            cursor.execute(SCHEMA)
        session.close()
        yield server


def test_tasks_outlive_a_crash_of_postgres(
    own_postgres: ThrowAwayPostgres, redis_server: ThrowAwayRedis, tmp_path: Path, cooperative: None
) -> None:
    site = Site(redis_server.url, own_postgres.dsn, new_name(), tmp_path)
    with sender(site) as app, workers(1, lambda: dramatiq_worker(site)):
        begun = Observer(own_postgres.dsn)
        handles = [app.note.remote(site.name, number, 1.0) for number in range(30)]
        # None of them is at a COMMIT: of that nobody could know whether it took place.
        eventually(lambda: begun.ask(ASLEEP, site.name) == [[20]], "all that can run are in their middle", PATIENCE)
        begun.close()

        own_postgres.crash()
        own_postgres.start()

        assert [handle.get(2 * PATIENCE) for handle in handles] == list(range(30))
        after = Observer(own_postgres.dsn)
        assert after.ask(EFFECTS, site.name) == [[30]]
        after.close()


@pytest.fixture
def own_redis() -> Iterator[ThrowAwayRedis]:
    """A Redis that the test may stop."""
    with ThrowAwayRedis() as server:
        yield server


@pytest.fixture
def fragile(own_redis: ThrowAwayRedis, postgres_server: ThrowAwayPostgres, tmp_path: Path) -> Site:
    """A site with it."""
    return Site(own_redis.url, postgres_server.dsn, new_name(), tmp_path)


@pytest.mark.parametrize("how", ["shut_down", "crash"])
def test_no_task_is_lost_when_redis_goes_away_and_comes_back(
    how: str, own_redis: ThrowAwayRedis, fragile: Site, observer: Observer, cooperative: None
) -> None:
    with sender(fragile) as app:
        with workers(2, lambda: dramatiq_worker(fragile)):
            handles: dict[int, Any] = {}
            refused: dict[int, EngineUnavailableError] = {}
            for number in range(1, 301):
                if number == 150:
                    eventually(lambda: observer.ask(EFFECTS, fragile.name) > [[20]], "half way", PATIENCE)
                    getattr(own_redis, how)()
                try:
                    handles[number] = app.note.remote(fragile.name, number, 0.05)
                except EngineUnavailableError as error:
                    refused[number] = error
                    own_redis.start()
            answers = {number: handle.get(2 * PATIENCE) for number, handle in handles.items()}

        # Whoever was told that it was sent got an answer; whoever was refused got a clear error at the call.
        assert refused
        assert all(isinstance(error.__cause__, redis.RedisError) for error in refused.values())
        assert answers == {number: number for number in handles}
        found = {number for (number,) in observer.ask("SELECT number FROM effect WHERE name = %s", fragile.name)}
        assert set(handles) <= found
        assert found - set(handles) <= set(refused)


def test_a_worker_waits_until_a_redis_that_is_full_has_room(
    own_redis: ThrowAwayRedis, fragile: Site, observer: Observer, cooperative: None
) -> None:
    client = redis.Redis.from_url(own_redis.url)
    with sender(fragile) as app:
        with workers(1, lambda: dramatiq_worker(fragile)):
            handle = app.note.remote(fragile.name, 1, 0.5)
            eventually(lambda: observer.ask(BEGUN, fragile.name), "it has begun", PATIENCE)
            client.config_set("maxmemory", 1)
            eventually(lambda: observer.ask(EFFECTS, fragile.name) == [[1]], "it has its effect", PATIENCE)
            with pytest.raises(EngineUnavailableError, match=r"could not be sent: .*memory"):
                app.note.remote(fragile.name, 2)
            client.config_set("maxmemory", 0)

            assert handle.get(PATIENCE) == 1
        assert observer.ask("SELECT count(*) FROM attempt WHERE name = %s", fragile.name) == [[1]]
    client.close()


def test_a_handle_waits_through_an_outage(
    own_redis: ThrowAwayRedis, fragile: Site, observer: Observer, cooperative: None
) -> None:
    with sender(fragile) as app:
        with workers(1, lambda: dramatiq_worker(fragile)):
            handle = app.note_in_time.remote(fragile.name, 1, 0.7)
            eventually(lambda: observer.ask(BEGUN, fragile.name), "it has begun", PATIENCE)
            own_redis.crash()
            # It ends while nobody can be told.
            eventually(lambda: observer.ask(EFFECTS, fragile.name) == [[1]], "it has its effect", PATIENCE)
            # The time limit of the task is none of its result's.
            assert not handle.wait(app.note_in_time.timeout)
            own_redis.start()

            assert handle.get(2 * PATIENCE) == 1
        assert observer.ask("SELECT count(*) FROM attempt WHERE name = %s", fragile.name) == [[1]]
