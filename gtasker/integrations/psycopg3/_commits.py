"""What could commit: an error that comes meanwhile is marked.

Invariant: a call on a connection that was closed before has sent nothing, and so committed nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from gtasker.integrations._postgres import mark_as_committing


@contextmanager
def committing(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Mark the error of psycopg's that ends the block, if the connection is open when it begins."""
    was_open = not connection.closed
    try:
        yield
    except psycopg.DatabaseError as error:
        if was_open:
            mark_as_committing(error)
        raise
