"""A rate limit by the `limits` library: so many attempts in a moving window, here or in all processes together.

Invariant: it makes attempts wait, never fail; those of one process go on in the order of their coming, and one at a
time of them asks.
"""

from __future__ import annotations

import random
import time
from typing import final

import gevent
import limits
from gevent.lock import BoundedSemaphore
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter

from gtasker.distributed.errors import LimiterUnavailableError, NoSlotError

__all__ = ["RateLimit"]

_SHORTEST, _LONGEST = 0.002, 0.25  # seconds between two questions


@final
class RateLimit:
    """`RateLimit("100/second")` in this process; with `url="redis://..."` in all that use the same `name` there.

    `fail_open`: attempts go on unhindered while the place of counting is away; else they fail with
    LimiterUnavailableError, before anything has begun.
    """

    def __init__(self, rate: str, name: str = "gtasker", *, url: str = "memory://", fail_open: bool = False) -> None:
        self._item = limits.parse(rate)
        self._name = name
        self._fail_open = fail_open
        self._window = MovingWindowRateLimiter(storage_from_string(url))
        self._head = BoundedSemaphore(1)
        spacing: float = self._item.get_expiry() / self._item.amount
        self._pause = min(max(spacing / 2, _SHORTEST), _LONGEST)

    def __repr__(self) -> str:
        return f"<RateLimit {self._item} {self._name!r}>"

    def wait(self, timeout: float | None = None) -> None:
        """Return when one more may begin. Switches. Raises NoSlotError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._head.acquire(timeout=timeout):
            raise NoSlotError(f"{self!r} was full for {timeout} seconds")
        try:
            while not self._hit():
                if deadline is not None and time.monotonic() > deadline:
                    raise NoSlotError(f"{self!r} was full for {timeout} seconds")
                gevent.sleep(self._pause * random.uniform(0.8, 1.2))
        finally:
            self._head.release()

    def _hit(self) -> bool:
        try:
            return self._window.hit(self._item, self._name)
        except Exception as error:
            if self._fail_open:
                return True
            raise LimiterUnavailableError(f"{self!r} cannot be counted: {error}") from error
