"""Growth: how much the totals of runners grew since the last look, whoever comes and goes between two looks.

Invariant: over any number of looks the growths of a runner that was ever seen add up to its totals at its end: nothing
is told twice, and what it did between the last look and its end is told by one look more.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from gtasker import Runner, State

K = TypeVar("K", bound=Hashable)


class Growth(Generic[K]):
    """What was last seen of each runner."""

    def __init__(self) -> None:
        self._seen: dict[Runner[Any], Mapping[K, float]] = {}

    def roll(self, present: Iterable[Runner[Any]]) -> list[Runner[Any]]:
        """Whom to look at: who is `present`, and who was before. Never switches."""
        return list(dict.fromkeys([*present, *self._seen]))

    def take(self, runner: Runner[Any], totals: Mapping[K, float]) -> dict[K, float]:
        """How much `totals` grew since they were last taken; what did not grow is left out. Never switches.

        A runner that was closed by now is forgotten.
        """
        before = self._seen.get(runner, {})
        if any(totals.get(key, 0.0) < number for key, number in before.items()):
            before = {}  # it began anew
        if runner.state in {State.CLOSED, State.NEW}:
            self._seen.pop(runner, None)
        else:
            self._seen[runner] = totals
        grown = {key: number - before.get(key, 0.0) for key, number in totals.items()}
        return {key: number for key, number in grown.items() if number > 0}

    def forget(self) -> None:
        """Begin anew, as a forked child has to: its runners do. Never switches."""
        self._seen.clear()
