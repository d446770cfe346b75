"""Answer 503 where a runner says "not now": a WSGI middleware, and what a framework's own error handler needs.

Invariant: an error that is no "not now" passes through untouched, and so does a response of which a part was sent.

    application = answer_503(application)                      # any WSGI application that lets the errors out

    for kind in NOT_NOW:                                       # Flask catches them itself
        app.register_error_handler(kind, unavailable)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gtasker.errors import (
    AcquireTimeoutError,
    GTaskerError,
    QueueFullError,
    ResourceUnavailableError,
    RunnerKilledError,
    RunnerStoppedError,
    StartError,
    TooManyWaitersError,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from typing_extensions import Self

    # Servers and frameworks agree on how `start_response` is called, but not on its type.
    Application = Callable[..., Iterable[bytes]]
    ExcInfo = tuple[type[BaseException], BaseException, TracebackType]

__all__ = ["NOT_NOW", "ServerStoppingError", "answer_503", "unavailable"]

_BODY = "Not available at the moment. Try again.\n"
_logger = logging.getLogger("gtasker.wsgi")


class ServerStoppingError(GTaskerError):
    """The server's time is up and the request had no answer yet: it is interrupted, to be answered at all.

    Thrown into requests by `gtasker.integrations.gunicorn` and `gtasker.integrations.pywsgi`, after the runners were
    killed. How far the request had come is unknown.
    """


NOT_NOW: tuple[type[GTaskerError], ...] = (
    AcquireTimeoutError,
    QueueFullError,
    ResourceUnavailableError,
    RunnerKilledError,
    RunnerStoppedError,
    ServerStoppingError,
    StartError,
    TooManyWaitersError,
)
"""What another moment, or another process, may well serve: no capacity, no backend, or a shutdown.

`RunnerKilledError` and `ServerStoppingError` may have interrupted something half done. `TaskTimeoutError` is not here:
trying again at once would only add to the load that made it late.
"""


def unavailable(error: BaseException | None = None, *, retry_after: int = 1) -> tuple[str, int, dict[str, str]]:
    """Body, status and headers of the answer; as it stands, an error handler for Flask. Never switches.

    `retry_after`: seconds. The error's message is logged, not sent: it names what is inside.
    """
    if error is not None:
        _logger.info("answered 503: %s: %s", type(error).__name__, error)
    headers = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
    return _BODY, 503, {**headers, "Retry-After": str(retry_after)}


def answer_503(application: Application, *, retry_after: int = 1) -> WSGIApplication:
    """Wrap `application`: one of `NOT_NOW` that it raises before anything was sent becomes a 503. Switches as it does.

    `retry_after`: seconds after which the client may try again; 0 or more. Wrapping twice does no harm.
    """
    if retry_after < 0:
        raise ValueError(f"retry_after is seconds, 0 or more, not {retry_after!r}")

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        head = _Head(start_response, retry_after, with_body=environ.get("REQUEST_METHOD") != "HEAD")
        try:
            body = application(environ, head.start_response)
        except NOT_NOW as error:
            return head.refuse(error)
        if _runs_nothing(body, environ):
            head.release()
            return body
        return _Body(body, head)

    return guarded


def _runs_nothing(body: Any, environ: WSGIEnvironment) -> bool:
    """Whether no code of the application's runs while `body` is sent. Servers know these by their types."""
    file_wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(body, list | tuple) or (isinstance(file_wrapper, type) and isinstance(body, file_wrapper)):
        return True
    return not hasattr(body, "__iter__")  # a server's own sign that the request was answered by other means


class _Head:
    """Status and headers, held back until the body begins: till then another answer may take their place.

    Servers are to replace them when `start_response` comes again with `exc_info`; Gunicorn adds the new to the old.
    """

    def __init__(self, start_response: StartResponse, retry_after: int, *, with_body: bool) -> None:
        self._start_response = start_response
        self._retry_after = retry_after
        self._with_body = with_body
        self._held: tuple[str, list[tuple[str, str]]] | None = None
        self._write: Callable[[bytes], object] | None = None

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | tuple[None, None, None] | None = None, /
    ) -> Callable[[bytes], object]:
        """What the application is given for the server's own."""
        if self._write is not None or (self._held is not None and exc_info is None):
            # It was sent, or the application is at fault: the server has the last word, which is to raise.
            self.release()
            return self._start_response(status, headers, exc_info)
        self._held = (status, headers)
        return self._write_late

    def release(self) -> None:
        """Hand them to the server, if there are any and it has none."""
        if self._write is None and self._held is not None:
            self._write = self._start_response(*self._held)

    def refuse(self, error: BaseException) -> list[bytes]:
        """The body of the 503. Raises `error` when it is too late for one."""
        if self._write is not None:
            raise error
        body, _, headers = unavailable(error, retry_after=self._retry_after)
        content = body.encode()
        self._held = ("503 Service Unavailable", [*headers.items(), ("Content-Length", str(len(content)))])
        self.release()
        # Not every server keeps back what must not follow here: the client would take it for the next answer.
        return [content] if self._with_body else [b""]

    def _write_late(self, data: bytes) -> object:
        self.release()
        assert self._write is not None
        return self._write(data)


class _Body:
    """The application's body; its first part decides whether the answer stands. Empty parts decide nothing."""

    def __init__(self, body: Iterable[bytes], head: _Head) -> None:
        self._body: Any = body
        self._parts: Iterator[bytes] | None = None
        self._head = head

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        part = b""
        try:
            if self._parts is None:
                self._parts = iter(self._body)
            while not part:
                part = next(self._parts)
        except NOT_NOW as error:
            self._parts = iter(self._head.refuse(error))
            return next(self._parts)
        except StopIteration:
            self._head.release()
            raise
        self._head.release()
        return part

    def close(self) -> None:
        """Servers call it in the end, whatever became of the body."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()
