"""Who sends: some hundred callers at a time, each waiting for the answer to its transfer.

Invariant: what a caller was told is final, and it is told once.
"""

from __future__ import annotations

import random
from collections import Counter

import gevent
from gevent.pool import Pool

from examples.bank.transfers import ACCOUNTS, NotCoveredError, Transfer
from examples.cluster.tasks import transfer

_CALLERS = 300
_LONGEST_LOOK = 0.01  # seconds
_ANSWER = 60.0  # seconds that a caller waits for its answer, a death of its worker included


class Sender:
    """Sends so many transfers; `made` and `refused` are the numbers of those that were answered."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.made: set[int] = set()
        self.refused: set[int] = set()
        self.errors: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._callers = Pool(_CALLERS)

    @property
    def answered(self) -> int:
        """How many are."""
        return len(self.made) + len(self.refused)

    def run(self) -> None:
        """Send all, and return when all are answered."""
        for number in range(1, self.count + 1):
            debtor, creditor = self._chance.sample(range(1, ACCOUNTS + 1), 2)
            order = Transfer(number, debtor, creditor, self._chance.randint(1, 100))
            self._callers.spawn(self._call, order, self._chance.uniform(0, _LONGEST_LOOK))
        self._callers.join()

    def _call(self, order: Transfer, look: float) -> None:
        try:
            transfer.remote(*order, look).get(_ANSWER)
            self.made.add(order.id)
        except NotCoveredError:
            self.refused.add(order.id)
        except (Exception, gevent.Timeout) as error:
            self.errors[f"{type(error).__name__}: {error}"] += 1
