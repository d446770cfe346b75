"""What the HTTP clients have in common: who still has a connection, and what a client is put back to.

Invariant: nothing here asks a server.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

DEFAULT_TIMEOUT = 30.0  # seconds; requests and urllib3 would wait for ever


class OpenResponseError(Exception):
    """A use ended with a response neither read to its end nor closed; its client is replaced."""


class Settings:
    """What a client was made with, by attribute; copies, so that a use cannot change them in place."""

    def __init__(self, client: Any, names: Iterable[str]) -> None:
        self._saved = {name: _copy(getattr(client, name)) for name in names if hasattr(client, name)}

    def restore(self, client: Any) -> None:
        """Give the client what it was made with. Never switches."""
        for name, value in self._saved.items():
            setattr(client, name, _copy(value))


def _copy(value: Any) -> Any:
    """A copy of what a use may change in place; anything else, such as a tuple or an auth with a token, is itself."""
    if isinstance(value, dict):  # hooks are lists of functions, by event
        return {key: list(one) if isinstance(one, list) else one for key, one in value.items()}
    if hasattr(value, "copy"):
        return value.copy()
    if isinstance(value, MutableMapping):
        kind: Any = type(value)
        return kind(value)
    return value


def has_connection_out(manager: Any) -> bool:
    """Whether a response has a connection of this ``urllib3.PoolManager``, for it was not read to its end."""
    for key in manager.pools.keys():  # noqa: SIM118  # it is no dict, and refuses to be iterated over
        pool = manager.pools.get(key)
        # The queue holds a connection, or a placeholder for one, for each that may exist.
        if pool is not None and pool.pool is not None and pool.pool.qsize() < pool.pool.maxsize:
            return True
    return False
