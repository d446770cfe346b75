"""Merging: the snapshots of all processes become one view, as the page gets it.

Invariant: counts are sums, waits and lags the worst; a process that is silent is named, and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from gtasker.integrations.dashboard._history import SLOT, points
from gtasker.integrations.dashboard._journal import LINES
from gtasker.integrations.dashboard._sampler import STACKS
from gtasker.integrations.dashboard._shelf import STALE_AFTER

_STATES = ("running", "paused", "stopping", "killed")
"""What a runner may be that is at work; that of several is the last of these that one of them is in."""
_TOTALS = (
    "total_tasks_arrived",
    "total_tasks_completed",
    "total_tasks_failed",
    "total_tasks_retried",
    "total_tasks_cancelled",
    "total_tasks_timed_out",
    "total_tasks_rejected",
    "resources_created",
    "resources_destroyed",
    "create_failures",
    "task_arrival_rate",
    "task_completion_rate",
)


class Part(NamedTuple):
    """A runner of one process: which process, and which of the runners there."""

    pid: int
    number: int
    runner: dict[str, Any]

    def mark(self, use: dict[str, Any]) -> dict[str, Any]:
        """What concerns a resource of this runner, with the resource's key among those of all runners."""
        return {"pid": self.pid, "key": f"{self.pid}-{self.number}-{use['resource_id']}", **use}


def merge(snapshots: list[dict[str, Any]], now: float, after: int) -> dict[str, Any]:
    """The view at `now`, with the slots of history after `after`."""
    fresh = [snapshot for snapshot in snapshots if now - snapshot["at"] <= STALE_AFTER]
    named: dict[str, list[Part]] = {}
    for snapshot in fresh:
        for number, runner in enumerate(snapshot["runners"]):
            named.setdefault(runner["name"], []).append(Part(snapshot["pid"], number, runner))
    tracks = {name: [snapshot["tracks"].get(name, []) for snapshot in fresh] for name in named}
    return {
        "now": now,
        "slot": SLOT,
        "processes": [_process(snapshot, now) for snapshot in sorted(snapshots, key=lambda one: one["pid"])],
        "runners": [
            {**_runner(name, named[name]), "points": points(tracks[name], after, now)} for name in sorted(named)
        ],
        "events": _events(fresh),
    }


def _process(snapshot: dict[str, Any], now: float) -> dict[str, Any]:
    stats = [runner["stats"] for runner in snapshot["runners"]]
    return {
        "pid": snapshot["pid"],
        "silent": now - snapshot["at"] if now - snapshot["at"] > STALE_AFTER else 0.0,
        "uptime": snapshot["uptime"],
        "lag": snapshot["lag"],
        "resources": sum(one["live_resources"] for one in stats),
        "max_resources": sum(runner["bounds"]["max_resources"] for runner in snapshot["runners"]),
        "busy": sum(one["busy_workers"] for one in stats),
        "workers": sum(one["active_workers"] for one in stats),
        "waiting": sum(_waiting(one) for one in stats),
        "rate": sum(runner["metrics"]["task_completion_rate"] for runner in snapshot["runners"]),
    }


def _runner(name: str, parts: list[Part]) -> dict[str, Any]:
    runners = [part.runner for part in parts]
    states = {runner["stats"]["state"] for runner in runners}
    uses = [part.mark(use) for part in parts for use in part.runner["uses"]]
    return {
        "name": name,
        "state": max(states, key=_STATES.index),
        "stats": _sums((runner["stats"] for runner in runners), [key for key in runners[0]["stats"] if key != "state"]),
        "bounds": _sums((runner["bounds"] for runner in runners), runners[0]["bounds"]),
        "totals": _sums((runner["metrics"] for runner in runners), _TOTALS),
        "waiting": sum(_waiting(runner["stats"]) for runner in runners),
        "oldest": max(runner["metrics"]["longest_wait"] for runner in runners),
        "backend": _backend([runner["backend"] for runner in runners]),
        "resources": [part.mark(resource) for part in parts for resource in part.runner["resources"]],
        "uses": sorted(uses, key=lambda use: -use["age"])[:STACKS],
    }


def _backend(parts: list[dict[str, Any]]) -> dict[str, Any]:
    failing = [part for part in parts if part["failing_for"] > 0]
    worst = max(parts, key=lambda part: part["failing_for"])
    return {
        **worst,
        "is_down": any(part["is_down"] for part in parts),
        "failures": sum(part["failures"] for part in failing),
        "acquire_timeouts": sum(part["acquire_timeouts"] for part in parts),
        "next_attempt_in": min((part["next_attempt_in"] for part in failing), default=0.0),
    }


def _events(snapshots: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = [{"pid": snapshot["pid"], **line} for snapshot in snapshots for line in snapshot["events"]]
    return sorted(lines, key=lambda line: -line["at"])[:LINES]


def _sums(parts: Iterable[dict[str, Any]], names: Iterable[str]) -> dict[str, float]:
    parts = list(parts)
    return {name: sum(part[name] for part in parts) for name in names}


def _waiting(stats: dict[str, Any]) -> int:
    total: int = stats["queued_tasks"] + stats["priority_tasks"] + stats["delayed_tasks"] + stats["waiting_leases"]
    return total
