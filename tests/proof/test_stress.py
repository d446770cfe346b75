"""Hundreds of storms, each with books that have to balance; a failing one is named by its seed.

`GTASKER_STRESS_SEED=N` plays one storm alone, `GTASKER_STRESS_SEEDS=N` that many from seed 0 on. By themselves the
plain suite and the monkey-patched one play 200 each, and not the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests._env import PATCHED
from tests.proof._plan import draw_plan
from tests.proof._storm import Storm

OPERATIONS = 200
SEEDS_IN_A_TEST = 20

only, many = os.environ.get("GTASKER_STRESS_SEED"), os.environ.get("GTASKER_STRESS_SEEDS")
first = 200 if PATCHED else 0
seeds = [int(only)] if only else list(range(int(many)) if many else range(first, first + 200))
batches = [seeds[start : start + SEEDS_IN_A_TEST] for start in range(0, len(seeds), SEEDS_IN_A_TEST)]


@pytest.mark.slow
@pytest.mark.parametrize("batch", batches, ids=lambda batch: f"seeds {batch[0]} to {batch[-1]}")
def test_the_books_of_a_storm_balance(batch: list[int], tally: Callable[[str, int, int], None]) -> None:
    for seed in batch:
        storm = Storm(draw_plan(seed, OPERATIONS))

        faults = storm.blow()

        assert not faults, "\n".join([f"GTASKER_STRESS_SEED={seed}:", *faults[:20]])
        tally("calls in storms", len(storm.entries), 1)


def test_a_seed_always_draws_the_same_plan() -> None:
    assert draw_plan(7, OPERATIONS) == draw_plan(7, OPERATIONS)
    assert draw_plan(7, OPERATIONS) != draw_plan(8, OPERATIONS)
