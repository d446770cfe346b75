"""The core: all rooms of one life of a runner, and the wires between them.

Invariant: a core lives in one OS thread of one process, from its first use to its end; a forked child makes its own.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, TypeVar

from gevent import monkey
from gevent.event import Event

from gtasker._admission import check_timeout
from gtasker._closing import Closing
from gtasker._config import Config
from gtasker._events import LeaseFailure, StateChanged
from gtasker._extras import told
from gtasker._forks import enroll, retire
from gtasker._lifecycle import State
from gtasker._rooms import Rooms
from gtasker._submitting import Submitting
from gtasker._upkeep import Upkeep
from gtasker._views import Views
from gtasker.errors import RunnerStoppedError, StartError

R = TypeVar("R")

_warned: list[str] = []  # modules named to this process already


class Core(Rooms[R]):
    """One life of a runner."""

    def __init__(self, config: Config[R], owner: object) -> None:
        super().__init__(config)
        self.owner = owner  # the user's object: alive as long as it is at work
        self.desk: Submitting[R] = Submitting(self)
        self.views: Views[R] = Views(self)
        self.upkeep: Upkeep[R] = Upkeep(self, self.views)
        self.closing: Closing[R] = Closing(self)
        self.is_undone = False  # a start failed, and it is of no use any more
        self._progress = Event()
        self._create_error: BaseException | None = None
        self.stock.on_down = self._on_down
        self.stock.on_up = self.desk.refresh
        self.stock.on_change = self._on_change
        self.stock.on_create_failed = self._on_create_failed
        self.admission.on_first_use = self.open
        self.closing.on_state = self._on_state
        self.closing.on_closed = self._on_closed
        self.closing.reclaim_leaks = self.upkeep.reclaim_leaks

    def open(self) -> None:
        """Begin to run: hire the workers, make the reserve, in the background. Never switches."""
        site = self.site
        before = site.life.move(State.RUNNING)
        self._allow_direct()
        site.turn.join(self.backlog)
        enroll(self)
        self.outcomes.refresh()
        self.crew.open()
        self.stock.supply()
        self.upkeep.open()
        self.watch.open()
        self._warn_unpatched()
        self._on_state(before)
        ctx = site.config.ctx
        if ctx is not None and ctx.is_set():
            self._on_ctx(ctx)
        elif ctx is not None:
            ctx.rawlink(self._on_ctx)

    def start(self, timeout: float | None) -> None:
        """Open, and wait until everything is ready. Switches. Raises StartError when it cannot be made in time."""
        check_timeout(timeout)
        self.admission.check_place()
        if self.site.life.state is State.NEW:
            self.open()
        self._check_open()
        self._create_error = None
        late = Event()
        entry = None if timeout is None else self.site.deadlines.after(timeout, lambda: self._late(late))
        self.backlog.attend()
        self.backlog.attendants += 1
        try:
            while not self._is_ready() or self._has_failed(timeout):
                if late.is_set() or self._has_failed(timeout):
                    raise StartError(self._why_not_ready(timeout)) from self._create_error
                self._progress.clear()
                self._progress.wait()
        finally:
            self.backlog.attendants -= 1
            if entry is not None:
                entry.cancel()
            self.site.tell()
        if self.is_undone:  # by another caller of `start`, who was told first
            raise StartError(self._why_not_ready(timeout)) from self._create_error
        self._check_open()

    def _check_open(self) -> None:
        if not self.site.life.is_open:
            raise RunnerStoppedError(f"runner {self.site.config.name!r} is {self.site.life.state.value}")

    def _has_failed(self, timeout: float | None) -> bool:
        # Without a time-out the first failure says so, also if all has been made since.
        return timeout is None and self._create_error is not None and self.site.life.is_open

    def _is_ready(self) -> bool:
        if not self.site.life.is_open:
            return True  # somebody stopped it meanwhile: there is nothing to wait for
        return not self.backlog.wanting and self.stock.spares >= self.stock.reserve

    def _late(self, late: Event) -> None:
        late.set()
        self._progress.set()

    def _why_not_ready(self, timeout: float | None) -> str:
        within = "" if timeout is None else f" within {timeout:g} s"
        cause = told(self._create_error, str) if self._create_error is not None else "on_create has not returned"
        return f"{max(1, self.stock.missing())} resources could not be made{within}: {cause}"

    def undo(self) -> None:
        """The start failed: destroy what was made; this core is of no use any more. Never switches."""
        if self.site.life.is_open:
            self.is_undone = True
            self.closing.begin_kill()

    @property
    def is_over(self) -> bool:
        """Whether a failed start is cleared away, so that the runner is as if new."""
        return self.is_undone and self.site.life.state is State.CLOSED

    def pause(self) -> None:
        """Let workers finish their attempt and take no more. Never switches."""
        self.admission.check_place(blocking=False)
        if self.site.life.state is State.RUNNING:
            before = self.site.life.move(State.PAUSED)
            self.site.home = 0
            self.backlog.paused = True
            self.outcomes.refresh()
            self._on_state(before)
            self.site.tell()

    def resume(self) -> None:
        """Go on after `pause`. Never switches."""
        self.admission.check_place(blocking=False)
        if self.site.life.state is State.PAUSED:
            before = self.site.life.move(State.RUNNING)
            self._allow_direct()
            self.backlog.paused = False
            self.outcomes.refresh()
            self.backlog.dispatch()
            self._on_state(before)
            self.site.tell()

    def resize(self, base: int | None, maximum: int | None, reserve: int | None, limit: int | None) -> None:
        """Want other numbers from now on; shrinking interrupts nothing. Never switches."""
        self.admission.check_place(blocking=False)
        config = self.site.config
        base = self.crew.base if base is None else base
        reserve = self.stock.reserve if reserve is None else reserve
        if maximum is None:
            maximum = max(self.crew.maximum, base)
        if limit is None:  # it grows as the others do; a bound that is tighter than all of them together stays so
            grown = maximum + reserve - self.crew.maximum - self.stock.reserve
            limit = max(self.stock.limit, min(self.stock.limit + grown, maximum + reserve), base + reserve)
        checked = replace(
            config, worker_count=base, max_worker_count=maximum, resource_pool_size=reserve, max_resources=limit
        )
        self.stock.reserve, self.stock.limit = checked.resource_pool_size, checked.max_resources
        if self.site.life.is_open:
            self.crew.resize(checked.worker_count, checked.max_worker_count)
            self.upkeep.shrink(at_once=True)
            self.stock.supply()
            self.deadlocks.reconsider()
            self.site.tell()
        else:
            self.crew.base, self.crew.maximum = checked.worker_count, checked.max_worker_count

    def keep_bounds(self, before: Core[R]) -> None:
        """Begin with the numbers that were in force at the end of `before`. Never switches."""
        self.crew.base, self.crew.maximum = before.crew.base, before.crew.maximum
        self.stock.reserve, self.stock.limit = before.stock.reserve, before.stock.limit

    def recycle(self) -> None:
        """Replace every resource that exists now; the ones in use when they come back. Never switches."""
        self.admission.check_place(blocking=False)
        self.stock.recycle()
        self.upkeep.look_after_idle()
        self.backlog.dispatch()
        self.site.tell()

    def purge(self, key: Any) -> int:
        """Cancel the tasks that wait, or those with this key; say how many. Never switches."""
        self.admission.check_place(blocking=False)
        tasks = self.backlog.everything()
        if key is not None:
            tasks = [task for task in tasks if task.extras is not None and task.extras.key == key]
        purged = sum(self.outcomes.cancel(task) for task in tasks)
        self.backlog.dispatch()
        self.site.tell()
        return purged

    def forget(self) -> None:
        """In a forked child: let go of what the parent has, without a word to the peer. Switches as the hook does."""
        hook = self.site.config.on_forget
        if hook is None:
            return
        for resource in tuple(self.stock.records.values()):
            try:
                hook(resource.value)
            except BaseException as error:
                self.site.config.logger.error("%s: on_forget raised %r", self.site.config.name, error)

    def _allow_direct(self) -> None:
        # A collector of the user's is told of every step, so every task takes the long way.
        self.site.home = self.site.thread if self.site.collector is None else 0

    def _on_create_failed(self, error: BaseException) -> None:
        self._create_error = error

    def _on_down(self, error: BaseException) -> None:
        self.desk.refresh()
        self.door.turn_away(self.asking.unavailable)
        for task in self.backlog.everything():
            self.outcomes.refuse(task, self.asking.unavailable())
        self.asking.refuse_all(self.asking.unavailable, LeaseFailure.UNAVAILABLE)
        self.site.log(logging.ERROR, "the backend is down, waiting tasks are refused: %s", told(error))

    def _on_ctx(self, ctx: Any) -> None:
        if self.site.life.is_open:
            self.closing.begin_stop()

    def _on_change(self) -> None:
        self._progress.set()
        self.closing.nudge()
        self.deadlocks.reconsider()

    def _on_state(self, before: State) -> None:
        self._progress.set()
        if self.site.listening:
            self.site.emit(StateChanged, before=before, after=self.site.life.state)

    def _on_closed(self) -> None:
        retire(self)
        self.watch.close()
        if self.site.config.ctx is not None and hasattr(self.site.config.ctx, "unlink"):
            self.site.config.ctx.unlink(self._on_ctx)

    def _warn_unpatched(self) -> None:
        if not _warned and not monkey.is_module_patched("socket"):
            _warned.append("socket")
            self.site.log(
                logging.WARNING, "the module socket is not patched: a task that waits in it stops every greenlet"
            )
