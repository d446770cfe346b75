"""The journal: the last events worth a line, in words.

Invariant: it holds text and numbers, never an event's error, whose frames would keep what failed alive; and at most
`LINES` lines, for the same thing again within `FOLD_SPAN` is counted on the line that is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gtasker import RunnerEvent
from gtasker import events as e

LINES = 100
"""Lines that are kept; the oldest goes first."""
FOLD_SPAN = 30.0
"""Seconds within which a repeated event is a count and not a line."""

# What replaces a resource in the ordinary course of things.
_ROUTINE = {
    e.DestroyReason.EXPIRED,
    e.DestroyReason.IDLE,
    e.DestroyReason.SURPLUS,
    e.DestroyReason.RECYCLED,
    e.DestroyReason.STOPPED,
    e.DestroyReason.KILLED,
}
_WORDS = {
    e.DestroyReason.UNHEALTHY: "its error was unhealthy",
    e.DestroyReason.INTERRUPTED: "its use was interrupted",
    e.DestroyReason.EXPIRED: "its lifetime was over",
    e.DestroyReason.IDLE: "it was idle for long",
    e.DestroyReason.CHECK_FAILED: "its check failed",
    e.DestroyReason.READABLE: "its socket was closed or dirty",
    e.DestroyReason.RESET_FAILED: "its reset failed",
    e.DestroyReason.RECYCLED: "recycled",
    e.DestroyReason.DISCARDED: "its holder discarded it",
    e.DestroyReason.LEAKED: "its holder ended",
    e.DestroyReason.SURPLUS: "more existed than are wanted",
    e.DestroyReason.STOPPED: "the runner stopped",
    e.DestroyReason.KILLED: "the runner was killed",
}

Line = tuple[str, str]
"""Its level (info, good, warn, bad) and its text."""


class Journal:
    """The last lines. `show_messages`: tell what errors say, too, which may hold what nobody should read."""

    def __init__(self, *, show_messages: bool) -> None:
        self._show_messages = show_messages
        self._lines: dict[tuple[str, str], dict[str, Any]] = {}  # by runner and text, the last changed last

    def note(self, event: RunnerEvent) -> None:
        """Write the event down, if it is worth a line. Never switches."""
        tell = _TOLD.get(type(event))
        line = tell(self, event) if tell is not None else None
        if line is not None:
            self.write(event.at, event.runner, *line)

    def write(self, at: float, runner: str, level: str, text: str) -> None:
        """Add a line, or count on the one that says the same. Never switches."""
        line = self._lines.pop((runner, text), None)
        if line is None or at - line["at"] > FOLD_SPAN:
            line = {"since": at, "runner": runner, "level": level, "text": text, "count": 0}
        self._lines[runner, text] = {**line, "at": at, "count": line["count"] + 1}
        if len(self._lines) > LINES:
            del self._lines[next(iter(self._lines))]

    def lines(self) -> list[dict[str, Any]]:
        """What was written, the oldest first. Never switches."""
        return list(self._lines.values())

    def forget(self) -> None:
        """Begin anew. Never switches."""
        self._lines.clear()

    def _name(self, error: BaseException) -> str:
        name = type(error).__name__
        return f"{name}: {error}".strip()[:500] if self._show_messages else name

    def _destroyed(self, event: e.ResourceDestroyed) -> Line:
        level = "info" if event.reason in _ROUTINE else "warn"
        return level, f"Resource destroyed: {_WORDS[event.reason]}"

    def _create_failed(self, event: e.ResourceCreateFailed) -> Line:
        return "bad", f"Could not make a resource: {self._name(event.error)}"

    def _lease_failed(self, event: e.LeaseFailed) -> Line | None:
        if event.reason is e.LeaseFailure.LEFT:
            return None
        return "warn", f"No resource for a lease: {event.reason.replace('_', ' ')}"

    def _leaked(self, event: e.LeaseLeaked) -> Line:
        return "bad", f"{event.info.holder} keeps resource {event.info.resource_id} for long, or ended with it"

    def _down(self, event: e.BackendDown) -> Line:
        return "bad", f"Backend down: {self._name(event.error)}"

    def _up(self, event: e.BackendUp) -> Line:
        return "good", f"Backend back after {event.seconds_down:.1f} s"

    def _scaled(self, event: e.WorkersScaled) -> Line:
        return "info", f"Workers {event.before} → {event.after}: {event.why}"

    def _retried(self, event: e.TaskRetried) -> Line:
        return "warn", f"{event.task} is tried again: {self._name(event.error)}"

    def _timed_out(self, event: e.TaskTimedOut) -> Line:
        return "warn", f"{event.task} timed out"

    def _rejected(self, event: e.TaskRejected) -> Line:
        return "warn", f"{event.task} was rejected"

    def _blocked(self, event: e.HubBlocked) -> Line:
        tasks = ", ".join(dict.fromkeys(event.tasks)) or "something else"
        return "bad", f"The event loop stood still for {event.seconds:.2f} s: {tasks[:200]}"

    def _state_changed(self, event: e.StateChanged) -> Line:
        return "info", f"Runner {event.before.value} → {event.after.value}"


# The others are too many to be told one by one, and are seen in the numbers.
_TOLD: dict[type[RunnerEvent], Callable[[Journal, Any], Line | None]] = {
    e.ResourceDestroyed: Journal._destroyed,
    e.ResourceCreateFailed: Journal._create_failed,
    e.LeaseFailed: Journal._lease_failed,
    e.LeaseLeaked: Journal._leaked,
    e.BackendDown: Journal._down,
    e.BackendUp: Journal._up,
    e.WorkersScaled: Journal._scaled,
    e.TaskRetried: Journal._retried,
    e.TaskTimedOut: Journal._timed_out,
    e.TaskRejected: Journal._rejected,
    e.HubBlocked: Journal._blocked,
    e.StateChanged: Journal._state_changed,
}
