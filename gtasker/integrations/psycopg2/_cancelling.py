"""Ending a statement on the server when its greenlet is interrupted.

Invariant: nothing here blocks the hub or outlives its bound; a cancel request is over before the connection is used
again, so that it cannot hit the next statement.

``connection.cancel()`` will not do, not even in a thread: it keeps Python's global lock while it waits for the server,
and a server that accepts and says nothing would stop the whole process. So libpq is called directly: the cooperative
requests of libpq 17, encrypted like the connection; before that its blocking one in gevent's thread pool.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import gevent
import psycopg2
from gevent import Greenlet
from gevent.lock import BoundedSemaphore
from gevent.socket import wait_read, wait_write
from psycopg2 import extensions

# libpq's PostgresPollingStatusType
_POLLING_READING = 1
_POLLING_WRITING = 2
_ERROR_BYTES = 256  # what libpq's documentation recommends
_FIRST_PATIENCE = 0.01  # seconds; the answer of a cancelled statement takes a tenth of it

# A server that says nothing keeps a thread for as long as its keep-alive lasts. gevent's pool has ten threads, and
# its resolver needs some of them to find the server again.
_THREADS_AT_ONCE = BoundedSemaphore(4)

_FUNCTIONS: dict[str, tuple[type | None, list[type]]] = {
    "PQcancelCreate": (ctypes.c_void_p, [ctypes.c_void_p]),
    "PQcancelStart": (ctypes.c_int, [ctypes.c_void_p]),
    "PQcancelPoll": (ctypes.c_int, [ctypes.c_void_p]),
    "PQcancelSocket": (ctypes.c_int, [ctypes.c_void_p]),
    "PQcancelFinish": (None, [ctypes.c_void_p]),
    "PQgetCancel": (ctypes.c_void_p, [ctypes.c_void_p]),
    "PQcancel": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]),
    "PQfreeCancel": (None, [ctypes.c_void_p]),
}


def _load_libpq() -> ctypes.CDLL:
    """Return the libpq that psycopg2 itself uses: a symbol is looked up in the extension, then in what it links."""
    libpq = ctypes.CDLL(psycopg2._psycopg.__file__)
    for name, (result, arguments) in _FUNCTIONS.items():
        if function := getattr(libpq, name, None):
            function.restype = result
            function.argtypes = arguments
    return libpq


_libpq = _load_libpq()


def cancel_cooperatively(connection: extensions.connection) -> None:
    """Ask the server to cancel, and wait until it has hung up on the request. libpq 17 and later. Switches."""
    request = _libpq.PQcancelCreate(connection.pgconn_ptr)
    try:
        if not _libpq.PQcancelStart(request):
            return
        while (state := _libpq.PQcancelPoll(request)) in (_POLLING_READING, _POLLING_WRITING):
            wait = wait_read if state == _POLLING_READING else wait_write
            wait(_libpq.PQcancelSocket(request))
    finally:
        _libpq.PQcancelFinish(request)


def cancel_in_thread(connection: extensions.connection) -> None:
    """Ask the server to cancel, in gevent's thread pool; a caller that leaves leaves the thread to it. Switches."""
    _THREADS_AT_ONCE.acquire()
    try:
        # Everything it needs is copied here: the connection may be closed before the thread is done.
        request = _libpq.PQgetCancel(connection.pgconn_ptr)
        asked = gevent.get_hub().threadpool.spawn(_cancel_blocking, request)
    except BaseException:
        _THREADS_AT_ONCE.release()
        raise
    asked.rawlink(lambda _: _THREADS_AT_ONCE.release())
    asked.get()


def _cancel_blocking(request: int) -> None:
    # ctypes lets go of the global lock meanwhile.
    _libpq.PQcancel(request, ctypes.create_string_buffer(_ERROR_BYTES), _ERROR_BYTES)
    _libpq.PQfreeCancel(request)


def _choose() -> Callable[[extensions.connection], None] | None:
    if hasattr(_libpq, "PQcancelCreate"):
        return cancel_cooperatively
    return cancel_in_thread if hasattr(_libpq, "PQgetCancel") else None


# None where libpq's functions are not to be had: then a statement ends when it ends, and its connection is given up.
_cancel = _choose()


def cancel(connection: extensions.connection) -> bool:
    """Ask the server to cancel, in the best way there is; false if there is none. Switches."""
    if _cancel is None:
        return False
    _cancel(connection)
    return True


def end_own_statement(
    connection: extensions.connection, interrupt: BaseException, timeout: float
) -> tuple[bool, BaseException]:
    """End the statement for whose answer the calling greenlet waits, and read the answer, within ``timeout`` seconds.

    Returns whether that was done, and what the interrupted greenlet is to raise: ``interrupt``, or what came after it
    and weighs more. Further interrupts do not shorten it. Switches.
    """
    helper = Greenlet(end_statement, connection, timeout, lambda: wait_for_answer(connection))
    helper.start()
    while not helper.ready():
        try:
            helper.join()
        except BaseException as later:
            interrupt = _weightier(interrupt, later)
    return helper.value is True, interrupt


def _weightier(first: BaseException, later: BaseException) -> BaseException:
    """Return the one to raise of two: the first, but a kill rather than a time-out, whose catcher would go on."""
    outranked = isinstance(first, gevent.Timeout) and not isinstance(later, gevent.Timeout)
    return later if outranked else first


def end_statement(connection: extensions.connection, timeout: float, wait_until_over: Callable[[], bool]) -> bool:
    """Cancel the statement in flight until it is over; false if ``timeout`` seconds did not do.

    ``wait_until_over`` waits, and returns true. Switches.
    """
    try:
        return gevent.with_timeout(timeout, _insist, connection, wait_until_over, timeout_value=False)
    except psycopg2.Error:
        return False


def _insist(connection: extensions.connection, wait_until_over: Callable[[], bool]) -> bool:
    """Ask again and again, and wait longer each time.

    One request is not enough: the server ignores one that overtakes its statement, and then begins to work on that.
    """
    patience = _FIRST_PATIENCE
    while cancel(connection):
        if gevent.with_timeout(patience, wait_until_over, timeout_value=False):
            return True
        patience *= 2
    return False


def wait_for_answer(connection: extensions.connection) -> bool:
    """Wait until psycopg2 has nothing more to write or read; true then. Raises what psycopg2 finds. Switches."""
    while (state := connection.poll()) != extensions.POLL_OK:
        waiter(state)(connection.fileno())
    return True


def waiter(state: int) -> Callable[[int], object]:
    """Return what waits for a socket after ``poll()`` said ``state``. Raises OperationalError for an unknown one."""
    if state == extensions.POLL_READ:
        return wait_read
    if state == extensions.POLL_WRITE:
        return wait_write
    raise psycopg2.OperationalError(f"psycopg2's poll() said {state}")
