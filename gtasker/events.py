"""The events a runner tells its `on_event`, for `isinstance` and `match`.

Invariant: every kind of event and every enum an event carries is here, and nothing else.
"""

from __future__ import annotations

from gtasker._events import (
    BackendDown,
    BackendUp,
    DestroyReason,
    HubBlocked,
    LeaseFailed,
    LeaseFailure,
    LeaseGranted,
    LeaseLeaked,
    LeaseRequested,
    LeaseReturned,
    ResourceCreated,
    ResourceCreateFailed,
    ResourceCreating,
    ResourceDestroyed,
    RunnerEvent,
    StateChanged,
    TaskCancelled,
    TaskRejected,
    TaskRetried,
    TaskTimedOut,
    WorkersScaled,
)
from gtasker._snapshots import LeaseKind

__all__ = [
    "BackendDown",
    "BackendUp",
    "DestroyReason",
    "HubBlocked",
    "LeaseFailed",
    "LeaseFailure",
    "LeaseGranted",
    "LeaseKind",
    "LeaseLeaked",
    "LeaseRequested",
    "LeaseReturned",
    "ResourceCreateFailed",
    "ResourceCreated",
    "ResourceCreating",
    "ResourceDestroyed",
    "RunnerEvent",
    "StateChanged",
    "TaskCancelled",
    "TaskRejected",
    "TaskRetried",
    "TaskTimedOut",
    "WorkersScaled",
]
