"""The application under `serve`: `python -m gevent.monkey --module tests.web._serve GRACE MAX_CONNECTIONS`."""

from __future__ import annotations

import logging
import sys

from gevent import socket

from gtasker.integrations.pywsgi import serve
from tests.web._app import application, runner


def main(grace: str, max_connections: str) -> None:
    """Serve until told to stop; say how it went."""
    logging.basicConfig(level=logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"Listening at: http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        report = serve(
            application, runner, float(grace), listener=listener, max_connections=int(max_connections), log=None
        )
    print(report, runner.state)


if __name__ == "__main__":
    main(*sys.argv[1:])
