"""Who sends: crowds of callers, and keys that stand for messages across processes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from dramatiq import Message

from gtasker import MaxRetriesExceededError
from gtasker.distributed import AlreadyBegunError, EngineUnavailableError
from gtasker.distributed._results import KEY
from gtasker.distributed.dramatiq import DramatiqEngine
from tests.distributed._app import App, make_runner
from tests.distributed._workers import PATIENCE, Site, WorkerProcess, dramatiq_worker, new_name, scene, workers
from tests.distributed.conftest import sender
from tests.postgres._server import Observer, eventually

ATTEMPTS = "SELECT count(*) FROM attempt WHERE name = %s"
WAIT = 30.0


def test_three_hundred_callers_at_once_are_all_served(shared_site: Site, shared_workers: list[WorkerProcess]) -> None:
    with scene("crowd", shared_site) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())

    assert told["values"] == list(range(1, 301))
    assert told["connections"] <= 8


def keys_left(app: App, site: Site) -> list[bytes]:
    found: list[bytes] = app.engine.client.keys(f"{site.name}-keys:*")
    return found


def test_tasks_with_one_key_are_one_task(app: App, shared_site: Site, observer: Observer) -> None:
    name = new_name()

    first = app.note.remote(name, 1, 0.5, key=name)
    others = [app.note.remote(name, number, key=name) for number in range(2, 12)]

    assert [handle.get(WAIT) for handle in (first, *others)] == [1] * 11
    assert not first.joined
    assert all(handle.joined for handle in others)
    assert observer.ask(ATTEMPTS, name) == [[1]]
    assert not keys_left(app, shared_site)


@pytest.mark.parametrize("outcome", ["a value", "an error"])
def test_a_key_is_free_in_the_step_in_which_its_task_has_its_answer(
    site: Site, cooperative: None, outcome: str
) -> None:
    with sender(site) as app:
        engine, key = app.engine, f"note:{new_name()}"
        message: Message[Any] = Message("queue", "note", (), {}, {KEY: key})
        assert engine.keys.claim(key, message.message_id) is None
        engine.keys.confirm(key, message.message_id)
        assert keys_left(app, site)

        if outcome == "a value":
            engine.results.store_result(message, 1, 60_000)
        else:
            engine.results.store_exception(message, ZeroDivisionError("division by zero"), 60_000)

        assert not keys_left(app, site)


def test_a_key_is_free_again_once_its_task_has_answered(app: App, observer: Observer) -> None:
    name = new_name()

    values = [app.note.remote(name, number, key=name).get(WAIT) for number in range(3)]

    assert values == [0, 1, 2]
    assert observer.ask(ATTEMPTS, name) == [[3]]


def test_a_key_is_free_again_once_its_task_has_failed(app: App, shared_site: Site) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            app.divide.remote(1, 0, key="same").get(WAIT)

    assert not keys_left(app, shared_site)


def test_a_key_stands_through_retries_and_is_free_afterwards(app: App, shared_site: Site, observer: Observer) -> None:
    name = new_name()

    first = app.unfit.remote(name, key=name)
    eventually(lambda: observer.ask(ATTEMPTS, name) > [[1]], "it is tried again", PATIENCE)
    joined = app.unfit.remote(name, key=name)
    for handle in (first, joined):
        with pytest.raises(MaxRetriesExceededError):
            handle.get(WAIT)

    assert joined.joined
    assert observer.ask(ATTEMPTS, name) == [[3]]
    assert not keys_left(app, shared_site)


def test_a_handle_is_told_that_its_engine_was_closed(site: Site, cooperative: None) -> None:
    with sender(site) as app:
        handle = app.add.remote(1, 2)

    with pytest.raises(EngineUnavailableError, match="closed before add had answered"):
        handle.get(WAIT)


def test_keys_of_different_tasks_are_different(app: App) -> None:
    key = new_name()

    held = app.hold.remote(0.3, key=key)

    assert app.add.remote(1, 2, key=key).get(WAIT) == 3
    assert isinstance(held.get(WAIT), int)


def test_the_key_of_a_sender_that_died_before_it_sent_lapses(app: App, shared_site: Site, observer: Observer) -> None:
    key = new_name()
    with scene("claim_and_die", shared_site, key) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"

    # It is waited for, a moment, for nobody can know that it died.
    handle = app.note.remote(key, 1, key=key)

    assert not handle.joined
    assert handle.get(WAIT) == 1


def test_when_a_worker_was_shot_its_keys_stand_and_once_means_once(
    site: Site, observer: Observer, cooperative: None
) -> None:
    once = f"{site.name} once"
    with sender(site) as app:
        with workers(1, lambda: dramatiq_worker(site)) as [victim]:
            first = app.note.remote(site.name, 1, 1.0, key="key")
            never_again = app.note_once.remote(once, 1, 60.0)
            eventually(
                lambda: observer.ask(ATTEMPTS, site.name) == observer.ask(ATTEMPTS, once) == [[1]],
                "both begin",
                PATIENCE,
            )
            victim.kill()
        joined = app.note.remote(site.name, 2, key="key")
        with workers(1, lambda: dramatiq_worker(site)):
            # The key stands for the message that runs again.
            assert first.get(PATIENCE) == joined.get(PATIENCE) == 1
            assert joined.joined
            assert not keys_left(app, site)
            assert app.note.remote(site.name, 3, key="key").get(PATIENCE) == 3
            with pytest.raises(AlreadyBegunError):
                never_again.get(PATIENCE)

    assert observer.ask(ATTEMPTS, once) == [[1]]


def test_a_key_never_stands_longer_than_its_time(site: Site, cooperative: None) -> None:
    engine = DramatiqEngine(site.redis, namespace=site.name, key_ttl=0.5)
    app = App(make_runner(site.dsn, site.name), engine)
    # Nobody serves it: the message is there, its key lapses.
    app.note.remote(site.name, 1, key="key")
    assert app.note.remote(site.name, 2, key="key").joined

    eventually(lambda: not app.note.remote(site.name, 3, key="key").joined, "the key lapses")

    engine.close()


def test_a_broker_that_is_not_there_is_an_error_with_its_cause(cooperative: None) -> None:
    engine = DramatiqEngine("redis://127.0.0.1:1/0")
    app = App(make_runner("", "never connects"), engine)

    with pytest.raises(EngineUnavailableError, match="add could not be sent") as raised:
        app.add.remote(1, 2)

    assert isinstance(raised.value.__cause__, redis.ConnectionError)
    engine.close()
