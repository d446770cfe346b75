"""Errors, and the places a runner may be used from: threads, the hub, the end of the interpreter, users' callbacks."""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import gevent.subprocess
import pytest
from gevent.event import Event

import gtasker
from gtasker import Runner, errors
from gtasker.errors import (
    GTaskerError,
    RunnerKilledError,
    TaskTimeoutError,
    WouldBlockHubError,
    WouldDeadlockError,
    WrongThreadError,
)
from tests.acceptance.kit import eventually, in_hub, let_run, reached, settled, whole
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch

R = Runner[LedgerResource]


# --- the family


def test_the_family_of_errors() -> None:
    family = {
        "ConfigError": (errors.GTaskerError, ValueError),
        "WorkerCountMustBePositiveError": (errors.ConfigError,),
        "OnCreateFunctionRequiredError": (errors.ConfigError,),
        "OnDestroyFunctionRequiredError": (errors.ConfigError,),
        "StartError": (errors.GTaskerError,),
        "RunnerStoppedError": (errors.GTaskerError,),
        "QueueFullError": (errors.GTaskerError,),
        "ResourceError": (errors.GTaskerError,),
        "ResourceUnavailableError": (errors.ResourceError,),
        "AcquireTimeoutError": (errors.ResourceError, TimeoutError),
        "TooManyWaitersError": (errors.ResourceError,),
        "TaskError": (errors.GTaskerError,),
        "TaskCancelledError": (errors.TaskError,),
        "RunnerKilledError": (errors.TaskCancelledError,),
        "TaskTimeoutError": (errors.TaskError, TimeoutError),
        "MaxRetriesExceededError": (errors.TaskError,),
        "WouldDeadlockError": (errors.TaskError,),
        "WrongThreadError": (errors.GTaskerError,),
        "WouldBlockHubError": (errors.GTaskerError,),
    }

    for name, bases in family.items():
        kind = getattr(errors, name)
        assert all(issubclass(kind, base) for base in bases), name
    assert issubclass(errors.GTaskerError, Exception)


@pytest.mark.parametrize(
    "name",
    [
        "Runner", "Config", "Task", "TaskState", "Priority", "Lease", "State", "Load", "Collector", "TaskTimes",
        "TaskMetrics", "RunnerStats", "LeaseInfo", "ShutdownReport", "RunnerEvent", "__version__", "GTaskerError",
    ],
)  # fmt: skip
def test_the_face_has_it(name: str) -> None:
    assert hasattr(gtasker, name)


# --- not callable


@pytest.mark.parametrize("road", ["submit", "queue_task", "run_task", "queue_task_once"])
@pytest.mark.parametrize("nothing", [None, 3, "touch"])
def test_what_is_no_callable_is_refused(make_runner: MakeRunner, ledger: Ledger, road: str, nothing: Any) -> None:
    runner = make_runner(worker_count=1).start()

    with pytest.raises(TypeError):
        getattr(runner, road)(nothing)

    eventually(lambda: whole(runner, 1, 1))
    assert ledger.destroyed == 0


def test_a_callback_that_is_no_callable_is_refused_at_once(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1).start()

    with pytest.raises(TypeError):
        runner.submit(touch, 1, callback=3)  # type: ignore[arg-type]

    assert runner.stats().queued_tasks == 0
    assert runner.metrics().total_tasks_arrived == 0


def test_a_key_that_cannot_be_one_is_refused_at_once(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1).start()

    with pytest.raises(TypeError):
        runner.submit(touch, 1, key=[])

    assert runner.metrics().total_tasks_arrived == 0
    assert runner.queue_task(touch, 1) == 1


def test_wrong_arguments_are_the_tasks_own_error(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    with pytest.raises(TypeError):
        runner.queue_task(touch, "one", "one too many")  # type: ignore[arg-type]

    assert runner.queue_task(touch, 1) == 1


# --- threads


THREAD_CALLS: dict[str, Callable[[R], object]] = {
    "submit": lambda runner: runner.submit(touch, 1),
    "queue_task": lambda runner: runner.queue_task(touch, 1),
    "run_task": lambda runner: runner.run_task(touch, 1),
    "lease": lambda runner: runner.lease().__enter__(),
    "map": lambda runner: runner.map(touch, [1]),
    "imap_unordered": lambda runner: list(runner.imap_unordered(touch, [1])),
    "start": lambda runner: runner.start(),
    "stop": lambda runner: runner.stop(),
    "kill": lambda runner: runner.kill(),
    "pause": lambda runner: runner.pause(),
    "resume": lambda runner: runner.resume(),
    "resize": lambda runner: runner.resize(worker_count=1),
    "recycle": lambda runner: runner.recycle(),
    "purge": lambda runner: runner.purge(),
}


@pytest.mark.parametrize("name", THREAD_CALLS)
def test_a_call_from_another_thread_is_refused_and_costs_nothing(make_runner: MakeRunner, name: str) -> None:
    runner = make_runner(worker_count=2, resource_pool_size=1).start()

    for _ in range(3):
        with pytest.raises(WrongThreadError):
            gevent.get_hub().threadpool.apply(THREAD_CALLS[name], (runner,))

    assert whole(runner, 2, 1)
    assert runner.queue_task(touch, "works") == "works"
    assert runner.run_task(touch, "works") == "works"


def test_a_lease_may_not_be_left_in_another_thread(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1).start()
    lease = runner.lease()
    lease.__enter__()

    with pytest.raises(WrongThreadError):
        gevent.get_hub().threadpool.apply(lease.__exit__, (None, None, None))

    lease.__exit__(None, None, None)
    assert whole(runner, 1, 1)


# --- the hub


HUB_CALLS: dict[str, Callable[[R], object]] = {
    "queue_task": lambda runner: runner.queue_task(touch, 1),
    "queue_task_once": lambda runner: runner.queue_task_once(touch, 1),
    "queue_task_with_priority": lambda runner: runner.queue_task_with_priority(touch, 1),
    "queue_task_with_priority_once": lambda runner: runner.queue_task_with_priority_once(touch, 1),
    "run_task": lambda runner: runner.run_task(touch, 1),
    "lease": lambda runner: runner.lease().__enter__(),
    "map": lambda runner: runner.map(touch, [1]),
    "imap_unordered": lambda runner: list(runner.imap_unordered(touch, [1])),
    "get": lambda runner: runner.submit(touch, 1).get(),
    "wait": lambda runner: runner.submit(touch, 1).wait(),
}


@pytest.mark.parametrize("name", HUB_CALLS)
def test_a_call_that_would_block_in_the_hub_is_refused(make_runner: MakeRunner, held: HeldTask[str], name: str) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=0, max_resources=1)
    runner.submit(held)
    held.wait_begun()

    with pytest.raises(WouldBlockHubError):
        in_hub(lambda: HUB_CALLS[name](runner))

    held.release()
    eventually(lambda: whole(runner, 1, 0))
    assert runner.queue_task(touch, "works") == "works"


def test_a_start_in_the_hub_is_refused(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    with pytest.raises(WouldBlockHubError):
        in_hub(runner.start)

    assert runner.queue_task(touch, "works") == "works"


def test_an_answer_that_is_there_may_be_got_in_the_hub(make_runner: MakeRunner) -> None:
    handle = make_runner(worker_count=1).submit(touch, "there")
    handle.get(timeout=10)

    assert in_hub(handle.get) == "there"


# --- deadlock


def test_a_task_that_waits_for_a_task_only_its_worker_could_run(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    def outer(_resource: LedgerResource) -> str:
        with pytest.raises(WouldDeadlockError):
            runner.queue_task(touch, "inner")
        return "told"

    assert runner.queue_task(outer) == "told"
    assert runner.stats().queued_tasks == 0
    assert runner.queue_task(touch, "works") == "works"


@pytest.mark.parametrize("how", ["get", "wait", "map", "imap_unordered", "key of its own"])
def test_each_way_of_waiting_is_found_out(make_runner: MakeRunner, how: str) -> None:
    runner = make_runner(worker_count=1)

    def outer(_resource: LedgerResource) -> None:
        if how == "get":
            runner.submit(touch, 1).get()
        elif how == "wait":
            runner.submit(touch, 1).wait()
        elif how == "map":
            runner.map(touch, [1, 2])
        elif how == "imap_unordered":
            list(runner.imap_unordered(touch, [1, 2]))
        else:
            runner.queue_task(touch, 1, key="own")

    with pytest.raises(WouldDeadlockError):
        runner.submit(outer, key="own").get()

    assert runner.queue_task(touch, "works", timeout=10) == "works"


def test_the_last_worker_to_wait_is_told_and_the_others_get_their_answers(
    make_runner: MakeRunner, held: HeldTask[str]
) -> None:
    runner = make_runner(worker_count=3)

    def outer(resource: LedgerResource, number: int) -> int:
        held(resource)
        return runner.queue_task(touch, number)

    handles = [runner.submit(outer, number) for number in range(3)]
    held.wait_begun(3)
    held.release()

    outcomes = [settled(handle) for handle in handles]
    assert sum(isinstance(outcome, WouldDeadlockError) for outcome in outcomes) == 1
    assert [handle.value for handle in handles if handle.successful()] == [
        number for number, outcome in enumerate(outcomes) if outcome is None
    ]


def test_a_free_worker_is_no_deadlock(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=2)

    assert runner.queue_task(lambda _resource: runner.queue_task(touch, "inner")) == "inner"


def test_a_worker_that_will_come_free_is_no_deadlock(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=2)
    runner.submit(held)
    held.wait_begun()

    outer = runner.submit(lambda _resource: runner.queue_task(touch, "inner"))
    let_run()
    assert not outer.ready()

    held.release()
    assert outer.get(timeout=10) == "inner"


def test_a_wait_with_a_timeout_is_no_deadlock(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    def outer(_resource: LedgerResource) -> str:
        with pytest.raises(TaskTimeoutError):
            runner.queue_task(touch, 1, timeout=0.01)
        with pytest.raises(gevent.Timeout):
            runner.submit(touch, 1).get(timeout=0.01)
        return "in time"

    assert runner.queue_task(outer) == "in time"


def test_a_burst_worker_that_may_come_is_no_deadlock(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, burst_task_threshold=1, max_worker_count=2, burst_interval=0.005)

    outer = runner.submit(lambda _resource: runner.queue_task(touch, "inner"))
    for _ in range(3):
        runner.submit(touch, 1)

    assert outer.get(timeout=10) == "inner"


def test_a_submit_without_waiting_is_no_deadlock(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)

    inner = runner.queue_task(lambda _resource: runner.submit(touch, "inner"))

    assert inner.get(timeout=10) == "inner"


def test_run_task_inside_a_task_is_no_deadlock(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1, resource_pool_size=1)

    def outer(resource: LedgerResource) -> str:
        with resource.use():
            return runner.run_task(touch, "inner")

    assert runner.queue_task(outer) == "inner"


def test_another_runner_is_no_deadlock(make_runner: MakeRunner) -> None:
    one, other = make_runner(worker_count=1), make_runner(worker_count=1)

    assert one.queue_task(lambda _resource: other.queue_task(touch, "inner")) == "inner"


def test_a_task_already_running_elsewhere_is_no_deadlock(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=2)
    first = runner.submit(held)
    held.wait_begun()
    waiting = Event()

    def wait_for_it(_resource: LedgerResource) -> str:
        waiting.set()
        return first.get()

    outer = runner.submit(wait_for_it)
    reached(waiting)
    let_run()
    held.release()

    assert outer.get(timeout=10) == "held"


def test_a_paused_worker_is_no_deadlock(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=2).start()

    def outer(resource: LedgerResource) -> str:
        held(resource)
        return runner.queue_task(touch, "inner")

    handle = runner.submit(outer)
    held.wait_begun()
    runner.pause()
    held.release()
    let_run()
    assert not handle.ready()

    runner.resume()

    assert handle.get(timeout=10) == "inner"


def test_a_nested_wait_ends_when_the_runner_is_resized(make_runner: MakeRunner, held: HeldTask[str]) -> None:
    runner = make_runner(worker_count=2)
    runner.submit(held)
    held.wait_begun()
    outer = runner.submit(lambda _resource: runner.queue_task(touch, "inner"))
    let_run()
    assert not outer.ready()

    runner.resize(worker_count=3)

    assert outer.get(timeout=10) == "inner"
    held.release()


# --- the end of the interpreter


def run_script(body: str) -> tuple[str, str, int]:
    """Run a script of its own, with a runner `runner` and a print for each destroy; return what it said."""
    head = """
        from gevent import monkey
        monkey.patch_all()
        import gevent
        from gtasker import Runner
        runner = Runner(worker_count=1, on_create=object, on_destroy=lambda _r: print("destroyed", flush=True))
    """
    script = textwrap.dedent(head) + textwrap.dedent(body)
    process = gevent.subprocess.run(
        [sys.executable, "-W", "always", "-c", script],
        cwd=Path(gtasker.__file__).resolve().parents[1],
        stdout=gevent.subprocess.PIPE,
        stderr=gevent.subprocess.PIPE,
        timeout=20,
        check=False,
    )
    return process.stdout.decode(), process.stderr.decode(), process.returncode


def test_an_interpreter_that_ends_with_a_running_runner_warns_and_destroys_nothing() -> None:
    said, complained, code = run_script("""
        runner.queue_task(lambda _r: print("ran", flush=True))
    """)

    assert code == 0
    assert said == "ran\n"
    assert complained.count("ResourceWarning") == 1
    assert "runner-" in complained
    assert "Traceback" not in complained


def test_an_interpreter_that_ends_with_a_stopped_runner_says_nothing() -> None:
    said, complained, code = run_script("""
        runner.queue_task(lambda _r: print("ran", flush=True))
        runner.stop()
    """)

    assert (code, complained) == (0, "")
    assert said == "ran\ndestroyed\ndestroyed\n"


def test_an_interpreter_that_ends_with_a_runner_never_used_says_nothing() -> None:
    assert run_script("") == ("", "", 0)


def test_a_runner_at_rest_does_not_keep_gevent_wait_from_ending() -> None:
    said, _complained, code = run_script("""
        runner.queue_task(lambda _r: print("ran", flush=True))
        runner.resize(worker_count=1)
        gevent.wait()
        print("waited")
    """)

    assert (code, said) == (0, "ran\nwaited\n")


def test_a_time_out_that_was_not_needed_does_not_keep_gevent_wait_from_ending() -> None:
    said, _complained, code = run_script("""
        assert runner.queue_task(lambda _r: "in time", timeout=1000) == "in time"
        assert runner.run_task(lambda _r: "in time", timeout=1000) == "in time"
        gevent.wait()
        print("waited")
    """)

    assert (code, said) == (0, "waited\n")


def test_a_keyboard_interrupt_in_a_task_ends_a_script_as_usual() -> None:
    _said, complained, code = run_script("""
        def interrupt(_resource):
            raise KeyboardInterrupt
        runner.submit(interrupt)
        gevent.sleep(10)
    """)

    assert code != 0
    assert "KeyboardInterrupt" in complained


# --- users' callbacks that raise, hang, or are killed


ENDINGS = [ValueError, gevent.GreenletExit, gevent.Timeout, SystemExit, BaseException]
HOOKS = ["on_create", "on_destroy", "check_health", "check_resource", "reset", "on_interrupt"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_raises_anything_costs_no_capacity(
    make_runner: MakeRunner, ledger: Ledger, hook: str, ending: type[BaseException]
) -> None:
    left = [3]
    usual: dict[str, Callable[..., Any]] = {
        "on_create": ledger.create,
        "on_destroy": ledger.destroy,
        "check_health": ledger.check_health,
        "check_resource": ledger.probe,
        "reset": ledger.reset,
        "on_interrupt": ledger.vouch,
    }

    def broken(*args: Any) -> Any:
        if left[0] and hook != "on_destroy":
            left[0] -= 1
            raise ending
        value = usual[hook](*args)
        if left[0]:  # on_destroy: only after the books are right
            left[0] -= 1
            raise ending
        return value

    runner = make_runner(
        worker_count=1, resource_pool_size=1, max_retries=1, check_idle=0.0, create_backoff=(0.001, 0.004),
        max_idle=0.02,
        **{**usual, hook: broken},
    )  # fmt: skip

    def fail(resource: LedgerResource) -> None:
        with resource.use():
            raise UnfitError

    def interrupted(resource: LedgerResource) -> None:
        with resource.use():
            raise gevent.GreenletExit

    for _ in range(3):
        assert runner.queue_task(touch, "works", timeout=10) == "works"
        assert runner.run_task(touch, "works") == "works"
        assert settled(runner.submit(fail)) is not None
        assert settled(runner.submit(interrupted)) is not None
        with pytest.raises(UnfitError):
            runner.run_task(fail)

    eventually(lambda: whole(runner, 1, 1))
    assert left[0] == 0
    assert runner.stop().complete


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", ["callback", "done callback"])
def test_a_callback_that_raises_anything_hurts_nobody(
    make_runner: MakeRunner, kind: str, ending: type[BaseException]
) -> None:
    runner = make_runner(worker_count=1)
    heard: list[Any] = []

    def broken(_task: Any) -> None:
        heard.append("broken")
        raise ending

    handle = runner.submit(touch, 1, callback=broken if kind == "callback" else None)
    if kind == "done callback":
        handle.add_done_callback(broken)
    handle.add_done_callback(lambda _task: heard.append("next"))
    eventually(lambda: len(heard) == 2)

    assert handle.get() == 1
    assert runner.queue_task(touch, 2) == 2
    assert runner.stop().complete
    assert sorted(heard) == ["broken", "next"]


def test_a_callback_that_raises_is_logged(make_runner: MakeRunner, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_task: Any) -> None:
        raise ValueError("the callback's own")

    with caplog.at_level(logging.DEBUG, "gtasker"):
        runner = make_runner(worker_count=1)
        runner.submit(touch, 1, callback=broken)
        runner.stop()

    assert "the callback's own" in caplog.text


def test_a_link_that_raises_does_not_keep_the_others_from_hearing(
    make_runner: MakeRunner, hub_errors: list[str]
) -> None:
    handle = make_runner(worker_count=1).submit(touch, 1)
    heard: list[Any] = []

    def broken(_task: Any) -> None:
        raise ValueError("the link's own")

    handle.rawlink(broken)
    handle.rawlink(heard.append)

    eventually(lambda: heard == [handle])
    # The hub prints what a link raises, as gevent's own do.
    hub_errors.clear()


def test_a_callback_that_hangs_does_not_keep_others_waiting(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    door = Event()
    heard: list[int] = []
    runner.submit(touch, 1, callback=lambda _task: door.wait())
    runner.submit(touch, 2, callback=lambda _task: heard.append(2))

    eventually(lambda: heard == [2])
    assert runner.queue_task(touch, 3) == 3
    door.set()


def test_a_callback_that_hangs_is_interrupted_by_a_kill(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    ended: list[str] = []
    began = Event()

    def hang(_task: Any) -> None:
        began.set()
        try:
            gevent.sleep(60)
        finally:
            ended.append("interrupted")

    runner.submit(touch, 1, callback=hang)
    reached(began)

    assert runner.kill().complete
    assert ended == ["interrupted"]


def test_a_callback_that_kills_itself_or_ends_the_runner(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1)
    reports: list[Any] = []
    done = Event()

    def end(_task: Any) -> None:
        reports.append(runner.stop(timeout=5))
        done.set()

    runner.submit(touch, 1, callback=end)

    reached(done)
    assert runner.stop().complete


@pytest.mark.parametrize("hook", ["on_destroy", "check_resource", "reset", "on_interrupt"])
def test_a_hook_that_hangs_is_bounded(make_runner: MakeRunner, ledger: Ledger, hook: str) -> None:
    door = {
        "on_destroy": ledger.destroying,
        "check_resource": ledger.probing,
        "reset": ledger.resetting,
        "on_interrupt": ledger.vouching,
    }[hook]
    usual: dict[str, Any] = {
        "on_destroy": ledger.destroy,
        "check_resource": ledger.probe,
        "reset": ledger.reset,
        "on_interrupt": ledger.vouch,
    }
    runner = make_runner(
        worker_count=1, resource_pool_size=0, max_resources=1, check_idle=0.0, destroy_timeout=0.02, hook_timeout=0.02,
        **{"on_destroy": ledger.destroy, hook: usual[hook]},
    ).start()  # fmt: skip
    door.hold()

    def interrupted(resource: LedgerResource) -> None:
        with resource.use():
            raise gevent.GreenletExit

    settled(runner.submit(interrupted))
    if hook == "check_resource":
        # A fresh resource was never idle for long; let one use pass.
        gevent.sleep(0.01)
    handle = runner.submit(touch, "served")
    eventually(lambda: door.entered > 0)
    if hook in {"check_resource", "reset"}:
        eventually(lambda: ledger.destroyed > 1)
        door.release()

    assert handle.get(timeout=10) == "served"
    door.release()


def test_a_killed_errand_of_the_runners_is_made_good(make_runner: MakeRunner, ledger: Ledger) -> None:
    # Somebody kills every greenlet but their own, as a careless shutdown does.
    where: list[Any] = []

    def create() -> LedgerResource:
        where.append(gevent.getcurrent())
        gevent.sleep(0.01)
        return ledger.create()

    runner = make_runner(on_create=create, worker_count=2, resource_pool_size=2, create_backoff=(0.001, 0.002))
    handle = runner.submit(touch, "answered")
    eventually(lambda: len(where) >= 2)

    for greenlet in where:
        if isinstance(greenlet, gevent.Greenlet):
            greenlet.kill(block=False)

    assert handle.get(timeout=10) == "answered"
    eventually(lambda: whole(runner, 2, 2))


def test_errors_of_ours_raised_in_a_task_do_not_reach_check_health(make_runner: MakeRunner) -> None:
    judged: list[BaseException] = []

    def judge(error: BaseException) -> bool:
        judged.append(error)
        return True

    runner = make_runner(worker_count=1, check_health=judge)
    error = RunnerKilledError("raised by the task itself")

    def fail(_resource: LedgerResource) -> None:
        raise error

    for ask in (runner.queue_task, runner.run_task):
        with pytest.raises(GTaskerError) as caught:
            ask(fail)
        assert caught.value is error

    assert judged == []


# --- gevent's monitor thread


def test_with_gevents_monitor_on_a_blocked_hub_is_told_with_the_line() -> None:
    said, complained, code = run_script("""
        import logging
        import time
        runner.stop()
        logging.basicConfig()
        gevent.config.monitor_thread = True
        gevent.config.max_blocking_time = 0.05
        gevent.config.print_blocking_reports = False
        gevent.get_hub().start_periodic_monitoring_thread()
        from gtasker.events import HubBlocked

        told = []
        def block(_r):
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                pass

        options = dict(on_create=object, on_destroy=lambda _r: None, hub_blocked_after=0.2)
        with Runner(worker_count=1, on_event=told.append, **options) as watched:
            watched.queue_task(block)
            gevent.sleep(0.05)
        from gevent.events import subscribers
        print([event.where.rpartition(" ")[2] for event in told if isinstance(event, HubBlocked)], len(subscribers))
    """)

    assert code == 0, complained
    assert said == "['block'] 0\n"
    assert "in block" in complained
