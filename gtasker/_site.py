"""The site: what all rooms of one runner share. It is made anew for each life of a runner (start, forked child).

Invariant: `home` is the OS thread's id while work may be handed over directly there, and 0 otherwise: one comparison
tells that the runner is running, unpaused, in its own thread and in its own process.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, TypeVar

from gevent import monkey
from gevent.hub import get_hub

from gtasker._alarm import Alarm
from gtasker._config import Config
from gtasker._errands import Errands
from gtasker._events import RunnerEvent
from gtasker._extras import told
from gtasker._lifecycle import Lifecycle, State
from gtasker._metrics import Collector, Meter
from gtasker._turn import turn_of

R = TypeVar("R")

#: The id of the OS thread, also when `threading` is patched to give a greenlet's.
get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")


class Site(Generic[R]):
    """Settings, clocks, greenlets and voices of one runner."""

    def __init__(self, config: Config[R]) -> None:
        self.config = config
        self.hub: Any = get_hub()
        self.thread = get_ident()
        self.home = 0
        self.forked = False  # this is a child, and the site its parent's
        self.life = Lifecycle()
        self.turn = turn_of(self.hub)
        self.deadlines = Alarm(self.hub, ref=True)
        self.housekeeping = Alarm(self.hub, ref=False)
        self.errands = Errands(self.hub, self.turn, self._errand_failed)
        self.meter = Meter()
        self.collector: Collector | None = config.collector
        self.listening = config.on_event is not None
        self._untold: deque[RunnerEvent] = deque()
        self._will_tell = self._is_telling = False
        self.faults = 0  # of hooks and listeners of the user's

    def emit(self, event: type[RunnerEvent], **fields: Any) -> None:
        """Have `on_event` told soon; only to be called if `listening`, after the change it tells of. Never switches.

        Soon, for the listener may call the runner back, and who emits may be in the middle of more than this change: in
        the hub, or by `tell` at the end of a user's call.
        """
        self._untold.append(event(at=monotonic(), runner=self.config.name, **fields))
        self._tell_later()

    def _tell_later(self) -> None:
        if self._untold and not self._will_tell and not self._is_telling:
            self._will_tell = True
            self.turn.soon(self)

    def wake(self) -> None:
        """Tell `on_event`, in the hub."""
        self._will_tell = False
        self.tell()

    def tell(self) -> None:
        """Tell `on_event` what has happened; for where no change of the runner's is under way. Never switches."""
        listener = self.config.on_event
        if listener is None or self._is_telling or self.forked or get_ident() != self.thread:
            return
        self._is_telling = True
        for _ in range(len(self._untold)):  # what comes of these calls is told in the next turn
            try:
                listener(self._untold.popleft())
            except BaseException as error:  # whatever it raises, it is told after a fact, which stands
                self.hook_failed("on_event", error)
        self._is_telling = False
        self._tell_later()

    def collect(self, record: str, *times: Any) -> None:
        """Tell the collector of the user's, if there is one."""
        if self.collector is not None:
            try:
                getattr(self.collector, record)(*times)
            except BaseException as error:
                self.hook_failed(f"collector.{record}", error)

    def hook_failed(self, hook: str, error: BaseException) -> None:
        """A function of the user's raised where nothing of his may break in. Never switches."""
        if isinstance(error, KeyboardInterrupt):
            self.tell_main(error)
        self.fault(hook, error)

    def fault(self, hook: str, error: BaseException) -> None:
        """Count and log that a function of the user's raised."""
        self.faults += 1
        self.log(logging.ERROR, "%s raised %s", hook, told(error), exc_info=error)

    def log(self, level: int, message: str, *args: Any, exc_info: BaseException | None = None, **extra: Any) -> None:
        """Have it logged with the runner's name, by an errand: a handler may switch, and raise. Never switches."""
        if not self.config.logger.isEnabledFor(level):
            return
        if self.life.state is State.CLOSED or get_ident() != self.thread:  # no errand would run, or not in this thread
            self._log(level, message, args, exc_info, extra)
        else:
            self.errands.run(self._log, level, message, args, exc_info, extra)

    def tell_main(self, error: KeyboardInterrupt) -> None:
        """Throw a keyboard interrupt that hit a greenlet of ours into the main greenlet too, soon. Never switches."""
        main = self.hub.parent
        if main is not None and not main.dead:
            self.hub.loop.run_callback(main.throw, error)

    def _log(
        self, level: int, message: str, args: tuple[Any, ...], exc_info: BaseException | None, extra: dict[str, Any]
    ) -> None:
        name = self.config.name
        text = message % args if args else message
        try:
            self.config.logger.log(level, "%s: %s", name, text, exc_info=exc_info, extra={"runner": name, **extra})
        except BaseException as error:  # there is no better place to tell of it
            self.hub.handle_error((self.config.logger, text), type(error), error, error.__traceback__)

    def _errand_failed(self, fn: Any, error: BaseException) -> None:
        self.fault(getattr(fn, "__qualname__", repr(fn)), error)
