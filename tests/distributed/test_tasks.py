"""The decorator, what may travel, and exceptions on their way: all that needs no server."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtasker import (
    AcquireTimeoutError,
    MaxRetriesExceededError,
    QueueFullError,
    RunnerStoppedError,
    TaskState,
    TaskTimeoutError,
)
from gtasker.distributed import NoEngineError, NotJSONError, RemoteTask, RemoteTaskError, task
from gtasker.distributed._attempt import NotBegunError, attempt, is_worth_another, may_try_again
from gtasker.distributed._engine import Work
from gtasker.distributed._json import check_json
from gtasker.distributed._wire import describe, rebuild
from gtasker.distributed.errors import AlreadyBegunError
from tests.conftest import MakeRunner
from tests.distributed._app import MuteError
from tests.ledger import LedgerResource


class FakeEngine:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.declared: list[Work] = []
        self.sent: list[tuple[str, str, str | None]] = []

    def declare(self, task: Work) -> None:
        self.declared.append(task)

    def send(self, task: Work, args: list[Any], key: str | None) -> RemoteTask[Any]:
        self.sent.append((task.name, json.dumps(args), key))
        return RemoteTask(task.name, str(len(self.sent)))


def add(resource: LedgerResource, left: int, right: int) -> int:
    assert resource is not None
    return left + right


def test_a_defined_function_is_still_the_function(make_runner: MakeRunner) -> None:
    defined = task(make_runner())(add)

    assert defined(LedgerResource.__new__(LedgerResource), 1, 2) == 3
    assert defined.name == f"{__name__}.add"
    assert defined.__doc__ == add.__doc__


def test_it_runs_here_in_three_ways(make_runner: MakeRunner) -> None:
    defined = task(make_runner())(add)

    assert [defined.run(1, 2), defined.queue(3, 4), defined.submit(5, 6).get()] == [3, 7, 11]


def test_it_is_declared_to_its_engine_under_its_name(make_runner: MakeRunner) -> None:
    engine = FakeEngine()

    defined = task(make_runner(), name="sum", engine=engine)(add)

    assert engine.declared == [defined]
    assert defined.remote(1, 2).name == "sum"
    defined.remote(1, 2, key="k")
    assert engine.sent == [("sum", "[1, 2]", None), ("sum", "[1, 2]", "k")]


def test_without_an_engine_it_stays_here(make_runner: MakeRunner) -> None:
    defined = task(make_runner())(add)

    with pytest.raises(NoEngineError, match="add"):
        defined.remote(1, 2)
    with pytest.raises(NoEngineError):
        defined.submit(1, 2, where="remote")
    assert defined.has_room()


def test_a_full_backlog_sends_it_away(make_runner: MakeRunner) -> None:
    engine = FakeEngine()
    runner = make_runner(worker_count=1, resource_pool_size=0, max_queued=1, enqueue_timeout=0).start()
    defined = task(runner, engine=engine)(add)
    gate = gevent.event.Event()
    blocked = runner.submit(lambda _: gate.wait())
    gevent.sleep(0)

    here, there = defined.submit(1, 2), defined.submit(3, 4)

    assert isinstance(there, RemoteTask)
    assert engine.sent == [(defined.name, "[3, 4]", None)]
    with pytest.raises(QueueFullError):
        defined.submit(5, 6, where="local")
    gate.set()
    assert here.get() == 3
    assert blocked.get()


def test_a_stopped_runner_sends_it_away(make_runner: MakeRunner) -> None:
    engine = FakeEngine()
    runner = make_runner().start()
    defined = task(runner, engine=engine)(add)
    runner.pause()

    assert isinstance(defined.submit(1, 2), RemoteTask)
    runner.resume()
    assert defined.submit(1, 2).get() == 3


def test_arguments_have_no_names(make_runner: MakeRunner) -> None:
    defined: Any = task(make_runner(), engine=FakeEngine())(add)

    for call in (defined.run, defined.queue, defined.remote, defined.submit):
        with pytest.raises(TypeError, match="not right by name"):
            call(1, right=2)


def test_a_place_that_there_is_not_is_refused(make_runner: MakeRunner) -> None:
    defined: Any = task(make_runner())(add)

    with pytest.raises(ValueError, match="where must be one of auto, local, remote, not 'there'"):
        defined.submit(1, 2, where="there")


def test_a_runner_that_stopped_while_a_rate_was_waited_for_sends_it_away(make_runner: MakeRunner) -> None:
    engine = FakeEngine()
    runner = make_runner().start()

    class Stopping:
        def wait(self, timeout: float | None = None) -> None:
            runner.stop()

    defined = task(runner, engine=engine, rate=Stopping())(add)

    assert isinstance(defined.submit(1, 2), RemoteTask)
    with pytest.raises(RunnerStoppedError):
        defined.submit(1, 2, where="local")


def test_arguments_that_are_not_json_are_refused_wherever_it_would_run(make_runner: MakeRunner) -> None:
    defined = task(make_runner(), engine=FakeEngine())(add)
    wrong: Any = {"a": [dt.date(2020, 1, 1)]}

    for call in (defined.remote, defined.submit):
        with pytest.raises(NotJSONError, match=r"args\[1\]\['a'\]\[0\] is not JSON: datetime.date") as raised:
            call(1, wrong)
        assert raised.value.path == "args[1]['a'][0]"


class Colour(enum.IntEnum):
    """Would arrive as a number."""

    RED = 1


class Pair(NamedTuple):
    """Would arrive as a list."""

    left: int
    right: int


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ((1, 2), "x"),
        ([Pair(1, 2)], "x[0]"),
        ({"a": {1: 2}}, "x['a'][1]"),
        ([math.nan], "x[0]"),
        (math.inf, "x"),
        (b"", "x"),
        ({"a": {"b": [1, {2}]}}, "x['a']['b'][1]"),
        (Colour.RED, "x"),
        (lambda: 1, "x"),
        (gevent.event.Event(), "x"),
    ],
)
def test_what_would_come_out_of_json_changed_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(NotJSONError) as raised:
        check_json(value, "x")

    assert raised.value.path == path


def test_a_circle_is_refused() -> None:
    with pytest.raises(NotJSONError, match="in a circle"):
        check_json(CIRCLE, "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_whatever_passes_comes_out_of_json_as_it_went_in(value: Any) -> None:
    check_json(value, "x")

    assert json.loads(json.dumps(value)) == value


class OwnError(Exception):
    """An ordinary one."""


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as found:
        return found


def test_an_exception_comes_back_as_its_own_class_with_where_it_came_from() -> None:
    error = rebuild(json.loads(json.dumps(describe(caught(OwnError("a", 1))))))

    assert type(error) is OwnError
    assert error.args == ("a", 1)
    assert isinstance(error.__cause__, RemoteTaskError)
    assert "in caught" in error.__cause__.traceback


class LateError(Exception):
    """Says what it was told after it was made."""

    detail: str

    def __str__(self) -> str:
        return self.detail


def test_an_exception_that_is_mute_once_it_is_rebuilt_is_told_in_words() -> None:
    late = LateError()
    late.detail = "what it was"

    error = rebuild(json.loads(json.dumps(describe(caught(late)))))

    assert isinstance(error, RemoteTaskError)
    assert error.message == "what it was"


def test_an_exception_that_cannot_say_what_it_is_is_told_all_the_same() -> None:
    error = rebuild(json.loads(json.dumps(describe(caught(MuteError(object()))))))

    assert isinstance(error, RemoteTaskError)
    assert error.type_name.endswith("MuteError")
    assert "LookupError" in error.message


def test_a_class_whose_module_ends_the_program_is_not_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_program_of_its_own.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(tmp_path)

    error = rebuild({**describe(caught(OwnError("x"))), "module": "a_program_of_its_own"})

    assert isinstance(error, RemoteTaskError)


def test_what_is_no_exception_is_never_called() -> None:
    told = {**describe(caught(OwnError("x"))), "module": "os", "type": "system", "args": ["true"]}

    error = rebuild(told)

    assert isinstance(error, RemoteTaskError)
    assert error.type_name == "os.system"


@pytest.mark.parametrize(
    "changes", [{"module": "no.such.module"}, {"type": "NoSuchError"}, {"args": []}, {"type": "test.<locals>.Error"}]
)
def test_an_exception_that_is_not_to_be_had_here_is_told_in_words(changes: dict[str, Any]) -> None:
    error = rebuild({**describe(caught(OwnError("the message"))), **changes})

    assert isinstance(error, RemoteTaskError)
    assert error.message == "the message"
    assert "in caught" in str(error)


def test_spent_retries_are_told_as_a_runner_tells_them() -> None:
    error = rebuild(json.loads(json.dumps(describe(caught(OwnError("x")), 4))))

    assert isinstance(error, MaxRetriesExceededError)
    assert error.attempts == 4
    assert isinstance(error.__cause__, OwnError)


class Limit(BaseException):
    """An engine's time limit."""


def is_limit(error: BaseException) -> bool:
    return isinstance(error, Limit)


def test_a_task_that_has_begun_and_takes_too_long_is_timed_out(make_runner: MakeRunner) -> None:
    def take_long(_: LedgerResource) -> None:
        raise Limit

    defined = task(make_runner().start(), timeout=5.0)(take_long)

    with pytest.raises(TaskTimeoutError, match=r"took longer than 5\.0 seconds"):
        attempt(defined, (), lambda: True, is_limit)


def test_a_limit_that_is_reached_while_a_rate_is_waited_for_finds_a_task_that_has_not_begun(
    make_runner: MakeRunner,
) -> None:
    class Slow:
        def wait(self, timeout: float | None = None) -> None:
            raise Limit

    defined = task(make_runner().start(), timeout=5.0, rate=Slow())(lambda _: None)

    with pytest.raises(NotBegunError, match=r"found no resource within 5\.0 seconds"):
        attempt(defined, (), lambda: True, is_limit)


def test_an_attempt_never_uses_the_runners_own_retries(make_runner: MakeRunner) -> None:
    tried = []

    def fail(_: LedgerResource) -> None:
        tried.append(1)
        raise OwnError

    runner = make_runner(max_retries=5, check_health=lambda _: False).start()
    defined = task(runner)(fail)

    with pytest.raises(OwnError):
        attempt(defined, (), lambda: True, is_limit)

    assert tried == [1]


def test_what_was_begun_before_is_not_begun_again(make_runner: MakeRunner) -> None:
    begun = []
    defined = task(make_runner(), once=True)(lambda _: begun.append(1))

    with pytest.raises(AlreadyBegunError):
        attempt(defined, (), lambda: False, is_limit)

    assert not begun


def test_what_found_no_resource_has_not_begun(make_runner: MakeRunner) -> None:
    runner = make_runner(
        worker_count=1, resource_pool_size=1, max_resources=2, max_worker_count=1, acquire_timeout=0.01
    ).start()
    defined = task(runner)(add)

    with runner.lease(), runner.lease(), pytest.raises(NotBegunError) as raised:
        attempt(defined, (1, 2), lambda: True, is_limit)

    assert isinstance(raised.value.__cause__, AcquireTimeoutError)
    assert attempt(defined, (1, 2), lambda: True, is_limit) == 3


def test_another_attempt_is_for_the_unfit_and_for_what_never_began(make_runner: MakeRunner) -> None:
    defined = task(make_runner(check_health=lambda error: not isinstance(error, ConnectionError)))(add)
    once = task(make_runner(), once=True)(add)

    assert is_worth_another(defined, ConnectionResetError())
    assert may_try_again(defined, ConnectionResetError(), 2)
    assert not may_try_again(defined, ConnectionResetError(), 3)
    # Its own use of another runner, when it had begun.
    assert not is_worth_another(defined, AcquireTimeoutError())
    assert may_try_again(defined, NotBegunError(), 1000)
    assert may_try_again(once, NotBegunError(), 1000)
    assert is_worth_another(defined, gevent.GreenletExit())
    assert not is_worth_another(defined, ValueError())
    assert not is_worth_another(once, ConnectionResetError())


def test_a_handle_answers_once_and_always_the_same() -> None:
    handle: RemoteTask[int] = RemoteTask("add", "1")
    linked: list[RemoteTask[int]] = []
    assert handle.state is TaskState.QUEUED
    assert not handle.wait(0)
    handle.rawlink(linked.append)

    handle.settle_value(3)
    handle.settle_error(OwnError())
    gevent.sleep(0)

    assert handle.get() == handle.value == 3
    assert handle.exception is None
    assert handle.successful()
    assert linked == [handle]
    assert repr(handle) == "<RemoteTask add 1 done>"


def test_a_failed_handle_raises_the_same_object_each_time_and_its_traceback_does_not_grow() -> None:
    handle: RemoteTask[int] = RemoteTask("add", "1")
    handle.settle_error(OwnError("x"))
    depths = []

    for _ in range(3):
        with pytest.raises(OwnError) as raised:
            handle.get()
        assert raised.value is handle.exception
        depths.append(len(raised.traceback))

    assert handle.state is TaskState.FAILED
    assert len(set(depths)) == 1
