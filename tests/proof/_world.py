"""The ledger of the proofs: its doors take steps that yield or fail, and a use may oblige the runner to a reset.

Invariant: it mends nothing and forgets nothing; whatever the runner does wrong stays in `faults`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent

from tests.ledger import Door, Ledger, LedgerResource

Step = Callable[[], object]

quiet = logging.getLogger("tests.proof")
"""Says nothing: what is logged in thousands of runs that fail on purpose is of no use to a reader."""
quiet.setLevel(logging.CRITICAL + 1)
quiet.propagate = False


class SourError(Exception):
    """A task's error of its own; the resource is fine."""


def turns(count: int) -> None:
    """Let the hub run `count` times. Switches."""
    for _ in range(count):
        gevent.sleep(0)


def settles(goal: Callable[[], bool], within: float) -> bool:
    """Whether `goal` comes true within so many seconds, left to other greenlets. Switches."""
    deadline = time.monotonic() + within
    for _ in range(50):
        if goal():
            return True
        gevent.sleep(0)
    while not goal() and time.monotonic() < deadline:
        gevent.sleep(0.001)
    return goal()


class SteppedDoor(Door):
    """A door behind which a step is taken: it may yield, and raise. Knows how many were ever inside at once."""

    def __init__(self, name: str, step: Step | None) -> None:
        super().__init__(name)
        self.step = step
        self.peak_inside = 0

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Count the call, take the step, and run the block. Switches when the step does."""
        with super().passing():
            self.peak_inside = max(self.peak_inside, self.inside)
            if self.step is not None:
                self.step()
            yield


class World(Ledger):
    """A ledger whose doors take `steps` (by the door's name); with a step at `resetting`, each use needs a reset.

    With one at `settling`, every other reset is done without waiting.
    """

    creating: SteppedDoor
    settling: SteppedDoor

    def __init__(self, **steps: Step) -> None:
        super().__init__()
        for name in ("creating", "destroying", "judging", "probing", "resetting", "settling", "vouching"):
            setattr(self, name, SteppedDoor(name, steps.pop(name, None)))
        assert not steps, f"no such doors: {steps}"

    def stepped_options(self) -> dict[str, Any]:
        """What a `Config` needs to run on this world, with a hook for each door that has a step."""
        hooks = {"probing": "check_resource", "resetting": "reset", "vouching": "on_interrupt"}
        reset = Reset(self) if self._has_step("settling") else self.reset
        calls = {"probing": self.probe, "resetting": reset, "vouching": self.vouch}
        return self.options() | {hooks[name]: call for name, call in calls.items() if self._has_step(name)}

    def _has_step(self, door: str) -> bool:
        return getattr(self, door).step is not None

    @contextmanager
    def use(self, thing: LedgerResource) -> Iterator[None]:
        """`thing.use()`; afterwards a reset is due before the next one, if this world has resets."""
        try:
            with thing.use():
                yield
        finally:
            if self._has_step("resetting") and thing.unfit_because is None:
                thing.spoil("it was not reset")

    def reset(self, resource: LedgerResource) -> None:
        """Clean a resource after a use, and make it fit for the next. Switches when the step does."""
        super().reset(resource)
        if resource.unfit_because == "it was not reset":
            resource.unfit_because = None

    def settle(self, resource: LedgerResource) -> bool:
        """Do what `reset` does, every other time. Never switches, if the step does not."""
        with self.occupying(resource, "reset.nowait"), self.settling.passing():
            if self.settling.entered % 2:
                return False
        if resource.unfit_because == "it was not reset":
            resource.unfit_because = None
        return True

    def audit(self, *, most: int, most_creating: int) -> list[str]:
        """All faults, and those that only closed books show."""
        found = list(self.faults)
        if self.live:
            found.append(f"never destroyed: {list(self.live.values())}")
        if (self.existing, self.in_use) != (0, 0) or self.created != self.destroyed:
            found.append(f"the books do not balance: {self!r}")
        if self.peak > most:
            found.append(f"{self.peak} resources existed at once, the bound is {most}")
        if self.creating.peak_inside > most_creating:
            found.append(f"{self.creating.peak_inside} were being made at once, the bound is {most_creating}")
        return found


class Reset:
    """A world's reset, which sometimes need not wait."""

    def __init__(self, world: World) -> None:
        self.nowait = world.settle
        self._reset = world.reset

    def __call__(self, resource: LedgerResource) -> None:
        """Do it. Switches when the step does."""
        self._reset(resource)
