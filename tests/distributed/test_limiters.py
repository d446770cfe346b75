"""Limiters: shares by arithmetic, slots counted in Redis, and what happens while Redis is away."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import gevent
import pytest
import redis

from gtasker import AcquireTimeoutError, Config, ConfigError, ResourceUnavailableError, Runner
from gtasker.distributed import LimiterUnavailableError, NoSlotError
from gtasker.distributed.limiter import Share, bounded
from gtasker.distributed.rate import RateLimit
from gtasker.distributed.semaphore import RedisLimiter, WhenAway
from gtasker.testing.redis import ThrowAwayRedis
from tests.conftest import MakeRunner
from tests.distributed._workers import new_name
from tests.ledger import Ledger
from tests.postgres._server import eventually

TTL = 0.6


@pytest.mark.parametrize(("total", "share", "count"), [(100, 1 / 8, 12), (100, 1 / 10, 10), (7, 1.0, 7), (3, 1 / 3, 1)])
def test_a_share_is_rounded_down_so_that_the_sum_keeps_the_bound(total: int, share: float, count: int) -> None:
    assert Share(total, share).count == count


@pytest.mark.parametrize(("total", "share"), [(3, 1 / 4), (0, 1.0), (10, 0.0), (10, 1.5), (10, -1.0)])
def test_a_share_of_nothing_is_refused(total: int, share: float) -> None:
    with pytest.raises(ConfigError):
        Share(total, share)


def test_a_runner_never_has_more_resources_than_its_share(ledger: Ledger, make_runner: MakeRunner) -> None:
    runner = make_runner(**bounded(ledger.options(), Share(10, 1 / 4), patience=0.01), worker_count=1, max_resources=20)

    with runner.lease(), runner.lease():
        assert runner.stats().live_resources == 2
        with pytest.raises(AcquireTimeoutError, match="all 2 resources of this process's share exist"):
            runner.run_task(lambda _: None, timeout=0.3)
    assert runner.run_task(lambda _: "again") == "again"


def test_a_resource_that_stands_for_several_gives_each_of_their_slots_back() -> None:
    share, shared = Share(2), object()
    hooks = bounded({"on_create": lambda: shared, "on_destroy": lambda _: None}, share)
    made = [hooks["on_create"](), hooks["on_create"]()]

    for resource in made:
        hooks["on_destroy"](resource)

    for _ in made:
        share.acquire(0.0)


def test_a_slot_comes_back_when_a_resource_cannot_be_made() -> None:
    share = Share(1)
    failing = bounded({"on_create": _refuse, "on_destroy": _refuse}, share)

    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            failing["on_create"]()

    share.acquire(0.0).release()


def test_a_slot_comes_back_when_a_resource_cannot_be_unmade() -> None:
    share = Share(1)
    hooks = bounded({"on_create": object, "on_destroy": _refuse}, share)
    resource = hooks["on_create"]()

    with pytest.raises(ConnectionRefusedError):
        hooks["on_destroy"](resource)

    share.acquire(0.0).release()


def _refuse(*_: object) -> None:
    raise ConnectionRefusedError("no")


def test_a_child_that_was_forked_while_a_resource_was_made_has_its_whole_share() -> None:
    share = Share(1)
    share.acquire(0.0)  # for a resource that is being made: there is nothing that the child could forget

    assert in_child(lambda: share.acquire(0.0).release()) == 0


def in_child(act: Callable[[], object]) -> int:
    """The exit status of a forked child that does it."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class MakeLimiter(Protocol):
    """Make one; `options` go to `RedisLimiter`."""

    def __call__(self, url: str, name: str, limit: int, **options: Any) -> RedisLimiter: ...


@pytest.fixture
def make_limiter() -> Iterator[MakeLimiter]:
    """Make limiters that are closed at the test's end."""
    made: list[RedisLimiter] = []

    def make(url: str, name: str, limit: int, **options: Any) -> RedisLimiter:
        made.append(RedisLimiter(url, name, limit, **options))
        return made[-1]

    yield make
    for limiter in made:
        limiter.close()


@pytest.fixture
def own_redis() -> Iterator[ThrowAwayRedis]:
    """A Redis that the test may stop."""
    with ThrowAwayRedis() as server:
        yield server


def test_limiters_of_one_name_count_together(redis_server: ThrowAwayRedis, make_limiter: MakeLimiter) -> None:
    name = new_name()
    one, other = (make_limiter(redis_server.url, name, 3) for _ in range(2))

    slots = [one.acquire(1.0), other.acquire(1.0), one.acquire(1.0)]
    with pytest.raises(NoSlotError, match="all 3 slots"):
        other.acquire(0.1)
    slots.pop().release()
    slots.append(other.acquire(1.0))

    for slot in slots:
        slot.release()


def test_a_slot_is_kept_as_long_as_it_is_held(redis_server: ThrowAwayRedis, make_limiter: MakeLimiter) -> None:
    name = new_name()
    one, other = (make_limiter(redis_server.url, name, 1, ttl=TTL) for _ in range(2))

    slot = one.acquire(1.0)
    with pytest.raises(NoSlotError):
        other.acquire(3 * TTL)
    slot.release()
    other.acquire(1.0).release()


def test_a_slot_that_is_taken_in_the_moment_in_which_the_last_one_is_given_back_is_kept_too(
    redis_server: ThrowAwayRedis, make_limiter: MakeLimiter
) -> None:
    name = new_name()
    one, other = (make_limiter(redis_server.url, name, 1, ttl=TTL) for _ in range(2))

    last = one.acquire(1.0)
    gevent.sleep(0)  # it is looked after now
    last.release()
    slot = one.acquire(1.0)  # before the loop has turned: nothing of this waits where sockets are not patched
    with pytest.raises(NoSlotError):
        other.acquire(3 * TTL)
    slot.release()


def test_a_forked_child_is_a_process_of_its_own(redis_server: ThrowAwayRedis, make_limiter: MakeLimiter) -> None:
    name = new_name()
    limiter = make_limiter(redis_server.url, name, 2, ttl=30.0)
    client = redis.Redis.from_url(redis_server.url)
    slots = [limiter.acquire(1.0), limiter.acquire(1.0)]
    with pytest.raises(NoSlotError):
        limiter.acquire(0.1)  # who waits tells of itself

    def wait_in_vain() -> None:
        with pytest.raises(NoSlotError):
            limiter.acquire(0.1)

    assert in_child(wait_in_vain) == 0
    assert client.zcard(f"gtasker-slots:{name}:members") == 2
    for slot in slots:
        slot.release()
    client.close()


def test_a_slot_of_a_process_that_has_died_comes_back(redis_server: ThrowAwayRedis, make_limiter: MakeLimiter) -> None:
    name = new_name()
    dead, heir = (make_limiter(redis_server.url, name, 1, ttl=TTL) for _ in range(2))
    slot = dead.acquire(1.0)

    slot.forget()  # as if it had died: nobody renews it, nobody gives it back
    taken = heir.acquire(20 * TTL)

    taken.release()


def test_who_has_more_than_its_part_makes_way_for_who_has_less(
    redis_server: ThrowAwayRedis, make_limiter: MakeLimiter
) -> None:
    name = new_name()
    rich, poor = (make_limiter(redis_server.url, name, 4, ttl=TTL) for _ in range(2))
    other = bounded_runner(poor, fail_fast_after=None)
    with bounded_runner(rich, fail_fast_after=None) as one:
        # All slots are here, and in use without a pause.
        users = [gevent.spawn(_use_for_ever, one) for _ in range(8)]
        eventually(lambda: one.stats().live_resources == 4, "it has all")

        leases = lend(other, 2)

        assert eventually(lambda: one.stats().live_resources == 2, "each has its part")
        give_back(leases)
        gevent.killall(users)
        other.stop()


def _use_for_ever(runner: Runner[int]) -> None:
    while True:
        runner.run_task(lambda _: gevent.sleep(0.01))


def test_a_slot_that_is_lost_costs_its_resource(redis_server: ThrowAwayRedis, make_limiter: MakeLimiter) -> None:
    name = new_name()
    limiter = make_limiter(redis_server.url, name, 1, ttl=TTL)
    made = itertools.count(1)
    hooks = bounded({"on_create": lambda: next(made), "on_destroy": lambda _: None}, limiter, patience=0.05)
    client = redis.Redis.from_url(redis_server.url)
    thief = make_limiter(redis_server.url, name, 1, ttl=60.0)
    config: Config[int] = Config(**hooks, worker_count=1, resource_pool_size=0, fail_fast_after=None)
    with Runner(config) as runner:
        assert runner.queue_task(lambda resource: resource) == 1
        # Nothing is so unlikely that it cannot be tried: the lease is gone, and somebody else has the slot.
        client.delete(*client.keys(f"gtasker-slots:{name}:*"))
        stolen = thief.acquire(0.0)

        eventually(lambda: runner.stats().live_resources == 0, "the resource is gone")
        stolen.release()

        assert runner.queue_task(lambda resource: resource, timeout=20.0) == 2
    client.close()


def bounded_runner(limiter: RedisLimiter, **options: Any) -> Runner[int]:
    made = itertools.count(1)
    hooks = bounded({"on_create": lambda: next(made), "on_destroy": lambda _: None}, limiter, patience=0.05)
    return Runner(Config(**hooks, worker_count=1, resource_pool_size=0, max_resources=10, **options))


def lend(runner: Runner[int], count: int) -> list[Any]:
    """So many leases, entered."""
    leases = [runner.lease(timeout=20.0) for _ in range(count)]
    for lease in leases:
        lease.__enter__()
    return leases


def give_back(leases: list[Any]) -> None:
    for lease in leases:
        lease.__exit__(None, None, None)


def test_fail_closed_makes_nothing_while_redis_is_away_and_heals(
    own_redis: ThrowAwayRedis, make_limiter: MakeLimiter
) -> None:
    limiter = make_limiter(own_redis.url, "bound", 5, ttl=TTL)
    with bounded_runner(limiter, fail_fast_after=0.0) as runner:
        assert runner.queue_task(lambda resource: resource) == 1
        own_redis.crash()

        # What exists is used until its lease has run out; then there is nothing.
        eventually(lambda: runner.stats().live_resources == 0, "the lease has run out")
        with pytest.raises(ResourceUnavailableError) as raised:
            eventually(lambda: runner.queue_task(lambda _: None) is not None, "the backend counts as down")
        assert isinstance(raised.value.__cause__, LimiterUnavailableError)

        own_redis.start()
        assert eventually(lambda: _try(runner), "it heals") > 1


def test_a_redis_that_hangs_is_away_before_a_resource_s_time_to_be_made_is_over(
    own_redis: ThrowAwayRedis, make_limiter: MakeLimiter
) -> None:
    limiter = make_limiter(own_redis.url, "bound", 5, ttl=TTL)
    with bounded_runner(limiter, fail_fast_after=None) as runner:
        assert runner.queue_task(lambda resource: resource) == 1
        os.kill(own_redis.pid, signal.SIGSTOP)
        try:
            eventually(lambda: runner.stats().live_resources == 0, "the lease has run out", 15.0)
            with pytest.raises(LimiterUnavailableError):
                limiter.acquire(0.0)
        finally:
            os.kill(own_redis.pid, signal.SIGCONT)


def _try(runner: Runner[int]) -> int:
    try:
        return runner.queue_task(lambda resource: resource)
    except ResourceUnavailableError:
        return 0


@pytest.mark.parametrize(("when_away", "allowed"), [("fail_open", 4), ("last_share", 2)])
def test_what_may_exist_while_redis_is_away(
    when_away: WhenAway, allowed: int, own_redis: ThrowAwayRedis, make_limiter: MakeLimiter
) -> None:
    limiter = make_limiter(own_redis.url, "bound", 3, ttl=TTL, when_away=when_away)
    other = make_limiter(own_redis.url, "bound", 3, ttl=60.0)
    others = other.acquire(1.0)
    with bounded_runner(limiter, fail_fast_after=None) as runner:
        give_back(lend(runner, 2))
        own_redis.crash()
        runner.recycle()
        eventually(lambda: runner.stats().live_resources < 2, "they are replaced")

        leases = lend(runner, allowed)
        if when_away == "last_share":
            with pytest.raises(AcquireTimeoutError):
                runner.run_task(lambda _: None, timeout=0.5)
        give_back(leases)

        own_redis.start()
        # Two of three slots are ours again, as soon as Redis has been heard of.
        eventually(lambda: runner.stats().live_resources <= 2, "what was made uncounted is counted, or gone")
        assert runner.queue_task(lambda resource: resource > 0)
    others.release()


def test_a_rate_limit_makes_wait_and_never_fail() -> None:
    limit = RateLimit("5/second")
    waited: list[int] = []

    def go(number: int) -> None:
        limit.wait()
        waited.append(number)

    greenlets = [gevent.spawn(go, number) for number in range(8)]
    gevent.joinall(greenlets, timeout=20)

    # In the order of their coming, and none was refused.
    assert waited == list(range(8))


def test_a_rate_holds_in_all_processes_together(redis_server: ThrowAwayRedis) -> None:
    name = new_name()
    one, other = (RateLimit("3/hour", name, url=redis_server.url) for _ in range(2))

    for limit in (one, other, one):
        limit.wait(0.0)

    with pytest.raises(NoSlotError):
        other.wait(0.1)


@pytest.mark.parametrize("fail_open", [True, False])
def test_a_rate_limit_whose_redis_is_away(fail_open: bool, own_redis: ThrowAwayRedis) -> None:
    limit = RateLimit("3/hour", url=own_redis.url, fail_open=fail_open)
    limit.wait(0.0)
    own_redis.crash()

    if fail_open:
        for _ in range(5):
            limit.wait(0.0)
    else:
        with pytest.raises(LimiterUnavailableError):
            limit.wait(0.0)
