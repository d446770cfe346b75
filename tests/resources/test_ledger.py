"""The ledger for users is the one that the suite of the core trusts, whose eyes ``tests/test_ledger.py`` tests."""

from __future__ import annotations

from typing import Any

import pytest

from gtasker import MaxRetriesExceededError, Runner
from gtasker.testing.ledger import HeldTask, Ledger, LedgerError, LedgerResource, UnfitError, touch


def over(ledger: Ledger, **options: Any) -> Runner[LedgerResource]:
    return Runner(**{**ledger.options(), **options})


def test_a_runner_over_it_balances() -> None:
    ledger = Ledger(bound=3)
    with over(ledger, worker_count=2, resource_pool_size=1) as runner:
        held = HeldTask("held")
        task = runner.submit(held)
        held.wait_begun()
        assert runner.run_task(touch, "value") == "value"
        assert ledger.in_use == 1
        held.release()
        assert task.get() == "held"

    ledger.assert_balanced()
    assert ledger.created == ledger.destroyed == 3


def test_what_a_task_calls_unfit_is_replaced() -> None:
    ledger = Ledger()
    attempts = []

    def spoil(resource: LedgerResource) -> None:
        attempts.append(resource)
        with resource.use():
            raise UnfitError

    with over(ledger, worker_count=1, max_retries=1) as runner, pytest.raises(MaxRetriesExceededError):
        runner.queue_task(spoil)

    ledger.assert_balanced()
    assert len(set(attempts)) == 2


def test_a_task_that_shares_its_resource_is_found_though_it_swallows_that() -> None:
    ledger = Ledger()

    def use_twice(resource: LedgerResource) -> None:
        with resource.use():
            try:
                touch(resource, None)
            except LedgerError:
                pass

    with over(ledger, worker_count=1) as runner:
        runner.queue_task(use_twice)

    with pytest.raises(LedgerError, match="while a task in"):
        ledger.assert_balanced()
