"""gtasker: run thousands of I/O tasks over a bounded, self-healing set of resources, on gevent."""

# fmt: off
from __future__ import annotations

from gtasker._config import Config
from gtasker._events import RunnerEvent
from gtasker._extras import Priority, TaskState
from gtasker._histogram import Buckets
from gtasker._lending import Lease
from gtasker._lifecycle import State
from gtasker._metrics import Collector, Histograms, TaskMetrics, TaskTimes
from gtasker._runner import Runner, runners
from gtasker._scaling import Load
from gtasker._snapshots import (
    BackendInfo,
    Bounds,
    LeaseInfo,
    LeaseKind,
    ResourceInfo,
    ResourceState,
    RunnerStats,
    ShutdownReport,
)
from gtasker._task import Task
from gtasker.errors import (
    AcquireTimeoutError,
    ConfigError,
    GTaskerError,
    MaxRetriesExceededError,
    QueueFullError,
    ResourceError,
    ResourceUnavailableError,
    RunnerKilledError,
    RunnerStoppedError,
    StartError,
    TaskCancelledError,
    TaskError,
    TaskTimeoutError,
    TooManyWaitersError,
    WouldBlockHubError,
    WouldDeadlockError,
    WrongThreadError,
)

__version__ = "0.1.0"

__all__ = [
    "AcquireTimeoutError", "BackendInfo", "Bounds", "Buckets", "Collector", "Config", "ConfigError", "GTaskerError",
    "Histograms", "Lease", "LeaseInfo", "LeaseKind", "Load", "MaxRetriesExceededError", "Priority", "QueueFullError",
    "ResourceError", "ResourceInfo", "ResourceState", "ResourceUnavailableError", "Runner", "RunnerEvent",
    "RunnerKilledError", "RunnerStats", "RunnerStoppedError", "ShutdownReport", "StartError", "State", "Task",
    "TaskCancelledError", "TaskError", "TaskMetrics", "TaskState", "TaskTimeoutError", "TaskTimes",
    "TooManyWaitersError", "WouldBlockHubError", "WouldDeadlockError", "WrongThreadError", "__version__", "runners",
]
