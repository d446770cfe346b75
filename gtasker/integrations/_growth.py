"""Growth: how much the totals of runners grew since the last look, whoever comes and goes between two looks.

Invariant: over any number of looks the growths of a runner that was ever seen add up to its totals at its end: nothing
is told twice, and what it did between the last look and its end is told by one look more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from gtasker import Runner, State
from gtasker.integrations._instruments import INSTRUMENTS, Instrument, Kind, Reading, read

K = TypeVar("K", bound=Hashable)
Key = tuple[str, str | int]
"""Of a total: the instrument's name, and the value of its attribute or, of a histogram, the number of the bucket."""


def counters(reading: Reading) -> dict[Key, float]:
    """All counters of a runner. Never switches."""
    return {
        (instrument.name, value): number
        for instrument in INSTRUMENTS
        if instrument.kind is Kind.COUNTER
        for value, number in instrument.read(reading).items()
    }


def counted(instrument: Instrument, sums: Mapping[str, Mapping[Key, float]]) -> dict[tuple[str, str], float]:
    """The numbers of a counter by runner's name and attribute, out of such sums. Never switches."""
    return {
        (runner, str(value)): number
        for runner, totals in sums.items()
        for (name, value), number in totals.items()
        if name == instrument.name
    }


class Growth(Generic[K]):
    """What was last seen of each runner."""

    def __init__(self) -> None:
        self._seen: dict[Runner[Any], Mapping[K, float]] = {}
        self._present: frozenset[Runner[Any]] = frozenset()

    def roll(self, present: Iterable[Runner[Any]]) -> list[Runner[Any]]:
        """Whom to look at: who is `present`, and who was before. Never switches."""
        rolled = list(dict.fromkeys([*present, *self._seen]))
        self._present = frozenset(present)
        return rolled

    def take(self, runner: Runner[Any], totals: Mapping[K, float]) -> dict[K, float]:
        """How much `totals` grew since they were last taken; what did not grow is left out. Never switches.

        A runner that was closed by now is forgotten, unless it is still `present`: then there will be another look.
        """
        before = self._seen.get(runner, {})
        if any(totals.get(key, 0.0) < number for key, number in before.items()):
            before = {}  # it began anew
        if runner.state in {State.CLOSED, State.NEW} and runner not in self._present:
            self._seen.pop(runner, None)
        else:
            self._seen[runner] = totals
        grown = {key: number - before.get(key, 0.0) for key, number in totals.items()}
        return {key: number for key, number in grown.items() if number > 0}

    def forget(self) -> None:
        """Begin anew, as a forked child has to: its runners do. Never switches."""
        self._seen.clear()


class Sums:
    """Totals by the name of a runner, which never fall while a runner of that name is there.

    One that ends takes nothing away from those of its name: who reads a counter that falls takes it for a new one, and
    counts all that is left of it once more.
    """

    def __init__(self, totals: Callable[[Reading], Mapping[Key, float]]) -> None:
        self._totals = totals
        self._growth: Growth[Key] = Growth()
        self._pid = os.getpid()
        self.by_name: dict[str, dict[Key, float]] = {}

    def look(self, present: Sequence[Runner[Any]]) -> list[tuple[Reading, dict[Key, float]]]:
        """Look at who is `present`; what each is now, and how much its totals grew. Never switches."""
        if self._pid != os.getpid():  # a forked child: its runners begin anew
            self._pid = os.getpid()
            self._growth.forget()
            self.by_name.clear()
        looks = []
        for reading in map(read, self._growth.roll(present)):
            totals = self._totals(reading)
            grown = self._growth.take(reading.runner, totals)
            sums = self.by_name.setdefault(reading.runner.config.name, {})
            for key in totals:  # what is nought is told, too
                sums[key] = sums.get(key, 0.0) + grown.get(key, 0.0)
            if reading.runner in present:
                looks.append((reading, grown))
        names = {reading.runner.config.name for reading, _ in looks}
        self.by_name = {name: sums for name, sums in self.by_name.items() if name in names}
        return looks
