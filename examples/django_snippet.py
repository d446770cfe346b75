"""Django and a runner, in one file: `python django_snippet.py` asks it a few things and stops it.

For real: `GTASKER_DSN=... gunicorn -k gtasker.integrations.gunicorn.GTaskerWorker django_snippet:application`
In a project of its own, `NotNow` goes into MIDDLEWARE, and `runner` into a module of the application's.
"""
# ruff: noqa: E402 (an application patches before it imports anything else)

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os
import signal
import socket
from collections.abc import Callable
from functools import cache
from urllib.request import urlopen

import gevent
from django.conf import settings  # type: ignore[import-untyped]
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]
from django.http import HttpRequest, HttpResponse, JsonResponse  # type: ignore[import-untyped]
from django.urls import path  # type: ignore[import-untyped]

from gtasker import Priority, Runner
from gtasker.integrations.psycopg2 import GreenConnection, make_cooperative, resource
from gtasker.integrations.pywsgi import serve
from gtasker.integrations.wsgi import NOT_NOW, unavailable
from gtasker.testing.postgres import postgres


@cache
def runner() -> Runner[GreenConnection]:
    """The runner of this process, made when the first request needs it."""
    make_cooperative()
    return Runner(**resource(os.environ["GTASKER_DSN"]), name="django", worker_count=4)


class NotNow:
    """Middleware: what a runner refuses at the moment is a 503, and no fault of the application's."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Nothing to do before a view, or after it."""
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Django asks for each exception of a view."""
        if not isinstance(error, NOT_NOW):
            return None
        body, status, headers = unavailable(error)
        return HttpResponse(body, status=status, headers=headers)


def count_sessions(connection: GreenConnection) -> int:
    """How many sessions the database has."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity")
        [(count,)] = cursor.fetchall()
        return int(count)


def sessions(request: HttpRequest) -> HttpResponse:
    """`GET /sessions`."""
    return JsonResponse({"sessions": runner().queue_task(count_sessions, priority=Priority.LOW, timeout=5)})


urlpatterns = [path("sessions", sessions)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], MIDDLEWARE=[f"{__name__}.NotNow"])
application = get_wsgi_application()


def ask(port: int) -> None:
    """A client for once; then what a deploy does."""
    for _ in range(3):
        with urlopen(f"http://127.0.0.1:{port}/sessions", timeout=30) as response:
            print(response.status, response.read().decode())
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    with postgres() as dsn, socket.create_server(("127.0.0.1", 0)) as listener:
        os.environ["GTASKER_DSN"] = dsn
        client = gevent.spawn(ask, listener.getsockname()[1])
        print(serve(application, runner(), grace=10, listener=listener, log=None))
        client.get()
