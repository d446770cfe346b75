"""A line of waiting entries: by priority, then by arrival, wherever in it an entry comes back or leaves.

Invariant: an entry whose `lane` is set is in exactly that lane; `live` counts these, and nobody else.

Strict lines keep one first-come lane for each priority, and a `PriorityQueue` of the lanes that are not empty: a pop
costs the same with ten waiting or a million. An aged line keeps the entries themselves in a `PriorityQueue`, by
arrival + priority x ageing, which is a constant of the entry.
Entries that leave from the middle are marked, let go of, and cleared away when they are half of what is there.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from gevent.queue import PriorityQueue


class Entry(Protocol):
    """What can stand in a line. `seq` counts up with arrival and is the entry's own for ever."""

    priority: int
    seq: int
    queued_at: float
    lane: Any


E = TypeVar("E", bound=Entry)


class _Lane(Generic[E]):
    """The entries of one priority. `returned` holds those that came back with an old number."""

    __slots__ = ("gone", "in_use", "is_queued", "priority", "returned", "waiting")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.waiting: deque[E] = deque()
        self.returned: list[tuple[int, float, int, E]] = []
        self.gone = 0  # entries of both that were withdrawn
        self.in_use = False  # has a live entry
        self.is_queued = False  # is in the line's queue

    @property
    def live(self) -> int:
        return len(self.waiting) + len(self.returned) - self.gone

    def head(self) -> E:
        """The first live entry; the lane has one."""
        waiting, returned = self.waiting, self.returned
        while waiting and waiting[0].lane is not self:
            waiting.popleft()
            self.gone -= 1
        while returned and returned[0][-1].lane is not self:
            heapq.heappop(returned)
            self.gone -= 1
        if returned and (not waiting or returned[0][0] < waiting[0].seq):
            return returned[0][-1]
        return waiting[0]

    def entries(self) -> Iterator[E]:
        yield from (entry for *_, entry in self.returned if entry.lane is self)
        yield from (entry for entry in self.waiting if entry.lane is self)

    def forget_withdrawn(self) -> None:
        if self.gone > self.live:
            self.waiting = deque(entry for entry in self.waiting if entry.lane is self)
            self.returned = [item for item in self.returned if item[-1].lane is self]
            heapq.heapify(self.returned)
            self.gone = 0


def _check_priority(priority: object) -> None:
    if not isinstance(priority, int):
        raise TypeError(f"a priority is an int, not {priority!r}")


class Line(Generic[E]):
    """Strict: a higher priority (a lower number) always goes first; within one, first come first served."""

    __slots__ = ("_best", "_ghosts", "_lanes", "_queue", "live")

    def __init__(self) -> None:
        self._lanes: dict[int, _Lane[E]] = {}
        self._queue: PriorityQueue[tuple[int, _Lane[E]]] = PriorityQueue()
        self._best: _Lane[E] | None = None  # the first of _queue; it has a live entry when the line has
        self._ghosts = 0  # lanes in _queue that are empty, for all in them were withdrawn
        self.live = 0

    def __len__(self) -> int:
        return self.live

    def push(self, entry: E) -> None:
        """Let `entry` stand in line, as the last of its priority. Never switches."""
        try:
            lane = self._lanes[entry.priority]
        except KeyError:
            lane = self._open(entry.priority)
        entry.lane = lane
        lane.waiting.append(entry)
        self.live += 1
        if not lane.in_use:
            self._filled(lane)

    def put_back(self, entry: E) -> None:
        """Let `entry` stand in line, at the place of its `seq`. Never switches."""
        entry.lane = lane = self._lanes.get(entry.priority) or self._open(entry.priority)
        heapq.heappush(lane.returned, (entry.seq, entry.queued_at, id(entry), entry))
        self.live += 1
        if not lane.in_use:
            self._filled(lane)

    def peek(self) -> E | None:
        """The entry that goes first, or None. Never switches."""
        return self._best.head() if self.live and self._best is not None else None

    def pop(self) -> E:
        """Take the first entry out; there is one. Never switches."""
        lane = self._best
        assert lane is not None
        if lane.returned or lane.gone:
            return self._pop_with_care(lane)
        entry = lane.waiting.popleft()
        entry.lane = None
        self.live -= 1
        if not lane.waiting:
            self._emptied(lane)
        return entry

    def _pop_with_care(self, lane: _Lane[E]) -> E:
        # Some came back with an old number, or left from the middle.
        entry = lane.head()
        if lane.returned and lane.returned[0][-1] is entry:
            heapq.heappop(lane.returned)
        else:
            lane.waiting.popleft()
        entry.lane = None
        self.live -= 1
        if not lane.live:
            self._emptied(lane)
        return entry

    def withdraw(self, entry: E) -> None:
        """Take `entry`, which stands in this line, out of it wherever it is. Never switches."""
        lane: _Lane[E] = entry.lane
        entry.lane = None
        lane.gone += 1
        self.live -= 1
        if lane.live:
            lane.forget_withdrawn()
        else:
            self._emptied(lane)

    def _open(self, priority: int) -> _Lane[E]:
        _check_priority(priority)
        lane = self._lanes[priority] = _Lane(priority)
        return lane

    def _filled(self, lane: _Lane[E]) -> None:
        lane.in_use = True
        if lane.is_queued:
            self._ghosts -= 1
        else:
            lane.is_queued = True
            self._queue.put((lane.priority, lane))
            self._best = self._queue.peek_nowait()[1]

    def _emptied(self, lane: _Lane[E]) -> None:
        lane.in_use = False
        lane.waiting.clear()
        lane.returned.clear()
        lane.gone = 0
        self._ghosts += 1
        if lane is self._best:
            self._find_best()
        elif 2 * self._ghosts > len(self._lanes):
            self._forget_ghosts()

    def _find_best(self) -> None:
        queue = self._queue
        while not queue.empty():
            lane = queue.peek_nowait()[1]
            if lane.in_use:
                self._best = lane
                return
            queue.get_nowait()
            lane.is_queued = False
            del self._lanes[lane.priority]
            self._ghosts -= 1
        self._best = None

    def _forget_ghosts(self) -> None:
        self._lanes = {priority: lane for priority, lane in self._lanes.items() if lane.live}
        self._queue = PriorityQueue(items=list(self._lanes.items()))
        self._ghosts = 0

    def rank(self, entry: E) -> tuple[float, int]:
        """What entries of several lines are compared by: the lower rank goes first."""
        return (entry.priority, entry.seq)

    def __iter__(self) -> Iterator[E]:
        """Everyone in line, in no promised order."""
        for lane in self._lanes.values():
            yield from lane.entries()

    def oldest(self) -> float | None:
        """When the one who has waited longest was queued; costs a step for each priority in use."""
        return min((lane.head().queued_at for lane in self._lanes.values() if lane.live), default=None)

    def above(self, priority: int) -> int:
        """How many go before anything of `priority`; costs a step for each priority in use."""
        return sum(lane.live for lane in self._lanes.values() if lane.priority < priority)


class AgedLine(Line[E]):
    """Waiting makes up for priority: `ageing` seconds of it for one step of the priority number."""

    __slots__ = ("_ageing", "_heap")

    def __init__(self, ageing: float) -> None:
        super().__init__()
        self._ageing = ageing
        self._heap: PriorityQueue[tuple[float, int, int, object, E]] = PriorityQueue()

    def push(self, entry: E) -> None:
        """Let `entry` stand in line. Never switches."""
        _check_priority(entry.priority)
        rank = self.rank(entry)  # may raise, for there are ints that no float can hold; then it is not in line
        entry.lane = place = object()  # an entry that was moved may be in the heap twice; one of them is its place
        self._heap.put((*rank, id(place), place, entry))
        self.live += 1

    def put_back(self, entry: E) -> None:
        """Let `entry` stand in line again: it has its old key, and so its old place. Never switches."""
        self.push(entry)

    def peek(self) -> E | None:
        """The entry that goes first, or None. Never switches."""
        heap = self._heap
        while not heap.empty():
            *_, place, entry = heap.peek_nowait()
            if entry.lane is place:
                return entry
            heap.get_nowait()
        return None

    def pop(self) -> E:
        """Take the first entry out; there is one. Never switches."""
        entry = self.peek()
        assert entry is not None
        self._heap.get_nowait()
        entry.lane = None
        self.live -= 1
        return entry

    def withdraw(self, entry: E) -> None:
        """Take `entry`, which stands in this line, out of it wherever it is. Never switches."""
        entry.lane = None
        self.live -= 1
        if len(self._heap) > 2 * self.live:
            live = [item for item in self._heap.queue if item[-1].lane is item[-2]]
            self._heap = PriorityQueue(items=live)

    def __iter__(self) -> Iterator[E]:
        """Everyone in line, in no promised order."""
        return (item[-1] for item in tuple(self._heap.queue) if item[-1].lane is item[-2])

    def oldest(self) -> float | None:
        """When the one who has waited longest was queued; costs a step for each entry."""
        return min((entry.queued_at for entry in self), default=None)

    def above(self, priority: int) -> int:
        """How many have a priority before `priority`; costs a step for each entry."""
        return sum(entry.priority < priority for entry in self)

    def rank(self, entry: E) -> tuple[float, int]:
        """What entries of several lines are compared by: the lower rank goes first."""
        return (entry.queued_at + entry.priority * self._ageing, entry.seq)
