"""Access: who may see the page, and who may command.

Invariant: nothing is shown before a secret was compared in constant time, and nothing is changed without a second one
that another site cannot know.

A visitor shows the token once, by a form, and gets a session: an id and the moment of its beginning, signed with the
token, in a cookie. So any process that has the token knows the session, and no process has to remember it. Programs
send `Authorization: Bearer TOKEN` instead.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from time import monotonic
from typing import Any

LEAST_TOKEN = 16
"""Characters a token must have: fewer might be guessed."""
SESSION_SPAN = 12 * 3600.0
"""Seconds that a session lasts."""
_LOCAL_PEERS = ("127.", "::ffff:127.")
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]", ""}
# A proxy's marks: the peer is near, but whom it asks for may not be.
_FORWARDED = ("HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_REAL_IP")
_FORWARDED_PREFIX = "HTTP_X_FORWARDED_"


class Access:
    """The gate. `loopback_only`: refuse whoever does not ask from this very machine."""

    def __init__(self, token: str, *, loopback_only: bool) -> None:
        if len(token) < LEAST_TOKEN:
            raise ValueError(f"the dashboard's token must have at least {LEAST_TOKEN} characters")
        self._token = token.encode()
        self._loopback_only = loopback_only
        # A browser sends cookies to all ports of a host: each dashboard has a name of its own for its one.
        self.cookie = f"gtasker-{self._sign('cookie', '')[:12]}"

    def is_near(self, environ: Mapping[str, Any]) -> bool:
        """Whether the request comes from where it may come from."""
        if not self._loopback_only:
            return True
        # On a Unix socket there is no address, and the peer is a proxy as a rule.
        peer = environ.get("REMOTE_ADDR") or ""
        host = environ.get("HTTP_HOST") or ""
        # A name that points here today (DNS rebinding) is not this machine's.
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        is_forwarded = any(field in _FORWARDED or field.startswith(_FORWARDED_PREFIX) for field in environ)
        return (peer == "::1" or peer.startswith(_LOCAL_PEERS)) and name.lower() in _LOCAL_HOSTS and not is_forwarded

    def knows(self, token: str) -> bool:
        """Whether this is the token; takes the same time whatever is wrong with it."""
        return hmac.compare_digest(token.encode(), self._token)

    def session(self, environ: Mapping[str, Any]) -> str | None:
        """Whose request it is; None for a stranger's."""
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer" and self.knows(token.strip()):
            return "bearer"
        try:
            morsel = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(self.cookie)
        except CookieError:
            return None
        return self._verified(morsel.value) if morsel is not None else None

    def begin(self) -> str:
        """A new session, as the cookie's value."""
        session = f"{secrets.token_hex(8)}-{monotonic():.0f}"
        return f"{session}.{self._sign('session', session)}"

    def seal(self, session: str) -> str:
        """What a request that changes something must bring along; another site cannot read it."""
        return self._sign("command", session)

    def may_command(self, session: str, seal: str) -> bool:
        """Whether the request brought it along."""
        return hmac.compare_digest(seal.encode(), self.seal(session).encode())

    def _verified(self, value: str) -> str | None:
        session, _, signature = value.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", session).encode()):
            return None
        # The clock is the machine's, the same in each process, and begins anew when it boots.
        age = monotonic() - float(session.rpartition("-")[2])
        return session if -1.0 <= age <= SESSION_SPAN else None

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._token, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()
