"""The errors of gtasker: what each one means, and what to do about it.

Invariant: every error the library raises by itself is a `GTaskerError`; what a task raised is never one of these, but
for `MaxRetriesExceededError`, which carries the task's last error as its cause. None of them reaches `check_health`.
"""

from __future__ import annotations

__all__ = [
    "AcquireTimeoutError",
    "ConfigError",
    "GTaskerError",
    "MaxRetriesExceededError",
    "OnCreateFunctionRequiredError",
    "OnDestroyFunctionRequiredError",
    "QueueFullError",
    "ResourceError",
    "ResourceUnavailableError",
    "RunnerKilledError",
    "RunnerStoppedError",
    "StartError",
    "TaskCancelledError",
    "TaskError",
    "TaskTimeoutError",
    "TooManyWaitersError",
    "WorkerCountMustBePositiveError",
    "WouldBlockHubError",
    "WouldDeadlockError",
    "WrongThreadError",
]


class GTaskerError(Exception):
    """The root: catch it to catch whatever the library itself has to say."""


class ConfigError(GTaskerError, ValueError):
    """A setting has a wrong value. The message names the field, the value and the bound; mend the configuration."""


class WorkerCountMustBePositiveError(ConfigError):
    """`worker_count` is missing or no int above 0. A runner without base workers could never answer a task."""


class OnCreateFunctionRequiredError(ConfigError):
    """`on_create` is missing or cannot be called. Pass a function that makes one resource."""


class OnDestroyFunctionRequiredError(ConfigError):
    """`on_destroy` is missing or cannot be called. Pass a function that unmakes one resource."""


class StartError(GTaskerError):
    """`start()` could not make what it needs; `__cause__` says why.

    Everything that had been made is destroyed again and the runner is as new: mend the cause and start again.
    """


class RunnerStoppedError(GTaskerError):
    """Work was offered after `stop()` or `kill()`. It was not accepted, and may be offered to another runner."""


class QueueFullError(GTaskerError):
    """The backlog stayed full for `enqueue_timeout`. The task was not accepted: shed the load, or try later."""


class ResourceError(GTaskerError):
    """No resource was to be had. The code that needed it has not run, so trying again later is safe."""


class ResourceUnavailableError(ResourceError):
    """The backend is down: creation has failed for `fail_fast_after` and no resource is left.

    `__cause__` is the last error of `on_create`. Attempts to create go on by themselves; answer from elsewhere, or
    try later.
    """


class AcquireTimeoutError(ResourceError, TimeoutError):
    """No resource came free in time. The message says who holds how many, how many wait, and the last create error.

    Either resources are held too long (see `leases()` and `leak_warning`), or `max_resources` is too small.
    """


class TooManyWaitersError(ResourceError):
    """`max_waiting` others wait for a resource already. Refused at once, without waiting: shed the load."""


class TaskError(GTaskerError):
    """An accepted task has no outcome of its own; the subclass says why."""


class TaskCancelledError(TaskError):
    """The task was withdrawn by `cancel`, by `purge` or by its caller. Whether it had begun, `attempts` tells."""


class RunnerKilledError(TaskCancelledError):
    """The runner was killed. What waited never ran; what ran, or held a lease, was interrupted with this error."""


class TaskTimeoutError(TaskError, TimeoutError):
    """The task's time was up, in the backlog or in an attempt; the attempt is interrupted, and not tried again.

    Whether the interrupted attempt had its effect is unknown.
    """


class MaxRetriesExceededError(TaskError):
    """Every attempt ended with an unhealthy error and no retry is left; `__cause__` is the last attempt's error.

    `attempts` is how many were begun.
    """

    def __init__(self, message: str, attempts: int) -> None:
        super().__init__(message)
        self.attempts = attempts

    def __reduce__(self) -> tuple[type[MaxRetriesExceededError], tuple[str, int]]:
        # The default would rebuild the error from `args`, which lacks the count.
        return type(self), (str(self), self.attempts)


class WouldDeadlockError(TaskError):
    """Every worker waits, without a time-out, for a task that only they could run.

    Give the inner call a `timeout`, run it with `run_task`, or send it to a runner of its own. A `gevent.Timeout` of
    your own around the call, or a kill to come, cannot be seen: it would end the wait, but the error comes first.
    """


class WrongThreadError(GTaskerError):
    """The runner was used from an OS thread that is not its own. Use one runner for each thread."""


class WouldBlockHubError(GTaskerError):
    """A call that would block was made in the hub (a loop callback, a link, a signal handler). Spawn a greenlet."""
