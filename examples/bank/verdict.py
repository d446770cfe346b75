"""The verdict: what must be true at the end, asked of the database and of the other process, and said aloud.

Invariant: nothing is taken from the runner's word but what is to be compared with the server's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg2

from examples.bank.callers import Callers, Outcome
from examples.bank.census import Count
from examples.bank.transfers import ACCOUNTS, OPENING_BALANCE
from examples.bank.trouble import IN_FLIGHT, SALVOS, Trouble
from gtasker import RunnerStats, TaskMetrics

_LOWEST_RATE = 50  # samples a second
_MADE = (Outcome.DONE, Outcome.DONE_AFTER_ALL)


class Check(NamedTuple):
    """A sentence, and whether it is true."""

    sentence: str
    holds: bool


def judge_books(dsn: str, callers: Callers) -> Iterator[Check]:
    """Compare what the callers were told with what the database has."""
    session = psycopg2.connect(dsn)
    try:
        cursor = session.cursor()
        yield from _books(cursor, callers)
    finally:
        session.close()


def _books(cursor: Any, callers: Callers) -> Iterator[Check]:
    told = callers.told
    yield Check(f"every caller was answered: {len(told)} of {callers.count}", len(told) == callers.count)

    cursor.execute("SELECT sum(balance) FROM account")
    [(total,)] = cursor.fetchall()
    yield Check(f"no money was lost or made: {total} in all accounts", total == ACCOUNTS * OPENING_BALANCE)

    cursor.execute("SELECT id FROM transfer WHERE NOT is_void")
    committed = {transfer_id for (transfer_id,) in cursor}
    reported = {transfer_id for transfer_id, outcome in told.items() if outcome in _MADE}
    yield Check(
        f"transfers committed == transfers reported: {len(committed)} and {len(reported)}, the same ones",
        committed == reported,
    )

    cursor.execute(
        "SELECT count(*) FROM account WHERE balance <> %s"
        " + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE creditor = account.id)"
        " - (SELECT coalesce(sum(amount), 0) FROM transfer WHERE debtor = account.id)",
        [OPENING_BALANCE],
    )
    [(wrong,)] = cursor.fetchall()
    yield Check(f"every balance is the sum of its transfers: {wrong} are not", wrong == 0)


def judge_trouble(trouble: Trouble) -> Iterator[Check]:
    """Tell whether it was hard enough."""
    for number, (in_flight, terminated) in enumerate(trouble.salvos, start=1):
        yield Check(
            f"salvo {number} terminated {terminated} connections while {in_flight} transfers were in flight",
            in_flight >= IN_FLIGHT and terminated > 0,
        )
    yield Check(f"there were {SALVOS} salvos", len(trouble.salvos) == SALVOS)
    yield Check(f"{trouble.cancelled} queries were cancelled on the server", trouble.cancelled > 0)


def judge_bound(census: Count, bound: int) -> Iterator[Check]:
    """Tell whether the server ever had more sessions than it may have."""
    rate = census.samples / census.seconds
    yield Check(
        f"never more than {bound} connections: {census.peak} at most, in {census.samples} samples of another process",
        0 < census.peak <= bound,
    )
    yield Check(f"it looked {rate:.0f} times a second", rate >= _LOWEST_RATE)


def judge_rest(stats: RunnerStats, metrics: TaskMetrics, left: int) -> Iterator[Check]:
    """Tell whether anything is left."""
    made, unmade = metrics.resources_created, metrics.resources_destroyed
    yield Check(f"each of {made} connections was destroyed once", made == unmade and stats.live_resources == 0)
    yield Check(f"the server has {left} sessions of ours left", left == 0)
