"""The ledger: numbered resources whose books show every misuse.

Invariant: a fault is raised where it happens *and* kept in `Ledger.faults`, so that code which swallows the exception
cannot hide it.

    ledger = Ledger()
    with Runner(**ledger.options(), worker_count=2) as runner:
        runner.queue_task(touch, "value")
    ledger.assert_balanced()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from gevent import getcurrent

from gtasker.testing._doors import PATIENCE, Door, LedgerError

__all__ = [
    "PATIENCE",
    "Condition",
    "CreateFailedError",
    "Door",
    "HeldTask",
    "Ledger",
    "LedgerError",
    "LedgerResource",
    "UnfitError",
    "touch",
]

V = TypeVar("V")


class UnfitError(Exception):
    """What a task raises to say that its resource is unfit; `Ledger.check_health` knows it."""


class CreateFailedError(Exception):
    """What a ledger's `create` raises when it was told to fail and not told with what."""


class Condition(Enum):
    """Where in its life a resource is."""

    ALIVE = "alive"
    DESTROYING = "being destroyed"
    DESTROYED = "destroyed"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True)
class User:
    """Who has a resource: what for, and in which greenlet."""

    purpose: str
    greenlet: object

    def __str__(self) -> str:
        return f"{self.purpose} in {self.greenlet!r}"


class LedgerResource:
    """A resource with a number that knows whether it exists, who uses it, and whether it may be used again."""

    __slots__ = ("__weakref__", "condition", "ledger", "number", "stale", "unfit_because", "user", "uses")

    def __init__(self, ledger: Ledger, number: int) -> None:
        self.ledger = ledger
        self.number = number
        self.condition = Condition.ALIVE
        self.user: User | None = None
        self.uses = 0
        self.stale = False
        self.unfit_because: str | None = None

    @contextmanager
    def use(self) -> Iterator[LedgerResource]:
        """Be the only user of a fit, living resource while the block runs. Never switches.

        An error that `Ledger.check_health` calls unhealthy, or any `BaseException` that is no `Exception` (a kill, a
        time-out), leaves the resource unfit: its next use is a fault unless `Ledger.vouch` came between.
        """
        if self.unfit_because is not None:
            self.ledger.report(f"{self} is used although it is unfit: {self.unfit_because}")
        with self.ledger.occupying(self, "a task"):
            self.uses += 1
            try:
                yield self
            except Exception as error:
                if isinstance(error, UnfitError):
                    self.spoil(f"a task raised {error!r}")
                raise
            except BaseException as error:
                self.spoil(f"a task was interrupted by {type(error).__name__}")
                raise

    def spoil(self, reason: str) -> None:
        """Make each further use a fault. Never switches."""
        self.unfit_because = reason

    def __repr__(self) -> str:
        return f"<LedgerResource {self.number} {self.condition.value}>"


class Ledger:
    """Make, unmake and judge numbered resources, and keep the books of it.

    Each method fits the `Config` field that `options` pairs it with; its door (`creating`, `destroying`, `judging`,
    `probing`, `resetting`, `vouching`) lets a test hold it, slow it down or break it.

    `bound`: a resource above it is a fault; None: no bound.
    `abandoned`: how many resources a test knows to be left alone by contract; they stay in the books.
    """

    def __init__(self, bound: int | None = None) -> None:
        self.bound = bound
        self.abandoned = 0
        self.vouches = True
        self.created = 0
        self.destroyed = 0
        self.forgotten = 0
        self.existing = 0
        self.peak = 0
        self.in_use = 0
        self.peak_in_use = 0
        self.uses = 0
        self.faults: list[str] = []
        self.live: dict[int, LedgerResource] = {}
        self.creating = Door("create", CreateFailedError)
        self.destroying = Door("destroy")
        self.judging = Door("check_health")
        self.probing = Door("check_resource")
        self.resetting = Door("reset")
        self.vouching = Door("on_interrupt")

    def options(self) -> dict[str, Any]:
        """What a `Config` needs to run on this ledger."""
        return {"on_create": self.create, "on_destroy": self.destroy, "check_health": self.check_health}

    def create(self) -> LedgerResource:
        """Make a resource (`on_create`); it counts from the call on. Switches when the door is held or slow."""
        self.existing += 1
        self.peak = max(self.peak, self.existing)
        try:
            if self.bound is not None and self.existing > self.bound:
                self.report(f"resource {self.existing} exists where {self.bound} may")
            with self.creating.passing():
                self.created += 1
                resource = LedgerResource(self, self.created)
        except BaseException:
            self.existing -= 1
            raise
        self.live[resource.number] = resource
        return resource

    def destroy(self, resource: LedgerResource) -> None:
        """Unmake a resource (`on_destroy`); it counts until the call ends. Switches when the door is held or slow."""
        if resource.condition is not Condition.ALIVE:
            self.report(f"{resource} is destroyed again")
        resource.condition = Condition.DESTROYING
        try:
            if resource.user is not None:
                self.report(f"{resource} is destroyed while {resource.user} uses it")
            with self.destroying.passing():
                pass
        finally:
            self._strike(resource, Condition.DESTROYED)
            self.destroyed += 1

    def forget(self, resource: LedgerResource) -> None:
        """Strike a resource that a forked child inherited off this process's books (`on_forget`). Never switches."""
        if resource.condition is not Condition.ALIVE:
            self.report(f"{resource} is forgotten although it is {resource.condition.value}")
        self._strike(resource, Condition.FORGOTTEN)
        self.forgotten += 1

    def check_health(self, error: BaseException) -> bool:
        """Say whether `error` left its resource healthy (`check_health`). Switches when the door is held or slow."""
        with self.judging.passing():
            return not isinstance(error, UnfitError)

    def probe(self, resource: LedgerResource) -> bool:
        """Say whether an idle resource is still good (`check_resource`). Switches when the door is held or slow."""
        with self.occupying(resource, "check_resource"), self.probing.passing():
            return not resource.stale

    def reset(self, resource: LedgerResource) -> None:
        """Clean a resource after a use (`reset`). Switches when the door is held or slow."""
        with self.occupying(resource, "reset"), self.resetting.passing():
            pass

    def vouch(self, resource: LedgerResource) -> bool:
        """Call an interrupted resource clean, if `vouches` (`on_interrupt`). Switches when the door is held or slow."""
        with self.occupying(resource, "on_interrupt"), self.vouching.passing():
            if self.vouches:
                resource.unfit_because = None
            return self.vouches

    @contextmanager
    def occupying(self, resource: LedgerResource, purpose: str) -> Iterator[None]:
        """Be the one who uses `resource` while the block runs; anyone else, itself included, is a fault."""
        if resource.condition is not Condition.ALIVE:
            self.report(f"{resource} is used by {purpose}")
        if resource.user is not None:
            self.report(f"{resource} is used by {purpose} while {resource.user} uses it")
        resource.user = User(purpose, getcurrent())
        self.uses += 1
        self.in_use += 1
        self.peak_in_use = max(self.peak_in_use, self.in_use)
        try:
            yield
        finally:
            resource.user = None
            self.in_use -= 1

    def report(self, fault: str) -> None:
        """Keep `fault` in the books, then raise it. Never switches."""
        self.faults.append(fault)
        raise LedgerError(fault)

    def assert_balanced(self) -> None:
        """Raise unless nothing is in use and all but `abandoned` resources were destroyed once. Never switches."""
        complaints = list(self.faults)
        if self.existing != self.abandoned:
            complaints.append(
                f"{self.existing} exist, {self.abandoned} of them abandoned: {self.created} created,"
                f" {self.creating.inside} being created, {self.destroyed} destroyed, {self.forgotten} forgotten;"
                f" left: {list(self.live.values())}"
            )
        if self.in_use and not self.abandoned:
            users = [f"{resource} by {resource.user}" for resource in self.live.values() if resource.user]
            complaints.append(f"{self.in_use} in use: {users}")
        if complaints:
            raise LedgerError("\n".join(complaints))

    def _strike(self, resource: LedgerResource, condition: Condition) -> None:
        resource.condition = condition
        self.live.pop(resource.number, None)
        self.existing -= 1

    def __repr__(self) -> str:
        return (
            f"<Ledger created={self.created} destroyed={self.destroyed} existing={self.existing}"
            f" in_use={self.in_use} peak={self.peak}>"
        )


def touch(resource: LedgerResource, value: V) -> V:
    """Use `resource` for no time and return `value`: the smallest task. Never switches."""
    with resource.use():
        return value


class HeldTask(Generic[V]):
    """A task that says when it has begun, holds its resource until it is released, and returns `value`.

    One may be submitted many times: `begun` counts attempts, and `release` lets all of them go, the later ones too.
    """

    def __init__(self, value: V) -> None:
        self.value = value
        self._door = Door("held task")
        self._door.hold()

    @property
    def begun(self) -> int:
        """Attempts that have begun."""
        return self._door.entered

    def wait_begun(self, count: int = 1) -> None:
        """Return when `count` attempts have begun; raise when they never do. Switches."""
        self._door.wait_entered(count)

    def release(self) -> None:
        """Let every attempt end. Never switches."""
        self._door.release()

    def __call__(self, resource: LedgerResource) -> V:
        """Use `resource` until released. Switches."""
        with resource.use(), self._door.passing():
            return self.value
