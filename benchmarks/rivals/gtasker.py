"""gtasker, three ways: leases, `run_task`, and queued tasks.

Invariant: at most `size` resources, whichever way they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any, ClassVar, TypeVar

from benchmarks.world import Connection, ConnectionLostError, Server
from gtasker import Runner

T = TypeVar("T")


class _Ours:
    def __init__(self, server: Server, size: int, *, checked: bool = False) -> None:
        options: dict[str, Any] = {"check_resource": Connection.alive, "check_idle": 0.0} if checked else {}
        self._runner: Runner[Connection] = Runner(
            on_create=lambda: Connection(server),
            on_destroy=Connection.close,
            check_health=lambda error: not isinstance(error, ConnectionLostError),
            max_resources=size,
            **self._shape(size),
            **options,
        )
        self._runner.start()

    def _shape(self, size: int) -> dict[str, Any]:
        raise NotImplementedError

    def close(self) -> None:
        """Stop the runner. Switches."""
        self._runner.kill()


class Lease(_Ours):
    """`with runner.lease()`: all but one of the connections are the reserve, the last is a worker's."""

    name: ClassVar[str] = "gtasker lease"

    def _shape(self, size: int) -> dict[str, Any]:
        return {"worker_count": 1, "max_worker_count": 1, "resource_pool_size": size - 1, "reset": Connection.rollback}

    def use(self, work: Callable[[Connection], T], timeout: float) -> T:
        with self._runner.lease(timeout=timeout) as connection:
            return work(connection)

    def cycle(self, times: int) -> None:
        lease = self._runner.lease
        for _ in repeat(None, times):
            with lease():
                pass


class BareLease(Lease):
    """Leases without a reset hook, for pools beside it that have none either."""

    name: ClassVar[str] = "gtasker lease, no reset"

    def _shape(self, size: int) -> dict[str, Any]:
        return super()._shape(size) | {"reset": None}


class RunTask(_Ours):
    """`run_task`, on the connections of the workers: there is no reserve."""

    name: ClassVar[str] = "gtasker run_task"

    def _shape(self, size: int) -> dict[str, Any]:
        return {"worker_count": size, "max_worker_count": size, "resource_pool_size": 0, "reset": Connection.rollback}

    def use(self, work: Callable[[Connection], T], timeout: float) -> T:
        return self._runner.run_task(work, timeout=timeout)

    def cycle(self, times: int) -> None:
        run = self._runner.run_task
        for _ in repeat(None, times):
            run(_nothing)


class Queue(_Ours):
    """`queue_task`; a caller's death reaches the connection, which is the harder case."""

    name: ClassVar[str] = "gtasker queue_task"

    def _shape(self, size: int) -> dict[str, Any]:
        return {
            "worker_count": size,
            "max_worker_count": size,
            "resource_pool_size": 0,
            "reset": Connection.rollback,
            "cancel_on_abandon": True,
        }

    def use(self, work: Callable[[Connection], T], timeout: float) -> T:
        return self._runner.queue_task(work, timeout=timeout)

    def cycle(self, times: int) -> None:
        queue = self._runner.queue_task
        for _ in repeat(None, times):
            queue(_nothing)


def _nothing(connection: Connection) -> None:
    pass
