"""httpx for a runner: each resource is a ``Client`` with one connection.

Invariant: see ``gtasker.integrations.http``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import httpx

from gtasker.integrations._frames import let_go_of_frames
from gtasker.integrations._patched import warn_if_unpatched
from gtasker.integrations.http._common import DEFAULT_TIMEOUT, OpenResponseError, Settings

__all__ = ["Client", "ResourceOptions", "is_healthy", "resource"]

_SETTINGS = ("headers", "auth", "params", "timeout", "event_hooks", "base_url", "max_redirects")
# Seconds. Nobody else uses the client, so its one connection comes free at once or never: a stream has it.
_POOL_TIMEOUT = 1.0
_LOST = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError, httpx.ConnectTimeout)


class Client(httpx.Client):
    """A client of httpx that knows which of its responses are open."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.made_with: Settings | None = None  # what a use is to find
        self._responses: list[httpx.Response] = []  # of this use, and sent as streams

    def send(self, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        """Send. Switches."""
        response = super().send(request, **kwargs)
        if not response.is_closed:
            self._responses = [one for one in self._responses if not one.is_closed]
            # Not weakly: dropped unread it is gone, but it has the connection as before.
            self._responses.append(response)
        return response

    def has_open_response(self) -> bool:
        """Whether a response is neither read to its end nor closed. Never switches."""
        responses, self._responses = self._responses, []
        return any(not response.is_closed for response in responses)


class ResourceOptions(TypedDict):
    """The fields of ``gtasker.Config`` that ``resource`` fills in."""

    on_create: Callable[[], Client]
    on_destroy: Callable[[Client], None]
    check_health: Callable[[BaseException], bool]
    check_resource: Callable[[Client], bool] | None
    reset: Callable[[Client], None]
    on_forget: Callable[[Client], None]


def resource(
    *,
    timeout: float = DEFAULT_TIMEOUT,
    configure: Callable[[Client], object] | None = None,
    probe: str | None = None,
    keep_cookies: bool = False,
    **options: Any,
) -> ResourceOptions:
    """Return the options for ``Config(**resource(), worker_count=10)``. Warns where sockets are not patched.

    ``timeout``: seconds to connect, and between two bytes. ``configure(client)`` is called for each new client: a
    log-in, say. What it leaves is what each use begins with: a use's own headers, auth and cookies are gone after it.
    ``keep_cookies``: they stay. ``probe``: a URL to be fetched when a client is made, and when it has idled; any answer
    will do. ``options`` go to ``httpx.Client`` (``base_url``, ``headers``, ``verify``, ...); unless you set ``limits``,
    a client has one connection, whatever the number of hosts.

    An interrupted use costs the client, and so does one that leaves a response open (OpenResponseError in the log).
    """
    warn_if_unpatched("httpx", stacklevel=2)
    settings = {
        "timeout": httpx.Timeout(timeout, pool=_POOL_TIMEOUT),
        "limits": httpx.Limits(max_connections=1, max_keepalive_connections=1),
        **options,
    }

    def create() -> Client:
        client = Client(**settings)
        try:
            if configure is not None:
                configure(client)
            if probe is not None:
                _ask(client, probe)
        except BaseException as error:
            client.close()
            let_go_of_frames(error)
            raise
        client.made_with = Settings(client, _SETTINGS if keep_cookies else (*_SETTINGS, "cookies"))
        return client

    return ResourceOptions(
        on_create=create,
        on_destroy=httpx.Client.close,
        check_health=is_healthy,
        check_resource=None if probe is None else lambda client: _ask(client, probe),
        reset=_reset,
        on_forget=httpx.Client.close,  # it closes descriptors, and says nothing
    )


def is_healthy(error: BaseException) -> bool:
    """Tell whether a client is still good after ``error``: the ``check_health`` of ``resource``. Never switches.

    Unhealthy is a connection that could not be made or broke off. A time-out while an answer is awaited is healthy, so
    that the request is not sent again; so is every status, and a use that wants a second connection.
    """
    return not isinstance(error, _LOST)


def _ask(client: Client, url: str) -> bool:
    client.get(url)
    return True


def _reset(client: Client) -> None:
    """Put the client back to what it was made with. Never switches."""
    if client.is_closed:
        raise httpx.CloseError("the client was closed in use")
    if client.has_open_response():
        raise OpenResponseError("a response outlived its use, neither read to its end nor closed")
    if client.made_with is not None:
        client.made_with.restore(client)
