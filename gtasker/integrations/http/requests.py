"""requests for a runner: each resource is a session, with one connection to each host.

Invariant: see ``gtasker.integrations.http``; and no request waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ReadTimeoutError

from gtasker.integrations._frames import let_go_of_frames
from gtasker.integrations._patched import warn_if_unpatched
from gtasker.integrations.http._common import DEFAULT_TIMEOUT, OpenResponseError, Settings, has_connection_out

__all__ = ["ResourceOptions", "Session", "is_healthy", "resource"]

_SETTINGS = ("headers", "auth", "params", "proxies", "hooks", "verify", "cert", "stream", "trust_env", "max_redirects")


class Session(requests.Session):
    """A session of requests with a ``timeout`` (seconds, to connect and between two bytes) for whoever gives none."""

    def __init__(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__()
        self.timeout = timeout
        self.made_with: Settings | None = None  # what a use is to find

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send, with the session's time-out if there is none. Switches."""
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self.timeout
        return super().send(request, **kwargs)


class ResourceOptions(TypedDict):
    """The fields of ``gtasker.Config`` that ``resource`` fills in."""

    on_create: Callable[[], Session]
    on_destroy: Callable[[Session], None]
    check_health: Callable[[BaseException], bool]
    check_resource: Callable[[Session], bool] | None
    reset: Callable[[Session], None]
    on_forget: Callable[[Session], None]


def resource(
    *,
    timeout: float = DEFAULT_TIMEOUT,
    configure: Callable[[Session], object] | None = None,
    probe: str | None = None,
    keep_cookies: bool = False,
) -> ResourceOptions:
    """Return the options for ``Config(**resource(), worker_count=10)``. Warns where sockets are not patched.

    ``timeout``: seconds to connect, and between two bytes, for requests that give none.
    ``configure(session)`` is called for each new session: headers, auth, a log-in, adapters of your own. What it leaves
    is what each use begins with: a use's own headers, auth and cookies are gone after it. ``keep_cookies``: they stay.
    ``probe``: a URL to be fetched when a session is made, and when it has idled; any answer will do.

    An interrupted use costs the session, and so does one that leaves a response open (OpenResponseError in the log).
    """
    warn_if_unpatched("requests", stacklevel=2)

    def create() -> Session:
        session = Session(timeout)
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=1))
        try:
            if configure is not None:
                configure(session)
            if probe is not None:
                _ask(session, probe)
        except BaseException as error:
            session.close()
            let_go_of_frames(error)
            raise
        session.made_with = Settings(session, _SETTINGS if keep_cookies else (*_SETTINGS, "cookies"))
        return session

    return ResourceOptions(
        on_create=create,
        on_destroy=requests.Session.close,
        check_health=is_healthy,
        check_resource=None if probe is None else lambda session: _ask(session, probe),
        reset=_reset,
        on_forget=requests.Session.close,  # it closes descriptors, and says nothing
    )


def is_healthy(error: BaseException) -> bool:
    """Tell whether a session is still good after ``error``: the ``check_health`` of ``resource``. Never switches.

    Unhealthy is a connection that could not be made or broke off. A time-out while an answer is awaited is healthy, so
    that the request is not sent again; so is every status.
    """
    if isinstance(error, requests.ConnectionError) and isinstance(next(iter(error.args), None), ReadTimeoutError):
        return True  # in the middle of a body; before its beginning requests calls it a ReadTimeout
    return not isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError))


def _ask(session: Session, url: str) -> bool:
    session.get(url)
    return True


def _reset(session: Session) -> None:
    """Put the session back to what it was made with. Never switches."""
    adapters = session.adapters.values()
    managers = [adapter.poolmanager for adapter in adapters if isinstance(adapter, HTTPAdapter)]
    if any(map(has_connection_out, managers)):
        raise OpenResponseError("a response outlived its use, neither read to its end nor closed")
    if session.made_with is not None:
        session.made_with.restore(session)
