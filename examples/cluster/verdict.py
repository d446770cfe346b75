"""The verdict: what must be true at the end, asked of Postgres, of Redis and of another process, and said aloud.

Invariant: nothing is taken from a runner's or an engine's word.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg2

from examples.bank.census import Count
from examples.bank.transfers import ACCOUNTS, OPENING_BALANCE
from examples.bank.verdict import Check
from examples.cluster.sender import Sender
from examples.cluster.shot import Shot

REDELIVERY = 10.0
"""Seconds within which the messages of a dead worker are served again."""


def judge_books(dsn: str, sender: Sender) -> Iterator[Check]:
    """Compare what the callers were told with what the database has."""
    session = psycopg2.connect(dsn)
    try:
        yield from _books(session.cursor(), sender)
    finally:
        session.close()


def _books(cursor: Any, sender: Sender) -> Iterator[Check]:
    yield Check(f"every caller was answered: {sender.answered} of {sender.count}", sender.answered == sender.count)

    cursor.execute("SELECT sum(balance) FROM account")
    [(total,)] = cursor.fetchall()
    yield Check(f"no money was lost or made: {total} in all accounts", total == ACCOUNTS * OPENING_BALANCE)

    cursor.execute("SELECT id FROM transfer")
    committed = {number for (number,) in cursor}
    yield Check(
        f"transfers committed == transfers reported: {len(committed)} and {len(sender.made)}, the same ones",
        committed == sender.made,
    )

    cursor.execute(
        "SELECT count(*) FROM account WHERE balance <> %s"
        " + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE creditor = account.id)"
        " - (SELECT coalesce(sum(amount), 0) FROM transfer WHERE debtor = account.id)",
        [OPENING_BALANCE],
    )
    [(wrong,)] = cursor.fetchall()
    yield Check(f"every balance is the sum of its transfers: {wrong} are not", wrong == 0)


def judge_shot(shot: Shot) -> Iterator[Check]:
    """Tell whether it was hard enough, and how it was got over."""
    yield Check(
        f"a worker was shot while {shot.sessions} connections were at work, with {shot.held} messages in its hands",
        shot.sessions > 0 and shot.held > 0,
    )
    yield Check(f"all of them were delivered again within {shot.seconds:.1f} s", shot.seconds <= REDELIVERY)


def judge_bound(census: Count, bound: int) -> Iterator[Check]:
    """Tell whether Postgres ever had more sessions than all processes together may have."""
    yield Check(
        f"never more than {bound} connections in all processes: {census.peak} at most, "
        f"in {census.samples} samples of another process",
        0 < census.peak <= bound and census.samples > 0,
    )


def judge_view(view: dict[str, Any], pids: list[int]) -> Iterator[Check]:
    """Tell whether the dashboard showed all processes as one."""
    seen = {process["pid"] for process in view["processes"]}
    yield Check(f"the dashboard merged {len(seen & set(pids))} of {len(pids)} workers", set(pids) <= seen)


def judge_rest(dsn: str, client: Any, namespace: str, refused: int, statuses: list[int]) -> Iterator[Check]:
    """Tell whether anything is left."""
    left = sum(client.hlen(key) for key in client.keys(f"{namespace}:*.msgs") if not key.endswith(b".XQ.msgs"))
    yield Check(f"Redis has {left} messages left", left == 0)
    dead = client.hlen(f"{namespace}:normal.XQ.msgs")
    yield Check(f"the dead letters are the refused transfers: {dead} and {refused}", dead == refused)
    slots = sum(client.zcard(key) for key in client.keys(f"gtasker-slots:{namespace}:owners"))
    yield Check(f"{slots} slots are taken", slots == 0)
    yield Check(f"the workers ended in order: {statuses}", bool(statuses) and set(statuses) == {0})
    session = psycopg2.connect(dsn)
    with session.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [namespace])
        [(sessions,)] = cursor.fetchall()
    session.close()
    yield Check(f"Postgres has {sessions} sessions of theirs left", sessions == 0)
