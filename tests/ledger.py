"""The ledger of the core's tests: the one that users get, whose own tests are in `test_ledger.py`.

Invariant: nothing is defined here.
"""

from __future__ import annotations

from gtasker.testing.ledger import (
    PATIENCE,
    Condition,
    CreateFailedError,
    Door,
    HeldTask,
    Ledger,
    LedgerError,
    LedgerResource,
    UnfitError,
    touch,
)

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
