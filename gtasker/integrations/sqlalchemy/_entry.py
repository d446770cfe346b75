"""An entry: one connection of a pool, as the runner holds it and as SQLAlchemy does.

Invariant: it is out, with the lease it was taken by, or idle and in the runner's care. What SQLAlchemy closes while it
is out is kept in ``parting``, for an end that may wait, which the greenlet that closes must not.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from gtasker import Lease
from gtasker.integrations.sqlalchemy._drivers import Driver


class Entry:
    """The resource of a pool's runner."""

    __slots__ = ("born_at", "driver", "fileno", "is_makeshift", "lease", "parting", "read_unasked", "record", "under")

    def __init__(self, record: Any, driver: Driver) -> None:
        self.record = record  # SQLAlchemy's, for the whole life of the connection
        self.driver = driver
        self.born_at = monotonic()
        self.lease: Lease[Entry] | None = None
        self.under: BaseException | None = None  # what was being handled when it was taken
        self.parting: Any = None
        self.is_makeshift = False  # reconnected in a caller's greenlet, where nothing prepared it for a second use
        # Used by the runner, to see what idles and speaks:
        self.fileno: Callable[[], int] | None = None
        self.read_unasked: Callable[[], None] | None = None

    @property
    def connection(self) -> Any:
        """The DB-API's connection; None once SQLAlchemy has closed it."""
        return self.record.dbapi_connection

    @property
    def is_spent(self) -> bool:
        """Whether it may not be used again: closed, detached, or invalidated."""
        soft: float = getattr(self.record, "_soft_invalidate_time", 0.0)
        return self.connection is None or self.is_makeshift or soft > self.record.starttime

    def __repr__(self) -> str:
        return f"<Entry {self.connection!r}{', out' if self.lease else ''}>"
