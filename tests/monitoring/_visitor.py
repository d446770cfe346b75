"""A visitor of a WSGI application: asks it directly, and keeps cookies as a browser does.

Invariant: every answer is checked by the standard library's own validator of the protocol.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any, NamedTuple
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

TOKEN = "a token of sufficient length"


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, taken as JSON."""
        return json.loads(self.body)


class Visitor:
    """Asks `app`. `environ` overrides what a request from this machine would have."""

    def __init__(self, app: Any, **environ: str) -> None:
        self._app = validator(app)
        self._environ = environ
        self.cookies: SimpleCookie = SimpleCookie()

    def ask(self, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        """Send one request; headers as `X_Name="value"`."""
        path, _, query = path.partition("?")
        environ: dict[str, Any] = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "127.0.0.1:8484", "PATH_INFO": path}
        environ |= {"REQUEST_METHOD": method, "QUERY_STRING": query, "SCRIPT_NAME": "", **self._environ}
        if body:
            environ |= {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
        environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        if self.cookies:
            environ["HTTP_COOKIE"] = "; ".join(f"{one.key}={one.value}" for one in self.cookies.values())
        setup_testing_defaults(environ)
        return self._send(environ)

    def enter(self, token: str = TOKEN) -> Answer:
        """Show the token at the door."""
        return self.ask("/enter", "POST", f"token={token.replace(' ', '+')}".encode())

    def numbers(self, after: int = 0) -> Any:
        """The view, as the page gets it."""
        answer = self.ask(f"/stats.json?after={after}")
        assert answer.status == 200, answer
        return answer.json

    def command(self, **order: Any) -> Answer:
        """Give an order, with the seal that the page would have."""
        seal = self.numbers()["seal"] or ""
        return self.ask("/command", "POST", json.dumps(order).encode(), X_Gtasker_Seal=seal)

    def _send(self, environ: dict[str, Any]) -> Answer:
        begun: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], error: Any = None) -> Callable[..., None]:
            begun.extend([status, headers])
            return _refuse

        chunks: Any = self._app(environ, start_response)
        body = b"".join(chunks)
        chunks.close()
        status, headers = begun
        for name, value in headers:
            if name == "Set-Cookie":
                self.cookies.load(value)
        return Answer(int(status.partition(" ")[0]), dict(headers), body)


def _refuse(chunk: bytes) -> None:
    raise AssertionError("an application writes by returning")


def insider(app: Any, **environ: str) -> Visitor:
    """A visitor who has shown the token."""
    visitor = Visitor(app, **environ)
    assert visitor.enter().status == 303
    return visitor
