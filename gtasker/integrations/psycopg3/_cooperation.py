"""Whether psycopg waits in gevent's hub: it chose when it was imported.

Invariant: nothing is changed here; an import that came too early can only be told.
"""

from __future__ import annotations

import selectors

from gevent import monkey
from psycopg import waiting

_NEEDED = ("select", "socket", "threading")


class NotCooperativeError(RuntimeError):
    """psycopg would stop the whole event loop with each query."""


def check_cooperative() -> None:
    """Raise NotCooperativeError unless psycopg was imported after gevent had patched. Never switches."""
    missing = [module for module in _NEEDED if not monkey.is_module_patched(module)]
    if missing:
        raise NotCooperativeError(
            f"psycopg cannot wait for a server without stopping every greenlet: {', '.join(missing)} not patched. "
            "Call gevent.monkey.patch_all() first thing in the program, before psycopg is imported."
        )
    # It waits in C unless `select` was patched, and it took the standard library's selector as that was.
    in_c = getattr(waiting, "wait_c", None)
    if waiting.wait is in_c or getattr(waiting, "DefaultSelector", None) is not selectors.DefaultSelector:
        raise NotCooperativeError(
            "psycopg was imported before gevent had patched, and keeps waiting in a way that stops every greenlet. "
            "Call gevent.monkey.patch_all() first thing in the program (under Gunicorn: in its configuration file)."
        )
