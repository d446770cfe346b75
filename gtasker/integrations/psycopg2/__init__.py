"""psycopg2 for a runner: cooperative, cancelled on the server when its greenlet is killed, and judged by SQLSTATE.

Invariant: a kill, a time-out or a cancel reaches its greenlet as the same object, and leaves no statement running on
the server and no connection in a state that anybody else would notice; and what may have been committed is not done
again without the user's word.

    from gtasker import Runner
    from gtasker.integrations.psycopg2 import make_cooperative, resource

    make_cooperative()
    with Runner(**resource("dbname=shop"), worker_count=10) as runner:
        runner.queue_task(transfer, 100)
"""

from __future__ import annotations

from gtasker.integrations.psycopg2._connection import ClosedConnectionError, GreenConnection
from gtasker.integrations.psycopg2._cooperation import ForeignWaitCallbackError, make_cooperative
from gtasker.integrations.psycopg2._health import is_healthy, may_have_committed
from gtasker.integrations.psycopg2._resource import ResourceOptions, resource

__all__ = [
    "ClosedConnectionError",
    "ForeignWaitCallbackError",
    "GreenConnection",
    "ResourceOptions",
    "is_healthy",
    "make_cooperative",
    "may_have_committed",
    "resource",
]
