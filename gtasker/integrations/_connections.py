"""The connections of one server: who is in a request, who idles, and who waits before the door.

Invariant: a request whose head has arrived is never hung up on, and an error meant for a request reaches no other.
"""

from __future__ import annotations

import _socket
import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol

from gevent import get_hub
from gevent.baseserver import BaseServer
from greenlet import getcurrent, greenlet


class Client(Protocol):
    """A connected socket, plain or with TLS."""

    def fileno(self) -> int:
        """Its file descriptor; negative once it is closed."""


class Connections:
    """Each connection is a greenlet that serves one request after another."""

    def __init__(self) -> None:
        self._clients: dict[greenlet, Client] = {}
        self._idle_since: dict[greenlet, float] = {}
        self._requests: set[greenlet] = set()

    @property
    def requests(self) -> int:
        """Requests that the application has, and has not answered. Never switches."""
        return len(self._requests)

    @contextmanager
    def connected(self, client: Client) -> Iterator[None]:
        """The current greenlet serves `client` within the block."""
        current = getcurrent()
        self._clients[current] = client
        self._idle_since[current] = monotonic()
        try:
            yield
        finally:
            del self._clients[current]
            del self._idle_since[current]

    @contextmanager
    def request(self) -> Iterator[None]:
        """The current greenlet has a request from its client within the block."""
        current = getcurrent()
        self._requests.add(current)
        try:
            yield
        finally:
            self._requests.discard(current)
            self._idle_since[current] = monotonic()

    def hang_up(self, *, idle_since: float) -> None:
        """Let those go that have had no request since that moment. Never switches.

        Each sees the end of its input, after what has arrived: a client that was just sending is answered.
        """
        for one, since in self._idle_since.items():
            if one not in self._requests and since <= idle_since:
                _end_input(self._clients[one])

    def interrupt(self, kind: type[Exception], reason: str) -> int:
        """Throw `kind(reason)` into each request; return how many there are. Never switches."""
        loop = get_hub().loop
        for one in self._requests:
            loop.run_callback(self._throw, one, kind(reason))
        return len(self._requests)

    def _throw(self, one: greenlet, error: Exception) -> None:
        if one in self._requests and not one.dead:  # it may have answered since
            one.throw(error)


def take_in(server: BaseServer[Any, Any]) -> bool:
    """Accept who has connected already; return whether nobody is left before the door. Never switches.

    Closing a listener resets the connections in its backlog, though their clients may have sent a request.
    """
    while not server.full():
        try:
            arrived = server.do_read()
        except OSError:  # no descriptor free, or no listener: there is nothing to be accepted
            return True
        if not arrived:
            return True
        server.do_handle(*arrived)
    return False


def _end_input(client: Client) -> None:
    # By a descriptor of our own: gevent's shutdown() throws an error into the reader, and TLS would end in mid-air.
    try:
        own = _socket.socket(fileno=os.dup(client.fileno()))
    except OSError:
        return
    try:
        own.shutdown(_socket.SHUT_RD)
    except OSError:  # the client has gone
        pass
    finally:
        own.close()
