"""Limiters: how many resources there may be in all processes together.

Invariant: a slot is taken before `on_create` is called and given back after `on_destroy` has returned; it belongs to a
resource, not to a task, so that counting costs nothing while tasks run.

    config = Config(**bounded(resource(dsn), Share(100, 1 / 8)), worker_count=5, ...)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, final

from gevent.lock import BoundedSemaphore

from gtasker import ConfigError
from gtasker.distributed.errors import NoSlotError

__all__ = ["Limiter", "Share", "Slot", "bounded"]


class Slot(Protocol):
    """The right to have one resource."""

    def release(self) -> None:
        """Give it back. May switch; must not raise, for the resource is gone."""

    def forget(self) -> None:
        """Let go without a word: it is the parent's, and this is a forked child."""


class Limiter(Protocol):
    """Counts slots: `Share`, `gtasker.distributed.semaphore.RedisLimiter`."""

    def acquire(self, timeout: float) -> Slot:
        """Take a slot, within `timeout` seconds. Switches. Raises NoSlotError, LimiterUnavailableError."""


@final
class Share:
    """A fixed part of a bound: `Share(total=100, share=1 / 8)` is 12 here, and needs nobody to be asked.

    The right one while the number of processes is known, for the sum of the shares is the bound. `count` is the part.
    """

    def __init__(self, total: int, share: float = 1.0) -> None:
        if not 0 < share <= 1:
            raise ConfigError(f"share must be above 0 and at most 1, not {share!r}")
        # 100 * (1 / 10) must not be 9.
        self.count = math.floor(total * share + 1e-9)
        if self.count < 1:
            raise ConfigError(f"total * share must be at least 1, not {total!r} * {share!r}")
        self._slots = BoundedSemaphore(self.count)
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<Share of {self.count}>"

    def acquire(self, timeout: float) -> Slot:
        """Take a slot, within `timeout` seconds. Switches. Raises NoSlotError."""
        if self._pid != os.getpid():
            # The child has a share of its own, as each process has. What the parent was making, nobody forgets here.
            self._pid, self._slots = os.getpid(), BoundedSemaphore(self.count)
        if not self._slots.acquire(timeout=timeout):
            raise NoSlotError(f"all {self.count} resources of this process's share exist")
        return _ShareSlot(self._slots)


class _ShareSlot:
    def __init__(self, slots: BoundedSemaphore) -> None:
        self._slots = slots

    def release(self) -> None:
        self._slots.release()

    def forget(self) -> None:
        pass  # it is one of the parent's share


def bounded(options: Mapping[str, Any], limiter: Limiter, *, patience: float = 1.0) -> dict[str, Any]:
    """Return `options` of a `Config`, with hooks that take a slot for each resource.

    `patience` (seconds): how long one `on_create` waits for a slot. Then it fails, and the runner tries again after its
    back-off, as for a backend that is full; a resource that comes free meanwhile serves who waits.
    """
    create, destroy = options["on_create"], options["on_destroy"]
    forget: Callable[[Any], None] | None = options.get("on_forget")
    # By identity, for a resource need not be hashable; the runner keeps each alive until it is destroyed. One object
    # may stand for several: a client that all share.
    slots: dict[int, list[Slot]] = {}

    def slot_of(resource: Any) -> Slot:
        held = slots[id(resource)]
        slot = held.pop()
        if not held:
            del slots[id(resource)]
        return slot

    def on_create() -> Any:
        slot = limiter.acquire(patience)
        try:
            resource = create()
        except BaseException:
            slot.release()
            raise
        slots.setdefault(id(resource), []).append(slot)
        return resource

    def on_destroy(resource: Any) -> None:
        try:
            destroy(resource)
        finally:
            slot_of(resource).release()

    def on_forget(resource: Any) -> None:
        slot_of(resource).forget()
        if forget is not None:
            forget(resource)

    on_create.limiter = limiter  # type: ignore[attr-defined]  # how a limiter finds the runners it bounds
    return {**options, "on_create": on_create, "on_destroy": on_destroy, "on_forget": on_forget}
