"""The WSGI application: the page, its numbers, the door, and the commands.

Invariant: every answer but the door's needs a session; none may be cached, framed, or load anything from elsewhere.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from gtasker.errors import ConfigError
from gtasker.integrations._home import AwayError
from gtasker.integrations.dashboard._access import SESSION_SPAN, Access
from gtasker.integrations.dashboard._orders import OrderError, check

StartResponse = Callable[..., Any]
Environ = dict[str, Any]
LONGEST_BODY = 4096
"""Bytes of a request that are read."""
_STRANGER = "401 Unauthorized"
_SCHEME = (("WWW-Authenticate", "Bearer"),)


class Answer(NamedTuple):
    """What is sent."""

    status: str
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class App:
    """The application. `view(after)` gives the numbers; `command(order)` obeys, and is None where nobody commands."""

    def __init__(
        self,
        access: Access,
        title: str,
        view: Callable[[int], dict[str, Any]],
        command: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._access = access
        self._title = title
        self._view = view
        self._command = command

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        nonce = secrets.token_urlsafe(16)
        answer = self._answer(environ, nonce)
        start_response(answer.status, [*_headers(answer, nonce), *answer.headers])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    def _answer(self, environ: Environ, nonce: str) -> Answer:
        if not self._access.is_near(environ):
            return Answer("403 Forbidden", b"The dashboard answers to this machine alone.\n")
        session = self._access.session(environ)
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        if path == "":
            return _see_other(environ.get("SCRIPT_NAME", "") + "/")
        route = _ROUTES.get((path, "GET" if method == "HEAD" else method))
        if route is None:
            allowed = [method for place, method in _ROUTES if place == path]
            headers = (("Allow", ", ".join(allowed)),)
            return Answer("405 Method Not Allowed", headers=headers) if allowed else Answer("404 Not Found")
        return route(self, environ, session, nonce)

    def _page(self, environ: Environ, session: str | None, nonce: str) -> Answer:
        page = _page("page" if session is not None else "door").replace("{{nonce}}", nonce)
        body = page.replace("{{title}}", _escape(self._title)).encode()
        status, headers = ("200 OK", ()) if session is not None else (_STRANGER, _SCHEME)
        return Answer(status, body, "text/html; charset=utf-8", headers)

    def _enter(self, environ: Environ, session: str | None, nonce: str) -> Answer:
        fields = parse_qs(_body(environ).decode("utf-8", "replace"))
        if not self._access.knows(fields.get("token", [""])[0]):
            return _see_other("./?wrong")
        # Never sent along from another site, and out of reach of scripts.
        cookie = f"{self._access.cookie}={self._access.begin()}; Max-Age={SESSION_SPAN:.0f}; HttpOnly; SameSite=Strict"
        return _see_other("./", ("Set-Cookie", f"{cookie}; {_scope(environ)}"))

    def _leave(self, environ: Environ, session: str | None, nonce: str) -> Answer:
        return _see_other("./", ("Set-Cookie", f"{self._access.cookie}=; Max-Age=0; {_scope(environ)}"))

    def _numbers(self, environ: Environ, session: str | None, nonce: str) -> Answer:
        if session is None:
            return _error(_STRANGER, "show the token first")._replace(headers=_SCHEME)
        try:
            view = self._view(_integer(environ.get("QUERY_STRING", ""), "after"))
        except AwayError as error:
            return _error("503 Service Unavailable", str(error))
        view["title"] = self._title
        view["seal"] = self._access.seal(session) if self._command is not None else None
        return _json("200 OK", view)

    def _obey(self, environ: Environ, session: str | None, nonce: str) -> Answer:
        if session is None:
            return _error(_STRANGER, "show the token first")._replace(headers=_SCHEME)
        if self._command is None:
            return _error("403 Forbidden", "this dashboard is read-only")
        if not self._access.may_command(session, environ.get("HTTP_X_GTASKER_SEAL", "")):
            return _error("403 Forbidden", "the request does not come from the page")
        try:
            self._command(check(json.loads(_body(environ))))
        except (OrderError, ConfigError, ValueError, RecursionError) as error:
            return _error("400 Bad Request", str(error))
        except (AwayError, OSError) as error:
            return _error("503 Service Unavailable", str(error))
        return _json("200 OK", {"done": True})


_ROUTES: dict[tuple[str, str], Callable[[App, Environ, str | None, str], Answer]] = {
    ("/", "GET"): App._page,
    ("/enter", "POST"): App._enter,
    ("/leave", "POST"): App._leave,
    ("/stats.json", "GET"): App._numbers,
    ("/command", "POST"): App._obey,
}


def _headers(answer: Answer, nonce: str) -> list[tuple[str, str]]:
    own = f"'nonce-{nonce}'"
    policy = (
        f"default-src 'none'; script-src {own}; style-src {own}; connect-src 'self'; img-src data:; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    return [
        ("Content-Type", answer.kind),
        ("Content-Length", str(len(answer.body))),
        ("Content-Security-Policy", policy),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
    ]


@cache
def _page(name: str) -> str:
    """A page with its style and script in it: one file, and nothing to fetch."""
    folder = files(__package__) / "page"
    page = (folder / f"{name}.html").read_text(encoding="utf-8")
    return re.sub(r"{{([a-z]+\.(?:css|js))}}", lambda found: (folder / found[1]).read_text(encoding="utf-8"), page)


def _json(status: str, content: dict[str, Any]) -> Answer:
    return Answer(status, json.dumps(content, separators=(",", ":")).encode(), "application/json")


def _error(status: str, message: str) -> Answer:
    return _json(status, {"error": message})


def _see_other(place: str, *headers: tuple[str, str]) -> Answer:
    return Answer("303 See Other", headers=(("Location", place), *headers))


def _scope(environ: Environ) -> str:
    secure = "; Secure" if environ.get("wsgi.url_scheme") == "https" else ""
    return f"Path={environ.get('SCRIPT_NAME', '') or '/'}{secure}"


def _body(environ: Environ) -> bytes:
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = 0
    body: bytes = environ["wsgi.input"].read(min(max(length, 0), LONGEST_BODY))
    return body


def _integer(query: str, name: str) -> int:
    try:
        return int(parse_qs(query).get(name, ["0"])[0])
    except ValueError:
        return 0


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
