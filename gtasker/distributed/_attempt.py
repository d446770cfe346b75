"""One attempt of a message, in the process that serves it.

Invariant: the runner's own retries are never used here, so what an engine allows is all there is: they do not multiply.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gtasker import GTaskerError, ResourceError, RunnerKilledError, RunnerStoppedError, TaskTimeoutError
from gtasker.distributed._engine import Work
from gtasker.distributed._json import check_json
from gtasker.distributed.errors import AlreadyBegunError, LimiterError

_NOT_HAD = (LimiterError, ResourceError, RunnerKilledError, RunnerStoppedError)


class NotBegunError(Exception):
    """No resource was to be had, so the task has not begun; `__cause__` says why. It costs no retry."""


def attempt(
    task: Work,
    args: tuple[Any, ...],
    begin: Callable[[], bool],
    is_time_limit: Callable[[BaseException], bool],
) -> Any:
    """Run the task once, in this greenlet, and return its value. Switches.

    `begin()` is asked for a task with `once`, with the resource at hand: whether this is its first attempt anywhere.
    `is_time_limit(error)`: whether that is the engine's, for this attempt.
    Raises what the task raised, AlreadyBegunError, NotJSONError for a value that cannot travel, TaskTimeoutError;
    NotBegunError where no resource was to be had, or not in time.
    """
    has_begun = False

    @functools.wraps(task.fn)
    def guarded(resource: Any, *args: Any) -> Any:
        nonlocal has_begun
        has_begun = True
        if task.once and not begin():
            raise AlreadyBegunError(f"{task.name} was begun by a process that has died; what became of it is unknown")
        return task.fn(resource, *args)

    try:
        if task.rate is not None:
            task.rate.wait()
        value = task.runner.run_task(guarded, *args)
    except _NOT_HAD as error:
        if has_begun:
            raise  # the task's own, or a kill in its middle
        raise NotBegunError(f"{task.name}: {error}") from error
    except BaseException as error:
        if not is_time_limit(error):
            raise
        if not has_begun:
            raise NotBegunError(f"{task.name} found no resource within {task.timeout} seconds") from error
        raise TaskTimeoutError(f"{task.name} took longer than {task.timeout} seconds") from error
    check_json(value, f"the value of {task.name}")
    return value


def may_try_again(task: Work, error: BaseException, tries: int) -> bool:
    """Whether the engine tries again after `error`, having tried again `tries` times. Never switches.

    What has not begun is tried until it does: waiting for a backend is what a queue is for.
    """
    return isinstance(error, NotBegunError) or (tries < task.retries and is_worth_another(task, error))


def is_worth_another(task: Work, error: BaseException) -> bool:
    """Whether the engine may try again after `error`: as in a runner, not after the task's own healthy errors."""
    if isinstance(error, NotBegunError):
        return True
    if task.once:
        return False
    if isinstance(error, GTaskerError):
        return isinstance(error, RunnerKilledError)
    if not isinstance(error, Exception):
        return True  # interrupted: the process is being stopped
    check_health = task.runner.config.check_health
    try:
        return check_health is not None and not check_health(error)
    except Exception:
        return True
