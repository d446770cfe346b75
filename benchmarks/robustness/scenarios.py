"""The scenarios: each harms the users of a pool in one way, then lets it be.

Invariant: a scenario orders its steps by waiting long against the make-believe server's delays, which are its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic

import gevent

from benchmarks.greedy import contend
from benchmarks.rivals.pool import Kind
from benchmarks.robustness.bench import Bench, Client, Findings
from benchmarks.world import Connection

Scenario = Callable[[Kind, int], Findings]

STORM_SECONDS = 2.0
CROWD = 30
OUTAGE = 1.0
LONG_OUTAGE = 5.0
STALE = 8
STALE_PATIENCE = 30.0
"""What psycopg_pool and gtasker wait by default."""


def kill_waiting(kind: Kind, seed: int) -> Findings:
    """Four greenlets are killed while they wait for a connection; then the holders give theirs back."""
    bench = Bench(kind)
    with bench.all_held():
        waiters = bench.clients(bench.size)
        gevent.sleep(0.1)
        bench.kill(waiters)
        gevent.sleep(0.05)
    return bench.findings()


def timeout_waiting(kind: Kind, seed: int) -> Findings:
    """Four greenlets' own `gevent.Timeout` fires while they wait for a connection."""
    bench = Bench(kind)

    def impatient() -> None:
        own = gevent.Timeout(0.05)
        try:
            with own:
                bench.pool.use(Connection.query, 5.0)
        except gevent.Timeout as error:
            if error is not own:
                raise RuntimeError("another time-out than the caller's own came out") from error

    with bench.all_held():
        gevent.joinall([bench.start(impatient) for _ in range(bench.size)], timeout=2.0)
    return bench.findings()


def kill_in_use(kind: Kind, seed: int) -> Findings:
    """Four greenlets are killed in mid-query; others use the pool right after."""
    bench = Bench(kind)
    users = bench.clients(bench.size, hold=0.2)
    gevent.sleep(0.1)
    bench.kill(users)
    gevent.sleep(0.2)
    gevent.joinall(bench.clients(3 * bench.size, hold=0.01), timeout=4.0)
    return bench.findings()


def kill_connecting(kind: Kind, seed: int) -> Findings:
    """Four greenlets are killed while their connections are being made."""
    bench = Bench(kind, connect_delay=0.1)
    users = bench.clients(bench.size)
    gevent.sleep(0.05)
    bench.kill(users)
    gevent.sleep(0.2)
    return bench.findings()


def kill_returning(kind: Kind, seed: int) -> Findings:
    """Four greenlets are killed while their connections are being reset on the way back."""
    bench = Bench(kind)
    bench.server.reset_delay = 0.1
    users = bench.clients(bench.size, hold=0.01)
    gevent.sleep(0.07)
    bench.kill(users)
    gevent.sleep(0.3)
    bench.server.reset_delay = 0.0
    return bench.findings()


def double_kill(kind: Kind, seed: int) -> Findings:
    """A second kill lands in the clean-up that the first one began."""
    bench = Bench(kind)
    bench.server.reset_delay = 0.1
    users = bench.clients(bench.size, hold=0.2)
    gevent.sleep(0.05)
    bench.kill(users)
    gevent.sleep(0.03)
    bench.kill(users)
    gevent.sleep(0.3)
    bench.server.reset_delay = 0.0
    return bench.findings()


def kill_in_hand_over(kind: Kind, seed: int) -> Findings:
    """The kill arrives within a few turns of the loop after the connection was given to the waiter."""
    bench = Bench(kind)
    with bench.all_held():
        waiters = bench.clients(bench.size)
        gevent.sleep(0.1)
        killer = gevent.spawn(_kill_after_turns, bench, waiters, seed % 5)
    killer.join()
    return bench.findings()


def rush(kind: Kind, seed: int) -> Findings:
    """Forty greenlets come at once while connecting is slow."""
    bench = Bench(kind, connect_delay=0.05)
    gevent.joinall(bench.clients(40, hold=0.02), timeout=6.0)
    return bench.findings()


def outage(kind: Kind, seed: int) -> Findings:
    """Every connection dies, the server refuses for a second and comes back, and the pool is used all the while."""
    bench = Bench(kind)
    gevent.joinall(bench.clients(bench.size, hold=0.01), timeout=3.0)
    bench.excused = True
    _fail_server(bench)
    users = [bench.client(0.01, patience=0.2) for _ in range(20)]
    gevent.joinall(users, timeout=3.0)
    gevent.sleep(OUTAGE)
    bench.server.refusing = False
    gevent.sleep(1.5)
    bench.excused = False
    gevent.joinall(bench.clients(20, hold=0.01), timeout=5.0)
    return bench.findings()


def recovery(kind: Kind, seed: int) -> Findings:
    """After five seconds of outage under load: how long until the first caller is served again."""
    bench = Bench(kind)
    gevent.joinall(bench.clients(bench.size, hold=0.01), timeout=3.0)
    bench.excused = True
    _fail_server(bench)
    came_back: list[float] = []
    first: list[float] = []

    def persist() -> None:
        while not first:
            try:
                bench.pool.use(lambda connection: connection.query(0.001), 1.0)
            except Exception:
                gevent.sleep(0.01)
            else:
                first.append(monotonic())

    callers = [bench.start(persist) for _ in range(bench.size)]
    gevent.sleep(LONG_OUTAGE)
    bench.server.refusing = False
    came_back.append(monotonic())
    gevent.joinall(callers, timeout=20.0)
    return bench.findings(first[0] - came_back[0] if first else float("inf"), "s")


def storm(kind: Kind, seed: int) -> Findings:
    """Two seconds of kills at random moments among thirty greenlets, with slow connects and resets."""
    bench = Bench(kind, connect_delay=0.003)
    bench.server.reset_delay = 0.002
    dice = random.Random(seed)
    end = monotonic() + STORM_SECONDS
    living: dict[Client, None] = {}  # a dict, so that a seed always strikes the same ones

    def arrive() -> None:
        while monotonic() < end:
            client = bench.client(dice.random() * 0.01, patience=1.0)
            living[client] = None
            client.rawlink(lambda ended: living.pop(ended, None))
            gevent.sleep(dice.random() * 0.001 + (0.002 if len(living) > CROWD else 0.0))

    def strike() -> None:
        while monotonic() < end:
            if living and dice.random() < 0.7:
                bench.kill([dice.choice(list(living))])
            gevent.sleep(dice.random() * 0.002)

    gevent.joinall([gevent.spawn(arrive), gevent.spawn(strike)], timeout=STORM_SECONDS + 4.0)
    gevent.joinall(list(living), timeout=3.0)
    bench.kill(list(living))
    gevent.sleep(0.2)
    bench.server.reset_delay = 0.0
    return bench.findings()


def stale(kind: Kind, seed: int) -> Findings:
    """Eight idle connections were cut by a server that is healthy again; checks are on where the pool has them."""
    bench = Bench(kind, STALE, checked=True)
    gevent.joinall(bench.clients(STALE, hold=0.05), timeout=3.0)
    bench.server.cut_all()
    gevent.sleep(0.05)
    began = monotonic()
    gevent.joinall([bench.client(0.0, STALE_PATIENCE)], timeout=STALE_PATIENCE + 5.0)
    return bench.findings(monotonic() - began, "s")


def fairness(kind: Kind, seed: int) -> Findings:
    """A hundred greedy greenlets for two seconds: Jain's index of how often each was served."""
    bench = Bench(kind, connect_delay=0.0)
    served = contend(bench.pool, greenlets=100, seconds=2.0)
    return bench.findings(served.jain, "Jain")


SCENARIOS: dict[str, Scenario] = {
    "kill waiting": kill_waiting,
    "time-out waiting": timeout_waiting,
    "kill in mid-query": kill_in_use,
    "kill while connecting": kill_connecting,
    "kill while returning": kill_returning,
    "second kill in the clean-up": double_kill,
    "kill in the hand-over": kill_in_hand_over,
    "40 at once, slow connect": rush,
    "outage of 1 s": outage,
    "storm of kills": storm,
    "first success after 5 s outage": recovery,
    "8 stale connections, healthy server": stale,
    "100 greedy greenlets": fairness,
}

SEEDED = {"storm of kills", "kill in the hand-over"}
"""Scenarios that are run once for each seed; the worst of each finding counts."""


def _fail_server(bench: Bench) -> None:
    """Take the server down: every session ends, new ones are refused."""
    bench.server.refusing = True
    bench.server.cut_all()


def _kill_after_turns(bench: Bench, waiters: list[Client], turns: int) -> None:
    for _ in range(turns):
        gevent.sleep(0)
    bench.kill(waiters)
