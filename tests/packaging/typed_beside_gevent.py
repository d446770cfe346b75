"""What of gtasker goes into gevent's functions, and the other way round, for those who have gevent's stubs.

Invariant: mypy takes each line under `--strict`. Nothing here is run.
"""

from __future__ import annotations

import gevent
from gevent.event import Event
from typing_extensions import assert_type

from gtasker import Runner, Task


def stop_with(parent: Event) -> Runner[object]:
    """An event of gevent's is a parent."""
    return Runner(on_create=object, on_destroy=print, worker_count=1, ctx=parent)


def wait_for(first: Task[int], second: Task[int]) -> int:
    """A handle is something to wait for."""
    gevent.wait([first, second], timeout=1.0, count=1)
    for done in gevent.iwait([first, second], timeout=1.0):
        assert_type(done, Task[int])
    return first.get()
