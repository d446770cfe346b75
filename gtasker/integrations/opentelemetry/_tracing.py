"""Spans: one for each attempt, in the trace of whoever submitted the task.

Invariant: tracing changes neither what a task is called in messages, nor what it returns or raises.

The submitter's trace reaches the attempt with the contextvars that a runner copies for it (`propagate_context`).
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, TracerProvider, get_tracer

import gtasker
from gtasker import Config, Priority, Runner, Task
from gtasker.integrations._instruments import RUNNER

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Ts = TypeVarTuple("Ts")

R = TypeVar("R")
T = TypeVar("T")


class _Traced:
    """A callable in a span of its own. `func` names what is called, as `functools.partial` does."""

    def __init__(self, func: Any, tracer: Tracer, attributes: dict[str, str]) -> None:
        if not callable(func):
            raise TypeError(f"a task must be callable, not {func!r}")
        self.func = func
        self._tracer = tracer
        self._attributes = attributes
        self._queued_at = monotonic()
        self._attempts = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._attempts += 1
        name = _name_of(self.func)
        attributes: dict[str, str | int | float] = {
            **self._attributes,
            "code.function.name": name,
            "gtasker.task.attempt": self._attempts,
            "gtasker.task.waited": monotonic() - self._queued_at,
        }
        with self._tracer.start_as_current_span(name, kind=SpanKind.INTERNAL, attributes=attributes) as span:
            try:
                return self.func(*args, **kwargs)
            except Exception:
                raise  # the span tells of it by itself
            except BaseException as error:
                span.set_status(Status(StatusCode.ERROR, f"interrupted by {type(error).__name__}"))
                raise


def traced(
    fn: Callable[[R, Unpack[Ts]], T], tracer_provider: TracerProvider | None = None
) -> Callable[[R, Unpack[Ts]], T]:
    """`fn`, each call in a span: `queue_task(traced(fn), 1)`. To be made anew for each task, whose wait it tells."""
    return _wrap(fn, get_tracer("gtasker", gtasker.__version__, tracer_provider), {})


class TracedRunner(Runner[R]):
    """A runner whose tasks are traced, each of them. Leases are not: their code is the submitter's own."""

    def __init__(
        self, config: Config[R] | None = None, /, *, tracer_provider: TracerProvider | None = None, **options: Any
    ) -> None:
        super().__init__(config, **options)
        self._tracer = get_tracer("gtasker", gtasker.__version__, tracer_provider)

    def queue_task(
        self,
        fn: Callable[[R, Unpack[Ts]], T],
        *args: Unpack[Ts],
        priority: int = Priority.NORMAL,
        once: bool = False,
        timeout: float | None = None,
        key: Any = None,
    ) -> T:
        """As `Runner.queue_task`, in a span. Switches."""
        return super().queue_task(self._trace(fn), *args, priority=priority, once=once, timeout=timeout, key=key)

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
        """As `Runner.submit`, in a span. Switches when that does."""
        return super().submit(
            self._trace(fn), *args, priority=priority, once=once, timeout=timeout, key=key, callback=callback
        )

    def run_task(self, fn: Callable[[R, Unpack[Ts]], T], *args: Unpack[Ts], timeout: float | None = None) -> T:
        """As `Runner.run_task`, in a span. Switches when that does."""
        return super().run_task(self._trace(fn), *args, timeout=timeout)

    def _trace(self, fn: Callable[[R, Unpack[Ts]], T]) -> Callable[[R, Unpack[Ts]], T]:
        return _wrap(fn, self._tracer, {RUNNER.name: self.config.name})


def _wrap(fn: Callable[[R, Unpack[Ts]], T], tracer: Tracer, attributes: dict[str, str]) -> Callable[[R, Unpack[Ts]], T]:
    # It takes what `fn` takes, which a type checker cannot know of an object.
    return cast("Callable[[R, Unpack[Ts]], T]", _Traced(fn, tracer, attributes))


def _name_of(fn: Any) -> str:
    while hasattr(fn, "func"):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or type(fn).__name__
