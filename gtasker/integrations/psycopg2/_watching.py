"""A watcher for what a server answers, kept from one statement to the next.

Invariant: between two waits it is stopped, and then it is nothing but a descriptor's number and a loop.

To make one for each wait costs half as much as the wait.
"""

from __future__ import annotations

from typing import Any

from gevent.hub import Hub

_READ = 1
# Its watchers are C structs. In the other loops a stopped one may still be tied to its descriptor, and outlive it.
_LOOP = "gevent.libev.corecext"


def kept_watcher(hub: Hub, descriptor: int) -> Any:
    """Return a watcher for reading, to be kept for as long as the descriptor; None where none can. Never switches."""
    return hub.loop.io(descriptor, _READ) if type(hub.loop).__module__ == _LOOP else None
