"""How long a lost connection to Redis is tried again, and the one client of a process.

Invariant: a sender fails within seconds; a serving process loses neither a result nor a retry to an outage, however
long, for as long as it is not being stopped.
"""

from __future__ import annotations

import time
from typing import Any

import gevent
import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import OutOfMemoryError, ReadOnlyError
from redis.retry import Retry

_SENDERS_TRIES = 3
_REFUSED = 0.5  # seconds, when Redis is full, or is not the primary any more: it may be, again
_POOL_TIMEOUT = 20.0  # seconds that a greenlet waits for a connection of the pool
_SOCKET_TIMEOUT = 10.0  # seconds; without it a host that vanished would be waited for, for ever


class Patience(Retry):
    """A retry shared by all connections, so that one call makes all of them patient, or no longer.

    `tries`: further ones of a command, by who is not patient.
    """

    def __init__(self, tries: int = _SENDERS_TRIES) -> None:
        super().__init__(ExponentialWithJitterBackoff(cap=1.0, base=0.05), tries)
        self._tries = tries
        self._until = 0.0

    def __deepcopy__(self, memo: Any) -> Patience:
        return self

    def call_with_retry(self, do: Any, fail: Any, *args: Any, **options: Any) -> Any:
        """Call `do` until it works or patience ends. Switches."""
        while True:
            # A backoff counts its failures itself, and each call has its own.
            own = Retry(ExponentialWithJitterBackoff(cap=1.0, base=0.05), self._tries)
            try:
                return own.call_with_retry(do, fail, *args, **options)
            except (redis.ConnectionError, redis.TimeoutError):
                if time.monotonic() > self._until:
                    raise
            except (OutOfMemoryError, ReadOnlyError):
                if time.monotonic() > self._until:
                    raise
                gevent.sleep(_REFUSED)

    @property
    def is_over(self) -> bool:
        """Whether commands fail now that Redis does not answer. Never switches."""
        return time.monotonic() > self._until

    def be_patient(self, seconds: float) -> None:
        """Try for so long from now on. Never switches."""
        self._until = time.monotonic() + seconds


def connect(url: str, connections: int, patience: Patience, *, socket_timeout: float = _SOCKET_TIMEOUT) -> redis.Redis:
    """Make a client whose greenlets wait for a connection where a plain pool refuses them. Never switches.

    `socket_timeout`: seconds of one try to connect, and of one to get an answer.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=_POOL_TIMEOUT,
        socket_timeout=socket_timeout,
        socket_connect_timeout=socket_timeout,
        socket_keepalive=True,
        retry=patience,
    )
    return redis.Redis(connection_pool=pool)


def wait_for_connections(client: redis.Redis) -> None:
    """Let who serves wait for a connection as long as it takes: those in use may be trying, patiently."""
    client.connection_pool.timeout = None  # type: ignore[attr-defined]
