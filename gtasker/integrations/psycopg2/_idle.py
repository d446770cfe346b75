"""What lies in the socket of an idle session, looked at without taking it out.

Invariant: nothing here waits or switches, patched or not, and every byte stays where it is.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from gevent import monkey

_PEEKED = 4096  # bytes
_HEADER = 5  # bytes of a message of the server's: its type, and the length of the rest, these four included
_ERROR = b"E"

_socket: Any = monkey.get_original("socket", "socket")


def has_last_words(descriptor: int) -> bool:
    """Whether an error message is there, on a line that is not encrypted. Never switches.

    A session that was asked nothing gets one only to say why it ends. The end itself may come some milliseconds later,
    and until then the connection would look alive to whoever has read the words.
    """
    with _socket(fileno=os.dup(descriptor)) as line:
        try:
            heard: bytes = line.recv(_PEEKED, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return False
    start = 0
    while start + _HEADER <= len(heard):
        if heard[start : start + 1] == _ERROR:
            return True
        start += 1 + int.from_bytes(heard[start + 1 : start + _HEADER], "big")
    return False
