"""A program of somebody who checks his types strictly: what a call returns follows from the function it is given.

Invariant: mypy takes each line under `--strict`, with gtasker as it is installed and without stubs for gevent; each
`type: ignore` is needed. Nothing here is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from typing_extensions import assert_type

from gtasker import (
    Config,
    GTaskerError,
    Lease,
    LeaseInfo,
    Load,
    Priority,
    Runner,
    RunnerEvent,
    RunnerStats,
    ShutdownReport,
    State,
    Task,
    TaskMetrics,
    TaskState,
    TaskTimeoutError,
    runners,
)
from gtasker.events import ResourceDestroyed


class Connection:
    """A resource."""

    def ask(self, question: str) -> int:
        """A method is a task, too."""
        return len(question)

    def close(self) -> None:
        """Unmake it."""


def count(connection: Connection, word: str, times: int = 1) -> int:
    """A task with arguments."""
    return connection.ask(word) * times


def words(connection: Connection) -> list[str]:
    """A task without."""
    return []


class Rule:
    """A scaling rule."""

    def decide(self, load: Load) -> int:
        """No change."""
        return assert_type(load.backlog, int) * 0


def listen(event: RunnerEvent) -> None:
    """A listener."""
    if isinstance(event, ResourceDestroyed):
        assert_type(event.resource_id, int)


config = Config(
    on_create=Connection,
    on_destroy=Connection.close,
    worker_count=4,
    scaling=Rule(),
    check_health=lambda error: not isinstance(error, OSError),
    retry_backoff=(0.1, 5.0),
    on_event=listen,
)
assert_type(config, Config[Connection])
assert_type(config.max_resources, int)  # None when it was left open, a number when it is read
assert_type(config.acquire_timeout, "float | None")

runner = Runner(config)
assert_type(runner, Runner[Connection])

with runner as same:
    assert_type(same, Runner[Connection])

assert_type(runner.queue_task(count, "word"), int)
assert_type(runner.queue_task(count, "word", 2, priority=Priority.HIGH, once=True, timeout=1.5, key="k"), int)
assert_type(runner.queue_task(words), list[str])
assert_type(runner.queue_task(Connection.ask, "question"), int)
assert_type(runner.queue_task(lambda connection: connection.ask("question")), int)
assert_type(runner.queue_task(partial(count, times=2), "word"), int)
assert_type(runner.queue_task_with_priority(count, "word"), int)
assert_type(runner.queue_task_once(count, "word"), int)
assert_type(runner.queue_task_with_priority_once(count, "word"), int)
assert_type(runner.run_task(count, "word", timeout=1.0), int)
assert_type(runner.map(count, ["a", "b"]), list[int])
assert_type(runner.imap_unordered(count, iter(["a"])), Iterator[int])

task = runner.submit(count, "word", callback=lambda task: print(task.value))
assert_type(task, Task[int])
assert_type(task.get(timeout=1.0), int)
assert_type(task.value, "int | None")
assert_type(task.exception, "BaseException | None")
assert_type(task.state, TaskState)
assert_type(task.cancel(), bool)
assert_type(task.wait(1), bool)

lease = runner.lease(timeout=1.0, priority=Priority.LOW)
assert_type(lease, Lease[Connection])
with lease as connection:
    assert_type(connection, Connection)
    lease.discard()

assert_type(runner.stats(), RunnerStats)
assert_type(runner.metrics(), TaskMetrics)
assert_type(runner.leases(), list[LeaseInfo])
assert_type(runner.state, State)
assert_type(runner.stop(timeout=5.0), ShutdownReport)
assert_type(runner.kill(), ShutdownReport)
assert_type(runner.purge("k"), int)
assert_type(len(runners()), int)

try:
    runner.queue_task(words)
except TaskTimeoutError as error:
    caught: GTaskerError | TimeoutError = error

# What is wrong is found; if it were not, the `ignore` would be one too many.
runner.queue_task(count, 5)  # type: ignore[arg-type]
runner.queue_task(count)  # type: ignore[arg-type]
runner.queue_task(words, "too many")  # type: ignore[arg-type]
runner.submit(count, "word", prority=1)  # type: ignore[call-arg]
runner.run_task(count, "word", priority=1)  # type: ignore[call-arg]
runner.map(count, [1, 2])  # type: ignore[arg-type]
wrong: str = runner.queue_task(count, "word")  # type: ignore[assignment]
Config(on_create=Connection, on_destroy=Connection.close, worker_count="4")  # type: ignore[arg-type]
Config(on_create=Connection, on_destroy=str.upper, worker_count=4)  # type: ignore[arg-type, misc]
config.worker_count = 5  # type: ignore[misc]
