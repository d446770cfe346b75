"""The queues: one for each level of priority, for a priority inside of a queue acts only among what was fetched.

Invariant: a task's queue follows from its priority alone, so that senders and servers agree.
"""

from __future__ import annotations

from gtasker import Priority
from gtasker.distributed._engine import Work

QUEUES = ("high", "normal", "low")


def queue_of(task: Work) -> str:
    """The queue of a task. Never switches."""
    if task.priority < Priority.NORMAL:
        return QUEUES[0]
    return QUEUES[1] if task.priority == Priority.NORMAL else QUEUES[2]
