"""The dashboard: the one object that a user makes, in each process that has runners to show.

Invariant: without a token it is off: it answers nothing but 404, looks at nothing and writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from gevent.pywsgi import WSGIServer

from gtasker import RunnerEvent
from gtasker.integrations._home import Home
from gtasker.integrations.dashboard._access import Access
from gtasker.integrations.dashboard._app import App, Environ, StartResponse
from gtasker.integrations.dashboard._journal import Journal
from gtasker.integrations.dashboard._merging import merge
from gtasker.integrations.dashboard._orders import Orders
from gtasker.integrations.dashboard._sampler import Sampler
from gtasker.integrations.dashboard._shelf import Shelf

TOKEN_VARIABLE = "GTASKER_DASHBOARD_TOKEN"
DIRECTORY_VARIABLE = "GTASKER_DASHBOARD_DIRECTORY"
_CONNECTIONS = 100
"""Served at a time by `serve`: whoever opens more uses up the page's, not the descriptors of the application."""
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}

WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]


class Dashboard:
    """A page that shows the runners of this process, and of all that share `directory`. It is a WSGI application.

    `token`: what a visitor has to show, 16 characters or more; by default the environment's
    `GTASKER_DASHBOARD_TOKEN`. Without one the dashboard is off.
    `directory`: where the processes of one application lay their snapshots; theirs alone (mode 0700, made if needed);
    by default the environment's `GTASKER_DASHBOARD_DIRECTORY`. Without one a process shows itself.
    `title`: stands above it all.
    `control`: let visitors pause, resume, recycle and resize.
    `details`: show what errors say and the source lines of stacks; both may hold what nobody should read.
    `loopback_only`: refuse who does not ask from this machine, and what a proxy passes on.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        directory: str | os.PathLike[str] | None = None,
        title: str = "gtasker",
        control: bool = False,
        details: bool = False,
        loopback_only: bool = True,
    ) -> None:
        token = token or os.environ.get(TOKEN_VARIABLE) or None
        directory = directory or os.environ.get(DIRECTORY_VARIABLE) or None
        self._loopback_only = loopback_only
        self._servers: list[WSGIServer] = []
        self._home = Home()
        self._journal = Journal(show_messages=details)
        self._app: App | None = None
        if token is not None:
            shelf = Shelf(directory) if directory is not None else None
            self._orders = Orders(self._journal, shelf)
            self._sampler = Sampler(self._journal, shelf, self._orders, details=details)
            access = Access(token, loopback_only=loopback_only)
            self._app = App(access, title, self._view, self._command if control else None)

    @property
    def is_on(self) -> bool:
        """Whether there is a token. Never switches."""
        return self._app is not None

    def recorder(self, on_event: Callable[[RunnerEvent], None] | None = None) -> Callable[[RunnerEvent], None]:
        """What a `Config` takes as its `on_event`: writes events down, and passes them on to `on_event`.

        It also begins the looks at this process, so that a process is seen which nobody asks for its page. A runner
        that tells its events tells each lease, which then costs some microseconds more.
        """

        def record(event: RunnerEvent) -> None:
            if self._app is not None:
                if self._home.is_here:
                    self._sampler.start()
                self._journal.note(event)
            if on_event is not None:
                on_event(event)

        return record

    def start(self) -> None:
        """Look at the runners of this process once a second from now on; the first request does so, too.

        To be called in the runners' thread. Harmless when begun. Never switches.
        """
        if self._app is not None:
            self._sampler.start()

    def close(self) -> None:
        """Look no more, end what `serve` began, and be off from now on. Switches."""
        is_on, self._app = self._app is not None, None
        servers, self._servers = self._servers, []
        if is_on:
            self._sampler.stop()
        for server in servers:
            server.stop(timeout=1.0)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request. Switches."""
        if self._app is None:
            start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "0")])
            return []
        return self._app(environ, start_response)

    def mount(self, app: WSGIApp, prefix: str = "/gtasker") -> WSGIApp:
        """`app`, with the dashboard below `prefix`."""
        prefix = "/" + prefix.strip("/")

        def both(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path != prefix and not path.startswith(prefix + "/"):
                return app(environ, start_response)
            inner = {
                **environ,
                "SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + prefix,
                "PATH_INFO": path[len(prefix) :],
            }
            return self(inner, start_response)

        return both

    def serve(self, host: str = "127.0.0.1", port: int = 8484) -> WSGIServer:
        """Serve the page alone, at an address of its own, until `close`; return the server. Never switches.

        Called again it serves at another address, too.

        Raises ValueError without a token, or for an address that others reach while `loopback_only` is set.
        """
        if self._app is None:
            raise ValueError(f"the dashboard is off: give it a token, or set {TOKEN_VARIABLE}")
        if self._loopback_only and host not in _LOOPBACK:
            raise ValueError(f"{host} can be reached from elsewhere; that needs loopback_only=False")
        self.start()
        server = WSGIServer((host, port), self, log=None, spawn=_CONNECTIONS)
        server.start()
        self._servers.append(server)
        return server

    def _view(self, after: int) -> dict[str, Any]:
        def look() -> dict[str, Any]:
            self._sampler.start()
            return merge(self._sampler.watch(), monotonic(), after)

        return self._home.call(look)

    def _command(self, order: dict[str, Any]) -> None:
        def obey() -> None:
            self._orders.give(order)
            self._sampler.look()  # who commanded sees at once what came of it

        self._home.call(obey)
