"""Prometheus, several processes: any of them tells the sum of all. Real processes, real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.kit import eventually
from tests.monitoring._processes import Process, arrived, value
from tests.monitoring.conftest import StartProcess

PROCESSES = 4
TASKS = 40
MOST = 5
"""Resources that one process may have."""
POOL = {"db_client_connection_pool_name": "shop"}


@pytest.fixture
def start(start_process: StartProcess, folder: Path) -> Callable[[], Process]:
    """Start one of several processes that share the test's folder."""
    return lambda: start_process("_counting", PROMETHEUS_MULTIPROC_DIR=str(folder))


def test_forty_tasks_over_four_processes_are_forty_from_any(start: Callable[[], Process]) -> None:
    processes = [start() for _ in range(PROCESSES)]

    for process in processes:
        process.tell("work", TASKS // PROCESSES)

    def told(process: Process) -> tuple[float | None, float | None]:
        page = process.tell("scrape")
        return arrived(page), value(page, "db_client_connection_max", **POOL)

    for process in processes:
        expected = (TASKS, PROCESSES * MOST)
        eventually(lambda: told(process) == expected, "all is told")  # noqa: B023  # called here
        page = process.tell("scrape")
        assert value(page, "gtasker_task_ended_total", runner="shop", outcome="completed") == TASKS
        assert value(page, "gtasker_task_run_time_seconds_count", runner="shop") == TASKS
        assert (value(page, "gtasker_task_run_time_seconds_sum", runner="shop") or 0) >= TASKS * 0.002


def test_what_a_process_did_just_before_its_end_is_not_lost(start: Callable[[], Process]) -> None:
    leaving, staying = start(), start()

    leaving.tell("work", 1)
    eventually(lambda: arrived(staying.tell("scrape")) == 1, "the first task is told")
    leaving.tell("work", 6)
    leaving.tell("stop")
    assert leaving.leave() == 0

    assert arrived(staying.tell("scrape")) == 7


def test_a_forked_child_adds_its_own_tasks_and_not_its_parents(start: Callable[[], Process]) -> None:
    parent = start()
    parent.tell("work", 3)
    eventually(lambda: arrived(parent.tell("scrape")) == 3, "the parent's tasks are told")

    assert parent.tell("fork", 40) == 0  # more than its parent of everything, before it looks for the first time

    assert arrived(parent.tell("scrape")) == 43
    parent.tell("work", 1)
    eventually(lambda: arrived(parent.tell("scrape")) == 44, "the parent goes on")
