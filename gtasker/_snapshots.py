"""Frozen copies of what a runner is and did: `RunnerStats`, `LeaseInfo`, `ShutdownReport`.

Invariant: a snapshot holds plain values only, never a greenlet, a resource or an exception, so it keeps nothing alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gtasker._lifecycle import State


class Word(str, Enum):
    """An enum whose members read, format and compare as their words, on every Python alike."""

    # Since Python 3.12 the format of a mixed-in enum would be "LeaseKind.LEASE".
    def __str__(self) -> str:
        return str(self.value)


class LeaseKind(Word):
    """By which road a resource was taken."""

    WORKER = "worker"
    RUN_TASK = "run_task"
    LEASE = "lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerStats:
    """What there is at one moment. Everything but `state` is a count, and 0 or more."""

    state: State
    base_workers: int
    """Workers that are always wanted."""
    active_workers: int
    """Workers that hold a resource."""
    burst_workers: int
    """Workers above the base, those being started included."""
    busy_workers: int
    """Workers that run an attempt, or whose resource is lent."""
    queued_tasks: int
    """Tasks of NORMAL priority and lower that wait for a worker."""
    priority_tasks: int
    """Tasks above NORMAL that wait for a worker."""
    delayed_tasks: int
    """Tasks that wait out the delay before a further attempt."""
    available_resources: int
    """Idle resources of the reserve."""
    live_resources: int
    """Resources that exist: idle or in use."""
    creating_resources: int
    """`on_create` calls under way."""
    waiting_leases: int
    """Calls of `lease` and `run_task` that wait for a resource."""
    abandoned: int
    """User code that did not end when it was interrupted, and has not returned yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseInfo:
    """Who holds one resource, since when, and what they are at."""

    resource_id: int
    """Counted up from 1, in order of creation."""
    kind: LeaseKind
    holder: str
    """Name of the greenlet that holds it."""
    task: str | None
    """Qualified name of the callable that runs with it; None for a lease."""
    priority: int
    """Lower goes first."""
    age: float
    """Seconds since it was taken."""
    stack: str
    """The holder's stack at this moment, as text; empty if it has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownReport:
    """How a shutdown went. The counts are of tasks, from the moment it began."""

    finished: int
    """Tasks that answered with a value."""
    failed: int
    """Tasks that answered with an error, time-outs included."""
    cancelled: int
    """Tasks that were withdrawn or killed."""
    abandoned: int
    """User code, hooks included, that had not ended when the report was made."""
    duration: float
    """Seconds from the first call of `stop` or `kill`."""
    complete: bool
    """The runner is closed: nothing of its is left but what is abandoned. False for a call that could not wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The numbers in force, also after `resize`."""

    base_workers: int
    max_workers: int
    reserve: int
    """Idle resources wanted for `run_task` and `lease`."""
    max_resources: int


class ResourceState(Word):
    """What is happening to a resource."""

    CREATING = "creating"
    IDLE = "idle"
    USED = "used"
    """An attempt, a `run_task` or a lease has it."""
    CARED = "cared"
    """It is in a hook: `reset`, `check_resource`, `on_interrupt`, or judged by `check_health`."""
    DESTROYING = "destroying"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceInfo:
    """One slot of the stock."""

    resource_id: int
    state: ResourceState
    owner: str = ""
    """"worker" or "reserve"; nobody's while it is made or unmade."""
    kind: LeaseKind | None = None
    """By which road it is used."""
    holder: str | None = None
    """The name of the greenlet that uses it."""
    task: str | None = None
    """The qualified name of what it is used for."""
    age: float = 0.0
    """Seconds in this state."""
    lifetime: float = 0.0
    """Seconds since it was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """How the creation of resources fares. Without arguments: all is well."""

    is_down: bool = False
    """Whether who waits is refused at once (`fail_fast_after`)."""
    failing_for: float = 0.0
    """Seconds since the first failure of this series."""
    failures: int = 0
    """Failed attempts of this series; those under way together count as one."""
    next_attempt_in: float = 0.0
    """Seconds; 0 when one is due or under way."""
    acquire_timeouts: int = 0
    """Calls of `lease` and `run_task`, since the start, that got no resource in time."""
    last_error: str = ""
    """The name of its type."""
    last_message: str = ""
    """Its text, which may hold secrets."""
