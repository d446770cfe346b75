"""Forks and exits: the cores at work in this process, and what becomes of them in a child.

Invariant: a core is in `_running` exactly while it is open or closing in this process. In a forked child it is in
`_inherited`, inert and kept for ever: collecting its greenlets would run their `finally` blocks, on connections that
are the parent's.

`os.fork` leaves all greenlets running in the child. So the hook takes away what could make ours run: their `switch` and
`throw` do nothing any more, the timers act no more, and whoever comes back into our code parks for good. It does
nothing else, for `subprocess` may fork too; the child's runner begins anew on its first use.
"""

from __future__ import annotations

import atexit
import os
import warnings
from typing import Any, Protocol


class Forkable(Protocol):
    """A core, as far as a fork knows it."""

    site: Any
    crew: Any
    backlog: Any


_running: dict[int, Any] = {}
_inherited: list[Any] = []


def enroll(core: Forkable) -> None:
    """`core` is at work from now on."""
    _running[id(core)] = core


def retire(core: Forkable) -> None:
    """`core` has ended."""
    _running.pop(id(core), None)


def cores() -> list[Any]:
    """The cores at work, in order of their start."""
    return list(_running.values())


def _inert(*_: Any) -> None:
    """What switching to an inherited greenlet does."""


def _disown() -> None:
    for core in _running.values():
        site = core.site
        site.forked = True
        site.home = 0
        core.outcomes.is_direct = core.outcomes.may_be_direct = False
        site.deadlines.inert = site.housekeeping.inert = site.errands.inert = True
        site.turn.renounce()
        for idle in (core.backlog.idle, core.backlog.spare, core.backlog.wanting, core.backlog.lent):
            idle.clear()  # whatever still waits here is given nothing of the parent's
        for greenlet in site.errands.pool:
            greenlet.switch = greenlet.throw = _inert
        _inherited.append(core)
    _running.clear()


def _warn_at_exit() -> None:
    for core in _running.values():
        warnings.warn(
            f"runner {core.site.config.name!r} was not stopped; its resources are not destroyed",
            ResourceWarning,
            stacklevel=1,
        )


os.register_at_fork(after_in_child=_disown)
atexit.register(_warn_at_exit)
