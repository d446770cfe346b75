"""Interleaved rounds: how two ways of doing the same work are compared on a noisy machine.

Invariant: a ratio is the median of the ratios of rounds that ran side by side, never the ratio of two separate runs.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

Round = Callable[[int], float]
"""Does about that many operations and returns the seconds that one of them cost."""

MICRO = 1e6


@dataclass(frozen=True)
class Effort:
    """How long to look: the number of interleaved passes, and the seconds one round should take."""

    passes: int
    round_seconds: float
    quick: bool

    @classmethod
    def of(cls, *, quick: bool) -> Effort:
        """Return the effort of a glance (under a minute for the whole suite) or of a full run."""
        passes, round_seconds = (7, 0.02) if quick else (25, 0.05)
        return cls(passes, round_seconds, quick)


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
    """The seconds an operation cost in each round of one contender."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Figure:
    """A measured value with its quartiles, and the target it is held against, if any. `measure` says what it is."""

    subject: str
    measure: str
    value: float
    low: float
    high: float
    target: Target | None = None

    @property
    def holds(self) -> bool | None:
        return None if self.target is None else self.target.holds(self.value)


@dataclass
class Result:
    """What one row of the table found out."""

    series: list[Series] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    facts: list[Figure] = field(default_factory=list)

    def cost(self, subject: str, against: str, target: Target | None = None) -> None:
        """Add the cost of `subject` as a multiple of the cost of `against`."""
        ratios = [ours / theirs for ours, theirs in self._pairs(subject, against)]
        self.figures.append(Figure(subject, f"cost / {against}", *spread(ratios), target))

    def rate(self, subject: str, against: str, target: Target | None = None) -> None:
        """Add the rate of `subject` as a multiple of the rate of `against`."""
        ratios = [theirs / ours for ours, theirs in self._pairs(subject, against)]
        self.figures.append(Figure(subject, f"rate / {against}", *spread(ratios), target))

    def fact(self, subject: str, values: Sequence[float], unit: str, target: Target | None = None) -> None:
        """Add an absolute value (bytes, an index between 0 and 1), which is no matter of the machine's speed."""
        self.facts.append(Figure(subject, unit, *spread(values), target))

    def _pairs(self, subject: str, against: str) -> Iterator[tuple[float, float]]:
        return zip(self._named(subject).seconds, self._named(against).seconds, strict=True)

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
            seconds[contender.name].append(contender.round(sizes[contender.name]))
    return Result(series=[Series(name, tuple(values)) for name, values in seconds.items()])


def timed(work: Callable[[], object], operations: int) -> float:
    """Return the seconds that one of the `operations` in `work` cost."""
    start = perf_counter()
    work()
    return (perf_counter() - start) / operations


def _size(contender: Contender, effort: Effort) -> int:
    """Return how many operations fill a round; the trial rounds warm the contender up."""
    if contender.operations is not None:
        contender.round(max(1, contender.operations // 10))
        return contender.operations
    operations = contender.at_least
    while True:
        seconds = contender.round(operations)
        if seconds * operations >= effort.round_seconds / 4:
            return max(contender.at_least, int(effort.round_seconds / seconds))
        operations *= 4
