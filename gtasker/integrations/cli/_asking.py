"""Asking a dashboard for its numbers, over HTTP, with the token.

Invariant: the token goes to this machine, or over TLS, and nowhere else; no redirect carries it on. What is handed on
of the answer can be printed: it commands no terminal.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from email.message import Message
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

TIMEOUT = 5.0
"""Seconds until a dashboard that does not answer counts as lost."""
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_COMMANDS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"
}
_LISTS = {"runners", "processes", "events"}


class AskingError(Exception):
    """There was no usable answer; its text says why."""


class RefusedError(AskingError):
    """Asking again would not help: a wrong address, or not the token."""


def _printable(told: Any) -> Any:
    """The same without what commands a terminal: an error's message may hold anything."""
    if isinstance(told, str):
        return told.translate(_COMMANDS)
    if isinstance(told, dict):
        return {name.translate(_COMMANDS): _printable(part) for name, part in told.items()}
    return [_printable(part) for part in told] if isinstance(told, list) else told


def _parts(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        # What is no port is not complained of before it is asked for.
        return parts if parts.port != 0 else None
    except ValueError:
        return None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Follow nowhere."""


class Dashboard:
    """A dashboard elsewhere. Raises RefusedError for an address that the token must not be sent to."""

    def __init__(self, url: str, token: str) -> None:
        parts = _parts(url if "//" in url else f"http://{url}")
        if parts is None or parts.scheme not in {"http", "https"} or parts.hostname is None:
            raise RefusedError(f"{url} is no address of a dashboard")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise RefusedError(f"the token must not go to {parts.hostname} in the clear: use https, or an SSH tunnel")
        path = parts.path.removesuffix("stats.json").rstrip("/") + "/stats.json"
        self._url = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        self._token = token
        # No proxy of the environment's: it would see the token.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)

    def ask(self, after: int) -> dict[str, Any]:
        """Its numbers, with the history after this slot. Raises AskingError.

        Blocks for `TIMEOUT` seconds at most until it is connected, and between two pieces of the answer.
        """
        request = urllib.request.Request(f"{self._url}?after={after}")
        request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                view: Any = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:  # it is an answer, too, on an open connection
                raise self._explain(error) from None
        except (OSError, ValueError, HTTPException) as error:
            raise AskingError(f"no answer from {self._url}: {error}") from None
        if not isinstance(view, dict) or not view.keys() >= _LISTS:
            raise AskingError(f"what answers at {self._url} is no dashboard")
        told: dict[str, Any] = _printable(view)
        return told

    def _explain(self, answer: urllib.error.HTTPError) -> AskingError:
        if answer.code == 401:
            return RefusedError("that is not the token")
        if answer.code == 403:
            return RefusedError(answer.read().decode("utf-8", "replace").strip())
        return AskingError(f"{self._url} says {answer.code}")
