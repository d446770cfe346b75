"""The smallest tasks there are: what a message costs is all they cost.

Invariant: they need Redis alone; their resource is a plain object.

    dramatiq-gevent examples.cluster.nothing:broker --processes 1 --threads 20
"""

from __future__ import annotations

import os

from gtasker import Config, Runner
from gtasker.distributed import task
from gtasker.distributed.dramatiq import DramatiqEngine

runner: Runner[object] = Runner(
    Config(on_create=object, on_destroy=lambda _: None, name="nothing", worker_count=1, max_resources=20)
)
engine = DramatiqEngine(os.environ["CLUSTER_REDIS"], runners=[runner], namespace=os.environ["CLUSTER_NAME"])
broker = engine.broker


@task(runner, name="nothing", engine=engine)
def nothing(_: object) -> None:
    """Do nothing."""
