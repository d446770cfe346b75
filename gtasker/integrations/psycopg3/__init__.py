"""psycopg 3 for a runner: cancelled on the server when its greenlet is killed, and kept only in a known state.

Invariant: a kill or a time-out reaches its greenlet as the same object and leaves the connection without a statement in
flight, or closed; the transaction status decides whether it is used again, whatever was raised or swallowed; and what
may have been committed is not done again without the user's word.

psycopg chooses at its import how it waits: import it after ``gevent.monkey.patch_all()``, else every query would stop
every greenlet. ``resource`` raises where that was not so.

    from gevent import monkey; monkey.patch_all()

    from gtasker import Runner
    from gtasker.integrations.psycopg3 import resource

    with Runner(**resource("dbname=shop"), worker_count=10) as runner:
        runner.queue_task(transfer, 100)
"""

from __future__ import annotations

from gtasker.integrations.psycopg3._connection import GreenConnection, adopt
from gtasker.integrations.psycopg3._cooperation import NotCooperativeError
from gtasker.integrations.psycopg3._health import is_healthy, may_have_committed
from gtasker.integrations.psycopg3._resource import ResourceOptions, resource

__all__ = [
    "GreenConnection",
    "NotCooperativeError",
    "ResourceOptions",
    "adopt",
    "is_healthy",
    "may_have_committed",
    "resource",
]
