"""A task: what is to be called, and the one outcome everybody who asked for it gets.

Invariant: `state` leaves the unsettled ones once, through `settle_value` or `settle_error`; whoever comes second is
told so (False) and changes nothing.

A task is made without `__init__`, and what few tasks need (links, deadlines, joiners) is in a side object: see
`Extras`. `waiter` is the greenlet that waits in the hub, or in a direct switch, for this task; it is woken by
`wake`, which looks again whether it still waits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gevent import Timeout
from gevent.hub import get_hub
from greenlet import getcurrent

from gtasker._extras import DONE, FAILED, Extras, TaskState, name_of

if TYPE_CHECKING:
    from types import TracebackType

    from gtasker._timeouts import Wait

T = TypeVar("T")


class Owner:
    """What a handle needs of its runner; a base class, so that this floor need not know that one."""

    __slots__ = ()

    def cancel(self, task: Task[Any]) -> bool:
        """Settle `task` as cancelled; False when it was settled already."""
        raise NotImplementedError

    def soon(self, task: Task[Any]) -> None:
        """Have `task.wake()` called in the hub."""
        raise NotImplementedError

    def call(self, callback: Callable[[Task[Any]], object], task: Task[Any]) -> None:
        """Have `callback(task)` called in a greenlet of the runner's."""
        raise NotImplementedError

    def begin_wait(self, task: Task[Any], *, forever: bool) -> None:
        """Raise if the current greenlet cannot wait for `task`, or never to an end."""
        raise NotImplementedError

    def end_wait(self) -> None:
        """Take back `begin_wait`."""
        raise NotImplementedError

    def tell(self) -> None:
        """Tell the runner's listener what a call of the user's has made happen."""
        raise NotImplementedError


def extras_of(task: Task[Any]) -> Extras:
    """The side object of `task`, made if it had none."""
    if task.extras is None:
        task.extras = Extras()
    return task.extras


class Task(Generic[T]):
    """The handle of a submitted task. Not to be made by users; `Runner.submit` returns it."""

    __slots__ = (
        "__weakref__",
        "_error",
        "_traceback",
        "_value",
        "args",
        "attempts",
        "context",
        "deadline",
        "extras",
        "fn",
        "lane",
        "once",
        "owner",
        "priority",
        "queued_at",
        "seq",
        "state",
        "waiter",
        "worker",
    )

    fn: Any
    args: tuple[Any, ...]
    context: Context
    priority: int
    seq: int  # 0 until it is given a number
    queued_at: float
    lane: Any  # where in the backlog it stands, or None
    once: bool
    owner: Owner | None  # who answers for a handle; None if nobody has one
    attempts: int  #: how often it was begun
    state: TaskState  #: where it is
    waiter: Any
    worker: Any  # whose attempt it is, or was
    extras: Extras | None
    deadline: Wait[Task[Any]] | None  # when it times out

    def ready(self) -> bool:
        """Whether it has answered. Never switches."""
        return self.state >= DONE

    def successful(self) -> bool:
        """Whether it answered with a value. Never switches."""
        self._heard()
        return self.state is DONE

    @property
    def value(self) -> T | None:
        """The value it answered with, or None. Never switches."""
        self._heard()
        return self._value if self.state is DONE else None

    @property
    def exception(self) -> BaseException | None:
        """The exception it answered with, or None. Never switches."""
        self._heard()
        return self._error if self.state > DONE else None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it answered, `timeout` seconds at most; return whether it has. Switches."""
        if self.state < DONE:
            limit = Timeout.start_new(timeout) if timeout is not None else None
            try:
                self._await(forever=timeout is None, raises=False)
            except Timeout as error:
                if error is not limit:
                    raise
            finally:
                if limit is not None:
                    limit.close()
        return self.ready()

    def get(self, timeout: float | None = None) -> T:
        """Wait for the answer; return the value or raise the exception. Switches.

        Raises `gevent.Timeout` after `timeout` seconds, and leaves the task alone. Each call raises the same exception
        object with the same traceback.
        """
        if self.state is DONE:
            return self._value
        if self.state < DONE:
            if timeout is None:
                self._await(forever=True)
            else:
                with Timeout(timeout):
                    self._await(forever=False)
        outcome = self.outcome
        try:
            del self
            return outcome()
        finally:
            del outcome

    def cancel(self) -> bool:
        """Settle it as cancelled, now; return False if it had answered already. Never switches.

        Who waits gets a `TaskCancelledError`; a running attempt is interrupted, and what it still returns is ignored.
        """
        if self.state >= DONE:
            return False
        owner = self._owner()
        try:
            return owner.cancel(self)
        finally:
            owner.tell()

    def add_done_callback(self, fn: Callable[[Task[T]], object]) -> None:
        """Have `fn(task)` called once it answered, in a greenlet of the runner's. Never switches.

        What `fn` raises is logged and counted.
        """
        self._heard()
        extras = extras_of(self)
        extras.callbacks.append(fn)
        if self.state >= DONE:
            self._owner().soon(self)

    def rawlink(self, callback: Callable[[Task[T]], object]) -> None:
        """Have `callback(task)` called in the hub once it answered (for `gevent.wait`, `iwait`). Never switches."""
        extras = extras_of(self)
        extras.links.append(callback)
        if self.state >= DONE:
            self._owner().soon(self)

    def unlink(self, callback: Callable[[Task[T]], object]) -> None:
        """Take back `rawlink`. Never switches."""
        if self.extras is not None and callback in self.extras.links:
            self.extras.links.remove(callback)

    def __repr__(self) -> str:
        name = "" if self.fn is None else f" {name_of(self.fn)}"
        return f"<Task{name} {self.state.name} attempts={self.attempts}>"

    def outcome(self) -> T:
        """The value, or the exception raised; it has answered. Never switches."""
        if self.state is DONE:
            return self._value
        self._heard()
        error, frames = self._error, self._traceback
        try:
            # Each raise adds frames to a traceback; so each begins from the one that was settled. And none of these
            # frames may know the task, which knows the error: that circle would keep what is in them.
            del self
            raise error.with_traceback(frames)
        finally:
            del error, frames

    def settle_value(self, value: T) -> bool:
        """Answer with a value, once. Never switches."""
        if self.state >= DONE:
            return False
        self._value = value
        self.state = DONE
        return True

    def settle_error(self, error: BaseException, state: TaskState = FAILED) -> bool:
        """Answer with an exception, once. Never switches."""
        if self.state >= DONE:
            return False
        self._error = error
        self._traceback: TracebackType | None = error.__traceback__
        self.state = state
        return True

    def let_go(self) -> None:
        """Drop what it was to call, and what it held in the runner. Never switches."""
        self.fn = self.context = self.worker = None  # type: ignore[assignment]
        self.args = ()
        if self.deadline is not None:
            self.disarm()

    def disarm(self) -> None:
        """It answered in time, or never will. Never switches."""
        deadline, self.deadline = self.deadline, None
        if deadline is not None:
            deadline.end()

    def wake(self) -> None:
        """Wake who waits, if it still does, then call the links. In the hub. Switches to who waits, and back."""
        waiter, self.waiter = self.waiter, None
        extras = self.extras
        if waiter is not None:
            waiter.switch()
        if extras is None:
            return
        while extras.waiters:
            extras.waiters.pop().switch()
        callbacks, extras.callbacks = extras.callbacks, []
        for callback in callbacks:
            self._owner().call(callback, self)
        links, extras.links = extras.links, []
        for link in links:
            try:
                link(self)
            except BaseException as error:  # as gevent's own links
                get_hub().handle_error((link, self), type(error), error, error.__traceback__)

    def _await(self, *, forever: bool, raises: bool = True) -> None:
        owner = self._owner()
        owner.begin_wait(self, forever=forever)
        current = getcurrent()
        hub = get_hub()
        if self.waiter is None and raises:  # an interrupt of the keyboard is left to who will raise it
            self.waiter = current
        else:
            extras_of(self).waiters.append(current)
        try:
            while self.state < DONE:
                hub.switch()
        finally:
            if self.waiter is current:
                self.waiter = None
            elif self.extras is not None and current in self.extras.waiters:
                self.extras.waiters.remove(current)
            owner.end_wait()

    def _owner(self) -> Owner:
        assert self.owner is not None
        return self.owner

    def _heard(self) -> None:
        extras = self.extras
        if extras is not None and extras.unheard is not None:
            extras.unheard.heard()
