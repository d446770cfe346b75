"""Interleaved rounds: how two ways of doing the same work are compared on a noisy machine.

Invariant: a ratio is of two that took turns in one process, each at the best of its medians, and never of two separate
runs; its spread is that of neighbouring rounds.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

Round = Callable[[int], float]
"""Does about that many operations and returns the seconds that one of them cost."""

MICRO = 1e6
GOES = 3
"""So often in a row the work of a round is done. The round is the median of these, and the best round stands for the
contender: other work on the machine only ever adds time."""


@dataclass(frozen=True)
class Effort:
    """How long to look: the number of interleaved passes, and the seconds that one go of a round should take."""

    passes: int
    seconds: float
    quick: bool

    @classmethod
    def of(cls, *, quick: bool) -> Effort:
        """Return the effort of a glance (under a minute for the whole suite) or of a full run."""
        passes, seconds = (9, 0.01) if quick else (25, 0.02)
        return cls(passes, seconds, quick)


@dataclass(frozen=True)
class Contender:
    """One way of doing the work. Its rounds do `operations`, or where that is None as many as the effort asks for."""

    name: str
    round: Round
    operations: int | None = None
    at_least: int = 1


@dataclass(frozen=True)
class Target:
    """What a figure is to be: at most, or at least, a bound."""

    bound: float
    at_least: bool = False

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Series:
    """The seconds that an operation cost in each round of one contender: the median of the round's goes."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """The lowest: each is a median, so one lucky go decides nothing."""
        return min(self.seconds)


@dataclass(frozen=True)
class Figure:
    """A measured value with the quartiles of what it came from, and its target, if any. `measure` says what it is."""

    subject: str
    measure: str
    value: float
    low: float
    high: float
    target: Target | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the target is met, and not by luck: more than a quarter of the rounds have to say so as well."""
        if self.target is None:
            return None
        return self.target.holds(self.value) and (self.target.holds(self.low) or self.target.holds(self.high))


@dataclass
class Result:
    """What one row of the table found out."""

    series: list[Series] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    facts: list[Figure] = field(default_factory=list)

    def cost(self, subject: str, against: str, target: Target | None = None) -> None:
        """Add the cost of `subject` as a multiple of the cost of `against`."""
        self._compare("cost", subject, against, (self._named(subject), self._named(against)), target)

    def rate(self, subject: str, against: str, target: Target | None = None) -> None:
        """Add the rate of `subject` as a multiple of the rate of `against`."""
        self._compare("rate", subject, against, (self._named(against), self._named(subject)), target)

    def fact(self, subject: str, values: Sequence[float], unit: str, target: Target | None = None) -> None:
        """Add an absolute value (bytes, an index between 0 and 1), which is no matter of the machine's speed."""
        self.facts.append(Figure(subject, unit, *spread(values), target))

    def _compare(
        self, what: str, subject: str, against: str, sides: tuple[Series, Series], target: Target | None
    ) -> None:
        above, below = sides
        _, low, high = spread([one / other for one, other in zip(above.seconds, below.seconds, strict=True)])
        self.figures.append(Figure(subject, f"{what} / {against}", above.best / below.best, low, high, target))

    def _named(self, name: str) -> Series:
        return next(series for series in self.series if series.name == name)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and the quartiles."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def interleave(contenders: Sequence[Contender], effort: Effort) -> Result:
    """Run the contenders' rounds in turn, every other pass backwards, and return their series. Switches."""
    sizes = {contender.name: _size(contender, effort) for contender in contenders}
    seconds: Mapping[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(effort.passes):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            gc.collect()
            goes = [contender.round(sizes[contender.name]) for _ in range(GOES)]
            seconds[contender.name].append(statistics.median(goes))
    return Result(series=[Series(name, tuple(values)) for name, values in seconds.items()])


def timed(work: Callable[[], object], operations: int) -> float:
    """Return the seconds that one of the `operations` in `work` cost."""
    start = perf_counter()
    work()
    return (perf_counter() - start) / operations


def _size(contender: Contender, effort: Effort) -> int:
    """Return how many operations fill one go; the trials warm the contender up."""
    if contender.operations is not None:
        contender.round(max(1, contender.operations // 10))
        return contender.operations
    operations = contender.at_least
    while True:
        seconds = contender.round(operations)
        if seconds * operations >= effort.seconds / 4:
            return max(contender.at_least, int(effort.seconds / seconds))
        operations *= 4
