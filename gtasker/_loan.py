"""The records of lending: a `Resource` that exists and who uses it, and a `Loan` that somebody asks for.

Invariant: a resource is idle, a worker's in an attempt, in the care of a hook, or out with the greenlet `holder`.
A loan is WAITING in line, GRANTED (it has a resource; its asker may not know yet), or OVER.
"""

from __future__ import annotations

import enum
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import ref

if TYPE_CHECKING:
    from gtasker._events import DestroyReason

R = TypeVar("R")


class Resource(Generic[R]):
    """What `on_create` returned, and what is known of it."""

    __slots__ = (
        "away",
        "call",
        "checked_at",
        "condemned",
        "created_at",
        "expires_at",
        "good_until",
        "holder",
        "id",
        "idle_since",
        "promised_at",
        "stack",
        "struck",
        "suspect",
        "taken_at",
        "used",
        "value",
        "warned",
        "worker",
    )

    def __init__(self, number: int, value: R, created_at: float, lifetime: float) -> None:
        self.id = number
        self.value = value
        self.created_at = created_at
        self.expires_at = created_at + lifetime
        # Before this moment it may be handed out unseen (but for how long it was idle).
        self.good_until = self.expires_at
        self.idle_since = created_at
        self.checked_at = created_at
        self.promised_at = -inf  # when it was found fit while a task waited for it
        self.condemned: DestroyReason | None = None  # it goes when it comes back
        self.suspect = False  # a younger one failed its check
        self.used = False
        self.away = False  # to be checked
        self.worker: Any = None  # whose own it is; None: of the reserve
        self.holder: Any = None  # the greenlet that has it on loan
        self.call: Any = None  # what it has it for: the callable of run_task, or the lease
        self.taken_at = 0.0
        self.struck: ref[BaseException] | None = None  # what of ours was thrown into the holder
        self.warned = False  # its long use was reported
        self.stack: Any = None  # where it was taken

    def condemn(self, reason: DestroyReason) -> None:
        """Have it destroyed when it comes back, or at the next look. Never switches."""
        self.condemned = reason
        self.good_until = -inf

    def distrust(self) -> None:
        """Have it checked before its next use, however short it was idle. Never switches."""
        self.suspect = True
        self.good_until = -inf


class LoanState(enum.Enum):
    """Where a loan is."""

    WAITING = "waiting"
    GRANTED = "granted"
    OVER = "over"


# An enumeration's attribute costs as much as a call of a function does.
WAITING, GRANTED, OVER = LoanState


class Loan(Generic[R]):
    """Somebody's wish for a resource. Who asks sets `priority` and `holder`, and the line all the rest."""

    __slots__ = ("error", "holder", "lane", "priority", "queued_at", "resource", "seq", "state", "waiter")

    extras = None  # nothing is to be done once its asker was woken
    priority: int
    seq: int
    queued_at: float
    lane: Any
    state: LoanState
    resource: Resource[R] | None
    holder: Any  # the greenlet that asked
    waiter: Any  # the same, while it waits
    error: BaseException | None  # why it is not granted

    def refuse(self, error: BaseException) -> None:
        """End the wait with an error. Never switches."""
        self.state = OVER
        self.error = error

    def wake(self) -> None:
        """Wake who waits, if it still does. In the hub."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter.switch()
