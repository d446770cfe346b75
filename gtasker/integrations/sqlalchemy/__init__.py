"""SQLAlchemy on a runner's stock: an engine whose connections are bounded, handed out in turn, and heal.

Invariant: an application that used ``QueuePool`` needs one argument more, and meets the errors it knows.

    from sqlalchemy import create_engine
    from gtasker.integrations.sqlalchemy import GTaskerPool

    engine = create_engine(url, poolclass=GTaskerPool)

or, with options of the runner, ``create_engine(url, **gtasker_pool(max_creating=8))``.
"""

from __future__ import annotations

from gtasker.integrations.sqlalchemy._pool import GTaskerPool, gtasker_pool

__all__ = ["GTaskerPool", "gtasker_pool"]
