"""urllib3 for a runner: each resource is a ``PoolManager``, with one connection to each host.

Invariant: see ``gtasker.integrations.http``; and no request waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import urllib3
from urllib3 import exceptions

from gtasker.integrations._frames import let_go_of_frames
from gtasker.integrations._patched import warn_if_unpatched
from gtasker.integrations.http._common import DEFAULT_TIMEOUT, OpenResponseError, Settings, has_connection_out

__all__ = ["ResourceOptions", "is_healthy", "resource"]

_LOST = (
    exceptions.NewConnectionError,
    exceptions.TimeoutError,  # but for one while an answer is awaited
    exceptions.ProtocolError,
    exceptions.ProxyError,
    exceptions.SSLError,
)
_REDIRECTS = 5  # urllib3's own default would spend 3 tries on all together


class ResourceOptions(TypedDict):
    """The fields of ``gtasker.Config`` that ``resource`` fills in."""

    on_create: Callable[[], urllib3.PoolManager]
    on_destroy: Callable[[urllib3.PoolManager], None]
    check_health: Callable[[BaseException], bool]
    check_resource: Callable[[urllib3.PoolManager], bool] | None
    reset: Callable[[urllib3.PoolManager], None]
    on_forget: Callable[[urllib3.PoolManager], None]


def resource(*, timeout: float = DEFAULT_TIMEOUT, probe: str | None = None, **options: Any) -> ResourceOptions:
    """Return the options for ``Config(**resource(), worker_count=10)``. Warns where sockets are not patched.

    ``timeout``: seconds to connect, and between two bytes, for requests that give none. ``probe``: a URL to be fetched
    when a manager is made, and when it has idled; any answer will do. ``options`` go to ``urllib3.PoolManager``.
    Unless you set it, ``retries`` follows redirects only: the runner tries again, with another client.

    A use's own default headers are gone after it. An interrupted use costs the manager, and so does one that leaves a
    response open (OpenResponseError in the log).
    """
    warn_if_unpatched("urllib3", stacklevel=2)
    retries = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=_REDIRECTS)
    settings = {"maxsize": 1, "retries": retries, "timeout": urllib3.Timeout(connect=timeout, read=timeout), **options}
    made_with = Settings(urllib3.PoolManager(**settings), ("headers",))

    def create() -> urllib3.PoolManager:
        manager = urllib3.PoolManager(**settings)
        try:
            if probe is not None:
                _ask(manager, probe)
        except BaseException as error:
            manager.clear()
            let_go_of_frames(error)
            raise
        return manager

    def reset(manager: urllib3.PoolManager) -> None:
        if has_connection_out(manager):
            raise OpenResponseError("a response outlived its use, neither read to its end nor closed")
        made_with.restore(manager)

    return ResourceOptions(
        on_create=create,
        on_destroy=urllib3.PoolManager.clear,
        check_health=is_healthy,
        check_resource=None if probe is None else lambda manager: _ask(manager, probe),
        reset=reset,
        on_forget=urllib3.PoolManager.clear,  # it closes descriptors, and says nothing
    )


def is_healthy(error: BaseException) -> bool:
    """Tell whether a manager is still good after ``error``: the ``check_health`` of ``resource``. Never switches.

    Unhealthy is a connection that could not be made or broke off. A time-out while an answer is awaited is healthy, so
    that the request is not sent again; so is every status.
    """
    if isinstance(error, exceptions.MaxRetryError) and error.reason is not None:
        error = error.reason
    if isinstance(error, exceptions.ReadTimeoutError):
        return True
    return not isinstance(error, _LOST)


def _ask(manager: urllib3.PoolManager, url: str) -> bool:
    manager.request("GET", url)
    return True
