"""The same task in this process or in another: one definition, and bounds that hold across processes.

Invariant: importing this needs nothing but gtasker; an engine's or a limiter's library is imported with its module.

    from gtasker.distributed import task
    from gtasker.distributed.dramatiq import DramatiqEngine

    engine = DramatiqEngine("redis://localhost", runners=[runner])

    @task(runner, name="report.build", timeout=30, engine=engine)
    def build(connection, report_id): ...

    build.run(7), build.queue(7), build.remote(7).get(), build.submit(7).get()
"""

from __future__ import annotations

from gtasker.distributed._definition import Definition, task
from gtasker.distributed._engine import Engine, Rate
from gtasker.distributed._handle import Handle, RemoteTask
from gtasker.distributed.errors import (
    AlreadyBegunError,
    DistributedError,
    EngineUnavailableError,
    LimiterError,
    LimiterUnavailableError,
    NoEngineError,
    NoSlotError,
    NotJSONError,
    RemoteTaskError,
)

__all__ = [
    "AlreadyBegunError",
    "Definition",
    "DistributedError",
    "Engine",
    "EngineUnavailableError",
    "Handle",
    "LimiterError",
    "LimiterUnavailableError",
    "NoEngineError",
    "NoSlotError",
    "NotJSONError",
    "Rate",
    "RemoteTask",
    "RemoteTaskError",
    "task",
]
