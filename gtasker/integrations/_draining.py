"""How a server ends: first its requests, then the runners of its process, in the time that is left.

Invariant: as long as there is time nobody is interrupted; when it is up, everybody who still waits gets an answer.

    began          kill_at            interrupt_at       leave_at    the end of the grace: whoever is left is cut off
      │ requests end  │ runners killed:    │ requests         │
      │ runners stop  │ waiters can answer │ interrupted      │
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, TypeAlias

from gevent.baseserver import BaseServer
from gevent.pool import Group, Pool

import gtasker
from gtasker import Runner
from gtasker.integrations._connections import Connections, take_in
from gtasker.integrations.wsgi import ServerStoppingError

Runners: TypeAlias = Iterable[Runner[Any]]

LINGER = 2.0
"""Seconds that a connection without a request is kept, for the client may be about to send one."""
QUICK = 1.0
"""Seconds that a quick shutdown gives what it interrupts, so that the runner's peers are left in order."""
_MARGIN = 2.0
"""Seconds before the end that are kept for answering; less than a third of a short grace."""


class Log(Protocol):
    """Where a drain is told of; a `logging.Logger` and Gunicorn's own do."""

    def info(self, msg: str, /, *args: Any) -> None:
        """What went as it should."""

    def warning(self, msg: str, /, *args: Any) -> None:
        """What was cut short."""


@dataclass(frozen=True)
class Timeline:
    """The moments of one drain."""

    began_at: float
    kill_at: float
    interrupt_at: float
    leave_at: float

    @classmethod
    def within(cls, grace: float, began_at: float) -> Timeline:
        """The moments of a drain that has `grace` seconds from `began_at` on."""
        margin = min(_MARGIN, grace / 3)
        end = began_at + grace
        return cls(began_at, end - margin, end - margin / 2, end - margin / 8)


def stopping(runners: Runners, log: Log) -> Group:
    """Stop them, each in a greenlet of the group that is returned. Never switches."""
    group = Group()
    for runner in runners:
        group.spawn(_stop, runner, log)
    return group


def killing(runners: Runners, timeout: float) -> Group:
    """Kill them within `timeout` seconds, each in a greenlet of the group that is returned. Never switches."""
    group = Group()
    for runner in runners:
        group.spawn(runner.kill, timeout=max(0.0, timeout))
    return group


def _stop(runner: Runner[Any], log: Log) -> None:
    report = runner.stop()
    tell = log.warning if report.cancelled or report.abandoned else log.info
    tell(
        "gtasker: runner %r ended after %.1f s: %d tasks finished, %d failed, %d cancelled, %d things abandoned",
        *(runner.config.name, report.duration, report.finished, report.failed, report.cancelled, report.abandoned),
    )


def pool_of(server: BaseServer[Any, Any]) -> Pool:
    """The greenlets that serve the connections of `server`."""
    assert server.pool is not None
    return server.pool


class Drain:
    """Ends servers, and then the runners that `find` finds. `beat` is called at least every `tick` seconds."""

    def __init__(
        self,
        servers: Sequence[BaseServer[Any, Any]],
        connections: Connections,
        log: Log,
        *,
        find: Callable[[], Runners] = gtasker.runners,
        beat: Callable[[], object] = lambda: None,
        tick: float = 1.0,
    ) -> None:
        self._servers = servers
        self._connections = connections
        self._log = log
        self._find = find
        self._beat = beat
        self._tick = tick
        self._closed_at = 0.0

    def run(self, timeline: Timeline, *, take_all: bool) -> None:
        """Return when all is done, or at `timeline.leave_at`. Switches.

        `take_all`: serve who stands before the door, for nobody else will.
        """
        self._close(timeline, take_all=take_all)
        self._closed_at = monotonic()
        if self._requests_end(timeline.kill_at) and self._join(stopping(self._find(), self._log), timeline.kill_at):
            return
        self._cut_short(timeline)

    def _close(self, timeline: Timeline, *, take_all: bool) -> None:
        for server in self._servers:
            # A connection that is made between the last look at the backlog and the end of the listener is reset, if
            # no other process listens: nothing may come in between.
            server.stop_accepting()
            while take_all and not take_in(server) and monotonic() < timeline.kill_at:
                self._beat()
                pool_of(server).wait_available(timeout=self._tick)
            server.close()

    def _requests_end(self, until: float) -> bool:
        return all(self._join(pool_of(server), until) for server in self._servers)

    def _join(self, group: Group, until: float) -> bool:
        while len(group) and (left := until - monotonic()) > 0:
            self._beat()
            self._let_idle_go()
            group.join(timeout=min(left, self._tick))
        return not len(group)

    def _let_idle_go(self) -> None:
        lingering_since = monotonic() - LINGER
        if lingering_since >= self._closed_at:
            self._connections.hang_up(idle_since=lingering_since)

    def _cut_short(self, timeline: Timeline) -> None:
        spent = monotonic() - timeline.began_at
        self._log.warning("gtasker: time is up after %.1f s: %d requests wait", spent, self._connections.requests)
        ending = killing(self._find(), timeline.leave_at - monotonic())
        if not self._requests_end(timeline.interrupt_at):
            self._connections.hang_up(idle_since=monotonic())
            self._connections.interrupt(ServerStoppingError, "the server is stopping, and its time is up")
            self._requests_end(timeline.leave_at)
        self._join(ending, timeline.leave_at)
