"""A make-believe database: a server that counts its sessions, and connections that behave as a driver's do.

Invariant: `Server.live` is the number of sessions a real server would show, those still being opened included.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import gevent


class ConnectionLostError(Exception):
    """The server refused, cut or never had this connection."""


class Server:
    """The far end. Delays are seconds; `refusing` is a server that is down."""

    def __init__(self, connect_delay: float = 0.005) -> None:
        self.connect_delay = connect_delay
        self.reset_delay = 0.0
        self.refusing = False
        self.live = 0
        self.peak = 0
        self.dirty = 0
        self._connections: WeakSet[Connection] = WeakSet()

    def accept(self, connection: Connection) -> None:
        """Open a session, or refuse it. Switches."""
        self._refuse()
        self.live += 1
        self.peak = max(self.peak, self.live)
        try:
            if self.connect_delay:
                gevent.sleep(self.connect_delay)
            self._refuse()
        except BaseException:
            self.live -= 1
            raise
        connection.session = True
        self._connections.add(connection)

    def forget(self, connection: Connection) -> None:
        """End a session. Never switches."""
        if connection.session:
            connection.session = False
            self.live -= 1

    def cut_all(self) -> None:
        """End every session from this side; the clients learn of it when they next look. Never switches."""
        for connection in list(self._connections):
            connection.cut = True
            self.forget(connection)

    def _refuse(self) -> None:
        if self.refusing:
            raise ConnectionLostError("the server refuses connections")


class Connection:
    """The near end. While a query runs it is busy; one that is used again while busy reads a foreign answer: dirty."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.closed = True
        self.busy = self.cut = self.session = False
        self.open()

    def open(self) -> None:
        """Connect. Switches."""
        self.server.accept(self)
        self.closed = self.busy = self.cut = False

    def query(self, seconds: float = 0.0) -> None:
        """Ask the server for something that takes that long. Switches unless that is 0."""
        self._require()
        if self.busy:
            self.server.dirty += 1
        self.busy = True
        if seconds:
            gevent.sleep(seconds)
            self._require()
        self.busy = False

    def rollback(self) -> None:
        """End the transaction; impossible while a query runs. Switches if the server takes its time."""
        self._require()
        if self.server.reset_delay:
            gevent.sleep(self.server.reset_delay)
        if self.busy:
            raise ConnectionLostError("another command is already in progress")

    def commit(self) -> None:
        """End the transaction, likewise."""
        self.rollback()

    def alive(self) -> bool:
        """Whether a question to the server would be answered now. Never switches."""
        return not (self.closed or self.busy or self.cut)

    def close(self, *_: Any) -> None:
        """Disconnect. Never switches."""
        if not self.closed:
            self.closed = True
            self.server.forget(self)

    def __del__(self) -> None:
        # As a real driver's: a connection that somebody dropped is closed by the collector.
        if not self.closed:
            self.close()

    def _require(self) -> None:
        if self.cut:
            self.close()
        if self.closed:
            raise ConnectionLostError("the connection is closed")
