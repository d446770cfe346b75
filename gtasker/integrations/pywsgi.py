"""Serve an application with gevent's own WSGI server, and end in order: requests first, then the runner.

Invariant: after SIGTERM `serve` returns within the grace, whatever the application does; then the signals mean again
what they meant before.

    serve(app, runner, grace=30)        # until SIGTERM

gevent's authors made this server for the inside of a network: put a proxy before it, or use Gunicorn.
"""

from __future__ import annotations

import logging
import signal
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent import get_hub
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer
from greenlet import getcurrent

from gtasker import Runner, ShutdownReport
from gtasker.integrations._connections import Connections
from gtasker.integrations._draining import QUICK, Drain, Timeline
from gtasker.integrations.wsgi import answer_503

if TYPE_CHECKING:
    from gevent.socket import socket

    from gtasker.integrations.wsgi import Application

__all__ = ["serve"]

_logger = logging.getLogger("gtasker.pywsgi")


def serve(
    app: Application,
    runner: Runner[Any],
    grace: float = 30.0,
    *,
    listener: socket | tuple[str, int] | str = ("127.0.0.1", 8000),
    max_connections: int = 1000,
    **options: Any,
) -> ShutdownReport:
    """Serve `app` until SIGTERM; then end its requests and `runner` within `grace` seconds. Switches.

    Call it in the main thread. Where the runner says "not now" and `app` lets the error out, the answer is a 503. Two
    seconds before the end of the grace (less of a short one) the runner is killed, so that requests waiting for it
    answer; one second later the others are interrupted by `ServerStoppingError`. SIGINT raises KeyboardInterrupt here,
    and nowhere else; that, or any other exception of the caller's, ends everything within a second and goes on.

    `listener`: an address, or a listening socket. `max_connections`: served at a time, the others wait in the backlog.
    `options` go to `gevent.pywsgi.WSGIServer`.
    """
    if grace < 0:
        raise ValueError(f"grace is seconds, 0 or more, not {grace!r}")
    server = _Server(listener, answer_503(app), spawn=Pool(max_connections), handler_class=_Handler, **options)
    asked = Event()
    with _Signals(asked):
        try:
            server.start()
            asked.wait()
            drain = Drain([server], server.connections, _logger, find=lambda: [runner])
            drain.run(Timeline.within(grace, monotonic()), take_all=True)
        except BaseException:
            runner.kill(timeout=QUICK)
            raise
        finally:
            server.stop(timeout=0)
    return runner.kill(timeout=0)  # it has ended, or its time is up


class _Server(WSGIServer):
    """One that knows its connections."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.connections = Connections()
        super().__init__(*args, **options)

    def handle(self, sock: socket, address: str) -> None:
        with self.connections.connected(sock):
            super().handle(sock, address)


class _Handler(WSGIHandler):
    """One that tells of its requests, and of the connection's end."""

    server: _Server

    def handle_one_response(self) -> None:
        with self.server.connections.request():
            super().handle_one_response()

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if self.server.closed:
            headers = [*headers, ("Connection", "close")]
        return super().start_response(status, headers, exc_info)


class _Signals:
    """SIGTERM and SIGINT, while the block runs. Python's own handler would throw into whoever runs at the moment."""

    def __init__(self, asked: Event) -> None:
        self._asked = asked
        self._serving = getcurrent()
        self._is_over = False
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self._handlers: list[Any] = []

    def __enter__(self) -> None:
        for number, act in ((signal.SIGTERM, self._asked.set), (signal.SIGINT, self._interrupt)):
            self._handlers.append(gevent.signal_handler(number, act))

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for handler in self._handlers:
            handler.cancel()
        for number, before in self._before.items():
            if before is not None:  # set by Python, so that it can be set again
                signal.signal(number, before)

    def _interrupt(self) -> None:
        get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        if not self._is_over:
            self._is_over = True  # a second one would stop what the first one began
            self._serving.throw(KeyboardInterrupt)
