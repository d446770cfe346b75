"""Who uses the bank: a greenlet for each transfer, by three ways, some of them impatient.

Invariant: each caller ends with one `Outcome`, and what it says of its transfer is final.
"""

from __future__ import annotations

import enum
import random
from collections import Counter, defaultdict

import gevent
import psycopg2
from gevent.event import Event
from gevent.pool import Group

from examples.bank.transfers import ACCOUNTS, NotCoveredError, Transfer, find_out, make_transfer
from gtasker import MaxRetriesExceededError, Priority, Runner, TaskTimeoutError
from gtasker.integrations.psycopg2 import GreenConnection

_LONGEST_LOOK = 0.03  # seconds
_HASTE = 0.005  # seconds that an impatient caller stays
_BUS = 100
"""Those who do not wait in line come by a bus, after each so many answers: then all connections are in use."""
_LAST_BUS = 0.8
"""The part of all answers after which no bus comes; the others alone are more than that."""


class Way(enum.Enum):
    """How a caller calls."""

    IN_LINE = "in line"
    WITH_PRIORITY = "with priority"
    AT_ONCE = "at once"
    IMPATIENT = "impatient"


_SHARES = {Way.IN_LINE: 80, Way.WITH_PRIORITY: 10, Way.AT_ONCE: 7, Way.IMPATIENT: 3}


class Outcome(enum.Enum):
    """What became of a transfer, as its caller knows it."""

    DONE = "done"
    REFUSED = "not covered"
    DONE_AFTER_ALL = "done, found out by its id"
    VOID = "void, found out by its id"


class Callers:
    """The customers: what they were told, and how many of their transfers a connection works on."""

    def __init__(self, runner: Runner[GreenConnection], count: int, seed: int) -> None:
        self.count = count
        self.in_flight = 0
        self.told: dict[int, Outcome] = {}
        self.errors: Counter[str] = Counter()
        self._buses: defaultdict[int, Event] = defaultdict(Event)
        self._runner = runner
        self._chance = random.Random(seed)
        self._greenlets = Group()

    def call(self) -> None:
        """Start a greenlet for each transfer."""
        ways = self._chance.choices(list(_SHARES), [*_SHARES.values()], k=self.count)
        for number, way in enumerate(ways, start=1):
            debtor, creditor = self._chance.sample(range(1, ACCOUNTS + 1), 2)
            order = Transfer(number, debtor, creditor, self._chance.randint(1, 100))
            look = self._chance.uniform(0, _LONGEST_LOOK)
            bus = self._chance.randrange(0, int(self.count * _LAST_BUS), _BUS)
            self._greenlets.spawn(self._call, order, way, look, bus)
        self._buses[0].set()

    def wait(self, timeout: float) -> None:
        """Wait until all are answered, but not longer than ``timeout`` seconds."""
        self._greenlets.join(timeout)
        self._greenlets.kill()

    def _call(self, order: Transfer, way: Way, look: float, bus: int) -> None:
        if way in (Way.AT_ONCE, Way.IMPATIENT):
            self._buses[bus].wait()
        try:
            self._order(order, way, look)
            outcome = Outcome.DONE
        except NotCoveredError:
            outcome = Outcome.REFUSED
        except (psycopg2.Error, MaxRetriesExceededError, TaskTimeoutError, gevent.Timeout) as error:
            # Whether it was made, nobody said: the id will tell.
            self.errors[_name(error)] += 1
            was_made = self._runner.queue_task(find_out, order.id, priority=Priority.HIGH)
            outcome = Outcome.DONE_AFTER_ALL if was_made else Outcome.VOID
        self.told[order.id] = outcome
        if len(self.told) in self._buses:
            self._buses[len(self.told)].set()

    def _order(self, order: Transfer, way: Way, look: float) -> None:
        if way is Way.IN_LINE:
            self._runner.queue_task(self._work, order, look)
        elif way is Way.WITH_PRIORITY:
            self._runner.queue_task_with_priority(self._work, order, look)
        elif way is Way.AT_ONCE:
            self._runner.run_task(self._work, order, look)
        else:
            with self._runner.lease() as session, gevent.Timeout(_HASTE):
                # Leaves in the middle of a query, which then ends on the server, too.
                self._work(session, order, look)

    def _work(self, session: GreenConnection, order: Transfer, look: float) -> int:
        self.in_flight += 1
        try:
            return make_transfer(session, order, look)
        finally:
            self.in_flight -= 1


def _name(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, MaxRetriesExceededError) else error
    return type(cause).__name__
