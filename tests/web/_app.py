"""The application that the servers serve: each route is one way to wait. Serves in a process of its own.

Invariant: what a route did can be seen from outside, in its answer, in the database or in the sessions of the server.

`GTASKER_WEB_DSN` says where the database is, `GTASKER_WEB_EAGER` has the runner used while this module is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import gevent

from gtasker import Runner
from gtasker.integrations.psycopg2 import GreenConnection, make_cooperative, resource
from tests.web import MAX_RESOURCES, WORKERS

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

make_cooperative()
runner: Runner[GreenConnection] = Runner(
    **resource(os.environ["GTASKER_WEB_DSN"]),
    name="web",
    worker_count=WORKERS,
    max_worker_count=WORKERS,
    resource_pool_size=2,
    max_resources=MAX_RESOURCES,
)
requests: set[object] = set()
"""Requests that this process has at the moment."""


def sleep_on_server(connection: GreenConnection, seconds: float, mark: str = "") -> int:
    """Keep the server busy; then leave a mark, in the same transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", (seconds,))
        if mark:
            cursor.execute("INSERT INTO marks VALUES (%s)", (mark,))
    connection.commit()
    return connection.get_backend_pid()


@contextmanager
def _counted() -> Iterator[None]:
    request = object()
    requests.add(request)
    try:
        yield
    finally:
        requests.discard(request)


def work(seconds: float, mark: str) -> Iterable[bytes]:
    """Wait for a task."""
    return [b"%d" % runner.queue_task(sleep_on_server, seconds, mark)]


def stream(seconds: float, mark: str) -> Iterable[bytes]:
    """Wait for a task when a part of the answer is on its way."""
    yield b"first\n"
    with _counted():
        yield b"%d" % runner.queue_task(sleep_on_server, seconds, mark)


def lazy(seconds: float, mark: str) -> Iterable[bytes]:
    """Wait for a task when the server asks for the body, and not before."""
    with _counted():
        yield b"%d" % runner.queue_task(sleep_on_server, seconds, mark)


def fire(seconds: float, mark: str) -> Iterable[bytes]:
    """Leave the task to itself."""
    runner.submit(sleep_on_server, seconds, mark)
    return [b"fired"]


def idle(seconds: float, mark: str) -> Iterable[bytes]:
    """Wait for something that the runner knows nothing of."""
    gevent.sleep(seconds)
    return [b"idled"]


def late(seconds: float, mark: str) -> Iterable[bytes]:
    """Begin a task after having waited for something else."""
    gevent.sleep(seconds)
    return [b"%d" % runner.queue_task(sleep_on_server, 0, mark)]


def who(seconds: float, mark: str) -> Iterable[bytes]:
    """Say which process this is, without the runner."""
    return [b"%d" % os.getpid()]


def waiting(seconds: float, mark: str) -> Iterable[bytes]:
    """How many other requests this process has."""
    return [b"%d" % (len(requests) - 1)]


ROUTES: dict[str, Callable[[float, str], Iterable[bytes]]] = {
    f"/{route.__name__}": route for route in (work, stream, lazy, fire, idle, late, who, waiting)
}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Serve `/route?seconds=1&mark=name`."""
    query = parse_qs(environ["QUERY_STRING"])
    [seconds], [mark] = query.get("seconds", ["0"]), query.get("mark", [""])
    with _counted():
        body = ROUTES[environ["PATH_INFO"]](float(seconds), mark)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return body


if os.environ.get("GTASKER_WEB_EAGER"):
    runner.queue_task(sleep_on_server, 0)
