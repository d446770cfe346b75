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


class Wait(Generic[T]):
    """`who` waits until `when` at most; None waits no more. Made without `__init__`, as whatever is made often."""

    __slots__ = ("length", "when", "who")

    who: T | None
    when: float
    length: Length[T]

    def end(self) -> None:
        """Wait no more. Never switches."""
        if self.who is None:  # its time is up already
            return
        self.who = None
        length = self.length
        length.live -= 1
        line = length.line
        if line and line[0] is self:  # as a rule, for who waits longest is served first
            line.popleft()
        elif len(line) > 2 * length.live + _GONE:
            length.line = deque(wait for wait in line if wait.who is not None)
        if not length.live:
            length.rest()


class Timeouts(Generic[T]):
    """The time-outs of one kind: `expire(who, seconds)` is called for each who waits for too long.

    The loop goes on while somebody waits, if it is the alarm's to hold it, and not for longer.
    """

    __slots__ = ("_lengths", "_most", "alarm", "expire")

    def __init__(self, alarm: Alarm, expire: Callable[[T, float], object]) -> None:
        self.alarm = alarm
        self.expire = expire
        self._lengths: dict[float, Length[T]] = {}
        self._most = _KEPT  # with more than these, the ones that nobody waits for are forgotten

    def of(self, seconds: float) -> Length[T]:
        """The time-outs of this length."""
        length = self._lengths.get(seconds)
        if length is None:
            if len(self._lengths) >= self._most:
                self._forget()
                self._most = max(_KEPT, 2 * len(self._lengths))
            length = self._lengths[seconds] = Length(self, float(seconds))
        return length

    def _forget(self) -> None:
        for length in self._lengths.values():
            if not length.live:
                length.close()
        self._lengths = {each: length for each, length in self._lengths.items() if length.live}


class Length(Generic[T]):
    """Those who wait for at most `seconds`."""

    __slots__ = ("_entry", "_kind", "line", "live", "seconds")

    def __init__(self, kind: Timeouts[T], seconds: float) -> None:
        self.seconds = seconds
        self.live = 0  # how many wait
        self.line: deque[Wait[T]] = deque()  # those who wait, and some who have ended
        self._kind = kind
        self._entry: Entry | None = None

    def begin(self, who: T, now: float) -> Wait[T]:
        """`who` waits from now on; what is returned has to be ended. Never switches."""
        wait: Wait[T] = Wait()
        wait.who = who
        wait.when = now + self.seconds
        wait.length = self
        self.line.append(wait)
        self.live += 1
        if self._entry is None:
            self._entry = self._kind.alarm.at(self.line[0].when, self._ring)
        elif self.live == 1:
            self._entry.hold()
        return wait

    def rest(self) -> None:
        """Nobody waits; as a rule somebody soon will, so the entry stays, and lets the loop end. Never switches."""
        self.line.clear()
        if self._entry is not None:
            self._entry.release()

    def close(self) -> None:
        """Nobody waits, or will. Never switches."""
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None

    def _ring(self) -> None:
        self._entry = None
        now = monotonic()
        try:
            while self.line and (self.line[0].who is None or self.line[0].when <= now):
                wait = self.line.popleft()
                who, wait.who = wait.who, None
                if who is not None:
                    self.live -= 1
                    self._kind.expire(who, self.seconds)
        finally:  # who is woken may raise, and others still wait
            if self.line and self._entry is None:
                self._entry = self._kind.alarm.at(self.line[0].when, self._ring)
