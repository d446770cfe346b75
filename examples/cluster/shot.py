"""The shot: one worker is killed in the middle of transfers, and what it held is watched.

Invariant: what it held is what Redis says that a worker holds of which nothing is heard any more.
"""

from __future__ import annotations

import time
from typing import Any

import gevent
import psycopg2
import redis

from examples.cluster.fleet import Fleet
from examples.cluster.sender import Sender

_AIM = 0.005  # seconds between two looks
_AT_WORK = 3  # connections that have to be at work when it is fired
_SILENCE = 1.0  # seconds; whoever lives is heard of several times in it
_PATIENCE = 60.0  # seconds that the messages are watched at most
_ACTIVE = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state = 'active'"


class Shot:
    """`sessions` were at work, `held` messages in the dead one's hands, until `seconds` after its death."""

    def __init__(self, dsn: str, client: redis.Redis, name: str) -> None:
        self.sessions = self.held = 0
        self.seconds = 0.0
        self._redis: Any = client
        self._name = name
        self._session = psycopg2.connect(dsn, application_name=f"{name} shot")
        self._session.autocommit = True

    def fire(self, fleet: Fleet, sender: Sender, mark: int) -> None:
        """Wait for the mark, kill a worker, and return when what it held is in other hands, or done."""
        while sender.answered < mark or (sessions := self._at_work()) < _AT_WORK:
            gevent.sleep(_AIM)
        self.sessions = sessions
        fleet.shoot_one()
        begin = time.monotonic()
        before = self._heartbeats()
        gevent.sleep(_SILENCE)
        after = self._heartbeats()
        silent = [name for name, heard in before.items() if after.get(name) == heard]
        hands = [key for name in silent for key in self._redis.keys(f"{self._name}:__acks__.{name.decode()}.*")]
        self.held = sum(self._redis.scard(key) for key in hands)
        while any(self._redis.exists(key) for key in hands) and time.monotonic() - begin < _PATIENCE:
            gevent.sleep(_AIM)
        self.seconds = time.monotonic() - begin
        self._session.close()

    def _at_work(self) -> int:
        with self._session.cursor() as cursor:
            cursor.execute(_ACTIVE, [self._name])
            [(count,)] = cursor.fetchall()
            return int(count)

    def _heartbeats(self) -> dict[bytes, float]:
        """When each process was heard of last, by Redis."""
        return dict(self._redis.zrange(f"{self._name}:__heartbeats__", 0, -1, withscores=True))
