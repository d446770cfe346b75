"""Events: the promised kinds with the promised fields, frozen, and public in one place."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gtasker import _events, events

FIELDS = {
    "ResourceCreating": ["resource_id"],
    "ResourceCreated": ["resource_id", "seconds"],
    "ResourceCreateFailed": ["resource_id", "error", "next_attempt_in"],
    "ResourceDestroyed": ["resource_id", "reason"],
    "LeaseRequested": ["priority"],
    "LeaseGranted": ["resource_id", "waited"],
    "LeaseReturned": ["resource_id", "held"],
    "LeaseFailed": ["reason"],
    "LeaseLeaked": ["info"],
    "BackendDown": ["error"],
    "BackendUp": ["seconds_down"],
    "WorkersScaled": ["before", "after", "why"],
    "TaskRetried": ["task", "attempts", "error", "next_attempt_in"],
    "TaskTimedOut": ["task"],
    "TaskCancelled": ["task"],
    "TaskRejected": ["task"],
    "HubBlocked": ["seconds", "tasks", "where"],
    "StateChanged": ["before", "after"],
}
DESTROY_REASONS = """
    unhealthy interrupted expired idle check_failed readable reset_failed recycled discarded leaked surplus
    stopped killed
"""


def build(name: str) -> Any:
    return getattr(events, name)(at=2.5, runner="r", **dict.fromkeys(FIELDS[name], 1))


@pytest.mark.parametrize("name", FIELDS)
def test_an_event_has_its_moment_its_runner_and_its_own_fields(name: str) -> None:
    assert [field.name for field in dataclasses.fields(getattr(events, name))] == ["at", "runner", *FIELDS[name]]
    assert (build(name).at, build(name).runner) == (2.5, "r")


@pytest.mark.parametrize("name", FIELDS)
def test_an_event_is_a_runner_event(name: str) -> None:
    assert getattr(events, name).__bases__ == (events.RunnerEvent,)


@pytest.mark.parametrize("name", FIELDS)
def test_an_event_cannot_be_changed_nor_grow(name: str) -> None:
    event = build(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.at = 3.0
    assert not hasattr(event, "__dict__")


@pytest.mark.parametrize("name", FIELDS)
def test_an_event_is_built_by_keyword_only(name: str) -> None:
    with pytest.raises(TypeError):
        getattr(events, name)(2.5, "r", *range(len(FIELDS[name])))


@pytest.mark.parametrize("name", FIELDS)
def test_an_event_says_what_it_means(name: str) -> None:
    assert not getattr(events, name).__doc__.startswith(f"{name}("), "the docstring is the one a dataclass makes up"


def test_every_event_and_enum_is_public_and_nothing_else_is() -> None:
    words = {"RunnerEvent", "DestroyReason", "LeaseFailure", "LeaseKind"}
    assert events.__all__ == sorted({*FIELDS, *words})


def test_no_event_is_kept_from_the_public() -> None:
    kinds = {
        name for name, kind in vars(_events).items() if isinstance(kind, type) and issubclass(kind, _events.RunnerEvent)
    }
    assert kinds <= set(events.__all__)
    assert kinds == {*FIELDS, "RunnerEvent"}


@pytest.mark.parametrize(
    ("enum", "words"),
    [
        (events.DestroyReason, DESTROY_REASONS),
        (events.LeaseFailure, "timeout too_many_waiters unavailable killed left"),
    ],
)
def test_a_reason_reads_as_its_name_in_small_letters(enum: type[Any], words: str) -> None:
    assert [str(member) for member in enum] == words.split()
    assert [f"{member}" for member in enum] == [member.name.lower() for member in enum]
