"""The ledger for users is the one that the suite of the core trusts, whose eyes ``tests/test_ledger.py`` tests."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import gtasker.testing._doors
import gtasker.testing.ledger
import tests.ledger
from gtasker import MaxRetriesExceededError, Runner
from gtasker.testing.ledger import HeldTask, Ledger, LedgerError, LedgerResource, UnfitError, touch


def over(ledger: Ledger, **options: Any) -> Runner[LedgerResource]:
    return Runner(**{**ledger.options(), **options})


def definitions(*modules: object) -> dict[str, str]:
    """The code of each class and function, without what is said about it."""
    found = {}
    for module in modules:
        tree = ast.parse(Path(str(getattr(module, "__file__", ""))).read_text())
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        for node in tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                found[node.name] = ast.dump(node)
    return found


def test_it_is_the_same_code() -> None:
    ours = definitions(tests.ledger)

    theirs = definitions(gtasker.testing.ledger, gtasker.testing._doors)

    assert len(ours) > 8
    assert theirs == ours


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
