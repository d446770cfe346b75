"""A task that is defined once and runs here or elsewhere.

Invariant: wherever it runs, it is the same function, called with a resource of the runner it was defined for, and the
same JSON arguments; only its name and the arguments ever leave the process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, get_args, overload

from gtasker import Priority, QueueFullError, Runner, RunnerStoppedError, State
from gtasker.distributed._engine import Engine, Rate
from gtasker.distributed._handle import Handle, RemoteTask
from gtasker.distributed._json import check_json
from gtasker.distributed.errors import NoEngineError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Where = Literal["auto", "local", "remote"]
_PLACES = get_args(Where)

RETRIES = 3


class Definition(Generic[R, P, T]):
    """What `task` makes of a function. Called like the function itself, it is the function itself."""

    def __init__(
        self,
        fn: Callable[Concatenate[R, P], T],
        runner: Runner[R],
        *,
        name: str,
        timeout: float | None,
        once: bool,
        retries: int,
        priority: int,
        room: int,
        rate: Rate | None,
        engine: Engine | None,
    ) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.runner = runner
        self.name = name
        self.timeout = timeout
        self.once = once
        self.retries = 0 if once else retries
        self.priority = priority
        self.room = room
        self.rate = rate
        self.engine = engine
        if engine is not None:
            engine.declare(self)

    def __repr__(self) -> str:
        return f"<task {self.name!r} on {self.runner.config.name!r}>"

    def __call__(self, resource: R, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function with a resource of the caller's."""
        return self.fn(resource, *args, **kwargs)

    def run(self, *args: P.args, **named: P.kwargs) -> T:
        """Run it at once in this greenlet, past the backlog: `Runner.run_task`. Switches."""
        self._by_place(named)
        self._hold_back()
        return self.runner.run_task(self.fn, *args)

    def queue(self, *args: P.args, **named: P.kwargs) -> T:
        """Queue it in this process and wait for its value: `Runner.queue_task`. Switches."""
        self._by_place(named)
        self._hold_back()
        return self.runner.queue_task(self.fn, *args, priority=self.priority, once=self.once, timeout=self.timeout)

    @overload
    def remote(self, *args: P.args, **named: P.kwargs) -> RemoteTask[T]: ...
    @overload
    def remote(self, *args: Any, key: str | None) -> RemoteTask[T]: ...
    def remote(self, *args: Any, **named: Any) -> RemoteTask[T]:
        """Send it to whichever process comes first, and return its handle. Switches.

        `key`: while a message of this task with this key waits or runs anywhere, join that one (its arguments are the
        ones that count). The engine bounds how long a key may stand (`key_ttl`).
        Raises NotJSONError, NoEngineError, EngineUnavailableError.
        """
        key: str | None = named.pop("key", None)
        self._by_place(named)
        return self._send(args, key)

    @overload
    def submit(self, *args: P.args, **named: P.kwargs) -> Handle[T]: ...
    @overload
    def submit(self, *args: Any, where: Where) -> Handle[T]: ...
    def submit(self, *args: Any, **named: Any) -> Handle[T]:
        """Queue it here ("local"), send it away ("remote"), or send it away where there is no room here ("auto").

        There is room while fewer than `room` tasks wait here, the runner takes work and its backend is up. Returns a
        handle; a rate is waited for first. Arguments that are not JSON are refused wherever it would run. Switches.
        Raises NotJSONError; what `Runner.submit` raises; what `remote` raises.
        """
        where: Where = named.pop("where", "auto")
        self._by_place(named)
        if where not in _PLACES:
            raise ValueError(f"where must be one of {', '.join(_PLACES)}, not {where!r}")
        check_json(list(args), "args")
        if where == "remote" or (where == "auto" and not self.has_room()):
            return self._send(args, None)
        try:
            self._hold_back()
            return self.runner.submit(self.fn, *args, priority=self.priority, once=self.once, timeout=self.timeout)
        except (QueueFullError, RunnerStoppedError):
            # The room may have gone while a rate was waited for.
            if where == "local" or self.engine is None:
                raise
            return self._send(args, None)

    def has_room(self) -> bool:
        """Whether `submit` would queue it here. Never switches."""
        if self.engine is None:
            return True
        stats = self.runner.stats()
        waiting = stats.queued_tasks + stats.priority_tasks + stats.delayed_tasks
        return stats.state in (State.NEW, State.RUNNING) and waiting < self.room and not self.runner.backend().is_down

    def _by_place(self, named: Mapping[str, Any]) -> None:
        if named:
            raise TypeError(f"{self.name}: a task takes its arguments by place, not {', '.join(named)} by name")

    def _hold_back(self) -> None:
        if self.rate is not None:
            self.rate.wait()

    def _send(self, args: tuple[Any, ...], key: str | None) -> RemoteTask[T]:
        sent = list(args)
        check_json(sent, "args")
        if self.engine is None:
            raise NoEngineError(f"{self!r} has no engine")
        return self.engine.send(self, sent, key)


def task(
    runner: Runner[R],
    *,
    name: str | None = None,
    timeout: float | None = None,
    once: bool = False,
    retries: int = RETRIES,
    priority: int = Priority.NORMAL,
    room: int = 1000,
    rate: Rate | None = None,
    engine: Engine | None = None,
) -> Callable[[Callable[Concatenate[R, P], T]], Definition[R, P, T]]:
    """Define a task over `fn(resource, *args)`: a decorator.

    `name`: what a message calls it, the same in all processes; the function's dotted name by default.
    `timeout` (seconds): here it bounds everything from the call on, elsewhere one attempt; `run` has none.
    `once`: begin at most one attempt, wherever. `retries`: further attempts elsewhere, after errors that the runner's
    `check_health` calls unhealthy and when no resource was to be had; here the runner's `max_retries` counts.
    `room`: waiting tasks from which on `submit` sends it away. `rate`: what each attempt has to wait for.
    """

    def define(fn: Callable[Concatenate[R, P], T]) -> Definition[R, P, T]:
        called = name if name is not None else f"{fn.__module__}.{fn.__qualname__}"
        return Definition(
            fn, runner, name=called, timeout=timeout, once=once, retries=retries, priority=priority, room=room,
            rate=rate, engine=engine,
        )  # fmt: skip

    return define
