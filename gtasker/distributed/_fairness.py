"""Fairness between processes: who has less than its part and waits is seen by who has more.

Invariant: what a process has told of itself is forgotten `ttl` seconds later, so the dead and the gone count for
nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import uuid4

import redis

_HUNGER = 3000  # milliseconds for which a process counts as starving that has said so

_TELL = """
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, key in ipairs(KEYS) do redis.call('zremrangebyscore', key, '-inf', now) end
redis.call('zadd', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('pexpire', KEYS[1], ARGV[2])
local fair = math.max(1, math.floor(ARGV[3] / redis.call('zcard', KEYS[1])))
if ARGV[5] == '1' and tonumber(ARGV[4]) < fair then
    redis.call('zadd', KEYS[2], now + ARGV[6], ARGV[1])
    redis.call('pexpire', KEYS[2], ARGV[6])
else
    redis.call('zrem', KEYS[2], ARGV[1])
end
return {fair, redis.call('zcard', KEYS[2]) - (redis.call('zscore', KEYS[2], ARGV[1]) and 1 or 0)}
"""


class Standing(NamedTuple):
    """`fair`: the part of each process that is there. `starving`: others that wait and have less."""

    fair: int
    starving: int


class Fairness:
    """One process's view of who shares `limit` slots."""

    def __init__(self, client: redis.Redis, prefix: str, limit: int, ttl: float) -> None:
        self._keys = [f"{prefix}:members", f"{prefix}:starving"]
        self._limit = limit
        self._ttl = int(ttl * 1000)
        self._me = uuid4().hex
        self._tell: Any = client.register_script(_TELL)

    def tell(self, held: int, *, waiting: bool) -> Standing:
        """Tell how many this process has, and whether it waits for more; hear how it stands. Switches."""
        fair, starving = self._tell(
            keys=self._keys, args=[self._me, self._ttl, self._limit, held, int(waiting), _HUNGER]
        )
        return Standing(fair, starving)
