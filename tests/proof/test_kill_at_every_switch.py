"""A caller may be killed at any switch: the kill comes through, everybody else is served, and nothing is lost.

Invariant: each test plays its scenario until a number is reached that no switch has; none is skipped on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import gevent
import pytest

from tests.proof._scenarios import SCENARIOS, WORKER_SCENARIOS
from tests.proof._switches import Numbering
from tests.proof._trial import AFTERMATH, Scenario, Trial, play

pytestmark = pytest.mark.slow

Shot = Callable[[], BaseException]
SHOTS: tuple[Shot, ...] = (gevent.GreenletExit, gevent.Timeout)
ENOUGH_FAULTS = 3
FAR_TOO_MANY = 2000

every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
every_worker = pytest.mark.parametrize("scenario", WORKER_SCENARIOS, ids=lambda scenario: scenario.name)
in_company = pytest.mark.parametrize("crowded", [False, True], ids=["alone", "crowded"])


@dataclass
class Campaign:
    """All trials of one scenario in one numbering, and what they found."""

    scenario: Scenario
    crowded: bool
    numbering: Numbering = Numbering.OWN
    hits: int = 0
    trials: int = 0
    faults: list[str] = field(default_factory=list)

    def play(self, plan: dict[int, BaseException]) -> Trial:
        """Play one trial and keep its faults."""
        trial = play(self.scenario, plan, numbering=self.numbering, crowded=self.crowded)
        self.trials += 1
        self.hits += trial.fired
        shots = {number: type(error).__name__ for number, error in plan.items()}
        self.faults += [f"{self.numbering.value} {shots}: {fault}" for fault in trial.faults]
        return trial

    def numbers(self, after: int, plan: Callable[[int], dict[int, BaseException]]) -> Iterator[int]:
        """Every switch number above `after`, each played with its plan, until there is none."""
        for number in count(after + 1):
            assert number < FAR_TOO_MANY, f"{self.scenario.name} does not end"
            trial = self.play(plan(number))
            if trial.counted < number or len(self.faults) >= ENOUGH_FAULTS:
                return
            yield number

    def single(self, shot: Shot) -> int:
        """One shot at every number; return how many numbers there are."""
        return len(list(self.numbers(0, lambda number: {number: shot()})))

    @staticmethod
    def _pair(first: Shot, one: int, second: Shot, two: int) -> dict[int, BaseException]:
        return {one: first(), two: second()}

    def pairs(self, first: Shot, second: Shot) -> int:
        """Two shots at every pair of numbers; return how many pairs there are."""
        total = 0
        for one in count(1):
            behind = len(list(self.numbers(one, partial(self._pair, first, one, second))))
            total += behind
            if not behind:
                return total
        raise AssertionError("count() does not end")


@every_scenario
@in_company
def test_a_kill_at_any_switch_of_a_caller_costs_nothing(
    scenario: Scenario, crowded: bool, tally: Callable[[str, int, int], None]
) -> None:
    campaign = Campaign(scenario, crowded)
    assert campaign.play({}).faults == []
    points = [campaign.single(shot) for shot in SHOTS]
    tally("shots at own switches", campaign.hits, campaign.trials)
    assert campaign.faults == []
    assert min(points) >= scenario.least + AFTERMATH
    assert campaign.hits >= len(SHOTS) * (scenario.least + AFTERMATH)


@every_scenario
@in_company
def test_a_second_kill_in_the_clean_up_of_the_first_costs_nothing(
    scenario: Scenario, crowded: bool, tally: Callable[[str, int, int], None]
) -> None:
    campaign = Campaign(scenario, crowded)
    pairs = campaign.pairs(*SHOTS) + campaign.pairs(*reversed(SHOTS))
    tally("pairs of shots at own switches", pairs, campaign.trials)
    assert campaign.faults == []
    assert pairs >= 2 * scenario.least * AFTERMATH


@every_scenario
@in_company
def test_a_kill_between_any_two_switches_of_anybody_costs_nothing(
    scenario: Scenario, crowded: bool, tally: Callable[[str, int, int], None]
) -> None:
    campaign = Campaign(scenario, crowded, Numbering.ANY)
    points = [campaign.single(shot) for shot in SHOTS]
    tally("shots between any two switches", campaign.hits, campaign.trials)
    assert campaign.faults == []
    # Of a few of the last ones it is known only when they are fired that the victim has ended.
    assert campaign.hits >= min(points) >= scenario.least + AFTERMATH


@every_worker
@pytest.mark.parametrize("numbering", Numbering, ids=lambda numbering: numbering.value)
def test_a_worker_killed_by_a_stranger_at_any_switch_is_made_good(
    scenario: Scenario, numbering: Numbering, tally: Callable[[str, int, int], None]
) -> None:
    campaign = Campaign(scenario, crowded=True, numbering=numbering)
    points = [campaign.single(shot) for shot in SHOTS]
    tally("shots at workers", campaign.hits, campaign.trials)
    assert campaign.faults == []
    assert campaign.hits >= min(points) >= scenario.least
