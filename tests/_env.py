"""What a test leaves behind: greenlets, watchers and unheard errors; and the watchdog for a test that never ends.

Invariant: it only looks. Nothing of the test's is ended or stopped, so what is reported is the test's own doing.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

import gevent
from gevent import monkey
from gevent.hub import Hub, get_hub
from gevent.util import print_run_info
from greenlet import getcurrent, greenlet

PATCHED = os.environ.get("GTASKER_TEST_PATCHED") == "1"
"""Whether this run of the suite is the monkey-patched one."""

GRACE = 2.0
"""Seconds that what is already ending gets to end before it counts as left behind."""

WATCHER_KINDS = frozenset({"timer", "io", "idle", "check", "prepare"})
"""Kinds of watcher that somebody must stop. The others (fork, async, child, signal) are gevent's own and stay."""


def living_greenlets() -> list[greenlet]:
    """Each greenlet of this thread that may still run, but for the hub, the main one and the caller's."""
    mine = getcurrent()
    main = _root(mine)
    return [
        found
        for found in gc.get_objects()
        if isinstance(found, greenlet) and found is not mine and not isinstance(found, Hub) and _may_run(found, main)
    ]


def active_watchers() -> list[Any]:
    """Each watcher of this thread's loop that is armed and of a kind that somebody must stop."""
    loop = get_hub().loop
    return [found for found in gc.get_objects() if _is_watcher(type(found)) and found.active and found.loop is loop]


def left_behind(before: list[Any]) -> list[str]:
    """Describe what lives now and is not in `before`; what ends within `GRACE` seconds is not told. Switches."""
    deadline = time.monotonic() + GRACE
    known = {id(one) for one in before}
    while True:
        gevent.sleep(0)
        found = [one for one in survey() if id(one) not in known]
        if not found:
            return []
        if time.monotonic() > deadline:
            return [_describe(one) for one in found]
        del found
        # A suspended greenlet that nobody can reach any more is ended by the collector.
        gc.collect()
        gevent.sleep(0.005)


def survey() -> list[Any]:
    """Everything alive now that a test should not leave behind. Never switches."""
    return [*living_greenlets(), *active_watchers()]


@contextmanager
def hub_errors() -> Iterator[list[str]]:
    """List, while the block runs, the errors that reached the hub from something no test can ask for its outcome.

    That is anything but a plain greenlet and a call in gevent's thread pool (which is told of as a tuple): loop
    callbacks, timers, and greenlets of gtasker's own classes.
    """
    hub: Any = get_hub()
    errors: list[str] = []
    usual = hub.handle_error

    def note(
        context: object, kind: type[BaseException], value: BaseException | None, trace: TracebackType | None
    ) -> None:
        ours = type(context).__module__.partition(".")[0] == "gtasker"
        if ours or not isinstance(context, gevent.Greenlet | tuple):
            errors.append(f"in {context!r}:\n" + "".join(traceback.format_exception(kind, value, trace)))
        usual(context, kind, value, trace)

    hub.handle_error = note
    try:
        yield errors
    finally:
        hub.handle_error = usual


class Watchdog:
    """End the process with every greenlet's stack when a test takes too long, whatever it hangs in.

    It waits in a native thread, patched or not: a blocked hub would never run a timer of its own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock: Any = None

    def start(self, seconds: float, name: str) -> None:
        """Begin to watch the test `name`, which may take `seconds`. Never switches."""
        lock = self._lock = monkey.get_original("_thread", "allocate_lock")()
        lock.acquire()
        monkey.get_original("_thread", "start_new_thread")(self._watch, (lock, seconds, name, getcurrent()))

    def cancel(self) -> None:
        """The test has ended in time. Never switches."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _watch(self, lock: Any, seconds: float, name: str, tester: greenlet) -> None:
        if lock.acquire(timeout=seconds):
            return
        # First what cannot fail; the walk over greenlets that run meanwhile might. It leaves the main one out.
        print(f"\n{name} took longer than {seconds:g} s", file=self._stream, flush=True)
        faulthandler.dump_traceback(self._stream)
        try:
            print_run_info(file=self._stream)
            print(f"The test's own greenlet: {_describe(tester)}", file=self._stream)
            self._stream.flush()
        finally:
            os._exit(1)


def _root(one: greenlet) -> greenlet:
    while one.parent is not None:
        one = one.parent
    return one


def _may_run(one: greenlet, main: greenlet) -> bool:
    if one is main or _root(one) is not main:
        return False
    return bool(one) or (isinstance(one, gevent.Greenlet) and one.started and not one.dead)


def _is_watcher(kind: type) -> bool:
    return kind.__name__ in WATCHER_KINDS and kind.__module__.startswith("gevent.")


def _describe(one: Any) -> str:
    if not isinstance(one, greenlet):
        return f"{one!r}"
    stack = traceback.format_stack(one.gr_frame) if one.gr_frame else ["  no frame: it runs, or has not begun\n"]
    return f"{one!r}\n{''.join(stack)}"
