"""The rows of the table: what is measured, and where the code that measures it lives.

Invariant: a row is named here and nowhere else; its module is imported in the row's own process only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One row. `deadline` bounds a full run, in seconds; a `big` row is left out of a glance."""

    name: str
    title: str
    function: str
    deadline: float = 300.0
    big: bool = False


ROWS = (
    Row("queue-1", "`queue_task` no-op, 1 caller", "queueing:one_caller"),
    Row("queue-100", "`queue_task` no-op, 100 callers", "queueing:hundred_callers"),
    Row("queue-1000", "`queue_task` no-op, 1,000 callers", "queueing:thousand_callers"),
    Row("submit", "`submit` x 100,000, then collect", "batches:submit_and_collect"),
    Row("waiting-memory", "memory of a waiting task", "batches:bytes_waiting"),
    Row("run-task", "`run_task` no-op", "lending:run_task"),
    Row("lease", "lease cycle", "lending:lease"),
    Row("lease-rivals", "lease cycle beside other pools", "lending:lease_beside_pools"),
    Row("fairness", "100 greedy greenlets over 4 resources", "greed:greedy"),
    Row("select", "SELECT 1, 100 greenlets over 10 connections", "postgres:select_one"),
    Row("select-few", "SELECT 1, 5 greenlets over 10 connections", "postgres:select_by_few"),
    Row("depth", "cost a task with many waiting", "depth:waiting_tasks"),
    Row("width", "cost a task with many workers", "width:many_workers"),
    Row("burst", "burst reaction", "bursting:reaction"),
    Row("reading", "`stats()` and `metrics()` after many tasks", "reading:snapshots"),
    Row("crowd", "2,000 real connections, 10,000 callers", "crowd:two_thousand", deadline=600.0, big=True),
)


def named(name: str) -> Row:
    """Return the row of that name; KeyError if there is none."""
    for row in ROWS:
        if row.name == name:
            return row
    raise KeyError(name)
