"""The life of an immediate runner: who may come in, what waits for the end of a pause, and how it ends.

Invariant: what was accepted is pending, under way, or has answered; and when the runner is closed, all has, and no
resource is left but those that somebody still has.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from gevent import Timeout, get_hub, getcurrent, monkey

from gtasker import (
    BackendInfo,
    Bounds,
    Config,
    Histograms,
    LeaseInfo,
    LeaseKind,
    Priority,
    ResourceInfo,
    Runner,
    RunnerKilledError,
    RunnerStats,
    RunnerStoppedError,
    ShutdownReport,
    State,
    TaskMetrics,
    TaskState,
    WouldBlockHubError,
    WrongThreadError,
)
from gtasker.events import DestroyReason, RunnerEvent, StateChanged, TaskCancelled
from gtasker.testing._attempts import Attempts
from gtasker.testing._immediate_task import ImmediateTask
from gtasker.testing._shelf import Copy, Shelf
from gtasker.testing._tally import Tally

R = TypeVar("R")

_get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")


class ImmediateLife(Runner[R]):
    """The half of an immediate runner that does not call tasks."""

    def __init__(self, config: Config[R] | None = None, /, **options: Any) -> None:
        super().__init__(config, **options)
        self._state = State.NEW
        self._thread = _get_ident()
        self._tally = Tally(self.config.collector)
        self._shelf: Shelf[R] = Shelf(self.config, self._tally, self._emit)
        self._attempts: Attempts[R] = Attempts(self.config, self._shelf, self._tally, self._emit)
        self._bounds = Bounds(
            base_workers=self.config.worker_count,
            max_workers=self.config.max_worker_count,
            reserve=self.config.resource_pool_size,
            max_resources=self.config.max_resources,
        )
        self._pending: list[ImmediateTask[Any]] = []
        self._by_key: dict[Any, ImmediateTask[Any]] = {}
        self._began_to_end: float | None = None
        self._before = (0, 0, 0)

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._state

    def stats(self) -> RunnerStats:
        """What there is now."""
        shelf = self._shelf
        urgent = sum(task.priority < Priority.NORMAL for task in self._pending)
        at_work = sum(copy.is_used and copy.kind is LeaseKind.WORKER for copy in shelf.out)
        workers = min(self._bounds.base_workers, shelf.count)
        return RunnerStats(
            state=self._state,
            base_workers=self._bounds.base_workers,
            active_workers=max(workers, at_work),
            burst_workers=max(0, at_work - self._bounds.base_workers),
            busy_workers=at_work,
            queued_tasks=len(self._pending) - urgent,
            priority_tasks=urgent,
            delayed_tasks=0,
            available_resources=max(0, min(len(shelf.idle), shelf.count - workers)),
            live_resources=shelf.count,
            creating_resources=sum(not copy.is_made for copy in shelf.out),
            waiting_leases=0,
            abandoned=0,
        )

    def metrics(self) -> TaskMetrics:
        """What happened so far."""
        return self._tally.metrics()

    def histograms(self) -> Histograms:
        """How long tasks waited and ran so far, in cumulative buckets (seconds)."""
        return self._tally.histograms()

    def leases(self, *, limit: int | None = None) -> list[LeaseInfo]:
        """Who has which resource, the longest use first, `limit` at most."""
        return self._shelf.leases()[:limit]

    def resources(self) -> list[ResourceInfo]:
        """Each resource, in order of creation."""
        return self._shelf.infos()

    def bounds(self) -> Bounds:
        """The numbers in force, also after `resize`."""
        return self._bounds

    def backend(self) -> BackendInfo:
        """How the creation of resources fares."""
        shelf = self._shelf
        if shelf.failing_since is None:
            return BackendInfo(acquire_timeouts=self._tally.acquire_timeouts)
        return BackendInfo(
            is_down=not shelf.count,
            failing_for=monotonic() - shelf.failing_since,
            failures=shelf.failures,
            acquire_timeouts=self._tally.acquire_timeouts,
            last_error=type(shelf.last_error).__name__,
            last_message=str(shelf.last_error),
        )

    def __repr__(self) -> str:
        shelf = self._shelf
        return (
            f"<ImmediateRunner {self.config.name!r} {self._state.value} backlog={len(self._pending)} "
            f"resources={shelf.count}/{shelf.limit}>"
        )

    def _set_bounds(self, checked: Config[R]) -> None:
        self._bounds = Bounds(
            base_workers=checked.worker_count,
            max_workers=checked.max_worker_count,
            reserve=checked.resource_pool_size,
            max_resources=checked.max_resources,
        )
        bursts = self.config.burst_task_threshold
        self._attempts.workers = checked.max_worker_count if bursts else checked.worker_count
        self._shelf.limit = checked.max_resources
        self._shelf.kept = checked.worker_count + checked.resource_pool_size
        self._shelf.shrink()

    def _check_place(self) -> None:
        name = self.config.name
        if _get_ident() != self._thread:
            raise WrongThreadError(f"runner {name!r} belongs to another thread; give each thread its own")
        if getcurrent() is get_hub():
            raise WouldBlockHubError("an immediate runner works in its caller, and the hub must not be kept")

    def _admit(self) -> None:
        """Raise if the caller cannot be served; begin on the first use."""
        self._check_place()
        if self._state is State.NEW:
            self._move(State.RUNNING)
        self._check_open()

    def _check_open(self) -> None:
        is_ending = self._state in (State.STOPPING, State.KILLED, State.CLOSED)
        if is_ending and not (self._state is State.STOPPING and self._is_inside()):
            raise RunnerStoppedError(f"runner {self.config.name!r} is {self._state.value}")

    def _is_inside(self) -> bool:
        current = getcurrent()
        return any(copy.holder is current for copy in self._shelf.out)

    def _check_callable(self, fn: Any) -> None:
        if not callable(fn):
            raise TypeError(f"a task must be callable, not {fn!r}")

    def _joined(self, key: Any, priority: int) -> ImmediateTask[Any] | None:
        task = None if key is None else self._by_key.get(key)
        if task is None or task.ready():
            return None
        task.priority = min(task.priority, priority)
        return task

    def _accept(self, task: ImmediateTask[Any]) -> None:
        """Call it now, or when the pause ends. Switches as it does."""
        self._tally.arrive()
        if task.key is not None:
            self._by_key[task.key] = task
            task.add_done_callback(lambda _: self._by_key.pop(task.key, None))
        if self._state is State.PAUSED:
            self._pending.append(task)
        else:
            self._attempts.run(task)

    def _run_pending(self) -> None:
        while self._pending and self._state is not State.PAUSED:
            task = min(self._pending, key=lambda one: one.priority)  # the first of the most urgent
            self._pending.remove(task)
            self._attempts.run(task)

    def _cancelled(self, task: ImmediateTask[Any]) -> None:
        if task in self._pending:
            self._pending.remove(task)
        self._tally.cancelled += 1
        self._emit(TaskCancelled, task=task.name)

    def _call_back(self, callback: Callable[[Any], object], task: ImmediateTask[Any]) -> None:
        try:
            callback(task)
        except Exception as error:
            self.config.logger.error("%s: a done-callback raised %r", self.config.name, error, exc_info=error)

    def _give_back(self, copy: Copy[R], error: BaseException | None, *, discarded: bool = False) -> None:
        self._shelf.give_back(copy, error, discarded=discarded)
        self._close_if_over()

    def _end(self, how: State, timeout: float | None) -> ShutdownReport:
        if self._state is State.NEW:
            self._move(State.CLOSED)
        if self._state is State.CLOSED:
            return self._report()
        if self._began_to_end is None:
            self._began_to_end = monotonic()
            self._before = self._counts()
        inside = self._is_inside() or getcurrent() is get_hub()
        if how is State.STOPPING and self._state in (State.RUNNING, State.PAUSED):
            self._move(State.STOPPING)
            self._run_pending()
        elif how is State.KILLED and self._state is not State.KILLED:
            self._kill()
        self._shelf.clear(DestroyReason.KILLED if self._state is State.KILLED else DestroyReason.STOPPED)
        self._close_if_over()
        if not inside and not self._wait_until_closed(timeout) and how is State.STOPPING:
            return self._end(State.KILLED, timeout)
        return self._report()

    def _kill(self) -> None:
        self._move(State.KILLED)
        error = RunnerKilledError(f"runner {self.config.name!r} was killed")
        for task in self._pending:
            task.settle(TaskState.CANCELLED, failure=error)
            self._tally.cancelled += 1
        self._pending.clear()
        for copy in filter(lambda copy: copy.is_used, self._shelf.out):
            get_hub().loop.run_callback(self._strike, copy, copy.holder, error)

    def _strike(self, copy: Copy[R], holder: Any, error: RunnerKilledError) -> None:
        if copy.is_used and copy.holder is holder and not holder.dead:  # it may have come back since
            holder.throw(error)

    def _wait_until_closed(self, timeout: float | None) -> bool:
        with Timeout(timeout, False):  # type: ignore[arg-type]  # gevent: ends in silence
            while self._state is not State.CLOSED:
                self._shelf.came_back.clear()
                self._shelf.came_back.wait()
                self._close_if_over()
        return self._state is State.CLOSED

    def _close_if_over(self) -> None:
        if self._state in (State.STOPPING, State.KILLED) and not self._shelf.out and not self._pending:
            self._shelf.clear(self._shelf.closing or DestroyReason.STOPPED)
            self._move(State.CLOSED)

    def _report(self) -> ShutdownReport:
        finished, failed, cancelled = (now - then for now, then in zip(self._counts(), self._before, strict=True))
        return ShutdownReport(
            finished=finished,
            failed=failed,
            cancelled=cancelled,
            abandoned=len(self._shelf.out),
            duration=0.0 if self._began_to_end is None else monotonic() - self._began_to_end,
            complete=self._state is State.CLOSED,
        )

    def _counts(self) -> tuple[int, int, int]:
        return self._tally.completed, self._tally.failed, self._tally.cancelled

    def _move(self, state: State) -> None:
        before, self._state = self._state, state
        if before is not state:
            self._emit(StateChanged, before=before, after=state)

    def _emit(self, event: type[RunnerEvent], **fields: Any) -> None:
        if self.config.on_event is not None:
            try:
                self.config.on_event(event(at=monotonic(), runner=self.config.name, **fields))
            except Exception as error:
                self.config.logger.error("%s: on_event raised %r", self.config.name, error, exc_info=error)
