"""A task, sent with Celery to other processes: as with Dramatiq, but for what Celery cannot do."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator

import pytest
import redis
from celery import signals  # type: ignore[import-untyped]

from gtasker import MaxRetriesExceededError, TaskTimeoutError
from gtasker.distributed import DistributedError, EngineUnavailableError, RemoteTaskError, _celery_results
from gtasker.distributed.celery import CeleryEngine
from gtasker.testing.redis import ThrowAwayRedis
from tests.distributed._app import App, StrangeError, UnfitError, make_runner
from tests.distributed._workers import PATIENCE, Site, WorkerProcess, celery_worker, new_name, scene, workers
from tests.postgres._server import Observer, eventually

ATTEMPTS = "SELECT count(*) FROM attempt WHERE name = %s"
EFFECTS = "SELECT count(*) FROM effect WHERE name = %s"
BEGUN = "SELECT DISTINCT pid FROM attempt WHERE name = %s"
WAIT = 30.0


@pytest.fixture
def served(site: Site, cooperative: None) -> Iterator[tuple[App, WorkerProcess]]:
    """The sender's side of the application, and the worker that serves it."""
    engine = CeleryEngine(site.redis, namespace=site.name)
    app = App(make_runner(site.dsn, f"{site.name} sender"), engine)
    with workers(1, lambda: celery_worker(site)) as [worker]:
        yield app, worker
    app.runner.kill()
    engine.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers take what nobody has acknowledged for four seconds for lost."""
    monkeypatch.setenv("TEST_VISIBILITY", "4")


def test_values_exceptions_retries_limits_and_keys(
    served: tuple[App, WorkerProcess], observer: Observer, site: Site
) -> None:
    # One worker, which takes some seconds to start, for all of them.
    app, worker = served
    name = new_name()

    assert app.leave.remote().get(WAIT) == worker.pid != os.getpid()
    assert app.add.remote(1, 2).get(WAIT) == 3
    assert app.echo.remote({"ä": [None, 1.5, 2**70]}).get(WAIT) == {"ä": [None, 1.5, 2**70]}
    with pytest.raises(ZeroDivisionError) as divided:
        app.divide.remote(1, 0).get(WAIT)
    assert "left / right" in str(divided.value.__cause__)
    with pytest.raises(RemoteTaskError) as strange:
        app.fail.remote("so it is").get(WAIT)
    assert strange.value.type_name == f"{StrangeError.__module__}.StrangeError"
    with pytest.raises(RemoteTaskError, match="MuteError"):
        app.say_nothing.remote().get(WAIT)
    # Celery itself would deliver it again for ever.
    with pytest.raises(MaxRetriesExceededError) as timed_out:
        app.time_out.remote().get(WAIT)
    assert isinstance(timed_out.value.__cause__, RemoteTaskError)
    assert timed_out.value.__cause__.type_name == "gevent.timeout.Timeout"
    with pytest.raises(MaxRetriesExceededError) as spent:
        app.unfit.remote(name).get(WAIT)
    assert spent.value.attempts == 3
    assert isinstance(spent.value.__cause__, UnfitError)
    assert observer.ask(ATTEMPTS, name) == [[3]]
    with pytest.raises(MaxRetriesExceededError):
        app.unfit.remote(name, key="unfit").get(WAIT)
    # Its key stood through the retries, and is free: this is no answer of the one before.
    eventually(lambda: not app.unfit.remote(name, key="unfit").joined, "the key is free again")
    eventually(lambda: observer.ask(ATTEMPTS, name) == [[9]], "it was tried again")
    with pytest.raises(TaskTimeoutError):
        app.too_long.remote().get(WAIT)
    first, other = (app.note.remote(site.name, number, 0.3, key="key") for number in (1, 2))
    assert first.get(WAIT) == other.get(WAIT) == 1
    assert other.joined
    eventually(lambda: app.note.remote(site.name, 3, key="key").get(WAIT) == 3, "the key is free again")


def test_three_hundred_callers_at_once_are_all_served_over_few_connections(
    served: tuple[App, WorkerProcess], site: Site
) -> None:
    with scene("celery_crowd", site) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())

    assert told["values"] == list(range(1, 301))
    # Eight for the results, and two for each of Celery's own ten that send, and one more to begin with.
    assert told["connections"] <= 8 + 2 * 10 + 1


def test_a_worker_that_is_terminated_finishes_what_it_has_begun_and_closes_its_connections(
    served: tuple[App, WorkerProcess], site: Site, observer: Observer
) -> None:
    app, leaver = served
    handles = [app.note.remote(site.name, number, 0.3) for number in range(50)]
    eventually(lambda: observer.ask(BEGUN, site.name), "it has begun", PATIENCE)

    leaver.terminate()

    assert leaver.wait() == 0
    assert "complete=True" in leaver.log
    eventually(lambda: not observer.sessions(site.name), "all connections are closed")
    with workers(1, lambda: celery_worker(site)):
        assert [handle.get(PATIENCE) for handle in handles] == list(range(50))
    assert observer.ask(ATTEMPTS, site.name) == observer.ask(EFFECTS, site.name) == [[50]]


def test_the_tasks_of_a_worker_that_is_shot_run_again_after_the_visibility_timeout(
    impatient: None, served: tuple[App, WorkerProcess], site: Site, observer: Observer
) -> None:
    app, victim = served
    handle = app.note.remote(site.name, 1, 1.0)
    eventually(lambda: observer.ask(BEGUN, site.name), "it has begun", PATIENCE)

    victim.kill()

    with workers(1, lambda: celery_worker(site)):
        assert handle.get(2 * PATIENCE) == 1
    assert observer.ask(ATTEMPTS, site.name) == [[2]]


class Healer(logging.Handler):
    """Heals Redis when Celery has given up one round of tries to store a result."""

    def __init__(self, heal: Callable[[], object]) -> None:
        super().__init__()
        self._heal = heal

    def emit(self, record: logging.LogRecord) -> None:
        if "Failed operation" in record.getMessage():
            self._heal()


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's
@pytest.mark.parametrize("how", ["away", "full"])
def test_a_result_waits_until_it_can_be_stored(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThrowAwayRedis() as server:
        engine = CeleryEngine(server.url)
        backend = engine.app.backend
        monkeypatch.setitem(backend.retry_policy, "max_retries", 1)
        healer = Healer(server.start if how == "away" else lambda: engine.client.config_set("maxmemory", 0))
        log = logging.getLogger("celery.backends.base")
        log.addHandler(healer)
        if how == "away":
            server.crash()
        else:
            engine.client.config_set("maxmemory", 1)

        backend.store_result("id", 7, "SUCCESS")

        assert backend.get_result("id") == 7
        log.removeHandler(healer)
        backend.client.close()
        engine.close()


def test_a_worker_that_is_being_stopped_does_not_try_to_store_a_result_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_celery_results, "_LAST_PATIENCE", 0.0)
    monkeypatch.setattr(_celery_results._Patience, "until", math.inf)
    engine = CeleryEngine("redis://127.0.0.1:1/0")
    backend = engine.app.backend
    monkeypatch.setitem(backend.retry_policy, "max_retries", 1)

    signals.worker_shutting_down.send(sender=None)

    with pytest.raises(redis.ConnectionError):
        backend.store_result("id", 7, "SUCCESS")
    engine.close()


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's
def test_a_result_that_cannot_be_read_is_an_error_of_its_own_handle_alone(site: Site, cooperative: None) -> None:
    engine = CeleryEngine(site.redis, namespace=site.name)
    app = App(make_runner(site.dsn, "never connects"), engine)
    bad, good = app.add.remote(1, 2), app.add.remote(1, 2)
    engine.client.set(engine.app.backend.get_key_for_task(bad.message_id), "no JSON")
    engine.app.backend.store_result(good.message_id, 3, "SUCCESS")

    assert good.get(WAIT) == 3
    with pytest.raises(DistributedError, match="the answer of add cannot be read"):
        bad.get(WAIT)
    engine.app.backend.client.close()
    engine.close()


def test_a_broker_that_is_not_there_is_an_error_with_its_cause(cooperative: None) -> None:
    engine = CeleryEngine("redis://127.0.0.1:1/0")
    app = App(make_runner("", "never connects"), engine)

    with pytest.raises(EngineUnavailableError, match="add could not be sent") as raised:
        app.add.remote(1, 2)

    assert raised.value.__cause__ is not None
    engine.close()
