"""What every process of the cluster has in common: the engine, the connections and their bound, and the one task.

Invariant: nothing is opened by importing this; where everything is, the environment says.

    dramatiq-gevent examples.cluster.tasks:broker --processes 1 --threads 20
"""

from __future__ import annotations

import os

from examples.bank.transfers import Transfer, make_transfer
from gtasker import Config, Runner
from gtasker.distributed import task
from gtasker.distributed.dramatiq import DramatiqEngine
from gtasker.distributed.limiter import bounded
from gtasker.distributed.semaphore import RedisLimiter
from gtasker.integrations.dashboard import Dashboard
from gtasker.integrations.psycopg2 import GreenConnection, make_cooperative, resource

BOUND = 10
"""Connections of all processes together."""
GREENLETS = 20
"""Of one worker process."""
LEASE = 3.0
"""Seconds after which the slots of a process that was shot are free."""

make_cooperative()
redis_url = os.environ["CLUSTER_REDIS"]
dashboard = Dashboard(title="cluster")
runner: Runner[GreenConnection] = Runner(
    Config(
        **bounded(
            # Each transfer has an id, so that one whose COMMIT was not answered may be tried again.
            resource(
                os.environ["CLUSTER_DSN"], application_name=os.environ["CLUSTER_NAME"], replay_unknown_commit=True
            ),
            RedisLimiter(redis_url, os.environ["CLUSTER_NAME"], BOUND, ttl=LEASE),
        ),
        name="bank",
        worker_count=1,
        resource_pool_size=1,
        max_resources=GREENLETS,
        # A connection that nobody here needs is another process's.
        max_idle=1.0,
        on_event=dashboard.recorder(),
    )
)
engine = DramatiqEngine(redis_url, runners=[runner], namespace=os.environ["CLUSTER_NAME"], heartbeat=4.0)
broker = engine.broker


@task(runner, name="bank.transfer", timeout=30, engine=engine)
def transfer(connection: GreenConnection, number: int, debtor: int, creditor: int, amount: int, look: float) -> int:
    """Move money, once however often this is called."""
    return make_transfer(connection, Transfer(number, debtor, creditor, amount), look)
