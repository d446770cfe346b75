"""What a third hostile reading has proved, each as the shortest program that shows it.

Invariant: each test failed before its mend, by a hang, a lost resource, a broken bound or a thing told wrongly.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from functools import partial
from math import nan
from typing import Any
from unittest.mock import Mock

import gevent
import gevent.os
import pytest
from gevent import monkey
from gevent.event import Event
from gevent.hub import get_hub

from gtasker import Load, Priority, Runner, State, Task
from gtasker._timeouts import Timeouts
from gtasker._turn import turn_of
from gtasker.errors import AcquireTimeoutError, RunnerStoppedError, TaskTimeoutError, WrongThreadError
from gtasker.events import (
    ResourceCreateFailed,
    ResourceCreating,
    RunnerEvent,
    StateChanged,
    TaskCancelled,
    TaskRetried,
    TaskTimedOut,
)
from tests.conftest import MakeRunner
from tests.ledger import PATIENCE, Ledger, LedgerResource, UnfitError, touch
from tests.proof._world import quiet, settles, turns
from tests.sockets import SocketPair

ONE = {"worker_count": 1, "max_worker_count": 1, "resource_pool_size": 0}


class OddError(BaseException):
    """No `Exception`."""


class MuteError(Exception):
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("there is nothing to be shown")


@contextmanager
def counted_polls(count: Callable[[], int]) -> Iterator[list[int]]:
    """List how much was added to `count` from each poll of the event loop to the next."""
    gaps: list[int] = []
    last = count()

    def polled() -> None:
        nonlocal last
        gaps.append(count() - last)
        last = count()

    watcher = get_hub().loop.check()
    watcher.start(polled)
    try:
        yield gaps
    finally:
        watcher.stop()
        watcher.close()


class Burning:
    """A job that never waits; it takes `seconds` of CPU."""

    def __init__(self, seconds: float) -> None:
        self.calls = 0
        self._seconds = seconds

    def __call__(self, *_: object) -> None:
        """Take it. Never switches."""
        self.calls += 1
        until = time.monotonic() + self._seconds
        while time.monotonic() < until:
            pass


def test_resets_that_never_wait_give_way_to_a_poll(make_runner: MakeRunner) -> None:
    reset = Burning(0.002)
    runners = [make_runner(**ONE | {"resource_pool_size": 20, "reset": reset}).start() for _ in range(2)]
    leases = [runner.lease() for runner in runners for _ in range(20)]
    for lease in leases:
        lease.__enter__()

    with counted_polls(lambda: reset.calls) as gaps:
        for lease in leases:
            lease.__exit__(None, None, None)
        assert settles(lambda: reset.calls == len(leases), PATIENCE)

    assert max(gaps) <= 4  # 5 ms, and the last that began before they were over


def test_creations_that_fail_at_once_and_without_a_pause_give_way_to_a_poll(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    create = Burning(0.002)

    def fail() -> LedgerResource:
        create()
        raise ConnectionError("away")

    runner = make_runner(**ONE, on_create=fail, create_backoff=(0, 0), fail_fast_after=None, logger=quiet)
    with counted_polls(lambda: create.calls) as gaps:
        task = runner.submit(touch, "later")
        assert settles(lambda: create.calls > 100, PATIENCE)

    assert max(gaps) <= 4
    runner.kill()
    assert task.ready()


def test_a_task_does_not_wait_for_a_check_that_is_abandoned_beside_an_idle_worker(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    let_go, checked = Event(), []

    def check(resource: LedgerResource) -> bool:
        checked.append(resource)
        while len(checked) == 1 and not let_go.is_set():
            try:
                let_go.wait()
            except BaseException:  # it survives its interruption
                pass
        return True

    options: dict[str, Any] = {"worker_count": 2, "max_worker_count": 2, "resource_pool_size": 0, "check_idle": 0.0}
    runner = make_runner(**options, check_resource=check, hook_timeout=0.02, logger=quiet).start()
    try:
        assert runner.submit(touch, "served").get(PATIENCE) == "served"
        assert checked[0] is not checked[1]
    finally:
        let_go.set()
        assert settles(lambda: not runner.stats().abandoned, PATIENCE)


def test_a_task_is_served_after_one_check_however_late_the_loop_turns(make_runner: MakeRunner) -> None:
    checked = []

    def check(resource: LedgerResource) -> bool:
        checked.append(resource)
        gevent.sleep(0.001)  # it ends in a turn of its own
        return True

    late = get_hub().loop.prepare(priority=2)  # before the callbacks of each turn
    runner = make_runner(**ONE, check_resource=check, check_idle=0.0).start()
    late.start(Burning(0.12))
    try:
        assert runner.submit(touch, "served").get(PATIENCE) == "served"
    finally:
        late.stop()
        late.close()

    assert len(checked) == 1
    assert runner.submit(touch, "again").get(PATIENCE) == "again"
    assert len(checked) == 2


class _Bell:
    """An alarm that is rung by hand."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def at(self, when: float, call: Callable[[], object]) -> Any:
        self.calls.append(call)
        return self

    def cancel(self) -> None:
        """There is nothing to be taken back."""


def test_many_waits_of_different_lengths_cost_no_look_at_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    class CountedDict(dict[float, Any]):
        def items(self) -> Any:
            nonlocal looks
            looks += len(self)
            return super().items()

    timeouts: Timeouts[int] = Timeouts(_Bell(), lambda who, seconds: None)  # type: ignore[arg-type]
    timeouts._lengths = CountedDict()
    for who in range(1000):
        timeouts._lengths = CountedDict(timeouts._lengths)
        timeouts.of(1.0 + who).begin(who, 0.0)

    assert looks <= 4000
    assert len(timeouts._lengths) == 1000


def test_the_others_still_time_out_when_one_who_is_woken_raises() -> None:
    bell, ended = _Bell(), []

    def expire(who: str, seconds: float) -> None:
        ended.append(who)
        if who == "first":
            raise MuteError

    timeouts: Timeouts[str] = Timeouts(bell, expire)  # type: ignore[arg-type]
    length = timeouts.of(1.0)
    for who in ("first", "second"):
        length.begin(who, 0.0)

    with pytest.raises(MuteError):
        bell.calls.pop()()
    bell.calls.pop()()

    assert ended == ["first", "second"]


def _fails_to_lease(runner: Runner[Any], timeout: Any = 0.05) -> type[BaseException]:
    try:
        with runner.lease(timeout=timeout):
            raise AssertionError("there was one")
    except (AcquireTimeoutError, TypeError) as error:
        return type(error)


@pytest.mark.parametrize("call", [Runner.start, Runner.stop, Runner.kill])
def test_no_number_is_no_time_out(make_runner: MakeRunner, call: Callable[..., object]) -> None:
    runner = make_runner(**ONE)

    with pytest.raises(ValueError, match="nan"):
        call(runner, nan)

    assert runner.state is State.NEW


def test_a_time_out_of_a_wrong_type_costs_no_resource(make_runner: MakeRunner) -> None:
    runner = make_runner(**ONE).start()
    with runner.lease():
        assert _fails_to_lease(runner, Decimal(5)) is TypeError
        assert runner.stats().waiting_leases == 0

    assert runner.submit(touch, "served").get(PATIENCE) == "served"


def test_an_error_that_cannot_be_shown_answers_all_the_same(make_runner: MakeRunner) -> None:
    def fail(_resource: object, _item: object) -> None:
        raise MuteError

    runner = make_runner(**ONE, logger=quiet)

    with gevent.Timeout(PATIENCE), pytest.raises(MuteError):
        runner.map(fail, [1])


def test_a_wait_times_out_though_the_creation_s_error_cannot_be_shown(make_runner: MakeRunner) -> None:
    def fail() -> LedgerResource:
        raise MuteError

    runner = make_runner(**ONE, on_create=fail, logger=quiet)

    with gevent.Timeout(PATIENCE), pytest.raises(AcquireTimeoutError, match="MuteError"), runner.lease(timeout=0.05):
        pass
    assert runner.backend().last_error == "MuteError"


def test_a_callable_that_has_every_attribute_is_named_by_its_type(make_runner: MakeRunner) -> None:
    task = make_runner(**ONE, logger=quiet).submit(Mock(side_effect=MuteError))

    with pytest.raises(MuteError):
        task.get(PATIENCE)


def test_in_a_child_nobody_who_waited_is_given_a_resource_of_the_parent_s(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=3, max_worker_count=3, resource_pool_size=0).start()
    reader, writer = os.pipe()
    parent, children = os.getpid(), []

    def leave() -> None:
        turns(5)
        os.write(writer, b".")
        os._exit(0)

    def fork(_resource: object) -> None:
        pid = gevent.os.fork()
        if not pid:
            gevent.spawn(leave)
            gevent.sleep(PATIENCE)
        children.append(pid)

    def borrow() -> None:
        with runner.lease():
            if os.getpid() != parent:
                os.write(writer, b"!")

    borrower = gevent.spawn(borrow)  # begins before the task does, and waits behind it
    task = runner.submit(fork)
    task.get(PATIENCE)
    borrower.join(PATIENCE)
    os.waitpid(children[0], 0)

    assert os.read(reader, 16) == b"."
    os.close(reader)
    os.close(writer)


class _RaisesAtTheDoor:
    """A rule that raises when a task is let in."""

    armed = False

    def decide(self, load: Load) -> int:
        if self.armed:
            self.armed = False
            raise OddError
        return 0


def test_a_rule_that_raises_what_is_no_exception_loses_no_worker_and_no_task(make_runner: MakeRunner) -> None:
    rule = _RaisesAtTheDoor()
    options: dict[str, Any] = ONE | {"max_worker_count": 2, "burst_interval": 0.001, "max_queued": 1}
    runner = make_runner(**options, scaling=rule, logger=quiet).start()
    waiting = Event()

    def end_late(resource: LedgerResource) -> None:
        waiting.wait()
        rule.armed = True
        Burning(0.01)()  # the next decision is due, and made by whoever is let in

    first = runner.submit(end_late)
    assert settles(lambda: first.attempts == 1, PATIENCE)
    second = runner.submit(touch, "second")
    third = gevent.spawn(runner.queue_task, touch, "third")
    turns(3)
    waiting.set()

    assert second.get(PATIENCE) == "second"
    assert third.get(timeout=PATIENCE) == "third"


class _Eavesdropper:
    """What `on_event` was told, and in which OS thread."""

    def __init__(self) -> None:
        self.told: list[RunnerEvent] = []
        self.threads: set[int] = set()

    def __call__(self, event: RunnerEvent) -> None:
        self.told.append(event)
        self.threads.add(_thread_id())


_thread_id: Callable[[], int] = monkey.get_original("_thread", "get_ident")
_real_thread: Any = monkey.get_original("_thread", "start_new_thread")


def _fail_once() -> Callable[[object], str]:
    attempts: list[object] = []

    def fail_once(resource: object) -> str:
        attempts.append(resource)
        if len(attempts) == 1:
            raise UnfitError
        return "done"

    return fail_once


def test_no_event_is_told_in_a_foreign_thread(make_runner: MakeRunner) -> None:
    heard = _Eavesdropper()
    runner = make_runner(worker_count=2, max_worker_count=2, on_event=heard).start()
    outcomes: list[type[BaseException]] = []

    def call_from_elsewhere(_resource: object) -> None:
        def call() -> None:
            try:
                runner.submit(touch, "never")
            except WrongThreadError as error:
                outcomes.append(type(error))

        _real_thread(call, ())
        until = time.monotonic() + PATIENCE
        while not outcomes and time.monotonic() < until:  # without a switch, but with one of threads
            pass

    retried, other = runner.submit(_fail_once()), runner.submit(call_from_elsewhere)
    assert retried.get(PATIENCE) == "done"
    other.get(PATIENCE)

    assert outcomes == [WrongThreadError]
    assert any(isinstance(event, TaskRetried) for event in heard.told)
    assert heard.threads == {_thread_id()}


def test_no_event_of_the_parent_s_is_told_in_a_child(make_runner: MakeRunner) -> None:
    heard = _Eavesdropper()
    # The delay of the retry is drawn from so wide a range that the other goes first.
    runner = make_runner(worker_count=2, max_worker_count=2, on_event=heard, retry_backoff=(1e6, 1e6)).start()
    handles: list[Task[Any]] = []
    reader, writer = os.pipe()

    def fork(_resource: object) -> None:
        pid = os.fork()
        if not pid:
            before = len(heard.told)
            handles[0].cancel()
            os.write(writer, bytes([len(heard.told) - before]))
            os._exit(0)
        os.waitpid(pid, 0)

    retried = runner.submit(_fail_once())
    forked = runner.submit(fork)
    handles.append(retried)
    forked.get(PATIENCE)
    assert retried.cancel()

    assert os.read(reader, 1) == b"\0"
    os.close(reader)
    os.close(writer)


def test_events_that_come_while_a_listener_waits_are_told_when_it_goes_on(make_runner: MakeRunner) -> None:
    told: list[RunnerEvent] = []

    def listen(event: RunnerEvent) -> None:
        told.append(event)
        if isinstance(event, TaskCancelled):
            runner.stop()

    runner: Runner[LedgerResource] = make_runner(**ONE, on_event=listen).start()
    runner.pause()
    runner.submit(touch, "never").cancel()

    assert settles(lambda: any(isinstance(event, StateChanged) and event.after is State.CLOSED for event in told), 2.0)


def test_an_interrupt_of_the_keyboard_in_a_listener_reaches_the_main_greenlet(make_runner: MakeRunner) -> None:
    def listen(event: RunnerEvent) -> None:
        if isinstance(event, TaskTimedOut):
            raise KeyboardInterrupt

    runner = make_runner(**ONE, on_event=listen, logger=quiet).start()
    runner.pause()
    task = runner.submit(touch, "never", timeout=0.01)

    with pytest.raises(KeyboardInterrupt):
        gevent.sleep(PATIENCE)
    assert isinstance(task.exception, TaskTimeoutError)


def test_a_priority_that_no_float_can_hold_leaves_no_trace(make_runner: MakeRunner) -> None:
    runner = make_runner(**ONE, priority_aging=1.0).start()
    runner.pause()

    with pytest.raises(OverflowError):
        runner.queue_task(touch, "never", priority=10**400)

    assert runner.stats().queued_tasks == 0
    runner.resume()
    assert runner.queue_task(touch, "served") == "served"


def test_no_creation_begins_after_a_kill(make_runner: MakeRunner, ledger: Ledger) -> None:
    told: list[RunnerEvent] = []
    runner = make_runner(**ONE, on_event=told.append)
    runner.submit(touch, "never")

    runner.kill()

    assert (ledger.created, ledger.creating.entered) == (0, 0)
    assert not [event for event in told if isinstance(event, ResourceCreating)]


def test_a_creation_that_is_interrupted_twice_has_failed_once(make_runner: MakeRunner) -> None:
    told: list[RunnerEvent] = []
    let_go = Event()

    def create() -> LedgerResource:
        while not let_go.is_set():
            try:
                let_go.wait()
            except BaseException:  # it survives its interruption
                pass
        raise MuteError

    options: dict[str, Any] = ONE | {"create_timeout": 0.02, "create_backoff": (60, 60), "logger": quiet}
    runner = make_runner(**options, on_create=create, on_event=told.append)
    runner.submit(touch, "never")
    assert settles(lambda: runner.stats().abandoned == 1, PATIENCE)

    runner.kill(0.02)

    assert len([event for event in told if isinstance(event, ResourceCreateFailed)]) == 1
    assert runner.metrics().create_failures == 1
    let_go.set()
    turns(5)


class _Socket:
    """Something with a descriptor, whose asking is interrupted once."""

    is_hit = False

    def __init__(self, world: Ledger) -> None:
        self.held = world.create()
        self.ends = os.pipe()

    def fileno(self) -> int:
        if _Socket.is_hit:
            _Socket.is_hit = False
            raise OddError
        return self.ends[0]

    def close(self) -> None:
        for end in self.ends:
            os.close(end)
        self.held.ledger.destroy(self.held)


@pytest.mark.parametrize("when", ["before a use", "after one, for who waits"])
def test_what_breaks_into_a_look_at_a_descriptor_loses_no_resource(ledger: Ledger, when: str) -> None:
    def use(resource: _Socket, *, is_hit: bool = False) -> None:
        _Socket.is_hit = is_hit

    runner: Runner[_Socket] = Runner(
        on_create=lambda: _Socket(ledger),
        on_destroy=_Socket.close,
        **ONE | {"resource_pool_size": 1, "check_readable": True, "logger": quiet},
    )
    with runner:
        runner.queue_task(use)
        if when == "before a use":
            _Socket.is_hit = True
            runner.queue_task(lambda resource: None)
        else:
            tasks = [runner.submit(partial(use, is_hit=True)), runner.submit(lambda resource: None)]
            assert gevent.wait(tasks, timeout=PATIENCE) == tasks

        assert not _Socket.is_hit
        assert settles(lambda: runner.stats().available_resources == 1, PATIENCE)


def test_a_task_does_not_begin_before_a_loan_that_was_granted_first_is_used(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=3, max_worker_count=3, resource_pool_size=0).start()
    order: list[str] = []

    def borrow() -> None:
        with runner.lease():
            order.append("loan")

    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(runner.lease())
        borrowing = gevent.spawn(borrow)
        turns(1)
        urgent = runner.submit(lambda _: order.append("urgent"), priority=Priority.HIGH)
        later = runner.submit(lambda _: order.append("later"))
    gevent.joinall([borrowing], timeout=PATIENCE)
    gevent.wait([urgent, later], timeout=PATIENCE)

    assert order == ["urgent", "loan", "later"]


def wakes_due() -> list[Any]:
    """Who is to be woken, after some turns with nothing else happening. Switches."""
    turns(3)
    return list(turn_of(get_hub()).woken)


def test_a_paused_runner_lets_the_event_loop_rest(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=2, max_worker_count=2, resource_pool_size=0).start()
    with runner.lease():  # a worker's own
        runner.pause()
        task = runner.submit(lambda _: None)
        due = wakes_due()
        runner.resume()
    task.get(timeout=PATIENCE)

    assert due == []


def test_a_check_that_takes_its_time_lets_the_event_loop_rest(make_runner: MakeRunner) -> None:
    gate = Event()
    gate.set()

    def check(_: LedgerResource) -> bool:
        return gate.wait()

    runner = make_runner(
        worker_count=3, max_worker_count=3, resource_pool_size=0, check_resource=check, check_idle=0.0
    ).start()
    with runner.lease():
        gate.clear()
        task = runner.submit(lambda _: None)
        due = wakes_due()
        gate.set()
        task.get(timeout=PATIENCE)

    assert due == []


class Looked(SocketPair):
    """A resource that is looked at before a use; what its `fileno` does beside that is set once."""

    def __init__(self) -> None:
        super().__init__()
        self.then: Callable[[], object] | None = None
        self.is_spoiled = False

    def __getattribute__(self, name: str) -> Any:
        if name == "fileno" and object.__getattribute__(self, "is_spoiled"):
            raise ReferenceError("there is no such thing any more")
        return super().__getattribute__(name)

    def fileno(self) -> int:
        """As a socket's, after what was to be done."""
        then, self.then = self.then, None
        if then is not None:
            then()
        return super().fileno()


@pytest.fixture
def look_at() -> Iterator[Callable[..., Runner[Looked]]]:
    """Make started runners of such resources."""
    runners: list[Runner[Looked]] = []

    def make(**options: Any) -> Runner[Looked]:
        options = {"on_create": Looked, "on_destroy": Looked.close, "check_readable": True, **ONE, **options}
        runners.append(Runner(**options))
        return runners[-1].start()

    yield make
    for runner in runners:
        runner.kill()


def spoil(resource: Looked) -> str:
    """Make it one that cannot be asked for its `fileno` any more."""
    resource.is_spoiled = True
    return "spoiled"


def borrow(runner: Runner[Looked], fn: Callable[[Looked], object]) -> object:
    """Call `fn` with a lease."""
    with runner.lease() as resource:
        return fn(resource)


WAYS: list[tuple[str, Callable[[Runner[Looked], Callable[[Looked], object]], object]]] = [
    ("queue_task", Runner.queue_task),
    ("submit", lambda runner, fn: runner.submit(fn).get(timeout=PATIENCE)),
    ("run_task", Runner.run_task),
    ("lease", borrow),
]
every_way = pytest.mark.parametrize("use", [use for _, use in WAYS], ids=[name for name, _ in WAYS])


@every_way
def test_what_cannot_be_looked_at_after_its_use_is_replaced(
    look_at: Callable[..., Runner[Looked]], use: Callable[..., object]
) -> None:
    runner = look_at(resource_pool_size=1)

    with gevent.Timeout(PATIENCE):
        assert use(runner, spoil) == "spoiled"
        assert use(runner, lambda resource: resource.is_spoiled) is False

    assert settles(lambda: runner.stats().live_resources == 2, PATIENCE)
    assert runner.stats().active_workers == 1


@every_way
def test_what_cannot_be_looked_at_before_a_use_is_replaced(
    look_at: Callable[..., Runner[Looked]], use: Callable[..., object]
) -> None:
    runner = look_at(resource_pool_size=1)
    made: list[Looked] = []
    use(runner, made.append)
    made[0].is_spoiled = True

    with gevent.Timeout(PATIENCE):
        assert use(runner, lambda resource: resource.is_spoiled) is False


@every_way
def test_a_look_may_have_everything_replaced(
    look_at: Callable[..., Runner[Looked]], use: Callable[..., object]
) -> None:
    runner = look_at(resource_pool_size=1)
    made: list[Looked] = []
    use(runner, made.append)
    made[0].then = runner.recycle

    with gevent.Timeout(PATIENCE):
        assert use(runner, lambda resource: resource is not made[0]) is True


def test_a_task_does_not_begin_if_the_look_before_it_paused_the_runner(look_at: Callable[..., Runner[Looked]]) -> None:
    runner = look_at()
    made: list[Looked] = []
    begun: list[State] = []
    runner.queue_task(made.append)
    made[0].then = runner.pause
    asking = gevent.spawn(runner.queue_task, lambda _: begun.append(runner.state))
    turns(5)

    assert begun == []
    runner.resume()
    asking.get(timeout=PATIENCE)
    assert begun == [State.RUNNING]


def test_what_a_look_submits_with_a_higher_priority_goes_first(look_at: Callable[..., Runner[Looked]]) -> None:
    runner = look_at()
    made: list[Looked] = []
    order: list[str] = []
    runner.queue_task(made.append)
    made[0].then = lambda: runner.submit(lambda _: order.append("high"), priority=Priority.HIGH)
    runner.queue_task(lambda _: order.append("low"), priority=Priority.LOW)

    assert order == ["high", "low"]


class Meddling:
    """A reset that never waits, and does something else beside that, once."""

    def __init__(self) -> None:
        self.then: Callable[[], object] | None = None

    def __call__(self, resource: object) -> None:
        """Never called."""

    def nowait(self, resource: object) -> bool:
        """All done."""
        then, self.then = self.then, None
        if then is not None:
            then()
        return True


def test_a_callback_is_called_that_the_reset_after_the_task_has_added(make_runner: MakeRunner) -> None:
    reset = Meddling()
    called: list[Task[None]] = []
    runner = make_runner(**ONE, reset=reset).start()
    task = runner.submit(lambda _: None)
    reset.then = lambda: task.add_done_callback(called.append)

    assert settles(lambda: called == [task], PATIENCE)


def test_no_wait_is_negative_if_a_reset_submits(make_runner: MakeRunner) -> None:
    reset = Meddling()
    runner = make_runner(**ONE, reset=reset).start()
    reset.then = lambda: runner.submit(lambda _: None)
    runner.queue_task(lambda _: None)

    assert runner._core is not None
    waits = runner._core.site.meter.waits
    assert settles(lambda: len(waits) == 2, PATIENCE)
    assert min(waits) >= 0


def test_a_task_is_refused_if_the_look_before_it_began_a_kill(look_at: Callable[..., Runner[Looked]]) -> None:
    runner = look_at()
    made: list[Looked] = []
    runner.queue_task(made.append)
    assert runner._core is not None
    made[0].then = runner._core.closing.begin_kill

    with gevent.Timeout(PATIENCE), pytest.raises(RunnerStoppedError):
        runner.queue_task(lambda _: None)


@pytest.mark.parametrize("end", ["begin_stop", "begin_kill"])
def test_a_lease_comes_back_to_a_shutdown_that_its_own_reset_began(
    make_runner: MakeRunner, ledger: Ledger, end: str
) -> None:
    reset = Meddling()
    runner = make_runner(worker_count=1, max_worker_count=1, resource_pool_size=1, reset=reset).start()
    assert runner._core is not None
    with runner.lease():
        reset.then = getattr(runner._core.closing, end)

    assert runner.stop(PATIENCE).complete
    assert ledger.destroyed == ledger.created


@every_way
def test_what_its_user_has_closed_is_never_used_again(
    look_at: Callable[..., Runner[Looked]], use: Callable[..., object]
) -> None:
    runner = look_at()
    closed: list[Looked] = []

    def close(resource: Looked) -> bool:
        closed.append(resource)
        resource.near.close()
        return True

    with gevent.Timeout(PATIENCE):
        assert all(use(runner, close) for _ in range(3))

    assert len(set(closed)) == 3


def test_a_stranger_of_another_thread_changes_nothing(look_at: Callable[..., Runner[Looked]]) -> None:
    runner = look_at()
    assert runner._core is not None
    before = set(runner._core.asking._timeouts._lengths)

    def ask() -> type[BaseException]:
        with pytest.raises(WrongThreadError) as raised:
            runner.run_task(lambda _: None, timeout=12.5)
        return raised.type

    assert get_hub().threadpool.apply(ask) is WrongThreadError
    assert set(runner._core.asking._timeouts._lengths) == before


def test_a_closed_runner_says_so_before_it_looks_at_a_time_out(look_at: Callable[..., Runner[Looked]]) -> None:
    runner = look_at()
    runner.stop()

    with pytest.raises(RunnerStoppedError):
        runner.lease(timeout=nan).__enter__()


def test_what_was_granted_to_one_who_has_left_is_looked_at_before_the_next(
    look_at: Callable[..., Runner[Looked]],
) -> None:
    runner = look_at(max_resources=1)
    runner.run_task(lambda _: None)
    with runner.lease() as first:
        leaving = gevent.spawn(borrow, runner, lambda resource: resource)
        gevent.sleep(0)
        following = gevent.spawn(borrow, runner, lambda resource: resource)
        gevent.sleep(0)
        leaving.kill(block=False)
    first.far.close()  # when it was looked at, and granted

    second = following.get(timeout=PATIENCE)

    assert second is not first
    assert runner.stats().live_resources == 1


def test_the_resource_of_a_worker_that_goes_is_looked_at_before_the_next_use(
    look_at: Callable[..., Runner[Looked]],
) -> None:
    checked: list[Looked] = []
    made: list[Looked] = []

    def check(resource: Looked) -> bool:
        checked.append(resource)
        door.wait()
        return True

    def create() -> Looked:
        made.append(Looked())
        return made[-1]

    door = Event()
    runner = look_at(
        on_create=create, worker_count=2, max_worker_count=2, max_resources=2, check_resource=check, check_idle=0.0
    )
    door.set()
    runner.map(lambda resource, _: gevent.sleep(0), range(2))
    door.clear()
    checked.clear()
    waiting = gevent.spawn(borrow, runner, lambda resource: resource)
    assert settles(lambda: len(checked) == 1, PATIENCE)
    [other] = set(made) - set(checked)
    other.far.close()

    runner.resize(worker_count=1, max_worker_count=1, resource_pool_size=1, max_resources=2)
    door.set()

    assert waiting.get(timeout=PATIENCE) is not other


@pytest.mark.parametrize("has_reserve", [True, False])
def test_a_look_that_has_the_line_served_takes_nobody_s_turn_and_no_worker(
    look_at: Callable[..., Runner[Looked]], has_reserve: bool
) -> None:
    made: list[Looked] = []

    def create() -> Looked:
        made.append(Looked())
        return made[-1]

    workers, reserve = (1, 2) if has_reserve else (2, 0)
    runner = look_at(
        on_create=create,
        worker_count=workers,
        max_worker_count=workers,
        resource_pool_size=reserve,
        max_resources=workers + reserve,
    )
    with runner.lease(), runner.lease(), ExitStack() as third:  # so that each has been used
        if has_reserve:
            third.enter_context(runner.lease())
    runner.pause()
    for resource in made:
        resource.then = runner.purge

    with gevent.Timeout(PATIENCE), runner.lease():
        pass

    runner.resume()
    assert runner._core is not None
    assert settles(lambda: len(runner._core.backlog.idle) == workers, PATIENCE)  # type: ignore[union-attr]
    assert not runner._core.backlog.lent
    assert runner.stats().available_resources == reserve


def test_who_is_condemned_by_its_reset_does_not_serve_the_next_in_line(make_runner: MakeRunner) -> None:
    reset = Meddling()
    runner = make_runner(**ONE, max_resources=1, reset=reset).start()

    def number(resource: LedgerResource) -> int:
        reset.then = runner.recycle
        return resource.number

    tasks = [runner.submit(number) for _ in range(3)]

    assert [task.get(timeout=PATIENCE) for task in tasks] == [1, 2, 3]
