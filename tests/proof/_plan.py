"""What a storm will do, drawn from its seed before it begins: the settings, the operations and the way it ends.

Invariant: a plan depends on its seed alone, so the same seed always does the same things in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

# How often each operation is drawn, against the others.
CALLS = {
    "queue_task": 30,
    "submit": 20,
    "run_task": 14,
    "lease": 14,
    "map": 3,
    "imap": 2,
}
ACTS = {
    "kill a caller": 10,
    "throw at a caller": 5,
    "cancel": 5,
    "get": 6,
    "purge": 1,
    "recycle": 1,
    "resize": 2,
    "pause": 1,
    "resume": 3,
    "look": 2,
}
BODIES = {
    "quick": 34,
    "yields": 22,
    "sleeps": 12,
    "sour": 6,
    "unfit once": 8,
    "unfit": 3,
    "harsh": 3,
    "times out": 2,
    "exits": 2,
    "stubborn": 2,
    "nested": 6,
}
SIZES = ("worker_count", "max_worker_count", "resource_pool_size", "max_resources")
ENDS = ("stop", "stop", "stop", "stop in time", "kill", "stop, kill", "ctx", "stop inside")


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One thing that somebody does. Calls get an actor of their own; acts are done in passing."""

    number: int
    name: str
    body: str
    pause: float | None  # seconds to let pass afterwards; None: not even a switch
    priority: int
    once: bool
    timeout: float | None  # the runner's own
    limit: float | None  # a gevent.Timeout around the call
    key: str | None
    chance: float  # whatever else has to be decided

    @property
    def is_call(self) -> bool:
        """Whether it has an answer."""
        return self.name in CALLS


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole storm."""

    seed: int
    options: dict[str, Any]
    failures: dict[str, float]  # how often each door fails
    hooks: frozenset[str]
    leaks: bool  # some leases are never left; it takes the runner up to a second to see that
    operations: list[Operation]
    end: str
    end_after: int  # operations
    end_timeout: float


def draw_plan(seed: int, operations: int) -> Plan:
    """Draw the storm of a seed."""
    random = Random(seed)
    options = draw_options(random)
    early = random.random() < 0.5
    return Plan(
        seed=seed,
        options=options,
        failures={"creating": random.choice([0.0, 0.1, 0.4]), "destroying": random.choice([0.0, 0.1])},
        hooks=frozenset(hook for hook in ("probing", "resetting", "vouching") if random.random() < 0.35),
        leaks=random.random() < 0.03,
        operations=[_draw_operation(random, number) for number in range(operations)],
        end=random.choice(ENDS),
        end_after=random.randrange(operations // 2, operations) if early else operations,
        end_timeout=random.choice([0.0, 0.002, 0.01]),
    )


def draw_options(random: Random) -> dict[str, Any]:
    """Draw settings, each alone and all against each other."""
    options = draw_sizes(random) | {
        "max_creating": random.randint(1, 4),
        "create_backoff": (0.0005, 0.002),
        "max_retries": random.randint(0, 2),
        "retry_backoff": random.choice([(0.0, 0.0), (0.0005, 0.002)]),
        "burst_task_threshold": random.choice([0, 1, 4]),
        "burst_worker_count": random.randint(1, 3),
        "burst_interval": random.choice([0.001, 0.01]),
        "scaling": random.choice(["threshold", "threshold", "rate"]),
        "max_idle": random.choice([0.001, 60.0]),
        "check_idle": random.choice([0.0, 0.001]),
        "acquire_timeout": random.choice([0.003, 5.0]),
        "cancel_on_abandon": random.random() < 0.4,
        "propagate_context": random.random() < 0.7,
    }
    rarely: dict[str, Callable[[], object]] = {
        "max_lifetime": lambda: 0.01,
        "max_queued": lambda: random.randint(1, 12),
        "max_waiting": lambda: random.randint(0, 4),
        "enqueue_timeout": lambda: random.choice([0.0, 0.002]),
        "task_timeout": lambda: random.choice([0.001, 0.01]),
        "priority_aging": lambda: 0.001,
        "leak_warning": lambda: 0.002,
        "fail_fast_after": lambda: 0.002,
    }
    return options | {name: draw() for name, draw in rarely.items() if random.random() < 0.25}


def draw_sizes(random: Random) -> dict[str, int]:
    """Draw the four sizes, so that they fit each other."""
    workers, reserve = random.randint(1, 4), random.randint(0, 3)
    most_workers = workers + random.randint(0, 3)
    least = workers + reserve
    return dict(zip(SIZES, (workers, most_workers, reserve, random.randint(least, least + most_workers)), strict=True))


def _draw_operation(random: Random, number: int) -> Operation:
    table = CALLS | ACTS
    name = random.choices(list(table), list(table.values()))[0]
    keyed = name in ("queue_task", "submit") and random.random() < 0.15
    return Operation(
        number=number,
        name=name,
        body="sleeps" if keyed else random.choices(list(BODIES), list(BODIES.values()))[0],
        pause=random.choice([None, None, 0.0, 0.0, 0.0, random.random() * 0.001]),
        priority=random.choice([0, 10, 10, 10, 20]),
        once=not keyed and random.random() < 0.15,
        timeout=random.choice([0.0005, 0.003]) if not keyed and random.random() < 0.15 else None,
        limit=random.choice([0.0002, 0.001, 0.003]) if random.random() < 0.12 else None,
        key=f"key {random.randrange(2)}" if keyed else None,
        chance=random.random(),
    )
