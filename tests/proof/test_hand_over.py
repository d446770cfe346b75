"""Between hand-over and waking: the receiver is killed when the giver has given and before it could take.

Invariant: each throw is queued in the hub just before the giver gives, so it runs ahead of the wake-up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from gtasker import Runner
from tests.conftest import MakeRunner
from tests.ledger import PATIENCE, HeldTask, Ledger, LedgerResource, touch
from tests.proof._world import settles, turns

with_either = pytest.mark.parametrize("error", [gevent.GreenletExit(), gevent.Timeout()], ids=["kill", "timeout"])


class Caller:
    """A greenlet that makes one call, and what came of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.value: object = None
        self.error: BaseException | None = None
        self.in_call = True
        self.was_hit = False
        self.waited_on = False
        self.greenlet = gevent.spawn(self._run, call)

    def _run(self, call: Callable[[], object]) -> None:
        try:
            self.value = call()
        except BaseException as error:
            self.error = error
        self.in_call = False
        # A wake-up that comes late would end this wait, which is none of the runner's.
        turns(2)
        self.waited_on = True

    def throw_ahead(self, error: BaseException) -> None:
        """Have `error` thrown into the call, ahead of whatever is queued in the hub from now on. Never switches."""
        gevent.get_hub().loop.run_callback(self._throw, error)

    def _throw(self, error: BaseException) -> None:
        if self.in_call:
            self.was_hit = True
            self.greenlet.throw(error)

    def ended(self) -> Caller:
        """Wait until the call has ended. Switches."""
        self.greenlet.join(PATIENCE)
        assert self.waited_on, "the call hangs, or its greenlet was woken by a stranger"
        return self


def borrow(runner: Runner[LedgerResource]) -> Caller:
    """A caller that leases a resource and answers its number."""

    def call() -> int:
        with runner.lease() as thing:
            return touch(thing, thing.number)

    return Caller(call)


def waits(runner: Runner[Any], count: int) -> None:
    """Go on when so many wait for a resource. Switches."""
    assert settles(lambda: runner.stats().waiting_leases == count, PATIENCE)


def is_whole(runner: Runner[Any]) -> bool:
    """Whether every worker and the whole reserve is idle, with nobody waiting."""
    stats = runner.stats()
    config = runner.config
    waiting = stats.waiting_leases + stats.queued_tasks + stats.priority_tasks + stats.delayed_tasks
    whole = (stats.active_workers, stats.available_resources) == (config.worker_count, config.resource_pool_size)
    return whole and waiting == stats.busy_workers == stats.creating_resources == 0


@pytest.fixture
def runner(make_runner: MakeRunner) -> Runner[LedgerResource]:
    """One worker, a reserve of one, and no room for more."""
    return make_runner(worker_count=1, max_worker_count=1, resource_pool_size=1, max_resources=2).start()


@with_either
def test_a_resource_given_back_to_a_dead_waiter_goes_to_the_next(
    runner: Runner[LedgerResource], error: BaseException
) -> None:
    with runner.lease():
        manager = runner.lease()
        manager.__enter__()
        victim, heir = borrow(runner), borrow(runner)
        waits(runner, 2)

        victim.throw_ahead(error)
        manager.__exit__(None, None, None)

        assert heir.ended().value is not None
        assert victim.ended().error is error
    assert settles(lambda: is_whole(runner), PATIENCE)


@with_either
def test_a_worker_s_resource_given_to_a_dead_waiter_goes_to_the_next(
    runner: Runner[LedgerResource], error: BaseException
) -> None:
    held = HeldTask("done")
    with runner.lease():

        def work(thing: LedgerResource) -> str:
            answer = held(thing)
            victim.throw_ahead(error)
            return answer

        task = runner.submit(work)
        held.wait_begun()
        victim, heir = borrow(runner), borrow(runner)
        waits(runner, 2)

        held.release()

        assert heir.ended().value is not None
        assert victim.ended().error is error
        assert task.get(PATIENCE) == "done"
    assert settles(lambda: is_whole(runner), PATIENCE)


@with_either
def test_a_resource_made_for_a_dead_waiter_goes_to_the_next(
    make_runner: MakeRunner, ledger: Ledger, error: BaseException
) -> None:
    victims: list[Caller] = []

    def create() -> LedgerResource:
        resource = ledger.create()
        for victim in victims:
            victim.throw_ahead(error)
        victims.clear()
        return resource

    runner = make_runner(worker_count=1, max_worker_count=1, resource_pool_size=0, max_resources=2, on_create=create)
    runner.start()
    held = HeldTask("done")
    task = runner.submit(held)
    held.wait_begun()
    ledger.creating.hold()
    victim, heir = borrow(runner), borrow(runner)
    ledger.creating.wait_entered(2)
    waits(runner, 2)
    victims.append(victim)

    ledger.creating.release()

    assert heir.ended().value is not None
    assert victim.ended().error is error
    held.release()
    assert task.get(PATIENCE) == "done"


@with_either
def test_a_slot_freed_by_a_destroy_is_not_lost_with_the_waiter_it_was_meant_for(
    runner: Runner[LedgerResource], ledger: Ledger, error: BaseException
) -> None:
    with runner.lease():
        manager = runner.lease()
        manager.__enter__()
        manager.discard()
        victim, heir = borrow(runner), borrow(runner)
        waits(runner, 2)

        victim.throw_ahead(error)
        manager.__exit__(None, None, None)

        assert heir.ended().value is not None
        assert victim.ended().error is error
    assert ledger.destroyed == 1
    assert settles(lambda: is_whole(runner), PATIENCE)


def wait_and_look(runner: Runner[Any], work: Any) -> object:
    """`wait`, then `value`."""
    task = runner.submit(work)
    task.wait()
    return task.value


ASK: dict[str, Callable[[Runner[Any], Any], object]] = {
    "queue_task": lambda runner, work: runner.queue_task(work),
    "a joiner": lambda runner, work: runner.queue_task(work, key="shared"),
    "get": lambda runner, work: runner.submit(work).get(),
    "wait": wait_and_look,
    "map": lambda runner, work: runner.map(lambda thing, _: work(thing), [1])[0],
}


@with_either
@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_an_answer_given_to_a_dead_caller_hurts_nobody(
    runner: Runner[LedgerResource], error: BaseException, ask: Callable[[Runner[Any], Any], object]
) -> None:
    held = HeldTask("the answer")

    def work(thing: LedgerResource) -> str:
        answer = held(thing)
        victim.throw_ahead(error)
        return answer

    first = Caller(lambda: runner.queue_task(work, key="shared"))
    turns(1)
    victim = Caller(lambda: ask(runner, work))
    follower = Caller(lambda: runner.queue_task(touch, "another"))
    held.wait_begun()

    held.release()

    assert first.ended().value == "the answer"
    assert follower.ended().value == "another"
    victim.ended()
    # From the worker straight back to the caller there is no moment in between; elsewhere the throw comes first.
    assert victim.error is error if victim.was_hit else victim.value == "the answer"
    assert settles(lambda: is_whole(runner), PATIENCE)


@with_either
def test_room_given_to_a_dead_submitter_goes_to_the_next(make_runner: MakeRunner, error: BaseException) -> None:
    runner = make_runner(worker_count=1, max_worker_count=1, resource_pool_size=0, max_queued=1).start()
    held = HeldTask("done")

    def work(thing: LedgerResource) -> str:
        answer = held(thing)
        victim.throw_ahead(error)
        return answer

    running = runner.submit(work)
    held.wait_begun()
    waiting = runner.submit(touch, "it filled the backlog")
    victim = Caller(lambda: runner.submit(touch, "never"))
    heir = Caller(lambda: runner.submit(touch, "the room was mine").get())
    turns(2)

    held.release()

    assert heir.ended().value == "the room was mine"
    assert victim.ended().error is error
    assert running.get(PATIENCE) == "done"
    assert waiting.get(PATIENCE) == "it filled the backlog"
    assert settles(lambda: is_whole(runner), PATIENCE)


@with_either
def test_a_task_handed_to_a_worker_that_is_shot_before_it_begins_is_answered(
    runner: Runner[LedgerResource], error: BaseException
) -> None:
    workers: list[Any] = []
    runner.queue_task(lambda thing: workers.append(gevent.getcurrent()))
    assert settles(lambda: is_whole(runner), PATIENCE)

    gevent.get_hub().loop.run_callback(workers[0].throw, error)
    task = runner.submit(touch, "done")

    task.wait(PATIENCE)
    assert task.ready()
    assert task.exception is error or task.value == "done"
    assert settles(lambda: is_whole(runner), PATIENCE)
    assert runner.queue_task(touch, "the next") == "the next"
