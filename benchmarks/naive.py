"""The runner that everybody writes first: a PriorityQueue of calls, greenlets that serve it, an AsyncResult a call.

Invariant: does nothing that its few lines do not say: no time-outs, no metrics, no healing. It is the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import gevent
from gevent.event import AsyncResult
from gevent.queue import PriorityQueue

NORMAL = 10

Call = Callable[[Any], Any]


class PlainWorker:
    """Greenlets that serve one PriorityQueue, each with a resource of its own."""

    def __init__(self, resource: object = None) -> None:
        self._line: PriorityQueue[tuple[int, int, Call, AsyncResult[Any]]] = PriorityQueue()
        self._numbers = count()
        self._resource = resource

    def submit(self, fn: Call, priority: int = NORMAL) -> AsyncResult[Any]:
        """Queue the call and return its result to come."""
        result: AsyncResult[Any] = AsyncResult()
        self._line.put((priority, next(self._numbers), fn, result))
        return result

    def call(self, fn: Call) -> Any:
        """Queue the call and wait for its value. Switches."""
        return self.submit(fn).get()

    def serve(self) -> None:
        """Serve the queue for ever. Switches."""
        get, resource = self._line.get, self._resource
        while True:
            _, _, fn, result = get()
            try:
                result.set(fn(resource))
            except Exception as error:
                result.set_exception(error)


@contextmanager
def plain_worker(workers: int = 1) -> Iterator[PlainWorker]:
    """A PlainWorker served by that many greenlets."""
    worker = PlainWorker()
    greenlets = [gevent.spawn(worker.serve) for _ in range(workers)]
    try:
        yield worker
    finally:
        gevent.killall(greenlets)
