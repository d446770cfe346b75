"""Celery's way to Redis, which looks for messages again as soon as there is room for one.

Invariant: only the length of a wait differs from kombu's own transport.

Celery's loop under gevent waits up to two seconds for its broker. While as many messages are unacknowledged as may be
fetched it waits for nothing, and a task that ends meanwhile does not wake it: twenty tasks every two seconds.
"""

from __future__ import annotations

from typing import Any

from kombu.transport.redis import Transport as RedisTransport

_FULL = 0.02  # seconds between two looks while there is no room


class Transport(RedisTransport):
    """What `broker_transport` names."""

    def drain_events(self, connection: Any, timeout: float | None = None, **options: Any) -> Any:
        """Wait for messages, and not for long while none may be fetched. Switches."""
        if not all(channel.qos.can_consume() for channel in self.channels):
            timeout = _FULL if timeout is None else min(timeout, _FULL)
        return super().drain_events(connection, timeout, **options)  # type: ignore[no-untyped-call]
