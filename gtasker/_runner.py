"""The runner: the user's one object. It holds the settings, and the core of its present life, made on first use.

Invariant: making a `Runner` creates nothing; every call finds a core that belongs to this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from greenlet import getcurrent

from gtasker._closing import KILL_TIMEOUT
from gtasker._config import Config
from gtasker._core import Core
from gtasker._lending import Lease
from gtasker._lifecycle import State
from gtasker._mapping import collect, in_flight
from gtasker._metrics import TaskMetrics
from gtasker._site import get_ident
from gtasker._snapshots import LeaseInfo, RunnerStats, ShutdownReport
from gtasker._submitting import new_task
from gtasker._task import DONE, QUEUED, Priority, Task
from gtasker.errors import StartError

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Ts = TypeVarTuple("Ts")

I = TypeVar("I")
R = TypeVar("R")
T = TypeVar("T")


class Runner(Generic[R]):
    """Runs tasks over a bounded, self-healing set of resources.

    `Runner(config)`, or `Runner(**options)` for `Runner(Config(**options))`. It starts on `start()`, on `with`, or on
    first use, and belongs to the OS thread and the process where that happens.
    """

    def __init__(self, config: Config[R] | None = None, /, **options: Any) -> None:
        if config is not None and options:
            raise TypeError("give a Config or its options, not both")
        self.config: Config[R] = config if config is not None else Config(**options)
        self._core: Core[R] | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self, timeout: float | None = None) -> Runner[R]:
        """Make the base workers and the reserve; return when all are ready. Switches.

        Raises StartError, with the cause, at the first failure of `on_create`, or with a `timeout` (seconds) when they
        are not ready then; everything made is destroyed, and the runner is NEW again.
        """
        core = self._here()
        is_ours = core.site.life.state is State.NEW
        try:
            core.start(timeout)
        except StartError:
            try:
                core.closing.kill(KILL_TIMEOUT)
            finally:
                self._core = None
            raise
        except BaseException:  # its caller went away: nobody may be left who would stop it
            if is_ours:
                core.closing.begin_kill()
                self._core = None
            raise
        return self

    def stop(self, timeout: float | None = None) -> ShutdownReport:
        """Take no more work from outside, finish all that was accepted, destroy every resource. Switches.

        After `timeout` seconds it goes on as `kill()`. A second call waits for the same shutdown. From inside a task
        or a lease, and from the hub, it begins the shutdown and returns at once.
        """
        return self._here().closing.stop(timeout)

    def kill(self, timeout: float = KILL_TIMEOUT) -> ShutdownReport:
        """Interrupt what runs, answer what waits (`RunnerKilledError`), destroy every resource. Switches.

        What has not ended after `timeout` seconds is abandoned. From inside and from the hub it returns at once.
        """
        return self._here().closing.kill(timeout)

    def __enter__(self) -> Runner[R]:
        """Start. Switches."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> Literal[False]:
        """Stop; kill after an exception. Switches."""
        if kind is None:
            self.stop()
        else:
            self.kill()
        return False

    @property
    def state(self) -> State:
        """Where it is in its life. Never switches."""
        core = self._core
        return State.NEW if core is None or core.site.forked else core.site.life.state

    # -- tasks --------------------------------------------------------------------------------------------------

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

        `once`: begin at most one attempt. `timeout` (seconds) bounds everything from this call on: TaskTimeoutError.
        `key`: join the task with that key if one waits or runs. Raises RunnerStoppedError, QueueFullError,
        MaxRetriesExceededError, ResourceUnavailableError, WouldDeadlockError.
        """
        core = self._core
        if core is None or timeout is not None or key is not None:
            answer: T = self._here().desk.queue(fn, args, priority, once, timeout, key)
            return answer
        # With an idle worker and nobody before us: hand over by a switch straight to it, and be switched back to.
        idle, site = core.backlog.idle, core.site
        caller = getcurrent()
        if site.home != get_ident() or not idle or site.turn.left <= 0 or caller is site.hub:
            answer = self._here().desk.queue(fn, args, priority, once, timeout, key)
            return answer
        resource = idle[-1].resource
        now = monotonic()
        if now >= resource.good_until or now - resource.idle_since >= core.judge.patience:
            answer = core.desk.queue(fn, args, priority, once, timeout, key)
            return answer
        task = new_task(Task)
        task.fn, task.args, task.context = fn, args, core.desk.make_context()
        task.priority, task.once, task.queued_at = priority, once, now
        task.state, task.seq, task.attempts = QUEUED, 0, 0
        task.waiter, task.worker, task.lane, task.extras = caller, None, None, None
        site.meter.arrived += 1
        worker = idle.pop()
        worker.task = task
        try:
            worker.switch()
            while task.state < DONE:
                site.hub.switch()
        except BaseException:
            core.outcomes.leave(task)
            raise
        task.waiter = None
        answer = task._value if task.state is DONE else task.outcome()
        return answer

    def queue_task_with_priority(self, fn: Callable[[R, Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """`queue_task` with `priority=Priority.HIGH`. Switches."""
        return self.queue_task(fn, *args, priority=Priority.HIGH)

    def queue_task_once(self, fn: Callable[[R, Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """`queue_task` with `once=True`. Switches."""
        return self.queue_task(fn, *args, once=True)

    def queue_task_with_priority_once(self, fn: Callable[[R, Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """`queue_task` with `priority=Priority.HIGH` and `once=True`. Switches."""
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
        return self._here().desk.submit(fn, args, priority, once, timeout, key, callback)

    def map(
        self,
        fn: Callable[[R, I], T],
        iterable: Iterable[I],
        *,
        priority: int = Priority.NORMAL,
        once: bool = False,
        timeout: float | None = None,
    ) -> list[T]:
        """`fn(resource, item)` for each item; the values in their order. Switches.

        Takes from the iterable as tasks end, with at most twice as many in flight as there may be workers. The first
        failure is raised, and withdraws what has not begun. `timeout` is for each task.
        """
        return collect(self._in_flight(fn, iterable, priority, once, timeout))

    def imap_unordered(
        self,
        fn: Callable[[R, I], T],
        iterable: Iterable[I],
        *,
        priority: int = Priority.NORMAL,
        once: bool = False,
        timeout: float | None = None,
    ) -> Iterator[T]:
        """As `map`, but yields each value as it comes. Switches."""
        flights = self._in_flight(fn, iterable, priority, once, timeout)
        return (task.get() for _, task in flights)

    # -- resources ----------------------------------------------------------------------------------------------

    def run_task(self, fn: Callable[[R, Unpack[Ts]], T], *args: Unpack[Ts], timeout: float | None = None) -> T:
        """Call `fn(resource, *args)` in this greenlet, past the backlog. Switches if no resource is idle, and as `fn`.

        `timeout` (seconds, default `acquire_timeout`) bounds the wait for a resource. Never tried again. Raises
        AcquireTimeoutError, TooManyWaitersError, ResourceUnavailableError, RunnerStoppedError.
        """
        core = self._core
        lending = core.lending if core is not None else self._here().lending
        value: T = lending.run(fn, args, timeout)
        return value

    def lease(self, timeout: float | None = None, priority: int = Priority.NORMAL) -> Lease[R]:
        """`with runner.lease() as resource:` for code that is no callable. Entering switches if none is idle.

        Leaving gives the resource back and never switches. `Lease.discard()` has it destroyed instead.
        """
        core = self._core
        return Lease(core.lending if core is not None and core.site.home else self._here().lending, timeout, priority)

    # -- at run time --------------------------------------------------------------------------------------------

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
        """Change bounds at run time; what is not given stays, or grows with the others. Never switches.

        Shrinking interrupts nothing: workers and resources go when they are free. Raises ConfigError.
        """
        self._here().resize(worker_count, max_worker_count, resource_pool_size, max_resources)

    def recycle(self) -> None:
        """Have every resource that exists now replaced, the ones in use when they come back. Never switches."""
        self._here().recycle()

    def purge(self, key: Any = None) -> int:
        """Cancel the waiting tasks, all or those with this key; return how many. Never switches."""
        return self._here().purge(key)

    def stats(self) -> RunnerStats:
        """What there is now. Never switches."""
        return self._here().views.stats()

    def metrics(self) -> TaskMetrics:
        """What happened so far. Never switches."""
        return self._here().views.metrics()

    def leases(self) -> list[LeaseInfo]:
        """Who uses which resource at this moment, the longest use first. Never switches."""
        return self._here().views.leases()

    def __repr__(self) -> str:
        core = self._core
        if core is None:
            return f"<Runner {self.config.name!r} new>"
        return core.views.repr()

    # -- inside -------------------------------------------------------------------------------------------------

    def _here(self) -> Core[R]:
        """The core of this process."""
        core = self._core
        if core is None or core.site.forked:
            inherited = core
            core = self._core = Core(self.config)
            if inherited is not None:
                inherited.forget()
        return core

    def _in_flight(
        self, fn: Callable[[R, I], T], items: Iterable[I], priority: int, once: bool, timeout: float | None
    ) -> Iterator[tuple[int, Task[T]]]:
        def submit(item: I) -> Task[T]:
            return self.submit(fn, item, priority=priority, once=once, timeout=timeout)

        return in_flight(submit, items, 2 * self._here().crew.maximum)
