"""A limiter that counts in Redis, with py-redis-semaphore: leases that end with their holder.

Invariant: a slot is a lease of `ttl` seconds, renewed while its resource lives, by one greenlet for all slots of the
process. A process that dies, however, gives its slots back within `ttl`.

The bound is exact while Redis answers, and over an outage shorter than `ttl`. What happens beyond that is `when_away`.
"""

from __future__ import annotations

import logging
import os
import random
import time
from typing import Literal, final

import gevent
import redis
import redis_semaphore
from gevent import Greenlet
from redis_semaphore import AcquireMode, Semaphore, SemaphoreConfig

from gtasker import ConfigError, runners
from gtasker.distributed._fairness import Fairness, Standing
from gtasker.distributed._patience import Patience, connect
from gtasker.distributed.errors import LimiterUnavailableError, NoSlotError

__all__ = ["RedisLimiter", "WhenAway"]

WhenAway = Literal["fail_closed", "fail_open", "last_share"]
_WAYS = ("fail_closed", "fail_open", "last_share")

_log = logging.getLogger("gtasker.distributed")
_NEVER = 1e8  # seconds: the library's own renewal
_TELL_INTERVAL = 0.25  # seconds
_POLL = (0.02, 0.06)  # seconds between two questions for a slot
_RENEWALS = 3  # in a slot's time
_TRIES = 1  # further ones of a command: the connection may be one that Redis has closed
_LEAST_SOCKET_TIMEOUT = 0.25  # seconds


class _Lease(Semaphore):
    """A semaphore that is renewed by its limiter, for all slots of the process together."""

    def _start_heartbeat(self) -> None:
        # The library would start a thread for each slot (a greenlet, where threads are patched). Should it ever call
        # this by another name, those threads would be there again, and sleep.
        return


@final
class RedisLimiter:
    """`limit` slots for all processes that use this `name`.

    `when_away`, if Redis does not answer: "fail_closed" makes no resource, and replaces those whose lease has run out
    (they can be made again only when Redis is back); "fail_open" makes them uncounted; "last_share" makes them while
    this process has no more than it had when Redis was last heard of, so that all together keep the bound. What was
    made or kept uncounted is counted when Redis is back, or replaced where that is full.

    While a process waits that has less than an equal part, those that have more replace their resources, one after the
    other as they come free, and take no more than their part. A process's base workers and reserve should fit into it.
    """

    def __init__(
        self,
        url: str,
        name: str,
        limit: int,
        *,
        ttl: float = 10.0,
        when_away: WhenAway = "fail_closed",
        namespace: str = "gtasker-slots",
    ) -> None:
        if when_away not in _WAYS:
            raise ConfigError(f"when_away must be one of {', '.join(_WAYS)}, not {when_away!r}")
        self.name, self.limit, self.ttl, self.when_away = name, limit, ttl, when_away
        # All tries together end before the next renewal is due: a Redis that hangs is away, and must be known to be.
        hangs_after = max(ttl / _RENEWALS / (1 + _TRIES), _LEAST_SOCKET_TIMEOUT)
        self._client = connect(url, 4, Patience(_TRIES), socket_timeout=hangs_after)
        self._config = SemaphoreConfig(
            name=name, limit=limit, lock_timeout=ttl, refresh_interval=_NEVER, namespace=namespace,
            acquire_mode=AcquireMode.POLLING,  # nobody waits in Redis, so nobody need be told there
        )  # fmt: skip
        self._prefix = f"{namespace}:{name}"
        self._held: set[RedisSlot] = set()
        self._share = 0
        self._waiting = 0
        self._fairness = Fairness(self._client, self._prefix, limit, ttl)
        self._standing = Standing(limit, 0)
        self._keeper: Greenlet[[], None] | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<RedisLimiter {self.name!r}: {len(self._held)} here of {self.limit}>"

    def acquire(self, timeout: float) -> RedisSlot:
        """Take a slot, within `timeout` seconds. Switches. Raises NoSlotError, LimiterUnavailableError."""
        self._notice_fork()
        slot = RedisSlot(self, _Lease(self._client, self._config))
        if not self._take(slot):
            self._wait_for(slot, time.monotonic() + timeout)
        self._held.add(slot)
        if slot.is_counted:
            self._heard()
        if self._keeper is None or self._keeper.dead:
            self._keeper = Greenlet(self._keep)
            self._keeper.start()
        return slot

    def close(self) -> None:
        """Close the connections to Redis. Switches."""
        self._client.connection_pool.disconnect()

    def drop(self, slot: RedisSlot, *, heard: bool) -> None:
        """A slot was given back; `heard`: and Redis knows. Never switches. For slots."""
        self._held.discard(slot)
        if heard:
            self._heard()
        if not self._held and self._keeper is not None:
            # It is dead a turn of the loop later, and whoever takes a slot until then needs another.
            keeper, self._keeper = self._keeper, None
            keeper.kill(block=False)

    def _wait_for(self, slot: RedisSlot, deadline: float) -> None:
        self._waiting += 1
        try:
            tell_at = 0.0
            while not self._take(slot):
                now = time.monotonic()
                if now > deadline:
                    here = len(self._held)
                    raise NoSlotError(f"all {self.limit} slots of {self.name!r} are taken, {here} of them here")
                if now > tell_at:
                    self._tell()
                    tell_at = now + _TELL_INTERVAL
                gevent.sleep(random.uniform(*_POLL))
        finally:
            self._waiting -= 1

    def _tell(self) -> None:
        """Tell the others how many are held here, and hear whether somebody starves. Switches."""
        try:
            self._standing = self._fairness.tell(len(self._held), waiting=self._waiting > 0)
        except redis.RedisError as error:
            _log.warning("%r: %s", self, error)

    def _take(self, slot: RedisSlot) -> bool:
        if self._standing.starving and len(self._held) >= self._standing.fair:
            return False  # it is another process's turn
        try:
            return slot.take()
        except redis_semaphore.BackendError as error:
            if self._may_do_without():
                return True
            raise LimiterUnavailableError(f"the slots of {self.name!r} cannot be counted: {error}") from error

    def _may_do_without(self) -> bool:
        if self.when_away == "last_share":
            return len(self._held) < self._share
        return self.when_away == "fail_open"

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid, self._keeper, self._share, self._waiting = os.getpid(), None, 0, 0
            self._held = set()
            # A member of its own: under the parent's name all children would count as one.
            self._fairness = Fairness(self._client, self._prefix, self.limit, self.ttl)
            self._standing = Standing(self.limit, 0)

    def _keep(self) -> None:
        """Renew what is held; replace the resources of what is lost."""
        pid = os.getpid()
        pause = self.ttl / _RENEWALS
        began_at = time.monotonic()
        while self._held and pid == os.getpid():
            # On time, however long the last round took.
            gevent.sleep(max(0.0, began_at + pause - time.monotonic()))
            if pid != os.getpid():
                return  # the inherited greenlet of a forked child
            began_at = time.monotonic()
            lost = [slot for slot in self._renew_all() if not slot.is_told]
            if lost:
                _log.warning("%d of %d slots of %r were lost", len(lost), len(self._held), self.name)
                for slot in lost:
                    slot.is_told = True
                self._replace_resources()
            self._tell()
            if self._standing.starving and len(self._held) > self._standing.fair:
                # What was given back is not taken again here until the others have their part.
                self._replace_resources()

    def _renew_all(self) -> list[RedisSlot]:
        """Renew each slot, until Redis does not answer; return those whose resources must go. Switches."""
        lost = []
        for slot in list(self._held):
            try:
                counted = slot.renew()
            except redis_semaphore.BackendError as error:
                _log.warning("the slots of %r could not be renewed: %s", self.name, error)
                now = time.monotonic()
                return [held for held in self._held if held.good_until < now and self.when_away == "fail_closed"]
            if not counted:
                lost.append(slot)
        self._heard()
        return lost

    def _heard(self) -> None:
        """Redis has answered: what is counted here now is this process's share, should it go away."""
        self._share = sum(slot.is_counted for slot in self._held)

    def _replace_resources(self) -> None:
        for runner in runners():
            if getattr(runner.config.on_create, "limiter", None) is self:
                runner.recycle()


@final
class RedisSlot:
    """One lease. Uncounted while it was never taken, or was lost."""

    def __init__(self, limiter: RedisLimiter, semaphore: Semaphore) -> None:
        self._limiter = limiter
        self._semaphore = semaphore
        self.is_counted = False
        self.is_told = False
        """Whether its resource is on its way out, for the slot was lost."""
        self.good_until = 0.0
        """Moment until which Redis counts it, at least."""
        self._is_gone = False

    def take(self) -> bool:
        """Try to take it, or to take it again. Switches. Raises BackendError."""
        asked_at = time.monotonic()
        taken = self._semaphore.acquire(blocking=False).success
        if taken and self._is_gone:
            self._give_back()  # its resource has gone meanwhile
            return True
        self.is_counted = taken
        if taken:
            self.good_until = asked_at + self._limiter.ttl
        return taken

    def renew(self) -> bool:
        """Have it for `ttl` more; one that ran out is taken again if there is room. Switches. Raises BackendError."""
        asked_at = time.monotonic()
        if self.is_counted and self._semaphore.refresh():
            self.good_until = asked_at + self._limiter.ttl
            return True
        return self._is_gone or self.take()

    def release(self) -> None:
        """Give it back; where Redis does not hear that, it runs out by itself. Switches."""
        self._is_gone = True
        self._limiter.drop(self, heard=self.is_counted and self._give_back())

    def forget(self) -> None:
        """Let go without a word. Never switches."""
        self._is_gone = True
        self._limiter.drop(self, heard=False)

    def _give_back(self) -> bool:
        try:
            self._semaphore.release()
        except redis_semaphore.RedisSemaphoreError as error:
            _log.warning("a slot of %r runs out by itself: %s", self._limiter.name, error)
            return False
        return True
