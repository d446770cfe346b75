"""A task, sent with Dramatiq to other processes: values, exceptions, retries, limits, at most once."""

from __future__ import annotations

import os
from typing import Any

import gevent
import gevent.event
import pytest
import redis
from dramatiq import ActorNotFound, Message
from dramatiq.middleware import CurrentMessage, MiddlewareError

from gtasker import MaxRetriesExceededError, ResourceUnavailableError, Runner, TaskState, TaskTimeoutError
from gtasker.distributed import NotJSONError, RemoteTaskError, task
from gtasker.distributed._attempt import NotBegunError
from gtasker.distributed.dramatiq import DramatiqEngine
from tests.distributed._app import App, StrangeError, UnfitError
from tests.distributed._workers import Site, WorkerProcess, new_name
from tests.postgres._server import Observer

ATTEMPTS = "SELECT count(*) FROM attempt WHERE name = %s"
WAIT = 30.0


def test_a_task_gives_the_same_value_here_and_there(app: App) -> None:
    values = [app.add.run(1, 2), app.add.queue(1, 2), app.add.remote(1, 2).get(WAIT), app.add.submit(1, 2).get(WAIT)]

    assert values == [3, 3, 3, 3]


def test_any_json_comes_back_as_it_went(app: App) -> None:
    value = {"a": [1, -2.5, True, None, {"ä\u2028": []}], "big": 2**80, "": {"x": "\x00"}}

    assert app.echo.remote(value).get(WAIT) == value


def test_a_task_runs_in_one_of_the_workers(app: App, shared_workers: list[WorkerProcess]) -> None:
    handle = app.leave.remote()

    assert handle.get(WAIT) in {worker.pid for worker in shared_workers} - {os.getpid()}
    assert handle.state is TaskState.DONE
    assert handle.successful()


def test_a_task_s_own_exception_is_raised_as_its_own_class(app: App) -> None:
    with pytest.raises(ZeroDivisionError, match="division by zero") as here:
        app.divide.queue(1, 0)
    handle = app.divide.remote(1, 0)
    with pytest.raises(ZeroDivisionError, match="division by zero") as there:
        handle.get(WAIT)

    assert here.value.args == there.value.args
    origin = there.value.__cause__
    assert isinstance(origin, RemoteTaskError)
    assert "left / right" in origin.traceback
    with pytest.raises(ZeroDivisionError) as again:
        handle.get()
    assert again.value is there.value


def test_an_exception_that_cannot_be_rebuilt_tells_its_type_message_and_traceback(app: App) -> None:
    with pytest.raises(RemoteTaskError) as raised:
        app.fail.remote("so it is").get(WAIT)

    assert raised.value.type_name == f"{StrangeError.__module__}.StrangeError"
    assert raised.value.message == "7: so it is"
    assert "raise StrangeError" in raised.value.traceback


def test_an_exception_that_cannot_say_what_it_is_and_a_time_out_of_the_task_s_own_are_answers(app: App) -> None:
    with pytest.raises(RemoteTaskError, match="MuteError"):
        app.say_nothing.remote().get(WAIT)
    with pytest.raises(MaxRetriesExceededError) as spent:
        app.time_out.remote().get(WAIT)
    assert spent.value.attempts == 2


def test_a_healthy_error_is_not_tried_again(app: App, observer: Observer) -> None:
    name = new_name()
    with pytest.raises(ZeroDivisionError):
        app.divide.remote(1, 0).get(WAIT)
    app.note.remote(name, 1).get(WAIT)

    assert observer.ask(ATTEMPTS, name) == [[1]]


def test_an_unfit_resource_is_tried_as_often_as_the_engine_says_and_no_more(app: App, observer: Observer) -> None:
    name = new_name()

    with pytest.raises(MaxRetriesExceededError) as raised:
        app.unfit.remote(name).get(WAIT)

    # The runner's own max_retries (3) would have made twelve of them.
    assert raised.value.attempts == 3
    assert isinstance(raised.value.__cause__, UnfitError)
    assert observer.ask(ATTEMPTS, name) == [[3]]


def test_the_sender_of_a_task_that_no_worker_knows_is_told(app: App) -> None:
    unknown = task(app.runner, name="from tomorrow", engine=app.engine)(lambda _: None)

    for _ in range(2):
        with pytest.raises(ActorNotFound, match="this process has no task 'from tomorrow'"):
            unknown.remote(key="same").get(WAIT)


def test_a_try_that_finds_no_resource_costs_no_retry(app: App) -> None:
    actor: Any = app.engine.broker.get_actor("unfit")
    message = actor.message("x")
    current: Any = CurrentMessage()
    current.before_process_message(app.engine.broker, message)
    errors = [NotBegunError(), UnfitError(), NotBegunError(), UnfitError(), NotBegunError(), UnfitError()]

    # Dramatiq counts all of them; the task allows two retries.
    again = [actor.options["retry_when"](tries, error) for tries, error in enumerate(errors)]

    assert again == [True, True, True, True, True, False]
    current.after_process_message(app.engine.broker, message)


def test_a_task_that_takes_too_long_is_interrupted_and_not_tried_again(app: App, observer: Observer) -> None:
    with pytest.raises(TaskTimeoutError, match="too_long"):
        app.too_long.remote().get(WAIT)

    assert observer.ask("SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s", "%pg_sleep(60)") == [[0]]


def test_a_value_that_is_not_json_is_an_error_with_its_path(app: App) -> None:
    with pytest.raises(RemoteTaskError, match=r"the value of give_back\['when'\]\[0\] is not JSON") as raised:
        app.give_back.remote().get(WAIT)

    assert raised.value.type_name.endswith("NotJSONError")


def test_what_is_not_json_never_leaves(app: App) -> None:
    with pytest.raises(NotJSONError, match=r"args\[0\]\['x'\]\[1\] is not JSON: .*Event"):
        app.echo.remote({"x": [1, gevent.event.Event()]})


def test_get_raises_gevents_timeout_and_leaves_the_task_alone(app: App) -> None:
    handle = app.hold.remote(0.5)

    with pytest.raises(gevent.Timeout):
        handle.get(0.01)

    assert isinstance(handle.get(WAIT), int)


def test_gevent_waits_for_handles(app: App) -> None:
    handles = [app.add.remote(number, 0) for number in range(5)]

    done = gevent.wait(handles, timeout=WAIT)

    assert sorted(handle.get() for handle in done) == [0, 1, 2, 3, 4]


def test_what_is_not_awaited_any_more_is_not_asked_for(app: App) -> None:
    for number in range(5):
        app.add.remote(number, 0)

    # The poller's greenlet ends; the fixture that looks for what is left would see it.
    assert app.add.remote(1, 1).get(WAIT) == 2


def test_with_its_backlog_full_a_process_sends_its_tasks_away(app: App) -> None:
    gate = gevent.event.Event()
    app.runner.start()
    blocked = app.runner.submit(lambda _: gate.wait())

    here = [app.leave.submit() for _ in range(app.leave.room)]
    there = app.leave.submit()

    assert there.get(WAIT) != os.getpid()
    assert not any(handle.ready() for handle in here)
    gate.set()
    assert {handle.get(WAIT) for handle in here} == {os.getpid()}
    assert blocked.get(WAIT)


def test_where_a_task_runs_can_be_chosen(app: App) -> None:
    assert app.leave.submit(where="local").get(WAIT) == os.getpid()
    assert app.leave.submit(where="remote").get(WAIT) != os.getpid()


def test_a_process_whose_backend_is_down_sends_its_tasks_away(shared_site: Site, shared_workers: object) -> None:
    runner: Runner[Any] = Runner(on_create=_refuse, on_destroy=_refuse, worker_count=1, fail_fast_after=0.0)
    engine = DramatiqEngine(shared_site.redis, namespace=shared_site.name)
    app = App(runner, engine)
    with pytest.raises(ResourceUnavailableError):
        app.leave.queue()

    assert app.leave.submit().get(WAIT) != os.getpid()

    runner.kill()
    engine.close()


def test_a_thousand_messages_have_each_effect_once(app: App, observer: Observer) -> None:
    name = new_name()

    handles = [app.note.remote(name, number) for number in range(1000)]
    numbers = [handle.get(2 * WAIT) for handle in handles]

    assert numbers == list(range(1000))
    [[effects, distinct]] = observer.ask("SELECT count(*), count(DISTINCT number) FROM effect WHERE name = %s", name)
    assert effects == distinct == 1000


def _refuse(*_: object) -> None:
    raise ConnectionRefusedError("the backend is down")


def test_who_is_being_stopped_acknowledges_nothing_that_nobody_could_be_told_of() -> None:
    engine = DramatiqEngine("redis://127.0.0.1:1/0")  # nobody is there, and who sends is not patient
    told, untold = (
        Message[Any](queue_name="normal", actor_name="add", args=(), kwargs={}, options={"redis_message_id": name})
        for name in ("told", "untold")
    )
    with pytest.raises(redis.ConnectionError):
        engine.results.store_result(untold, 7, 1000)

    for signal in ("ack", "nack"):
        with pytest.raises(MiddlewareError, match="left to be delivered again"):
            engine.broker.emit_before(signal, untold)
    engine.broker.emit_before("ack", told)
    with pytest.raises(MiddlewareError, match="left to be delivered again"):  # Redis did not hear of it
        engine.broker.emit_before("ack", told)
    engine.close()
