"""The bank: accounts, and transfers between them that may be tried again.

Invariant: whatever is committed leaves the sum of all balances as it was, and each transfer's id is there once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg2.extensions import connection

ACCOUNTS = 500
OPENING_BALANCE = 200

_SCHEMA = f"""
    CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE transfer (
        id int PRIMARY KEY,
        is_void boolean NOT NULL,
        debtor int REFERENCES account,
        creditor int REFERENCES account,
        amount int
    );
    INSERT INTO account SELECT id, {OPENING_BALANCE} FROM generate_series(1, {ACCOUNTS}) AS id;
"""


class Transfer(NamedTuple):
    """An order to move money. The id is the customer's, and is never used for another one."""

    id: int
    debtor: int
    creditor: int
    amount: int


class NotCoveredError(Exception):
    """The debtor has not that much money. The connection is healthy, and nobody tries again."""


class VoidError(Exception):
    """The transfer was declared void before this attempt of it."""


def open_bank(session: connection) -> None:
    """Make the accounts."""
    with session, session.cursor() as cursor:
        cursor.execute(_SCHEMA)


def make_transfer(session: connection, order: Transfer, seconds: float) -> int:
    """Make the transfer, once however often this is called; return its id.

    The look at the customer that every bank takes is here a query of so many ``seconds``.
    Raises NotCoveredError, VoidError. A task: a block of psycopg2 is a transaction, rolled back by an exception.
    """
    with session, session.cursor() as cursor:
        cursor.execute(
            "INSERT INTO transfer (id, is_void, debtor, creditor, amount) VALUES (%s, false, %s, %s, %s) "
            "ON CONFLICT (id) DO NOTHING",
            order,
        )
        if cursor.rowcount == 0:
            # An attempt before this one was committed, and the line broke before anybody heard of it. Or it is void.
            if not _was_made(cursor, order.id):
                raise VoidError(order.id)
            return order.id
        cursor.execute("SELECT pg_sleep(%s)", [seconds])
        # Rows are locked in the order of their ids: transfers can wait for each other in a line, but not in a circle.
        # (FOR UPDATE would make a circle with the locks that the foreign keys have taken already.)
        cursor.execute("SELECT id FROM account WHERE id IN (%s, %s) ORDER BY id FOR NO KEY UPDATE", order[1:3])
        cursor.execute(
            "UPDATE account SET balance = balance - %s WHERE id = %s AND balance >= %s",
            [order.amount, order.debtor, order.amount],
        )
        if cursor.rowcount == 0:
            raise NotCoveredError(order.debtor)
        cursor.execute("UPDATE account SET balance = balance + %s WHERE id = %s", [order.amount, order.creditor])
    return order.id


def find_out(session: connection, transfer_id: int) -> bool:
    """Tell whether the transfer was made; if not, make sure that it never will be. A task."""
    with session, session.cursor() as cursor:
        # Waits for the end of an attempt that is still under way somewhere.
        cursor.execute(
            "INSERT INTO transfer (id, is_void) VALUES (%s, true) ON CONFLICT (id) DO NOTHING", [transfer_id]
        )
        return cursor.rowcount == 0 and _was_made(cursor, transfer_id)


def _was_made(cursor: Any, transfer_id: int) -> bool:
    cursor.execute("SELECT NOT is_void FROM transfer WHERE id = %s", [transfer_id])
    [(was_made,)] = cursor.fetchall()
    return bool(was_made)
