"""P13: memory is bounded by what is waiting and running; what was withdrawn is let go of at once."""

from __future__ import annotations

import contextvars
import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from gtasker import Runner, Task
from gtasker.errors import AcquireTimeoutError, TaskTimeoutError
from tests import _env
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import eventually, let_run, settled
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch


@pytest.fixture
def make_plain(make_runner: MakeRunner, ledger: Ledger) -> Iterator[MakeRunner]:
    """Build runners that keep no handle, as the fixture's do; those that still run at the test's end are killed."""
    runners: list[Runner[LedgerResource]] = []

    def make(**options: Any) -> Runner[LedgerResource]:
        runners.append(Runner(**{**ledger.options(), **options}))
        return runners[-1]

    yield make
    for runner in runners:
        runner.kill()


class Payload:
    """Something a task carries, whose end can be seen."""


variable: contextvars.ContextVar[Payload] = contextvars.ContextVar("payload")


def nothing(_resource: LedgerResource, *_payload: object) -> None:
    """Do nothing."""


def fail(_resource: LedgerResource) -> None:
    """Fail, the resource being fine."""
    raise ValueError


def tasks_alive() -> int:
    """Count the handles that exist in this process."""
    return sum(isinstance(found, Task) for found in gc.get_objects())


def run_many(runner: Runner[LedgerResource], count: int, road: str) -> None:
    """Run `count` tasks and keep none of them."""
    for number in range(count):
        if road == "queue_task":
            runner.queue_task(nothing, number)
        elif road == "run_task":
            runner.run_task(nothing, number)
        elif road == "lease":
            with runner.lease():
                pass
        elif road == "keyed":
            runner.submit(nothing, number, key=number).get()
        elif road == "timed":
            runner.queue_task(nothing, number, timeout=3600)
        elif road == "failing":
            settled(runner.submit(fail))
        elif road == "callback":
            runner.submit(nothing, callback=lambda _task: None).get()


ROADS = ["queue_task", "run_task", "lease", "keyed", "timed", "failing", "callback"]


@pytest.mark.parametrize("road", ROADS)
def test_objects_do_not_pile_up_with_tasks_run(make_plain: MakeRunner, road: str) -> None:
    runner = make_plain(worker_count=2)
    run_many(runner, 500, road)
    let_run()
    gc.collect()
    before = len(gc.get_objects())
    watchers = len(_env.active_watchers())

    run_many(runner, 3000, road)
    let_run()
    gc.collect()

    assert len(gc.get_objects()) - before < 300
    assert len(_env.active_watchers()) <= watchers + 2


def test_bytes_do_not_pile_up_with_tasks_run(make_plain: MakeRunner) -> None:
    runner = make_plain(worker_count=2)
    run_many(runner, 3000, "queue_task")
    runner.metrics()
    gc.collect()
    tracemalloc.start()
    try:
        run_many(runner, 1000, "queue_task")
        runner.metrics()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        run_many(runner, 20_000, "queue_task")
        runner.metrics()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Twenty thousand kept floats alone would be 480 kB.
    assert after - before < 100_000


@pytest.mark.parametrize("aging", [None, 1.0])
@pytest.mark.parametrize("how", ["cancel", "purge", "purge by key", "time-out", "kill the runner"])
def test_a_withdrawn_task_lets_go_of_fn_args_and_context_at_once(
    make_plain: MakeRunner, held: HeldTask[str], how: str, aging: float | None
) -> None:
    runner = make_plain(worker_count=1, priority_aging=aging)
    runner.submit(held)
    held.wait_begun()
    payloads = [Payload(), Payload(), Payload()]
    gone = [weakref.ref(payload) for payload in payloads]
    in_fn, in_args, in_context = payloads
    context = contextvars.copy_context()
    context.run(variable.set, in_context)

    def submit(in_fn: Payload, in_args: Payload) -> Task[Any]:
        def fn(_resource: LedgerResource, _payload: Payload) -> Payload:
            return in_fn

        return runner.submit(fn, in_args, key="k", timeout=0.02 if how == "time-out" else None)

    handle = context.run(submit, in_fn, in_args)
    del context, payloads, in_fn, in_args, in_context, submit

    if how == "cancel":
        assert handle.cancel()
    elif how == "purge":
        assert runner.purge() == 1
    elif how == "purge by key":
        assert runner.purge(key="k") == 1
    elif how == "time-out":
        assert isinstance(settled(handle), TaskTimeoutError)
    else:
        runner.kill()

    assert handle.ready()
    assert [reference() for reference in gone] == [None] * 3


def test_a_caller_that_left_takes_its_tasks_payload_along(
    make_plain: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_plain(worker_count=1)
    runner.submit(held)
    held.wait_begun()
    gone: list[weakref.ref[Payload]] = []

    def ask() -> None:
        payload = Payload()
        gone.append(weakref.ref(payload))
        try:
            runner.queue_task(nothing, payload)
        finally:
            del payload

    caller = call(ask)
    eventually(lambda: runner.stats().queued_tasks == 1)

    caller.greenlet.kill()
    # The traceback of the kill keeps the frames, and these the payload.
    assert caller.error is not None
    caller.error.__traceback__ = None

    assert gone[0]() is None


def test_a_finished_task_that_nobody_keeps_is_gone(make_plain: MakeRunner) -> None:
    runner = make_plain(worker_count=1)
    payload = Payload()
    gone = weakref.ref(payload)
    handle = runner.submit(lambda _resource, given: given, payload)
    assert handle.get(timeout=10) is payload

    del payload, handle
    let_run()
    gc.collect()

    assert gone() is None


def test_an_idle_worker_keeps_nothing_of_its_last_task(make_plain: MakeRunner) -> None:
    runner = make_plain(worker_count=1)
    gone: list[weakref.ref[Payload]] = []

    def ask() -> None:
        payload = Payload()
        gone.append(weakref.ref(payload))
        runner.queue_task(nothing, payload)

    def ask_in_vain() -> None:
        payload = Payload()
        gone.append(weakref.ref(payload))

        def fn(_resource: LedgerResource, given: Payload) -> None:
            raise ValueError(given)

        with pytest.raises(ValueError, match="Payload"):
            runner.queue_task(fn, payload)

    ask()
    ask_in_vain()
    let_run()
    gc.collect()

    assert [reference() for reference in gone] == [None, None]


def test_a_caller_that_waits_keeps_nothing_of_who_was_answered_with_it(
    make_plain: MakeRunner, call: SpawnCall, held: HeldTask[str]
) -> None:
    runner = make_plain(worker_count=1)
    runner.start()
    gone: list[weakref.ref[Payload]] = []

    def ask_twice() -> None:
        runner.queue_task(nothing, None)
        runner.queue_task(held)

    def ask() -> None:
        gone.append(weakref.ref(runner.queue_task(lambda _resource: Payload())))

    runner.pause()
    call(ask_twice)
    call(ask)
    let_run()
    runner.resume()
    held.wait_begun()
    gc.collect()

    assert [reference() for reference in gone] == [None]


@pytest.mark.parametrize("aging", [None, 1.0])
def test_the_backlog_is_compacted_when_half_of_it_is_withdrawn(
    make_plain: MakeRunner, held: HeldTask[str], aging: float | None
) -> None:
    runner = make_plain(worker_count=1, priority_aging=aging)
    runner.submit(held)
    held.wait_begun()
    gc.collect()
    before = tasks_alive()
    handles = [runner.submit(nothing, priority=number % 7) for number in range(2000)]
    assert tasks_alive() - before == 2000

    # From the back, where no dropping of the head helps.
    while len(handles) > 200:
        assert handles.pop().cancel()

    let_run()
    gc.collect()
    assert runner.stats().queued_tasks + runner.stats().priority_tasks == 200
    assert tasks_alive() - before <= 420


def test_delayed_retries_are_compacted_too(make_plain: MakeRunner) -> None:
    runner = make_plain(worker_count=2, max_retries=3, retry_backoff=(1000.0, 1000.0))

    def unfit(resource: LedgerResource) -> None:
        with resource.use():
            raise UnfitError

    gc.collect()
    before = tasks_alive()
    handles = [runner.submit(unfit) for _ in range(200)]
    eventually(lambda: runner.stats().delayed_tasks >= 150)
    while handles:
        handles.pop().cancel()
    eventually(lambda: runner.stats().busy_workers == 0)

    let_run()
    gc.collect()
    assert runner.stats().delayed_tasks == 0
    assert tasks_alive() - before <= 100


def test_leases_that_timed_out_do_not_pile_up(make_plain: MakeRunner, call: SpawnCall, held: HeldTask[str]) -> None:
    runner = make_plain(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.submit(held)
    held.wait_begun()

    def ask() -> None:
        for _ in range(20):
            with pytest.raises(AcquireTimeoutError):
                runner.run_task(nothing, timeout=0.001)

    def ask_all() -> None:
        for caller in [call(ask) for _ in range(10)]:
            caller.result()

    ask_all()
    gc.collect()
    before = len(gc.get_objects())
    ask_all()
    gc.collect()

    assert runner.stats().waiting_leases == 0
    # The calls of the test itself are kept, and small.
    assert len(gc.get_objects()) - before < 200


def test_a_lazy_map_holds_a_bounded_number_of_items(make_plain: MakeRunner) -> None:
    runner = make_plain(worker_count=2)
    alive: list[int] = []
    payloads: weakref.WeakSet[Payload] = weakref.WeakSet()

    def make_items() -> Any:
        for _ in range(1000):
            payload = Payload()
            payloads.add(payload)
            alive.append(len(payloads))
            yield payload

    seen = 0
    for _ in runner.imap_unordered(nothing, make_items()):
        seen += 1

    assert seen == 1000
    assert max(alive) <= 64


def test_a_key_is_forgotten_with_its_task(make_plain: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_plain(worker_count=1)

    class Key:
        """A key whose end can be seen."""

    def by_road(road: Callable[[Any], None]) -> weakref.ref[Key]:
        key = Key()
        road(key)
        return weakref.ref(key)

    def run(key: Key) -> None:
        runner.submit(touch, 1, key=key).get(timeout=10)

    def cancel(key: Key) -> None:
        blocker = runner.submit(held)
        held.wait_begun()
        assert runner.submit(touch, 1, key=key).cancel()
        held.release()
        blocker.get(timeout=10)

    gone = [by_road(run), by_road(cancel)]
    let_run()
    gc.collect()

    assert [reference() for reference in gone] == [None, None]


def test_the_traceback_of_a_lost_attempt_does_not_keep_its_resource(make_plain: MakeRunner) -> None:
    runner = make_plain(worker_count=1, resource_pool_size=0, max_retries=2)
    attempts: list[weakref.ref[LedgerResource]] = []

    def fail_twice(resource: LedgerResource) -> str:
        attempts.append(weakref.ref(resource))
        with resource.use():
            if len(attempts) < 3:
                raise UnfitError
        return "third"

    assert runner.queue_task(fail_twice) == "third"
    let_run()
    gc.collect()
    gevent.sleep(0)

    assert [reference() is None for reference in attempts] == [True, True, False]
