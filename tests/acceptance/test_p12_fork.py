"""P12: a forked child has a fresh runner; the inherited greenlets do nothing there; the parent's goes on unharmed."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import gevent
import gevent.os
import gevent.subprocess
import pytest

from gtasker import Runner, State
from tests.acceptance.conftest import SpawnCall
from tests.acceptance.kit import Recorder, eventually, let_run, note
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, touch


def in_child(fn: Callable[[], Any]) -> Any:
    """Run `fn` in a forked child and return what it returned, as JSON; raise when it raised or hung. Switches."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of threads at a fork; the suite's watchdog is one, and holds no lock of ours.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = gevent.os.fork()  # os.fork, then the reinit of the hub that gevent asks for
    if pid == 0:
        _report(fn, writer)
    os.close(writer)
    gevent.os.make_nonblocking(reader)
    said = b""
    while chunk := gevent.os.nb_read(reader, 65536):
        said += chunk
    os.close(reader)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    outcome = json.loads(said or '{"error": "the child said nothing"}')
    assert "error" not in outcome, outcome["error"]
    return outcome["value"]


def _report(fn: Callable[[], Any], writer: int) -> None:
    outcome: dict[str, Any] = {"error": "never set"}
    try:
        with gevent.Timeout(10):
            outcome = {"value": fn()}
    except BaseException:  # the parent shall hear of it, whatever it is
        outcome = {"error": traceback.format_exc()}
    finally:
        os.write(writer, json.dumps(outcome).encode())
        os._exit(0)


@pytest.fixture
def runner(make_runner: MakeRunner, ledger: Ledger) -> Runner[LedgerResource]:
    """Make a started runner with three resources."""
    return make_runner(worker_count=2, resource_pool_size=1, on_forget=ledger.forget).start()


def test_the_childs_runner_is_new(runner: Runner[LedgerResource]) -> None:
    def look() -> list[Any]:
        stats = runner.stats()
        return [runner.state is State.NEW, stats.live_resources, stats.active_workers, stats.queued_tasks]

    assert in_child(look) == [True, 0, 0, 0]
    assert runner.state is State.RUNNING


def test_the_childs_runner_starts_on_first_use_with_resources_of_its_own(
    runner: Runner[LedgerResource], ledger: Ledger
) -> None:
    def use() -> list[Any]:
        numbers = [
            runner.queue_task(lambda resource: touch(resource, resource.number)),
            runner.run_task(lambda resource: touch(resource, resource.number)),
            runner.submit(lambda resource: touch(resource, resource.number)).get(timeout=5),
        ]
        with runner.lease() as resource:
            numbers.append(touch(resource, resource.number))
        return [min(numbers) > 3, runner.state is State.RUNNING]

    assert in_child(use) == [True, True]
    assert ledger.created == 3
    assert runner.queue_task(lambda resource: touch(resource, resource.number)) <= 3


def test_the_child_neither_uses_nor_destroys_what_it_inherited(runner: Runner[LedgerResource], ledger: Ledger) -> None:
    def use_and_stop() -> list[Any]:
        inherited = list(ledger.live.values())
        runner.queue_task(touch, 1)
        uses = [resource.uses for resource in inherited]
        report = runner.stop()
        gc.collect()
        let_run()
        return [report.complete, ledger.forgotten, ledger.created - 3 - ledger.destroyed, uses, ledger.faults]

    assert in_child(use_and_stop) == [True, 3, 0, [0, 0, 0], []]
    assert runner.stop().complete
    assert ledger.destroyed == 3


def test_on_forget_is_asked_once_for_each_on_first_use_and_not_before(
    runner: Runner[LedgerResource], ledger: Ledger
) -> None:
    def use() -> list[int]:
        before = ledger.forgotten
        runner.submit(touch, 1).get(timeout=5)
        first = ledger.forgotten
        runner.submit(touch, 1).get(timeout=5)
        return [before, first, ledger.forgotten]

    assert in_child(use) == [0, 3, 3]
    assert ledger.forgotten == 0


def test_an_on_forget_that_raises_does_not_stop_the_child(make_runner: MakeRunner) -> None:
    asked: list[int] = []

    def forget(resource: LedgerResource) -> None:
        asked.append(resource.number)
        raise OSError("no such handle")

    runner = make_runner(worker_count=2, resource_pool_size=1, on_forget=forget).start()

    def use() -> list[Any]:
        return [runner.queue_task(touch, "works"), sorted(asked)]

    assert in_child(use) == ["works", [1, 2, 3]]


def test_a_stop_in_a_child_that_never_used_it_destroys_nothing(runner: Runner[LedgerResource], ledger: Ledger) -> None:
    def stop() -> list[Any]:
        complete = runner.stop().complete
        return [complete, ledger.destroyed]

    assert in_child(stop) == [True, 0]


def test_the_parents_waiting_tasks_are_not_run_in_the_child(
    runner: Runner[LedgerResource], ledger: Ledger, held: HeldTask[str]
) -> None:
    ran: list[int] = []
    handles = [runner.submit(held) for _ in range(2)]
    waiting = [runner.submit(note, ran, number) for number in range(5)]
    held.wait_begun(2)

    def let_the_inherited_ones_go() -> list[Any]:
        held.release()
        let_run()
        runner.queue_task(touch, 1)
        let_run()
        gc.collect()
        return [ran, [handle.ready() for handle in waiting], ledger.destroyed]

    assert in_child(let_the_inherited_ones_go) == [[], [False] * 5, 0]

    held.release()
    assert [handle.get(timeout=10) for handle in handles] == ["held", "held"]
    for handle in waiting:
        handle.get(timeout=10)
    assert ran == list(range(5))


def test_the_housekeeping_does_nothing_in_the_child(make_runner: MakeRunner, ledger: Ledger) -> None:
    recorder = Recorder()
    make_runner(
        worker_count=2,
        resource_pool_size=2,
        check_resource=ledger.probe,
        keepalive=0.005,
        max_lifetime=0.05,
        burst_task_threshold=1,
        burst_interval=0.005,
        on_event=recorder,
    ).start()

    def idle() -> list[int]:
        before = [ledger.probing.entered, ledger.destroying.entered, ledger.creating.entered, len(recorder.events)]
        gevent.sleep(0.1)
        after = [ledger.probing.entered, ledger.destroying.entered, ledger.creating.entered, len(recorder.events)]
        return [now - then for now, then in zip(after, before, strict=True)]

    assert in_child(idle) == [0, 0, 0, 0]
    probed = ledger.probing.entered
    eventually(lambda: ledger.probing.entered > probed, "the parent's keepalive going on")


def test_a_lease_that_was_out_at_the_fork_is_of_no_consequence_in_the_child(
    runner: Runner[LedgerResource], ledger: Ledger
) -> None:
    with runner.lease() as resource:
        lease_number = resource.number

        def use() -> list[Any]:
            # The child leaves the inherited block's resource alone and takes one of its own.
            with runner.lease() as mine:
                return [mine.number > 3, touch(mine, "works"), ledger.destroyed]

        assert in_child(use) == [True, "works", 0]
        touch(resource, 1)

    eventually(lambda: runner.stats().available_resources == 1)
    assert lease_number in ledger.live


def test_an_inherited_block_that_the_child_leaves_destroys_nothing(
    runner: Runner[LedgerResource], ledger: Ledger
) -> None:
    lease = runner.lease()
    lease.__enter__()

    def leave() -> list[Any]:
        lease.__exit__(None, None, None)
        return [ledger.destroyed, runner.queue_task(touch, "works"), runner.stats().live_resources <= 3]

    assert in_child(leave) == [0, "works", True]
    lease.__exit__(None, None, None)
    assert runner.run_task(touch, 1) == 1


def test_callers_that_wait_in_the_parent_are_not_woken_in_the_child(
    runner: Runner[LedgerResource], call: SpawnCall, held: HeldTask[str]
) -> None:
    for _ in range(2):
        runner.submit(held)
    held.wait_begun(2)
    waiting = call(runner.queue_task, touch, "answer")
    eventually(lambda: runner.stats().queued_tasks == 1)

    def use() -> list[Any]:
        runner.queue_task(touch, 1)
        runner.stop()
        let_run()
        return [waiting.ended]

    assert in_child(use) == [False]
    held.release()
    assert waiting.result() == "answer"


def test_the_parent_goes_on_with_the_same_resources(runner: Runner[LedgerResource], ledger: Ledger) -> None:
    def wreck() -> bool:
        runner.queue_task(touch, 1)
        return runner.kill().complete

    for _ in range(3):
        assert in_child(wreck)
        assert runner.queue_task(touch, "parent") == "parent"
        assert runner.run_task(touch, "parent") == "parent"

    assert ledger.created == 3
    assert ledger.destroyed == 0


def test_a_child_of_a_child_is_fresh_again(runner: Runner[LedgerResource]) -> None:
    def use_and_fork() -> list[Any]:
        return [use(), in_child(use)]

    def use() -> list[Any]:
        fresh = runner.state is State.NEW
        return [fresh, runner.queue_task(lambda resource: touch(resource, resource.number))]

    (child_fresh, child), (grandchild_fresh, grandchild) = in_child(use_and_fork)

    assert child_fresh
    assert grandchild_fresh
    assert 3 < child < grandchild


def test_a_runner_built_before_the_fork_and_never_used_works_in_both(make_runner: MakeRunner, ledger: Ledger) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, on_forget=ledger.forget)

    def use() -> list[Any]:
        return [runner.queue_task(touch, "child"), ledger.forgotten]

    assert in_child(use) == ["child", 0]
    assert runner.queue_task(touch, "parent") == "parent"
    assert ledger.created == 1


def test_a_paused_or_stopping_parent_has_a_new_runner_in_the_child(
    runner: Runner[LedgerResource], call: SpawnCall, held: HeldTask[str]
) -> None:
    def use() -> list[Any]:
        return [runner.state is State.NEW, runner.queue_task(touch, "works")]

    runner.pause()
    assert in_child(use) == [True, "works"]
    runner.resume()

    runner.submit(held)
    held.wait_begun()
    stopping = call(runner.stop)
    let_run()
    assert in_child(use) == [True, "works"]
    held.release()
    assert stopping.result().complete


def test_a_subprocess_disturbs_nobody(runner: Runner[LedgerResource], ledger: Ledger) -> None:
    assert gevent.subprocess.call(["true"]) == 0

    assert runner.queue_task(touch, 1) == 1
    assert runner.state is State.RUNNING
    assert ledger.created == 3


def test_a_fork_inside_run_task_leaves_both_well(runner: Runner[LedgerResource]) -> None:
    def fork_in_it(resource: LedgerResource) -> Any:
        with resource.use():
            return in_child(lambda: runner.queue_task(touch, "child"))

    assert runner.run_task(fork_in_it) == "child"
    assert runner.queue_task(touch, "parent") == "parent"
