"""Mapping: one call for each item of an iterable, with a bounded number in flight.

Invariant: at most `window` tasks of a map exist at once; when it ends, by whatever road, those that have not begun are
withdrawn.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from gevent.queue import SimpleQueue

from gtasker._deadlock import Deadlocks
from gtasker._extras import QUEUED, RETRYING
from gtasker._task import Task

Item = TypeVar("Item")
T = TypeVar("T")


def in_flight(
    submit: Callable[[Item], Task[T]], items: Iterable[Item], window: int, deadlocks: Deadlocks[Any]
) -> Generator[tuple[int, Task[T]], None, None]:
    """Submit lazily, and yield each task with its item's position when it answered. Switches."""
    done: SimpleQueue[Task[Any]] = SimpleQueue()
    positions: dict[Task[T], int] = {}
    numbered = enumerate(items)
    try:
        while True:
            for position, item in islice(numbered, window - len(positions)):
                task = submit(item)
                positions[task] = position
                task.rawlink(done.put)
            if not positions:
                return
            try:
                deadlocks.begin_wait(next(reversed(positions)))
                task = done.get()
            finally:
                deadlocks.end_wait()
            yield positions.pop(task), task
    finally:
        for task in positions:
            task.unlink(done.put)
            if task.state is QUEUED or task.state is RETRYING:
                task.cancel()


def collect(flights: Generator[tuple[int, Task[T]], None, None]) -> list[T]:
    """The values in the order of the items; the first failure is raised. Switches."""
    values: dict[int, T] = {}
    try:
        for position, task in flights:
            values[position] = task.get()
    finally:
        flights.close()
    return [values[position] for position in range(len(values))]


def as_they_come(flights: Generator[tuple[int, Task[T]], None, None]) -> Iterator[T]:
    """The values in the order of their answers; the first failure is raised, and ends all. Switches."""
    try:
        for _, task in flights:
            yield task.get()
    finally:
        flights.close()
