"""The settings of a runner: `Config`, checked once when it is built.

Invariant: a config that exists is right, complete (no default is left open) and never changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from gtasker import _checks as check
from gtasker._metrics import Collector
from gtasker._scaling import RateScaling, Scaling, ThresholdScaling
from gtasker.errors import (
    OnCreateFunctionRequiredError,
    OnDestroyFunctionRequiredError,
    WorkerCountMustBePositiveError,
)

if TYPE_CHECKING:
    from gtasker._events import RunnerEvent

R = TypeVar("R")
V = TypeVar("V")

_LOGGER = logging.getLogger("gtasker")
_LOGGER.addHandler(logging.NullHandler())  # whether and where it is printed is the application's word
_numbers = count(1)
# A default that a type checker takes for any type: it stands in fields that `_resolve` fills.
_OPEN: Any = None
_DEFAULT_BURST = 2


class StopSignal(Protocol):
    """What `ctx` has to offer; a `gevent.event.Event` does."""

    def is_set(self) -> bool:
        """Whether the shutdown was asked for."""

    def wait(self) -> object:
        """Block until it was."""

    def rawlink(self, callback: Callable[[Any], object], /) -> object:
        """Call back once it was."""


if TYPE_CHECKING:

    class Resolved(Generic[V]):
        """A field that may be given as None and never reads as None."""

        def __get__(self, instance: object, owner: type | None = None) -> V: ...

        def __set__(self, instance: object, value: V | None) -> None: ...


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Config(Generic[R]):
    """All settings of a `Runner`; `R` is the type of its resources. Times are seconds.

    A wrong value raises a `ConfigError` that names the field, the value and the bound. Configs compare and hash by
    identity. `dataclasses.replace` carries over what was resolved: the name, and the bounds that followed from others.

    A `reset` that has an attribute `nowait: (R) -> bool` is spared where that says True: the resource is clean now, as
    `reset` would have left it. `nowait` is called right after each use that ended well, maybe in the greenlet that gave
    the resource back: it must not switch. Anything else than True, an exception included: `reset` is called.
    After a `nowait` that said True, an attribute `heard_at: (R) -> float` may say when the resource last read all that
    its peer had said (monotonic seconds). For 0.2 ms from then on `check_readable` does not look at it.
    """

    if TYPE_CHECKING:
        on_create: Callable[[], R]
        on_destroy: Callable[[R], None]
        worker_count: int
    else:
        # Left out, they are None, and the error that names them is raised instead of a TypeError.
        on_create: Callable[[], R] = None  #: Makes a resource. May block and raise. Required.
        on_destroy: Callable[[R], None] = None  #: Unmakes one. May block and raise. Required.
        worker_count: int = None  #: Base workers. Required; above 0.

    ctx: StopSignal | None = None  #: Setting it starts the same graceful shutdown as `stop()`.
    check_health: Callable[[BaseException], bool] | None = None  #: False: replace, try again. None: all are healthy.
    burst_task_threshold: int = 0  #: Backlog above which burst workers are added; 0: never.
    burst_worker_count: Resolved[int] = _OPEN  #: Workers added at once. None and <= 0: 2.
    max_worker_count: Resolved[int] = _OPEN  #: At least `worker_count`. None and <= 0: that + `burst_worker_count`.
    burst_interval: float = 0.1  #: Seconds between two decisions on the number of workers; above 0.
    max_retries: int = 3  #: Further attempts after unhealthy errors; 0: none.
    resource_pool_size: Resolved[int] = _OPEN  #: The reserve for `run_task` and `lease`; 0: none. None: `worker_count`.
    scaling: Literal["threshold", "rate"] | Scaling = "threshold"  #: A known rule, or an object with `decide`.
    collector: Collector | None = None  #: Where tasks are reported. None: the built-in one.
    logger: logging.Logger | logging.LoggerAdapter[Any] = _LOGGER  #: A standard logger.

    name: Resolved[str] = _OPEN  #: Printable, not empty. None: "runner-N".
    max_resources: Resolved[int] = _OPEN  #: At least `worker_count + resource_pool_size`. None: all workers + reserve.
    max_creating: int = 4  #: `on_create` calls under way at once; at least 1.
    create_timeout: float = 30.0  #: Seconds for one `on_create`; above 0.
    destroy_timeout: float = 5.0  #: Seconds for one `on_destroy`; above 0.
    hook_timeout: float = 5.0  #: Seconds for one `check_resource`, `reset` or `on_interrupt`; above 0.
    create_backoff: tuple[float, float] = (0.05, 0.5)  #: Seconds, (base, cap), after a failed create; 0 <= base <= cap.
    fail_fast_after: float | None = 10.0  #: Seconds without a backend until waiters are refused. None: wait for ever.
    acquire_timeout: float | None = 30.0  #: Seconds `lease` and `run_task` wait for a resource. None: for ever.
    max_waiting: int | None = None  #: Waiters of `lease` and `run_task`. None: no bound.
    check_resource: Callable[[R], bool] | None = None  #: Probe before use; false or an error: replaced.
    check_idle: float = 1.0  #: Seconds of idling after which `check_resource` is asked.
    check_readable: bool = False  #: Look at the socket before each use; readable means closed or dirty.
    keepalive: float | None = None  #: Seconds of idling after which `check_resource` is asked anyway; above 0.
    reset: Callable[[R], None] | None = None  #: Cleans after each use; an error: replaced. May have a `nowait`.
    on_interrupt: Callable[[R], bool] | None = None  #: True vouches for a resource whose use was interrupted.
    on_forget: Callable[[R], None] | None = None  #: Lets go of an inherited handle, in a forked child.
    max_lifetime: float | None = 3600.0  #: Seconds a resource may live, less 0-10 %; above 0. None: for ever.
    max_idle: float = 60.0  #: Seconds a burst worker or a temporary resource may idle.
    leak_warning: float | None = None  #: Seconds after which a held lease is reported; above 0. None: never.
    max_queued: int | None = None  #: Bound of what waits, beside one task for each idle worker; from 1. None: no bound.
    enqueue_timeout: float | None = None  #: Seconds a submit waits for room; 0: not at all. None: for ever.
    task_timeout: float | None = None  #: Seconds for one attempt; above 0. None: no bound.
    retry_backoff: tuple[float, float] = (0.0, 5.0)  #: Seconds, (base, cap), before a further attempt.
    priority_aging: float | None = None  #: Seconds that make up for one step of priority; above 0. None: strict.
    cancel_on_abandon: bool = False  #: A caller that goes away interrupts its running attempt, too.
    propagate_context: bool = True  #: The attempt sees a copy of its submitter's contextvars.
    hub_blocked_after: float | None = None  #: Seconds without a poll of the event loop to report; above 0. None: never.
    on_event: Callable[[RunnerEvent], None] | None = None  #: Is told every event; must not block.

    def __post_init__(self) -> None:
        self._check_original()
        self._resolve()
        self._check_bounds()
        self._check_hooks()

    def _check_original(self) -> None:
        check.function("on_create", self.on_create, OnCreateFunctionRequiredError)
        check.function("on_destroy", self.on_destroy, OnDestroyFunctionRequiredError)
        check.integer("worker_count", self.worker_count, least=1, error=WorkerCountMustBePositiveError)
        for field in ("burst_worker_count", "max_worker_count"):
            check.optional(check.integer, field, getattr(self, field), least=None)
        for field in ("resource_pool_size", "max_resources"):
            check.optional(check.integer, field, getattr(self, field), least=0)
        for field, least in (("burst_task_threshold", 0), ("max_retries", 0), ("max_creating", 1)):
            check.integer(field, getattr(self, field), least=least)
        for field, least in (("max_waiting", 0), ("max_queued", 1)):
            check.optional(check.integer, field, getattr(self, field), least=least)

    def _resolve(self) -> None:
        """Settle what was left open, each from what is settled already."""
        self._settle("burst_worker_count", _positive(self.burst_worker_count) or _DEFAULT_BURST)
        workers = _positive(self.max_worker_count) or self.worker_count + self.burst_worker_count
        self._settle("max_worker_count", workers)
        self._fill("resource_pool_size", lambda: self.worker_count)
        self._fill("max_resources", lambda: self.max_worker_count + self.resource_pool_size)
        self._fill("name", lambda: f"runner-{next(_numbers)}")
        for field in ("create_backoff", "retry_backoff"):
            self._settle(field, check.backoff(field, getattr(self, field)))

    def _fill(self, field: str, default: Callable[[], object]) -> None:
        if getattr(self, field) is None:
            self._settle(field, default())

    def _settle(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)

    def _check_bounds(self) -> None:
        check.integer("max_worker_count", self.max_worker_count, least=self.worker_count, because="worker_count")
        least = self.worker_count + self.resource_pool_size
        check.integer("max_resources", self.max_resources, least=least, because="worker_count + resource_pool_size")
        for field in ("burst_interval", "create_timeout", "destroy_timeout", "hook_timeout"):
            check.seconds(field, getattr(self, field), zero=False)
        for field in ("keepalive", "max_lifetime", "leak_warning", "task_timeout", "priority_aging"):
            check.optional(check.seconds, field, getattr(self, field), zero=False)
        check.optional(check.seconds, "hub_blocked_after", self.hub_blocked_after, zero=False)
        for field in ("check_idle", "max_idle"):
            check.seconds(field, getattr(self, field))
        for field in ("fail_fast_after", "acquire_timeout", "enqueue_timeout"):
            check.optional(check.seconds, field, getattr(self, field))

    def _check_hooks(self) -> None:
        for field in ("check_health", "check_resource", "reset", "on_interrupt", "on_forget", "on_event"):
            check.optional(check.function, field, getattr(self, field))
        for name in ("nowait", "heard_at"):
            check.optional(check.function, f"reset.{name}", getattr(self.reset, name, None))
        for field in ("check_readable", "cancel_on_abandon", "propagate_context"):
            check.boolean(field, getattr(self, field))
        check.label("name", self.name)
        check.optional(check.methods, "ctx", self.ctx, names=("rawlink", "wait", "is_set"))
        check.methods("logger", self.logger, names=("debug", "info", "warning", "error", "exception"))
        report = ("record_arrival", "record_completion", "record_failure", "record_retry", "snapshot")
        check.optional(check.methods, "collector", self.collector, names=report)
        check.methods("scaling", self.scaling, names=("decide",), words=("threshold", "rate"))
        if self.keepalive is not None and self.check_resource is None:
            check.refuse("keepalive", self.keepalive, "None where there is no check_resource to ask")

    def __repr__(self) -> str:
        return (
            f"<Config {self.name}: workers {self.worker_count}..{self.max_worker_count}, "
            f"reserve {self.resource_pool_size}, at most {self.max_resources} resources>"
        )


def _positive(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def make_scaling(config: Config[Any]) -> Scaling:
    """Return the rule that `config.scaling` names or is."""
    if isinstance(config.scaling, str):
        rule = RateScaling if config.scaling == "rate" else ThresholdScaling
        return rule(config.burst_task_threshold, config.burst_worker_count)
    return config.scaling
