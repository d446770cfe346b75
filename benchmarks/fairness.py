"""Jain's index of how evenly a good was shared.

Invariant: 1 when all got the same, 1/n when one of n got everything.
"""

from __future__ import annotations

from collections.abc import Sequence


def jain(shares: Sequence[float]) -> float:
    """Return the index of these shares, between 0 (nobody got anything) and 1 (Jain, Chiu, Hawe 1984)."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0
