"""Clients in a process of their own: they ask again and again, and tell of each request what became of it.

Invariant: a request is answered only if the whole response has come; else it is cut. It is refused if no connection
could be made, and unserved if its connection was made for it and ended before the first byte of a response: whether
that was a server's fault, only the number of connections that were accepted can tell.

    python -m tests.web._load PORT PATH CLIENTS REQUESTS KEEP_ALIVE

Each client ends after so many requests (0: never), when it is refused, or when standard input is closed.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from http.client import HTTPConnection, HTTPException, HTTPResponse

CONNECTED = "connected"
PATIENCE = 45.0
"""Seconds that a response may take."""


class Client(threading.Thread):
    """One of the clients."""

    def __init__(self, port: int, path: str, requests: int, *, keeps_alive: bool) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._path = path
        self._requests = requests
        self._keeps_alive = keeps_alive

    def run(self) -> None:
        """Ask until the end."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        asked = 0
        while not self._requests or asked < self._requests:
            asked += 1
            if is_new := connection.sock is None:
                try:
                    connection.connect()
                except ConnectionError:
                    tell("refused")
                    return
                tell(CONNECTED)
            try:
                connection.request("GET", self._path)
                response = connection.getresponse()
                is_new = False
                tell(describe(response))
                if not self._keeps_alive:
                    connection.close()
            except (OSError, HTTPException) as error:
                unserved = is_new and isinstance(error, ConnectionError)  # RemoteDisconnected is one, too
                tell("unserved" if unserved else f"cut {type(error).__name__}: {error}")
                connection.close()


def describe(response: HTTPResponse) -> str:
    """Read the response; its status, and what a client would go by."""
    response.read()
    return f"{response.status} retry" if response.headers["Retry-After"] else str(response.status)


def tell(what: str) -> None:
    """Write one line at once; several threads do, and a short write is whole."""
    os.write(1, what.encode() + b"\n")


def main(port: str, path: str, clients: str, requests: str, keep_alive: str) -> None:
    """Run the clients."""
    running = [Client(int(port), path, int(requests), keeps_alive=keep_alive == "True") for _ in range(int(clients))]
    for client in running:
        client.start()
    watch = threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True)
    watch.start()
    for client in running:
        client.join()


if __name__ == "__main__":
    socket.setdefaulttimeout(PATIENCE)
    main(*sys.argv[1:])
