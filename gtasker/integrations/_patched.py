"""Whether Python's own sockets wait in gevent's hub, for clients that are made of them.

Invariant: it only tells; nothing is patched here.
"""

from __future__ import annotations

import warnings

from gevent import monkey


def warn_if_unpatched(client: str, stacklevel: int) -> None:
    """Warn where ``client``, made of Python's sockets, would stop every greenlet while it waits. Never switches."""
    if not monkey.is_module_patched("socket"):
        warnings.warn(
            f"{client} blocks the whole event loop: the module socket is not patched. "
            "Call gevent.monkey.patch_all() first thing in the program.",
            RuntimeWarning,
            stacklevel=stacklevel + 1,
        )
