"""A look now and then, made by the event loop itself: no greenlet and no thread, and the loop may end.

Invariant: while a ticker is started, its call is made in the hub of the thread that started it, and in no other.
What is called there must not block; if it raises, the hub tells of it, and the next look comes all the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent.hub import get_hub

LAG_INTERVAL = 0.1
"""Seconds between two looks at the loop: a shorter stall may be missed, a longer one is told so much too short."""
LAG_MEMORY = 10.0
"""Seconds for which the worst lateness is remembered."""


class Ticker:
    """Calls `tick()` every `interval` seconds. Unref'd: it does not keep the loop from ending."""

    def __init__(self, tick: Callable[[], object], interval: float) -> None:
        self._tick = tick
        self._interval = interval
        self._timer: Any = None

    def start(self) -> None:
        """Begin, in the hub of the calling thread. Harmless when begun. Never switches."""
        if self._timer is None:
            self._timer = get_hub().loop.timer(self._interval, self._interval, ref=False)
            self._timer.start(self._tick)

    def stop(self) -> None:
        """End. Harmless when ended. Never switches."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()


class LoopLag:
    """How late the event loop was with its timers: what it costs that a task kept the hub to itself."""

    def __init__(self) -> None:
        self._ticker = Ticker(self._look, LAG_INTERVAL)
        self._looked_at = 0.0
        # Ascending in time and descending in lag: the first is the worst, and what is worse drives out the older.
        self._worst: deque[tuple[float, float]] = deque()

    def start(self) -> None:
        """Begin to look. Never switches."""
        self._looked_at = monotonic()
        self._ticker.start()

    def stop(self) -> None:
        """Look no more. Never switches."""
        self._ticker.stop()
        self._worst.clear()

    def worst(self) -> float:
        """The greatest lateness of the last `LAG_MEMORY` seconds; seconds. Never switches."""
        self._forget(monotonic())
        return self._worst[0][1] if self._worst else 0.0

    def _look(self) -> None:
        now = monotonic()
        lag = max(0.0, now - self._looked_at - LAG_INTERVAL)
        self._looked_at = now
        while self._worst and self._worst[-1][1] <= lag:
            self._worst.pop()
        self._worst.append((now, lag))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._worst and self._worst[0][0] < now - LAG_MEMORY:
            self._worst.popleft()
