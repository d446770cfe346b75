"""A web application behind several processes, with all that looks at it: for Gunicorn.

Invariant: everything it is told comes from the environment, as in a real deployment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import count

import gevent
from gevent import monkey

from gtasker import Runner
from gtasker.integrations.dashboard import Dashboard
from gtasker.integrations.dashboard._app import Environ, StartResponse
from gtasker.integrations.prometheus import install
from tests.monitoring._processes import scrape

SHARE = 10
"""Tasks that one process takes."""

dashboard = Dashboard(control=True)
runner: Runner[object] = Runner(
    name="shop",
    on_create=object,
    on_destroy=lambda resource: None,
    worker_count=2,
    resource_pool_size=1,
    on_event=dashboard.recorder(),
)
install()
asked = count()
block = monkey.get_original("time", "sleep")


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Run a task at `/work`, if this process had less than its share; tell Prometheus at `/metrics`.

    The body of an answer begins with the process id.
    """
    if environ["PATH_INFO"] == "/work":
        if next(asked) >= SHARE:
            block(0.02)  # the whole process, so that it is another that takes the next request
            start_response("503 Service Unavailable", [])
            return []
        runner.queue_task(lambda resource: gevent.sleep(0.002))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"# {os.getpid()}\n".encode(), scrape().encode()]


app = dashboard.mount(application)
