"""Falcon and a runner, under gevent's own WSGI server: `python falcon_app.py` asks it a few things and stops it.

For real: `GTASKER_DSN=... gunicorn -k gtasker.integrations.gunicorn.GTaskerWorker falcon_app:application`
"""
# ruff: noqa: E402 (an application patches before it imports anything else)

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os
import signal
import socket
from functools import cache
from typing import Any
from urllib.request import urlopen

import falcon
import gevent

from gtasker import Runner
from gtasker.integrations.psycopg2 import GreenConnection, make_cooperative, resource
from gtasker.integrations.pywsgi import serve
from gtasker.integrations.wsgi import NOT_NOW
from gtasker.testing.postgres import postgres


@cache
def runner() -> Runner[GreenConnection]:
    """The runner of this process, made when the first request needs it."""
    make_cooperative()
    return Runner(**resource(os.environ["GTASKER_DSN"]), name="falcon", worker_count=4)


def server_time(connection: GreenConnection) -> str:
    """What the database takes for the time."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()::text")
        [(now,)] = cursor.fetchall()
        return str(now)


class Time:
    """`GET /time`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the time."""
        resp.media = {"now": runner().queue_task(server_time, timeout=5)}


def not_now(req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]) -> None:
    """What a runner refuses at the moment is a 503, and no fault of the application's."""
    raise falcon.HTTPServiceUnavailable(retry_after=1) from error


application = falcon.App()
application.add_route("/time", Time())
application.add_error_handler(NOT_NOW, not_now)


def ask(port: int) -> None:
    """A client for once; then what a deploy does."""
    for _ in range(3):
        with urlopen(f"http://127.0.0.1:{port}/time", timeout=30) as response:
            print(response.status, response.read().decode())
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    with postgres() as dsn, socket.create_server(("127.0.0.1", 0)) as listener:
        os.environ["GTASKER_DSN"] = dsn
        client = gevent.spawn(ask, listener.getsockname()[1])
        print(serve(application, runner(), grace=10, listener=listener, log=None))
        client.get()
