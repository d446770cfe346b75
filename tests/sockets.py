"""A resource for `check_readable`: one end of a socket pair, the other end in the test's hands.

Invariant: `close` closes both ends.
"""

from __future__ import annotations

import socket


class SocketPair:
    """Two sockets that are connected; it is looked at by the near one."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()

    def fileno(self) -> int:
        """The near one's descriptor."""
        return self.near.fileno()

    def close(self) -> None:
        """Close both ends."""
        self.near.close()
        self.far.close()
