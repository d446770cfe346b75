"""Asking the server to cancel, without stopping the hub.

Invariant: a request that was given up touches nothing of the connection, which may be closed meanwhile.

psycopg's own way waits in gevent's hub where libpq can (17 and later). Before that it waits in C and keeps Python's
global lock, so that a server which says nothing would stop the whole process, and a thread would not help. There libpq
is called directly, in gevent's thread pool.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import gevent
import psycopg
from gevent.lock import BoundedSemaphore

_ERROR_BYTES = 256  # what libpq's documentation recommends

# A server that says nothing keeps a thread for as long as the kernel tries. gevent's pool has ten threads, and its
# resolver needs some of them to find the server again.
_THREADS_AT_ONCE = BoundedSemaphore(4)

_COMPILED = {"binary": "psycopg_binary.pq", "c": "psycopg_c.pq"}


def cancel(connection: psycopg.Connection[Any], timeout: float) -> None:
    """Ask, and wait for up to ``timeout`` seconds until the server has hung up on the request. Switches."""
    if psycopg.capabilities.has_cancel_safe():
        connection.cancel_safe(timeout=timeout)
    else:
        cancel_in_thread(connection)


def cancel_in_thread(connection: psycopg.Connection[Any]) -> None:
    """Ask in a thread; a caller that leaves leaves the thread to it. Switches."""
    _THREADS_AT_ONCE.acquire()
    try:
        asked = gevent.get_hub().threadpool.spawn(_request(connection))
    except BaseException:
        _THREADS_AT_ONCE.release()
        raise
    asked.rawlink(lambda _: _THREADS_AT_ONCE.release())
    asked.get()


def _request(connection: psycopg.Connection[Any]) -> Any:
    """Return what asks, with a copy of all that it needs."""
    if psycopg.pq.__impl__ not in _COMPILED:
        return connection.pgconn.get_cancel().cancel  # by ctypes already
    libpq = ctypes.CDLL(importlib.import_module(_COMPILED[psycopg.pq.__impl__]).__file__)
    libpq.PQgetCancel.restype = ctypes.c_void_p
    session: Any = connection.pgconn
    request = ctypes.c_void_p(libpq.PQgetCancel(ctypes.c_void_p(session.pgconn_ptr)))

    def ask() -> None:
        # ctypes lets go of the global lock meanwhile.
        libpq.PQcancel(request, ctypes.create_string_buffer(_ERROR_BYTES), _ERROR_BYTES)
        libpq.PQfreeCancel(request)

    return ask
