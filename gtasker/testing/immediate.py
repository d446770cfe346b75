"""A runner without workers, for tests: each call is made at once, in the greenlet that asks.

Invariant: what a call answers, and what it raises, is what a `gtasker.Runner` with the same `Config` would; only it is
known when the call returns, and a traceback leads straight from the caller into the task.

    runner = ImmediateRunner(on_create=FakeConnection, on_destroy=FakeConnection.close, worker_count=2)
    assert place_order(runner, "tea") == "accepted"

Nothing happens beside the caller. So nothing heals in the background: where the real one would wait for the backend,
the failure of `on_create` is a ResourceUnavailableError at once. Nobody stands in line: where it would wait for what
only the caller could give back, that is a WouldDeadlockError, an AcquireTimeoutError or a TaskTimeoutError at once;
what another greenlet has is waited for. Retries come without their pause, hooks are not bounded in time, what runs is
not interrupted but by a time-out, and askers with the same `key` share one handle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, TypeVar

from gtasker import Lease, LeaseKind, Priority, Runner, ShutdownReport, StartError, State, Task
from gtasker.testing._attempts import HIGH
from gtasker.testing._immediate_life import ImmediateLife
from gtasker.testing._immediate_task import ImmediateTask
from gtasker.testing._shelf import Copy

R = TypeVar("R")
T = TypeVar("T")
Item = TypeVar("Item")

_KILL_TIMEOUT = 5.0  # seconds, as the real runner's


class ImmediateRunner(ImmediateLife[R]):
    """A `gtasker.Runner` that does everything where it is asked."""

    def start(self, timeout: float | None = None) -> Runner[R]:
        """Make the resources that are kept ready. Switches as `on_create`. Raises StartError."""
        self._check_place()
        if self._state is State.NEW:
            self._move(State.RUNNING)
        self._check_open()
        try:
            self._shelf.fill()
        except Exception as error:
            self._shelf.recycle()
            self._move(State.NEW)
            raise StartError(f"the resources could not be made: {error!r}") from error
        return self

    def __enter__(self) -> Runner[R]:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> Literal[False]:
        """Stop; kill after an exception."""
        if kind is None:
            self.stop()
        else:
            self.kill()
        return False

    def queue_task(  # type: ignore[override]  # the real one's signature infers what this passes on
        self,
        fn: Callable[..., T],
        *args: Any,
        priority: int = Priority.NORMAL,
        once: bool = False,
        timeout: float | None = None,
        key: Any = None,
    ) -> T:
        """Call `fn(resource, *args)`; return its value or raise its own exception. Switches as it does."""
        self._admit()
        return self._hand_in(fn, args, priority, once, timeout, key, None).get()

    def queue_task_with_priority(self, fn: Callable[..., T], *args: Any) -> T:  # type: ignore[override]  # as above
        """`queue_task` with `priority=Priority.HIGH`. Switches as `fn`."""
        return self.queue_task(fn, *args, priority=Priority.HIGH)

    def queue_task_once(self, fn: Callable[..., T], *args: Any) -> T:  # type: ignore[override]  # as above
        """`queue_task` with `once=True`. Switches as `fn`."""
        return self.queue_task(fn, *args, once=True)

    def queue_task_with_priority_once(self, fn: Callable[..., T], *args: Any) -> T:  # type: ignore[override]  # as above
        """`queue_task` with `priority=Priority.HIGH` and `once=True`. Switches as `fn`."""
        return self.queue_task(fn, *args, priority=Priority.HIGH, once=True)

    def submit(  # type: ignore[override]  # as above
        self,
        fn: Callable[..., T],
        *args: Any,
        priority: int = Priority.NORMAL,
        once: bool = False,
        timeout: float | None = None,
        key: Any = None,
        callback: Callable[[Task[T]], object] | None = None,
    ) -> Task[T]:
        """Call `fn(resource, *args)`; return a handle that has answered, unless the runner is paused."""
        self._admit()
        return self._hand_in(fn, args, priority, once, timeout, key, callback)

    def map(
        self,
        fn: Callable[[R, Item], T],
        iterable: Iterable[Item],
        *,
        priority: int = Priority.NORMAL,
        once: bool = False,
        timeout: float | None = None,
    ) -> list[T]:
        """`fn(resource, item)` for each item, one after another. The first failure is raised. Switches as `fn`."""
        return list(self.imap_unordered(fn, iterable, priority=priority, once=once, timeout=timeout))

    def imap_unordered(
        self,
        fn: Callable[[R, Item], T],
        iterable: Iterable[Item],
        *,
        priority: int = Priority.NORMAL,
        once: bool = False,
        timeout: float | None = None,
    ) -> Iterator[T]:
        """As `map`, one call for each value that is taken."""
        self._admit()
        return (self.queue_task(fn, item, priority=priority, once=once, timeout=timeout) for item in iterable)

    def run_task(self, fn: Callable[..., T], *args: Any, timeout: float | None = None) -> T:  # type: ignore[override]
        """Call `fn(resource, *args)` once, past a pause. Switches as `fn`. Raises ResourceErrors."""
        self._check_callable(fn)
        self._admit()
        task = ImmediateTask(fn, args, HIGH, True, None, None)
        copy = self._attempts.borrow(LeaseKind.RUN_TASK, task.name, HIGH, timeout)
        self._tally.arrive()
        try:
            value = fn(copy.value, *args)
        except BaseException as error:
            self._tally.end(task.queued_at, copy.since, is_failure=True)
            self._give_back(copy, error)
            raise
        self._tally.end(task.queued_at, copy.since, is_failure=False)
        self._give_back(copy, None)
        return value

    def lease(self, timeout: float | None = None, priority: int = Priority.NORMAL) -> Lease[R]:
        """`with runner.lease() as resource:`. Entering raises ResourceErrors and RunnerStoppedError."""
        return _Lease(self, timeout, priority)

    def stop(self, timeout: float | None = None) -> ShutdownReport:
        """Finish what waits for the end of a pause, and destroy all; who has a resource is waited for."""
        return self._end(State.STOPPING, timeout)

    def kill(self, timeout: float = _KILL_TIMEOUT) -> ShutdownReport:
        """Cancel what waits, and destroy all; who has a resource gets RunnerKilledError, and is waited for."""
        return self._end(State.KILLED, timeout)

    def pause(self) -> None:
        """Have tasks wait until `resume`. Never switches."""
        self._check_place()
        if self._state is State.RUNNING:
            self._move(State.PAUSED)

    def resume(self) -> None:
        """Go on: what was handed in meanwhile is done now, by priority, then in order. Switches as that does."""
        self._check_place()
        if self._state is State.PAUSED:
            self._move(State.RUNNING)
            self._run_pending()

    def resize(
        self,
        worker_count: int | None = None,
        max_worker_count: int | None = None,
        resource_pool_size: int | None = None,
        max_resources: int | None = None,
    ) -> None:
        """Change bounds; what is not given stays, or grows with the others. Raises ConfigError."""
        self._check_place()
        now = self.bounds()
        base = now.base_workers if worker_count is None else worker_count
        reserve = now.reserve if resource_pool_size is None else resource_pool_size
        most = max(now.max_workers, base) if max_worker_count is None else max_worker_count
        limit = max(now.max_resources, most + reserve) if max_resources is None else max_resources
        self._set_bounds(
            replace(
                self.config, worker_count=base, max_worker_count=most, resource_pool_size=reserve, max_resources=limit
            )
        )

    def recycle(self) -> None:
        """Destroy every resource, the ones in use when they come back; others are made when they are needed."""
        self._check_place()
        self._shelf.recycle()

    def purge(self, key: Any = None) -> int:
        """Cancel the waiting tasks, all or those with this key; return how many."""
        self._check_place()
        return sum(task.cancel() for task in list(self._pending) if key is None or task.key == key)

    def _hand_in(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        priority: int,
        once: bool,
        timeout: float | None,
        key: Any,
        callback: Callable[[Task[T]], object] | None,
    ) -> ImmediateTask[T]:
        self._check_callable(fn)
        task = self._joined(key, priority)
        is_new = task is None
        if task is None:
            task = ImmediateTask(fn, args, priority, once, timeout, key)
            task.context = copy_context() if self.config.propagate_context else Context()
            task.on_cancel, task.on_callback = self._cancelled, self._call_back
        if callback is not None:
            task.add_done_callback(callback)
        if is_new:
            self._accept(task)
        return task


class _Lease(Lease[R]):
    """A lease of an immediate runner."""

    def __init__(self, runner: ImmediateRunner[R], timeout: float | None, priority: int) -> None:
        self.priority = priority
        self._runner = runner
        self._limit = timeout
        self._copy: Copy[R] | None = None
        self._is_discarded = False

    def __enter__(self) -> R:
        """Take a resource."""
        if self._copy is not None:
            raise RuntimeError("this lease is out already")
        self._runner._admit()
        self._copy = self._runner._attempts.borrow(LeaseKind.LEASE, None, self.priority, self._limit)
        return self._copy.value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> Literal[False]:
        """Give it back."""
        copy, self._copy = self._copy, None
        discarded, self._is_discarded = self._is_discarded, False
        if copy is not None:
            self._runner._give_back(copy, error, discarded=discarded)
        return False

    def discard(self) -> None:
        """Have the resource destroyed when the block is left. Never switches."""
        self._is_discarded = True
