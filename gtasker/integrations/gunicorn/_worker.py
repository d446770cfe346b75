"""The worker class: Gunicorn's gevent worker, which knows of the runners in its process.

Invariant: the heartbeat goes on until the process leaves, and it leaves before the master's SIGKILL.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any

from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import GeventWorker

import gtasker
from gtasker.integrations._connections import Connections
from gtasker.integrations._draining import QUICK, Drain, Timeline, killing
from gtasker.integrations.gunicorn._sum import Sum, limits_of
from gtasker.integrations.wsgi import answer_503

if TYPE_CHECKING:
    from gevent.socket import socket

SIGNAL_LAG = 0.3
"""Seconds by which a worker may learn of a signal after its master, whose clock counts: gevent's loop looks for
signals that often when nothing else happens."""


class _Listener:
    """What a connection asks of its listener, which may be closed by then: without this, Gunicorn resets it."""

    def __init__(self, listener: socket) -> None:
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        return self._name


class GTaskerWorker(GeventWorker):
    """Drains the runners within `graceful_timeout`; answers 503 where one of them says "not now".

    On SIGTERM, and after `max_requests`: requests go on, then the runners are stopped; all of it with a heartbeat. Two
    seconds before the master would use SIGKILL (less when `graceful_timeout` is short) the runners are killed, so that
    requests waiting for them answer; one second later the other requests are interrupted by `ServerStoppingError`.
    On SIGINT and SIGQUIT the runners are killed at once.
    """

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        """In the master: raise ConfigError for a limit that cannot be read; warn of runners that are at work here."""
        limits_of(os.environ)
        for runner in gtasker.runners():
            log.warning("gtasker: runner %r was started before the fork; do not use it on import", runner.config.name)

    def init_process(self) -> None:
        """What a worker process does from its first moment to its last."""
        self._connections = Connections()
        self._asked = Event()
        self._asked_at: float | None = None
        self._quits = False
        self._tick = min(1.0, self.timeout) if self.timeout else 1.0
        self._sum = Sum.of(self.cfg.workers, self.log, speaks=self.age == 1)
        # Until Gunicorn sets its own handlers a signal would go to the copy of the master's, and be lost.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self.handle_exit)
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application, and answer 503 for it."""
        super().load_wsgi()
        guarded: Any = answer_503(self.wsgi)
        self.wsgi = guarded

    def run(self) -> None:
        """Serve until asked to leave; then drain. Switches."""
        servers = [self._serve(listener) for listener in self.sockets]
        try:
            while self.alive:
                self.notify()
                self._sum.look_at(gtasker.runners())
                self._asked.wait(self._tick)
            self._drain(servers)
        except SystemExit:  # by SIGINT or SIGQUIT, or because the master has gone
            killing(gtasker.runners(), QUICK).join(QUICK)
            raise

    def handle(self, listener: Any, client: socket, addr: Any) -> None:
        """Serve one connection."""
        with self._connections.connected(client):
            super().handle(listener, client, addr)

    def handle_request(self, *request: Any) -> Any:
        """Serve one request."""
        with self._connections.request():
            return super().handle_request(*request)

    def handle_http2_request(self, *request: Any) -> Any:
        """Serve one request of an HTTP/2 connection, which has them one after another."""
        with self._connections.request():
            return super().handle_http2_request(*request)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: the first one counts."""
        if self._asked_at is None:
            self._asked_at = monotonic()
        super().handle_exit(sig, frame)
        self._asked.set()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGQUIT: the first one counts. A terminal sends one, and the master another."""
        if not self._quits:
            self._quits = True
            super().handle_quit(sig, frame)

    def _serve(self, listener: socket) -> StreamServer:
        listener.setblocking(True)
        tls: dict[str, Any] = {"ssl_context": ssl_context(self.cfg)} if self.cfg.is_ssl else {}
        handle = partial(self.handle, _Listener(listener))
        server = StreamServer(listener, handle=handle, spawn=Pool(self.worker_connections), **tls)
        if self.cfg.workers > 1:
            server.max_accept = 1  # so that the connections spread over the workers
        server.start()
        return server

    def _drain(self, servers: list[StreamServer]) -> None:
        was_told = self._asked_at is not None
        began_at = self._asked_at if self._asked_at is not None else monotonic()
        grace = max(0.0, self.cfg.graceful_timeout - SIGNAL_LAG)
        drain = Drain(servers, self._connections, self.log, beat=self.notify, tick=self._tick)
        # After `max_requests` others serve who stands before the door, unless it is this worker's own; after a SIGTERM
        # there may be no others.
        drain.run(Timeline.within(grace, began_at), take_all=was_told or self.cfg.reuse_port)
