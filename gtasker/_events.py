"""What a runner tells its `on_event`: one frozen class for each kind of event, and the enums of reasons.

Invariant: an event is a fact that is over when it is told; changing or keeping it changes nothing in the runner.
(An event with an `error` keeps the error's frames alive: do not store it.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gtasker._snapshots import LeaseInfo, Word

if TYPE_CHECKING:
    from gtasker._lifecycle import State


class DestroyReason(Word):
    """Why a resource was destroyed."""

    UNHEALTHY = "unhealthy"
    """`check_health` called the error of its use unhealthy."""
    INTERRUPTED = "interrupted"
    """Its use was cut short by a kill, a time-out or a cancel, and nothing vouched for it."""
    EXPIRED = "expired"
    """It reached `max_lifetime`."""
    IDLE = "idle"
    """It was surplus, and idle for `max_idle`."""
    CHECK_FAILED = "check_failed"
    """`check_resource` said no, raised, or took too long."""
    READABLE = "readable"
    """Its socket had something to read while idle: closed or dirty."""
    RESET_FAILED = "reset_failed"
    """`reset` raised or took too long."""
    RECYCLED = "recycled"
    """It is older than the last `recycle()`."""
    DISCARDED = "discarded"
    """Its holder called `discard()`."""
    LEAKED = "leaked"
    """Its holder ended without giving it back."""
    SURPLUS = "surplus"
    """More existed than are wanted, after `resize` or when workers became fewer."""
    STOPPED = "stopped"
    """The runner was stopped."""
    KILLED = "killed"
    """The runner was killed."""


class LeaseFailure(Word):
    """Why a `lease` or `run_task` got no resource."""

    TIMEOUT = "timeout"
    TOO_MANY_WAITERS = "too_many_waiters"
    UNAVAILABLE = "unavailable"
    KILLED = "killed"
    """The runner was killed."""
    LEFT = "left"
    """The caller went away: it was killed, or its own time-out fired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerEvent:
    """Something happened in a runner. Spans are seconds; a `task` is the qualified name of its callable."""

    at: float
    """Seconds on `time.monotonic()`."""
    runner: str
    """The runner's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceCreating(RunnerEvent):
    """`on_create` is about to be called; its slot is taken."""

    resource_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceCreated(RunnerEvent):
    """`on_create` returned a resource, after so many `seconds`."""

    resource_id: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceCreateFailed(RunnerEvent):
    """`on_create` raised or took too long; creation is tried again in `next_attempt_in` seconds."""

    resource_id: int
    error: BaseException
    next_attempt_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceDestroyed(RunnerEvent):
    """`on_destroy` ended, well or not, or was abandoned: told once, and not again when that one returns."""

    resource_id: int
    reason: DestroyReason


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequested(RunnerEvent):
    """A `lease` or `run_task` asked for a resource."""

    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGranted(RunnerEvent):
    """A `lease` or `run_task` got its resource, `waited` seconds after it asked."""

    resource_id: int
    waited: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseReturned(RunnerEvent):
    """A `lease` or `run_task` gave its resource back, fit or not, after `held` seconds."""

    resource_id: int
    held: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFailed(RunnerEvent):
    """A `lease` or `run_task` got no resource."""

    reason: LeaseFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLeaked(RunnerEvent):
    """A holder ended with its lease still out, or has held it longer than `leak_warning`."""

    info: LeaseInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendDown(RunnerEvent):
    """No resource is left and creation has failed for `fail_fast_after`: waiters are refused from now on."""

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendUp(RunnerEvent):
    """A create worked again, `seconds_down` after the backend was called down."""

    seconds_down: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersScaled(RunnerEvent):
    """The wanted number of workers changed."""

    before: int
    after: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRetried(RunnerEvent):
    """An attempt ended with an unhealthy error; the next one is due in `next_attempt_in` seconds."""

    task: str
    attempts: int
    """How many were begun so far."""
    error: BaseException
    next_attempt_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTimedOut(RunnerEvent):
    """A task's time was up, waiting or running."""

    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCancelled(RunnerEvent):
    """A task was withdrawn before it answered."""

    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRejected(RunnerEvent):
    """A task was not accepted: the backlog was full."""

    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HubBlocked(RunnerEvent):
    """The event loop was not polled for `seconds`; these tasks ran meanwhile.

    `where` is the line that was at work then ("file:line in function") if gevent's monitor thread is on and saw it:
    `GEVENT_MONITOR_THREAD_ENABLE=1`, and `GEVENT_MAX_BLOCKING_TIME` not above `hub_blocked_after`. Else it is empty.
    """

    seconds: float
    tasks: tuple[str, ...]
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(RunnerEvent):
    """The runner's state changed."""

    before: State
    after: State
