"""Snapshots are frozen, complete, and hold plain values only."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gtasker._snapshots import LeaseInfo, LeaseKind, RunnerStats, ShutdownReport

FIELDS: dict[type[Any], list[str]] = {
    RunnerStats: [
        "state", "base_workers", "active_workers", "burst_workers", "busy_workers", "queued_tasks", "priority_tasks",
        "delayed_tasks", "available_resources", "live_resources", "creating_resources", "waiting_leases", "abandoned",
    ],
    LeaseInfo: ["resource_id", "kind", "holder", "task", "priority", "age", "stack"],
    ShutdownReport: ["finished", "failed", "cancelled", "abandoned", "duration", "complete"],
}  # fmt: skip


@pytest.mark.parametrize("kind", FIELDS)
def test_a_snapshot_has_the_promised_fields_and_no_others(kind: type[Any]) -> None:
    assert [field.name for field in dataclasses.fields(kind)] == FIELDS[kind]


@pytest.mark.parametrize("kind", FIELDS)
def test_a_snapshot_is_frozen(kind: type[Any]) -> None:
    snapshot = kind(**dict.fromkeys(FIELDS[kind], 0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(snapshot, FIELDS[kind][0], 1)


@pytest.mark.parametrize("kind", FIELDS)
def test_a_snapshot_has_no_room_for_anything_else(kind: type[Any]) -> None:
    assert not hasattr(kind(**dict.fromkeys(FIELDS[kind], 0)), "__dict__")


@pytest.mark.parametrize("kind", FIELDS)
def test_a_snapshot_takes_no_positional_values(kind: type[Any]) -> None:
    with pytest.raises(TypeError):
        kind(*range(len(FIELDS[kind])))


@pytest.mark.parametrize("kind", FIELDS)
def test_snapshots_of_the_same_values_are_equal(kind: type[Any]) -> None:
    values = {name: index for index, name in enumerate(FIELDS[kind])}
    assert kind(**values) == kind(**values)
    assert kind(**values) != kind(**{**values, FIELDS[kind][-1]: -1})


@pytest.mark.parametrize(
    ("kind", "word"), [(LeaseKind.WORKER, "worker"), (LeaseKind.RUN_TASK, "run_task"), (LeaseKind.LEASE, "lease")]
)
def test_a_kind_of_lease_reads_formats_and_compares_as_its_word(kind: LeaseKind, word: str) -> None:
    assert (str(kind), f"{kind}", f"{kind:>9}", kind == word) == (word, word, word.rjust(9), True)


def test_there_are_three_ways_to_hold_a_resource() -> None:
    assert len(LeaseKind) == 3
