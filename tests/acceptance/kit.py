"""What acceptance tests share: calls in greenlets of their own, stubborn tasks, waits with an upper bound.

Invariant: nothing here knows how the runner is built; it uses the face and the ledger only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import gevent
import greenlet
from gevent.event import Event

from gtasker import Runner, RunnerEvent, Task
from tests.ledger import PATIENCE, LedgerResource

V = TypeVar("V")
K = TypeVar("K", bound=RunnerEvent)


def eventually(predicate: Callable[[], object], what: str = "it", timeout: float = PATIENCE) -> None:
    """Return as soon as `predicate` holds; raise when it never does. Switches."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true in {timeout} s")
        gevent.sleep(0.002)


def reached(event: Event, what: str = "the event", timeout: float = PATIENCE) -> None:
    """Return when `event` is set; raise when it never is. Switches."""
    if not event.wait(timeout):
        raise AssertionError(f"{what} was not reached in {timeout} s")


def let_run(turns: int = 20) -> None:
    """Give all that can run the chance to, timers that are due included: before "it has not happened". Switches."""
    for _ in range(turns):
        gevent.sleep(0)
    gevent.sleep(0.01)


def note(_resource: LedgerResource, log: list[V], mark: V) -> None:
    """Append `mark` to `log`: a task that shows that it ran, and when. Never switches."""
    log.append(mark)


class Call(Generic[V]):
    """One call in a greenlet of its own, and how it ended: a kill shows as an error like any other."""

    def __init__(self, fn: Callable[..., V], *args: Any, **kwargs: Any) -> None:
        self.began = Event()
        self.value: V | None = None
        self.error: BaseException | None = None
        self.ended = False
        self.greenlet = gevent.spawn(self._run, fn, args, kwargs)

    def _run(self, fn: Callable[..., V], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.began.set()
        try:
            self.value = fn(*args, **kwargs)
        except BaseException as error:  # a kill is an outcome here, and the test asserts on it
            self.error = error
        finally:
            self.ended = True

    def join(self) -> Call[V]:
        """Return when the call has ended; raise when it never does. Switches."""
        self.greenlet.join(PATIENCE)
        if not self.greenlet.dead:
            raise AssertionError("the call did not end")
        return self

    def result(self) -> V:
        """Return the call's value or raise its error. Switches."""
        self.join()
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # it ended without an error

    def failure(self) -> BaseException:
        """Return the error the call ended with; raise when it ended well. Switches."""
        self.join()
        if self.error is None:
            raise AssertionError(f"the call returned {self.value!r}")
        return self.error


class Stubborn:
    """A task that survives every interruption until it is let go, then returns "late"."""

    def __init__(self) -> None:
        self.entered = Event()
        self.interruptions: list[BaseException] = []
        self.resource: LedgerResource | None = None
        self._open = Event()

    def let_go(self) -> None:
        """Let it end. Never switches."""
        self._open.set()

    def __call__(self, resource: LedgerResource) -> str:
        """Use `resource` and swallow what is thrown in. Switches."""
        self.resource = resource
        with resource.use():
            self.entered.set()
            while not self._open.is_set():
                try:
                    self._open.wait()
                except BaseException as error:  # swallowing the kill is its trade
                    self.interruptions.append(error)
        return "late"


class Recorder:
    """An `on_event` that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[RunnerEvent] = []

    def __call__(self, event: RunnerEvent) -> None:
        """Keep `event`. Never switches."""
        self.events.append(event)

    def of(self, kind: type[K]) -> list[K]:
        """Return the events of one kind, oldest first. Never switches."""
        return [event for event in self.events if isinstance(event, kind)]


@contextmanager
def no_switch() -> Iterator[None]:
    """Assert that the block never leaves this greenlet."""
    left: list[str] = []
    me = greenlet.getcurrent()

    def trace(event: str, ends: tuple[Any, Any]) -> None:
        if ends[0] is me:
            left.append(event)

    before = greenlet.settrace(trace)
    try:
        yield
    finally:
        greenlet.settrace(before)
    assert not left, f"the block switched away {len(left)} times"


def in_hub(fn: Callable[[], V]) -> V:
    """Run `fn` in the hub, as a loop callback does, and return its value or raise its error. Switches."""
    done = Event()
    outcome: list[tuple[bool, Any]] = []

    def callback() -> None:
        try:
            outcome.append((True, fn()))
        except BaseException as error:  # the hub would only print it
            outcome.append((False, error))
        done.set()

    gevent.get_hub().loop.run_callback(callback)
    reached(done, "the hub's callback")
    well, value = outcome[0]
    if well:
        return value  # type: ignore[no-any-return]  # fn's own value
    raise value


def workers_of(runner: Runner[LedgerResource], count: int) -> list[gevent.Greenlet[..., Any]]:
    """Return the greenlets that are `count` workers of `runner`, each idle again. Switches."""
    entered: list[gevent.Greenlet[..., Any]] = []
    door = Event()

    def enter(_resource: LedgerResource) -> None:
        entered.append(gevent.getcurrent())  # type: ignore[arg-type]  # a worker is a Greenlet
        if len(entered) == count:
            door.set()
        door.wait()

    handles = [runner.submit(enter) for _ in range(count)]
    for handle in handles:
        handle.get(timeout=PATIENCE)
    eventually(lambda: runner.stats().busy_workers == 0, "all workers idle")
    return entered


def settled(task: Task[Any]) -> BaseException | None:
    """Return the task's error, or None, when it has answered; raise when it never does. Switches."""
    task.wait(timeout=PATIENCE)
    assert task.ready(), f"{task!r} never answered"
    return task.exception


def whole(runner: Runner[LedgerResource], workers: int, reserve: int) -> bool:
    """Whether all base workers have a resource, are idle, and the whole reserve is there. Never switches."""
    stats = runner.stats()
    return (
        stats.active_workers == workers
        and stats.busy_workers == 0
        and stats.available_resources == reserve
        and stats.live_resources == workers + reserve
        and stats.creating_resources == 0
    )
