"""The runner: the user's one object. It holds the settings, and the core of its present life, made on first use.

Invariant: making a `Runner` creates nothing; every call finds a core that belongs to this process.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from greenlet import getcurrent

from gtasker._closing import KILL_TIMEOUT
from gtasker._config import Config
from gtasker._extras import DONE, QUEUED, Priority
from gtasker._forks import cores
from gtasker._lending import Lease
from gtasker._lifecycle import State
from gtasker._mapping import as_they_come, collect, in_flight
from gtasker._observed import Observed
from gtasker._site import get_ident
from gtasker._snapshots import ShutdownReport
from gtasker._task import Task
from gtasker._worker import Worker
from gtasker.errors import StartError

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Ts = TypeVarTuple("Ts")

Item = TypeVar("Item")
R = TypeVar("R")
T = TypeVar("T")


class Runner(Observed[R]):
    """Runs tasks over a bounded, self-healing set of resources. `Runner(**options)` is `Runner(Config(**options))`.

    It starts on `start()`, on `with`, or on first use, and belongs to the OS thread and the process where that happens.
    """

    def __init__(self, config: Config[R] | None = None, /, **options: Any) -> None:
        if config is not None and options:
            raise TypeError("give a Config or its options, not both")
        super().__init__(config if config is not None else Config(**options))

    def start(self, timeout: float | None = None) -> Runner[R]:
        """Make the base workers and the reserve; return when all are ready. Switches.

        Raises StartError, with the cause, at the first failure of `on_create`, or with a `timeout` (seconds) when they
        are not ready then; everything made is destroyed, and the runner is NEW again.
        """
        core = self._here()
        if core.is_undone:  # an earlier start failed, and is not cleared away yet
            core.closing.kill(KILL_TIMEOUT)
            core = self._here()
        is_ours = core.site.life.state is State.NEW
        try:
            core.start(timeout)
        except StartError:
            if is_ours:
                core.undo()
                core.closing.kill(KILL_TIMEOUT)
            raise
        return self

    def stop(self, timeout: float | None = None) -> ShutdownReport:
        """Take no more work from outside, finish all that was accepted, destroy every resource. Switches.

        After `timeout` seconds it goes on as `kill()`. A second call waits for the same shutdown. From inside a task or
        a lease, and from the hub, it begins the shutdown and returns at once.
        """
        return self._here().closing.stop(timeout)

    def kill(self, timeout: float = KILL_TIMEOUT) -> ShutdownReport:
        """Interrupt what runs, answer what waits (`RunnerKilledError`), destroy every resource. Switches.

        What has not ended after `timeout` seconds is abandoned. From inside and from the hub it returns at once.
        """
        return self._here().closing.kill(timeout)

    def __enter__(self) -> Runner[R]:
        """Start. Switches."""
        core, is_ours = self._here(), self.state is State.NEW
        try:
            return self.start()
        except BaseException:  # its caller went away, and will not come to the end of the block
            if is_ours:
                core.undo()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> Literal[False]:
        """Stop; kill after an exception. Switches."""
        (self.stop if kind is None else self.kill)()
        return False

    def queue_task(
        self,
        fn: Callable[[R, Unpack[Ts]], T],
        *args: Unpack[Ts],
        priority: int = Priority.NORMAL,
        once: bool = False,
        timeout: float | None = None,
        key: Any = None,
    ) -> T:
        """Queue `fn(resource, *args)`, wait, return its value or raise its own exception. Switches.

        `once`: begin at most one attempt. `timeout` (seconds) bounds everything from now on: TaskTimeoutError. `key`:
        join the task with that key. Raises RunnerStoppedError, QueueFullError, MaxRetriesExceededError and so on.
        """
        core = self._core
        if core is None or key is not None or (timeout is not None and not timeout + 0.0 > 0) or not callable(fn):
            return cast("T", self._here().desk.queue(fn, args, priority, once, timeout, key))
        site, backlog, desk = core.site, core.backlog, core.desk
        caller, is_open = getcurrent(), desk.is_plain or desk.may_pass()
        if site.home != get_ident() or caller is site.hub or not is_open or type(caller) is Worker:
            return cast("T", self._here().desk.queue(fn, args, priority, once, timeout, key))
        turn, make_context = site.turn, desk.make_context
        task: Task[T] = Task()
        task.fn, task.args = fn, args
        task.context = make_context()
        task.priority, task.once = priority, once
        now = task.queued_at = monotonic()
        task.seq = backlog.last  # who came last before it: that is its place, should it have to be tried again
        task.state, task.attempts = QUEUED, 0
        task.waiter = caller
        task.worker = task.lane = task.extras = task.owner = task.deadline = None
        if timeout is not None:
            core.limits.begin_task(task, timeout)
        # With nobody in line, or woken and not yet run, who would be overtaken: hand over by a direct switch.
        is_direct = backlog.idle and not turn.woken and turn.left > 0 and not backlog.waiting
        if is_direct:
            resource = backlog.idle[-1].resource
            is_known = now < resource.good_until and now - resource.idle_since < core.judge.patience
            if not is_known and not core.lending.is_fit(resource, now):  # what the look called may have changed all
                task.disarm()
                return cast("T", self._here().desk.queue(fn, args, priority, once, timeout, key))
        site.meter.arrived += 1
        try:
            if is_direct:
                worker = backlog.idle.pop()
                worker.attempt, worker.started_at = task, now
                worker.switch()
            else:
                backlog.push(task)
            while task.state is not DONE and task.state < DONE:  # the comparison is the slower one
                turn.rest(Task)
        except BaseException:
            core.outcomes.leave(task)
            raise
        task.waiter = None
        if task.state is DONE:
            return task._value
        site.tell()
        try:
            return task.outcome()
        finally:
            del task  # a failure knows this frame

    def queue_task_with_priority(self, fn: Callable[[R, Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """`queue_task` with `priority=Priority.HIGH`. Switches."""
        return self.queue_task(fn, *args, priority=Priority.HIGH)

    def queue_task_once(self, fn: Callable[[R, Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """`queue_task` with `once=True`. Switches."""
        return self.queue_task(fn, *args, once=True)

    def queue_task_with_priority_once(self, fn: Callable[[R, Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """`queue_task` with both. Switches."""
        return self.queue_task(fn, *args, priority=Priority.HIGH, once=True)

    def submit(
        self,
        fn: Callable[[R, Unpack[Ts]], T],
        *args: Unpack[Ts],
        priority: int = Priority.NORMAL,
        once: bool = False,
        timeout: float | None = None,
        key: Any = None,
        callback: Callable[[Task[T]], object] | None = None,
    ) -> Task[T]:
        """Queue `fn(resource, *args)` and return its handle. Switches only while a bounded backlog is full.

        `callback(task)` is called in a greenlet of the runner's once it answered. May be called from the hub.
        """
        core, is_plain = self._core, timeout is None and key is None and callback is None and callable(fn)
        if core is not None and is_plain and core.site.home == get_ident() and core.desk.is_plain:
            task: Task[T] = core.desk.make(fn, args, priority, once, core.outcomes)
            core.backlog.push(task)
            core.site.meter.arrived += 1
            return task
        return self._here().desk.submit(fn, args, priority, once, timeout, key, callback)

    def map(
        self,
        fn: Callable[[R, Item], T],
        iterable: Iterable[Item],
        *,
        priority: int = Priority.NORMAL,
        once: bool = False,
        timeout: float | None = None,
    ) -> list[T]:
        """`fn(resource, item)` for each item; the values in their order. Switches.

        Takes from the iterable as tasks end, twice as many in flight as there may be workers at most. The first failure
        is raised, and withdraws what has not begun. `timeout` is for each task.
        """
        return collect(self._in_flight(fn, iterable, priority, once, timeout))

    def imap_unordered(
        self,
        fn: Callable[[R, Item], T],
        iterable: Iterable[Item],
        *,
        priority: int = Priority.NORMAL,
        once: bool = False,
        timeout: float | None = None,
    ) -> Iterator[T]:
        """As `map`, but yields each value as it comes. Switches."""
        return as_they_come(self._in_flight(fn, iterable, priority, once, timeout))

    def run_task(self, fn: Callable[[R, Unpack[Ts]], T], *args: Unpack[Ts], timeout: float | None = None) -> T:
        """Call `fn(resource, *args)` in this greenlet, past the backlog. Switches if no resource is idle, and as `fn`.

        `timeout` (seconds, default `acquire_timeout`) bounds the wait for a resource. Never tried again. Raises
        AcquireTimeoutError, TooManyWaitersError, ResourceUnavailableError, RunnerStoppedError.
        """
        core = self._core
        lending = core.lending if core is not None and core.site.home else self._here().lending
        if not callable(fn):
            raise TypeError(f"a task must be callable, not {fn!r}")
        resource = lending.take_idle(fn)
        if resource is None:
            return cast("T", lending.run(fn, args, timeout))
        meter = lending.meter
        meter.arrived += 1
        try:
            value = fn(resource.value, *args)
        except BaseException as error:
            lending.failed(resource, error)
            raise
        now = monotonic()
        meter.waits.append(0.0)
        meter.runs.append(now - resource.taken_at)
        lending.give_back(resource, now)
        return value

    def lease(self, timeout: float | None = None, priority: int = Priority.NORMAL) -> Lease[R]:
        """`with runner.lease() as resource:` for code that is no callable. Leaving never switches."""
        core = self._core
        lending = core.lending if core is not None and core.site.home else self._lending()
        lease: Lease[R] = Lease()
        lease.lending, lease.timeout, lease.priority = lending, timeout, priority
        lease.resource, lease.asks = None, False
        return lease

    def pause(self) -> None:
        """Let workers finish their attempt and take no more until `resume`. Never switches."""
        self._here().pause()

    def resume(self) -> None:
        """Let workers go on. Never switches."""
        self._here().resume()

    def resize(
        self,
        worker_count: int | None = None,
        max_worker_count: int | None = None,
        resource_pool_size: int | None = None,
        max_resources: int | None = None,
    ) -> None:
        """Change bounds; what is not given stays, or grows with the others. Never switches. Raises ConfigError."""
        self._here().resize(worker_count, max_worker_count, resource_pool_size, max_resources)

    def recycle(self) -> None:
        """Have every resource that exists now replaced, the ones in use when they come back. Never switches."""
        self._here().recycle()

    def purge(self, key: Any = None) -> int:
        """Cancel the waiting tasks, all or those with this key; return how many. Never switches."""
        return self._here().purge(key)

    def _in_flight(
        self, fn: Callable[[R, Item], T], items: Iterable[Item], priority: int, once: bool, timeout: float | None
    ) -> Generator[tuple[int, Task[T]], None, None]:
        core = self._here()
        core.admission.enter()
        submit = partial(cast("Any", self.submit), fn, priority=priority, once=once, timeout=timeout)
        return in_flight(submit, items, 2 * core.crew.maximum, core.deadlocks)


def runners() -> list[Runner[Any]]:
    """The runners at work in this thread, closing ones included, in order of their start. Never switches."""
    return [core.owner for core in cores() if core.site.thread == get_ident()]
