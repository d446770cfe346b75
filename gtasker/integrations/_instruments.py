"""Instruments: what an exporter tells of runners, in one table for all exporters.

Invariant: a name means the same whoever exports it. Names, units and attributes are OpenTelemetry's where its
conventions have a word (`db.client.connection.*`, whatever the resource is), and `gtasker.*` elsewhere; Prometheus' are
made from them by its rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from gtasker import BackendInfo, Bounds, Buckets, Runner, RunnerStats, TaskMetrics


class Kind(Enum):
    """How an instrument's numbers behave, and how those of several runners or processes add up."""

    COUNTER = "counter"
    """Only grows; a sum."""
    LEVEL = "level"
    """Goes up and down; a sum."""
    WORST = "worst"
    """Goes up and down; the greatest."""


class Reading(NamedTuple):
    """One runner at one moment."""

    runner: Runner[Any]
    stats: RunnerStats
    metrics: TaskMetrics
    wait: Buckets
    run: Buckets
    backend: BackendInfo
    bounds: Bounds


def read(runner: Runner[Any]) -> Reading:
    """Look at a runner, in its own thread. Never switches."""
    wait, run = runner.histograms()
    return Reading(runner, runner.stats(), runner.metrics(), wait, run, runner.backend(), runner.bounds())


@dataclass(frozen=True)
class Attribute:
    """A dimension: what OpenTelemetry calls it, and Prometheus."""

    name: str
    label: str


RUNNER = Attribute("gtasker.runner.name", "runner")
POOL = Attribute("db.client.connection.pool.name", "db_client_connection_pool_name")
POOL_STATE = Attribute("db.client.connection.state", "db_client_connection_state")


@dataclass(frozen=True)
class Fact:
    """Something that is told."""

    name: str
    unit: str
    """By the Unified Code for Units of Measure; in braces what is counted."""
    about: str

    @property
    def exposed(self) -> str:
        """Its name in Prometheus; of a counter without `_total`, which the client adds."""
        return self.name.replace(".", "_") + ("_seconds" if self.unit == "s" else "")


@dataclass(frozen=True)
class Instrument(Fact):
    """Something that is told of each runner."""

    kind: Kind
    read: Callable[[Reading], dict[str, float]]
    """The numbers of one runner by the value of `attribute`; without one there is one number, under ""."""
    attribute: Attribute | None = None

    @property
    def owner(self) -> Attribute:
        """The attribute that tells whose it is."""
        return POOL if self.name.startswith("db.") else RUNNER

    @property
    def labels(self) -> tuple[str, ...]:
        """Its labels in Prometheus."""
        return (self.owner.label, *([self.attribute.label] if self.attribute is not None else []))

    def merge(self, readings: Iterable[Reading]) -> dict[tuple[str, str], float]:
        """The numbers by runner's name and `attribute`; runners of one name add up."""
        merged: dict[tuple[str, str], float] = {}
        for reading in readings:
            for value, number in self.read(reading).items():
                key = (reading.runner.config.name, value)
                if self.kind is Kind.WORST:
                    merged[key] = max(merged.get(key, 0.0), number)
                else:
                    merged[key] = merged.get(key, 0.0) + number
        return merged


Read = Callable[[Reading], float]
ReadMany = Callable[[Reading], dict[str, float]]


def _one(read: Read) -> ReadMany:
    return lambda reading: {"": read(reading)}


def _level(name: str, unit: str, about: str, read: Read) -> Instrument:
    return Instrument(name, unit, about, Kind.LEVEL, _one(read))


def _total(name: str, unit: str, about: str, read: Callable[[TaskMetrics], float]) -> Instrument:
    return Instrument(name, unit, about, Kind.COUNTER, lambda reading: {"": read(reading.metrics)})


def _workers(reading: Reading) -> dict[str, float]:
    stats = reading.stats
    return {"busy": stats.busy_workers, "idle": max(0, stats.active_workers - stats.busy_workers)}


def _waiting(reading: Reading) -> dict[str, float]:
    stats = reading.stats
    return {"normal": stats.queued_tasks, "priority": stats.priority_tasks, "delayed": stats.delayed_tasks}


def _ended(reading: Reading) -> dict[str, float]:
    metrics = reading.metrics
    return {
        "completed": metrics.total_tasks_completed,
        "failed": metrics.total_tasks_failed,
        "cancelled": metrics.total_tasks_cancelled,
    }


def _connections(reading: Reading) -> dict[str, float]:
    stats = reading.stats
    idle = stats.available_resources + max(0, stats.active_workers - stats.busy_workers)
    return {"idle": idle, "used": max(0, stats.live_resources - idle)}


def _pending(reading: Reading) -> float:
    stats = reading.stats
    return stats.waiting_leases + stats.queued_tasks + stats.priority_tasks


_CONNECTIONS, _TASKS, _WORKERS, _RESOURCES = "{connection}", "{task}", "{worker}", "{resource}"
_WORKER_STATE = Attribute("gtasker.worker.state", "state")
_LINE = Attribute("gtasker.task.line", "line")
_OUTCOME = Attribute("gtasker.task.outcome", "outcome")

_POOL = "db.client.connection"
_POOL_INSTRUMENTS = (
    Instrument(f"{_POOL}.count", _CONNECTIONS, "Resources that exist, by state.", Kind.LEVEL, _connections, POOL_STATE),
    _level(f"{_POOL}.max", _CONNECTIONS, "Most resources there may be.", lambda one: one.bounds.max_resources),
    _level(f"{_POOL}.idle.min", _CONNECTIONS, "Resources kept in reserve.", lambda one: one.bounds.reserve),
    _level(f"{_POOL}.pending_requests", "{request}", "Tasks and leases that wait for a resource.", _pending),
    Instrument(
        f"{_POOL}.timeouts",
        "{timeout}",
        "Calls of lease and run_task that got no resource in time.",
        Kind.COUNTER,
        _one(lambda one: one.backend.acquire_timeouts),
    ),
)
_WORKER_INSTRUMENTS = (
    Instrument(
        "gtasker.worker.active", _WORKERS, "Workers with a resource, by state.", Kind.LEVEL, _workers, _WORKER_STATE
    ),
    _level("gtasker.worker.base", _WORKERS, "Workers that are always wanted.", lambda one: one.bounds.base_workers),
    _level("gtasker.worker.burst", _WORKERS, "Workers above the base.", lambda one: one.stats.burst_workers),
    _level("gtasker.worker.max", _WORKERS, "Most workers there may be.", lambda one: one.bounds.max_workers),
)
_TASK_INSTRUMENTS = (
    Instrument("gtasker.task.waiting", _TASKS, "Tasks that wait, by line.", Kind.LEVEL, _waiting, _LINE),
    Instrument(
        "gtasker.task.oldest_wait",
        "s",
        "How long the longest of those waiting now has waited.",
        Kind.WORST,
        _one(lambda one: one.metrics.longest_wait),
    ),
    _total("gtasker.task.arrived", _TASKS, "Tasks that were accepted.", lambda metrics: metrics.total_tasks_arrived),
    Instrument("gtasker.task.ended", _TASKS, "Tasks that answered, by outcome.", Kind.COUNTER, _ended, _OUTCOME),
    _total("gtasker.task.retried", "{attempt}", "Further attempts.", lambda metrics: metrics.total_tasks_retried),
    _total(
        "gtasker.task.timed_out",
        _TASKS,
        "Tasks whose time was up; they count as failed, too.",
        lambda metrics: metrics.total_tasks_timed_out,
    ),
    _total("gtasker.task.rejected", _TASKS, "Tasks that were refused.", lambda metrics: metrics.total_tasks_rejected),
    _level("gtasker.abandoned", "{call}", "User code that survives its interruption.", lambda one: one.stats.abandoned),
)
_RESOURCE_INSTRUMENTS = (
    _level("gtasker.resource.creating", _RESOURCES, "on_create under way.", lambda one: one.stats.creating_resources),
    _total("gtasker.resource.created", _RESOURCES, "Made so far.", lambda metrics: metrics.resources_created),
    _total("gtasker.resource.destroyed", _RESOURCES, "Unmade so far.", lambda metrics: metrics.resources_destroyed),
    _total(
        "gtasker.resource.create_failures",
        "{failure}",
        "Calls of on_create that failed.",
        lambda metrics: metrics.create_failures,
    ),
    _level(
        "gtasker.backend.down",
        "{runner}",
        "Runners that refuse work because no resource can be made.",
        lambda one: float(one.backend.is_down),
    ),
)

INSTRUMENTS = _POOL_INSTRUMENTS + _WORKER_INSTRUMENTS + _TASK_INSTRUMENTS + _RESOURCE_INSTRUMENTS

HUB_LAG = Fact("gtasker.hub.lag", "s", "How late the event loop was, at worst, in the last ten seconds.")
WAIT_TIME = Fact("gtasker.task.wait_time", "s", "From acceptance to the beginning of the attempt that answered.")
RUN_TIME = Fact("gtasker.task.run_time", "s", "The attempt that answered.")
