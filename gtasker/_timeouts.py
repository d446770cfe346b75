"""Time-outs of the same length: they end in the order in which they began, so one entry of the alarm serves them all.

Invariant: while anybody waits, an entry is set for the end of the first of them, or for a moment before that.

Beginning and ending a wait cost an append and two counts; an entry each would cost a push to the heap, and its removal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from gtasker._alarm import Alarm, Entry

T = TypeVar("T")

# So many who wait no more may stand between those who do.
_GONE = 16
# So many lengths, or as many as are in use, are kept though nobody waits for so long: callers may ask for any.
_KEPT = 16


class Timeouts(Generic[T]):
    """The time-outs of one kind: `expire(who, seconds)` is called for each who waits for too long.

    `has_ended(who)` says who waits no more. With `holds` the loop goes on while somebody waits, and not for longer.
    """

    __slots__ = ("_lengths", "_most", "alarm", "expire", "has_ended", "holds")

    def __init__(
        self,
        alarm: Alarm,
        has_ended: Callable[[T], bool],
        expire: Callable[[T, float], object],
        *,
        holds: bool = False,
    ) -> None:
        self.alarm = alarm
        self.has_ended = has_ended
        self.expire = expire
        self.holds = holds
        self._lengths: dict[float, Length[T]] = {}
        self._most = _KEPT  # with more than these, the ones that nobody waits for are forgotten

    def of(self, seconds: float) -> Length[T]:
        """The time-outs of this length."""
        length = self._lengths.get(seconds)
        if length is None:
            if len(self._lengths) >= self._most:
                self._lengths = {each: length for each, length in self._lengths.items() if length.live}
                self._most = max(_KEPT, 2 * len(self._lengths))
            length = self._lengths[seconds] = Length(self, seconds)
        return length


class Length(Generic[T]):
    """Those who wait for at most `seconds`."""

    __slots__ = ("_entry", "_kind", "_line", "live", "seconds")

    def __init__(self, kind: Timeouts[T], seconds: float) -> None:
        self.seconds = seconds
        self.live = 0  # how many wait
        self._kind = kind
        self._line: deque[tuple[float, T]] = deque()  # those who wait, and some who have ended
        self._entry: Entry | None = None

    def begin(self, who: T, now: float) -> None:
        """`who` waits from now on; each `begin` needs an `end`. Never switches."""
        line = self._line
        line.append((now + self.seconds, who))
        self.live += 1
        if self._entry is None:
            self._entry = self._kind.alarm.at(line[0][0], self._ring)

    def end(self, who: T) -> None:
        """`who` waits no more, and `has_ended` says so. Never switches."""
        self.live -= 1
        line = self._line
        if line and line[0][1] is who:  # as a rule, for who waits longest is served first
            line.popleft()
        elif len(line) > 2 * self.live + _GONE:
            has_ended = self._kind.has_ended
            self._line = line = deque(item for item in line if not has_ended(item[1]))
        if not self.live:
            line.clear()
            if self._kind.holds and self._entry is not None:
                self._entry.cancel()
                self._entry = None

    def _ring(self) -> None:
        self._entry = None
        now, has_ended = monotonic(), self._kind.has_ended
        try:
            while self._line and (self._line[0][0] <= now or has_ended(self._line[0][1])):
                _, who = self._line.popleft()
                if not has_ended(who):
                    self._kind.expire(who, self.seconds)
        finally:  # who is woken may raise, and others still wait
            if self._line and self._entry is None:
                self._entry = self._kind.alarm.at(self._line[0][0], self._ring)
