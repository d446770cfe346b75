"""What storms, shots and the machine have found, each as the shortest program that shows it.

Invariant: each test failed before its mend, by a hang, a foreign answer or a broken bound.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gtasker import Runner, ShutdownReport, State, Task, TaskState
from gtasker._line import Line
from gtasker._turn import turn_of
from gtasker.errors import TaskCancelledError, WouldDeadlockError
from tests.conftest import MakeRunner
from tests.ledger import PATIENCE, HeldTask, Ledger, LedgerResource, UnfitError, touch
from tests.proof._world import World, settles, turns

ONE = {"worker_count": 1, "max_worker_count": 1, "resource_pool_size": 0}


def answers_nested(runner: Runner[LedgerResource]) -> Any:
    """A task that queues a task and waits for it."""
    return lambda thing: runner.queue_task(touch, "nested")


def test_a_nested_task_is_served_when_a_burst_is_allowed_but_not_due(make_runner: MakeRunner) -> None:
    runner = make_runner(**ONE | {"max_worker_count": 3}, burst_task_threshold=4)

    assert runner.submit(answers_nested(runner)).get(PATIENCE) == "nested"


def test_shrinking_lets_no_worker_go_that_a_nested_task_needs(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=2, max_worker_count=2).start()
    held = HeldTask("done")
    runner.submit(held)
    held.wait_begun()
    outer = runner.submit(answers_nested(runner))
    assert settles(lambda: outer.attempts == 1 and runner.stats().queued_tasks == 1, PATIENCE)

    runner.resize(worker_count=1, max_worker_count=1)
    held.release()

    assert outer.get(PATIENCE) == "nested"


def test_a_nested_wait_is_judged_again_when_the_last_other_worker_can_get_no_resource(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=2, max_worker_count=2, resource_pool_size=0, max_retries=0).start()
    held = HeldTask("done")

    def turn_unfit(thing: LedgerResource) -> None:
        held(thing)
        raise UnfitError

    unfit = runner.submit(turn_unfit)
    held.wait_begun()
    outer = runner.submit(answers_nested(runner))
    assert settles(lambda: outer.attempts == 1 and runner.stats().queued_tasks == 1, PATIENCE)

    runner.resize(worker_count=1, max_worker_count=2, resource_pool_size=0, max_resources=1)
    held.release()

    with pytest.raises(WouldDeadlockError):
        outer.get(PATIENCE)
    with pytest.raises(UnfitError):
        unfit.get(PATIENCE)


@pytest.mark.parametrize("error", [gevent.GreenletExit(), gevent.Timeout()], ids=["kill", "timeout"])
def test_a_start_that_was_cut_short_does_not_break_the_bound_of_the_next(error: BaseException) -> None:
    world = World(creating=lambda: turns(2), destroying=lambda: turns(4))
    runner: Runner[LedgerResource] = Runner(**world.options(), worker_count=2, max_worker_count=2, resource_pool_size=1)

    def begin() -> None:
        with pytest.raises(type(error)):
            runner.start()

    starter = gevent.spawn(begin)
    turns(2)
    starter.kill(error)

    runner.start()

    assert runner.state is State.RUNNING
    assert runner.stop().complete
    assert world.audit(most=3, most_creating=4) == []


def test_one_task_has_one_idle_resource_checked(make_runner: MakeRunner, ledger: Ledger) -> None:
    options = {"worker_count": 5, "max_worker_count": 5, "resource_pool_size": 3, "check_idle": 0.0}
    runner = make_runner(**options, check_resource=ledger.probe).start()

    runner.queue_task(touch, None)
    assert ledger.probing.entered == 1
    runner.run_task(touch, None)
    assert ledger.probing.entered == 2


def test_a_task_is_served_beside_an_idle_resource_when_its_worker_s_own_is_lent(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    runner = make_runner(
        worker_count=1, max_worker_count=1, resource_pool_size=1, check_idle=0.0, check_resource=ledger.probe
    ).start()
    held = HeldTask("both at once")
    ledger.probing.hold()
    queued = gevent.spawn(lambda: runner.queue_task(held))
    turns(2)
    lent = gevent.spawn(lambda: runner.run_task(held))
    turns(2)

    ledger.probing.release()

    held.wait_begun(2)
    held.release()
    assert [each.get(timeout=PATIENCE) for each in (lent, queued)] == ["both at once"] * 2


def test_growing_after_shrinking_while_all_are_busy_hires_everybody(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=2, max_worker_count=2, resource_pool_size=0).start()
    held = HeldTask("done")
    for _ in range(2):
        runner.submit(held)
    held.wait_begun(2)

    runner.resize(worker_count=1, max_worker_count=1)
    runner.resize(worker_count=3, max_worker_count=3)
    for _ in range(3):
        runner.submit(held)

    held.wait_begun(3)
    held.release()
    assert settles(lambda: runner.stats().active_workers == 3, PATIENCE)


def test_an_unhealthy_attempt_whose_caller_has_left_is_not_tried_again(make_runner: MakeRunner) -> None:
    runner = make_runner(**ONE).start()
    held = HeldTask("done")

    def turn_unfit(thing: LedgerResource) -> None:
        held(thing)
        raise UnfitError

    caller = gevent.spawn(runner.queue_task, turn_unfit)
    held.wait_begun()
    caller.kill()
    held.release()

    assert runner.stop().complete
    assert held.begun == 1


def test_a_task_that_was_handed_over_directly_keeps_its_place_for_the_next_attempt(make_runner: MakeRunner) -> None:
    runner = make_runner(**ONE).start()
    held = HeldTask("done")
    order: list[str] = []

    def first(thing: LedgerResource) -> None:
        order.append("first")
        if len(order) == 1:
            held(thing)
            raise UnfitError

    caller = gevent.spawn(runner.queue_task, first)
    held.wait_begun()
    second = runner.submit(lambda thing: order.append("second"))
    held.release()

    caller.join(PATIENCE)
    second.wait(PATIENCE)
    assert order == ["first", "first", "second"]


def test_an_orphaned_attempt_does_not_answer_for_a_newer_task_with_its_key(make_runner: MakeRunner) -> None:
    runner = make_runner(**ONE).start()
    old, new = HeldTask("old"), HeldTask("new")
    caller = gevent.spawn(lambda: runner.queue_task(old, key="key"))
    old.wait_begun()
    caller.kill()
    asker = gevent.spawn(lambda: runner.queue_task(new, key="key"))
    turns(1)

    old.release()
    new.wait_begun()
    joiner = runner.submit(new, key="key")
    new.release()

    assert asker.get(timeout=PATIENCE) == "new"
    assert joiner.get(PATIENCE) == "new"


def test_joiners_of_a_key_are_served_though_the_first_is_killed_at_the_door(make_runner: MakeRunner) -> None:
    runner = make_runner(**ONE, max_queued=1).start()
    held = HeldTask("held")
    runner.submit(held)
    held.wait_begun()
    runner.submit(touch, "fills the backlog")
    first = gevent.spawn(lambda: runner.submit(touch, "shared", key="key"))
    turns(1)
    joiner = gevent.spawn(lambda: runner.queue_task(touch, "shared", key="key"))
    turns(1)

    first.kill()
    held.release()

    assert joiner.get(timeout=PATIENCE) == "shared"


def test_a_base_worker_gets_a_resource_though_the_turn_was_spent_when_it_was_made(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    def create() -> LedgerResource:
        resource = ledger.create()
        spend_the_turn()
        return resource

    runner = make_runner(worker_count=1, max_worker_count=1, resource_pool_size=2, on_create=create)
    go_on = Event()

    def hold() -> None:
        with runner.lease(priority=0):
            go_on.wait()

    holder = gevent.spawn(hold)
    assert settles(lambda: runner.stats().live_resources == 3, PATIENCE)

    assert runner.submit(touch, "served").get(PATIENCE) == "served"
    go_on.set()
    holder.join()


def test_resources_made_while_the_turn_is_spent_serve_a_loan_and_a_task_that_both_wait(
    make_runner: MakeRunner, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:

    def create() -> LedgerResource:
        resource = ledger.create()
        if ledger.created > 2:  # not those of the start
            spend_the_turn()
        return resource

    runner = make_runner(
        worker_count=2, max_worker_count=2, resource_pool_size=0, max_resources=3, max_retries=0, on_create=create
    ).start()
    held = HeldTask("done")
    lent = gevent.spawn(lambda: runner.run_task(held))
    held.wait_begun()
    ledger.creating.hold()
    unfit = runner.submit(turn_unfit)
    task = runner.submit(touch, "task")
    with pytest.raises(UnfitError):
        unfit.get(PATIENCE)
    loan = gevent.spawn(lambda: runner.run_task(touch, "loan"))
    assert settles(lambda: runner.stats().waiting_leases == 1, PATIENCE)

    ledger.creating.release()

    assert loan.get(timeout=PATIENCE) == "loan"
    assert task.get(PATIENCE) == "task"
    held.release()
    lent.join()
    # It went round in a circle until the stack was full; the next look of the upkeep made it good.
    assert "RecursionError" not in caplog.text


@pytest.mark.parametrize("end", [Runner.kill, lambda runner: runner.stop(0)], ids=["kill", "stop at once"])
def test_a_leaked_resource_is_destroyed_by_an_end_that_does_not_wait(
    make_runner: MakeRunner, ledger: Ledger, end: Callable[[Runner[LedgerResource]], ShutdownReport]
) -> None:
    runner = make_runner(**ONE).start()
    leaking = gevent.spawn(lambda: runner.lease().__enter__())
    leaking.join()

    assert end(runner).complete

    assert ledger.destroyed == ledger.created


@pytest.mark.parametrize("reserve", [1, 0], ids=["from the reserve", "a worker's own"])
def test_a_holder_that_a_kill_strikes_may_end_without_leaving_its_lease(
    make_runner: MakeRunner, ledger: Ledger, reserve: int
) -> None:
    runner = make_runner(worker_count=1, max_worker_count=1, resource_pool_size=reserve).start()
    taken = Event()

    def hold() -> None:
        runner.lease().__enter__()
        taken.set()
        Event().wait()

    holder = gevent.spawn(hold)
    taken.wait()

    report = runner.kill(PATIENCE)

    assert holder.dead
    assert (report.complete, report.abandoned) == (True, 0)
    assert ledger.destroyed == ledger.created


def test_a_loan_granted_to_an_attempt_is_not_taken_for_one_that_an_earlier_attempt_left_out(
    make_runner: MakeRunner, ledger: Ledger
) -> None:
    runner = make_runner(worker_count=1, max_worker_count=1, resource_pool_size=1, max_resources=2).start()
    with runner.lease():
        runner.queue_task(touch, "an earlier attempt of the worker's")
        nested = runner.submit(lambda thing: runner.run_task(touch, "nested"))
        assert settles(lambda: runner.stats().waiting_leases == 1, PATIENCE)

    # It is granted now, and the worker does not know yet.
    core: Any = runner._core
    core.upkeep._make_round()

    assert nested.get(PATIENCE) == "nested"
    assert ledger.destroyed == 0


def test_who_came_before_begins_before_also_when_much_is_made_at_once(make_runner: MakeRunner, ledger: Ledger) -> None:
    ledger.creating.hold()
    runner = make_runner(worker_count=2, resource_pool_size=2)
    begun: list[str] = []

    def lend() -> None:
        with runner.lease():
            begun.append("the lease")

    first = runner.submit(lambda _: begun.append("the task before"))
    lease = gevent.spawn(lend)
    assert settles(lambda: runner.stats().waiting_leases == 1, PATIENCE)
    last = runner.submit(lambda _: begun.append("the task after"))

    ledger.creating.release()

    gevent.joinall([lease], timeout=PATIENCE, raise_error=True)
    assert gevent.wait([first, last], timeout=PATIENCE) == [first, last]
    assert begun.index("the lease") < begun.index("the task after")


def test_creates_that_block_and_fail_leave_the_loop_its_turns(make_runner: MakeRunner) -> None:
    def create() -> LedgerResource:
        until = monotonic() + 0.01  # longer than jobs may go on, and than the pause between two attempts
        while monotonic() < until:
            pass
        raise ConnectionError

    runner = make_runner(worker_count=1, resource_pool_size=0, on_create=create, create_backoff=(0.001, 0.002))
    task = runner.submit(touch, "never")

    for _ in range(5):
        gevent.sleep(0.001)  # each needs the timers of the loop

    assert not task.ready()
    assert runner.kill().complete


def spend_the_turn() -> None:
    """Do to the hub's budget what 64 attempts of anybody's do."""
    turn = turn_of(gevent.get_hub())
    while turn.left > 0:
        turn.left -= 1
        if not turn.left:
            turn.checkpoint(monotonic())


def turn_unfit(thing: LedgerResource) -> None:
    """A task that finds its resource unfit."""
    with thing.use():
        raise UnfitError


class Standing:
    """The least that can stand in a line."""

    attempts = 0
    queued_at = 0.0

    def __init__(self, seq: int) -> None:
        self.priority = 10
        self.seq = seq
        self.lane: Any = None


def test_a_line_goes_on_behind_a_returned_entry_that_was_withdrawn() -> None:
    line: Line[Any] = Line()
    returned, fresh = Standing(1), Standing(2)
    line.push(fresh)
    line.put_back(returned)
    line.withdraw(returned)

    assert line.pop() is fresh


def test_a_task_that_cancels_itself_stays_cancelled_whatever_it_returns(make_runner: MakeRunner) -> None:
    runner = make_runner(**ONE)
    own: list[Task[str]] = []

    def cancel_own(_resource: LedgerResource) -> str:
        assert own[0].cancel()
        return "returned all the same"

    own.append(runner.submit(cancel_own))

    assert own[0].wait(PATIENCE)
    assert own[0].state is TaskState.CANCELLED
    with pytest.raises(TaskCancelledError):
        own[0].get()
    assert runner.metrics().total_tasks_cancelled == 1
    assert runner.metrics().total_tasks_completed == 0
