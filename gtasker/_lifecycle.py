"""The life of a runner: its states, and the only moves between them.

Invariant: a state changes through `move` alone, so a runner is never in a state that the table does not lead to.

    NEW ──start──> RUNNING <──pause/resume──> PAUSED
     ^               │  │                      │
     └──StartError───┘  └───────stop───> STOPPING ──┐
                     └──────────kill──> KILLED <────┤ time is up, or kill
                                          └──> CLOSED <── all is done
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where a runner is in its life. `CLOSED` is final, but for a forked child, whose runner is `NEW` again."""

    NEW = "new"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    KILLED = "killed"
    CLOSED = "closed"


_MOVES: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.RUNNING, State.CLOSED}),
    State.RUNNING: frozenset({State.PAUSED, State.STOPPING, State.KILLED, State.NEW}),
    State.PAUSED: frozenset({State.RUNNING, State.STOPPING, State.KILLED, State.NEW}),
    State.STOPPING: frozenset({State.KILLED, State.CLOSED}),
    State.KILLED: frozenset({State.CLOSED, State.NEW}),
    State.CLOSED: frozenset(),
}


class Lifecycle:
    """Holds the state and refuses a move that is not in the table. Never switches."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.NEW

    @property
    def is_open(self) -> bool:
        """Whether work from outside is taken."""
        return self.state is State.RUNNING or self.state is State.PAUSED

    @property
    def is_closing(self) -> bool:
        """Whether a shutdown has begun and is not over."""
        return self.state is State.STOPPING or self.state is State.KILLED

    def move(self, after: State) -> State:
        """Go to `after` and return the state before. A move that the table lacks is a bug of ours: AssertionError."""
        before = self.state
        if after not in _MOVES[before]:
            raise AssertionError(f"no way from {before} to {after}")
        self.state = after
        return before
