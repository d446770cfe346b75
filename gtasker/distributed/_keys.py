"""Keys: which message a key stands for, across processes.

Invariant: no key outlives its time to live, whatever dies when; and only a message that was really sent is ever joined.

A key is first *claimed*, for a few seconds, then the message is sent, then the key *stands* for it. A sender that dies
in between leaves a claim that lapses by itself.
"""

from __future__ import annotations

import time
from typing import Any

import gevent
import redis

CLAIM = 5.0
"""Seconds in which a claimed message has to be sent."""
_POLL_INTERVAL = 0.02  # seconds between two looks at somebody else's claim

_CONFIRM = """
if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('set', KEYS[1], ARGV[2], 'px', ARGV[3]) end
"""
_RENEW = """
if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('pexpire', KEYS[1], ARGV[2]) end
"""
_FORGET = """
local found = redis.call('get', KEYS[1])
if found == ARGV[1] or found == ARGV[2] then redis.call('del', KEYS[1]) end
"""


class Keys:
    """The keys of one namespace. `ttl`: seconds that one stands at most, from the sending or the last attempt."""

    def __init__(self, client: redis.Redis, namespace: str, ttl: float, claim: float = CLAIM) -> None:
        self._client = client
        self._namespace = namespace
        self._ttl = int(ttl * 1000)
        self._claim_for = claim
        self._confirm: Any = client.register_script(_CONFIRM)
        self._renew: Any = client.register_script(_RENEW)
        self._forget: Any = client.register_script(_FORGET)

    def claim(self, key: str, message_id: str) -> str | None:
        """Claim the key for a message that is about to be sent; return None, or the message to join. Switches.

        Waits for the end of somebody else's claim, which lapses after a few seconds.
        """
        name = self._name(key)
        mine = _claimed(message_id)
        deadline = time.monotonic() + 4 * self._claim_for
        while not self._client.set(name, mine, nx=True, px=int(self._claim_for * 1000)):
            found: Any = self._client.get(name)
            kind, _, other = (found or b"").decode().partition(":")
            if kind == "sent":
                return other
            if other == message_id or time.monotonic() > deadline:
                break  # the answer to an earlier try was lost; or claim follows claim: send without
            gevent.sleep(_POLL_INTERVAL)
        return None

    def confirm(self, key: str, message_id: str) -> None:
        """The claimed message was sent: let the key stand for it, unless it is done already. Switches."""
        self._confirm(keys=[self._name(key)], args=[_claimed(message_id), _sent(message_id), self._ttl])

    def renew(self, key: str, message_id: str) -> None:
        """An attempt of the message begins. Switches."""
        self._renew(keys=[self._name(key)], args=[_sent(message_id), self._ttl])

    def forget(self, key: str, message_id: str) -> None:
        """The message has its answer, or was not sent. Switches."""
        self._forget(keys=[self._name(key)], args=[_claimed(message_id), _sent(message_id)])

    def forget_with(self, pipe: Any, key: str, message_id: str) -> None:
        """As `forget`, with what else is done in `pipe`. Never switches."""
        pipe.eval(_FORGET, 1, self._name(key), _claimed(message_id), _sent(message_id))

    def _name(self, key: str) -> str:
        return f"{self._namespace}:{key}"


def _claimed(message_id: str) -> str:
    return f"claimed:{message_id}"


def _sent(message_id: str) -> str:
    return f"sent:{message_id}"
