"""A runner that remembers every handle it gave out, so that a test's end can ask them all for their answer.

Invariant: it behaves as a `Runner` in everything; what it remembers is looked at in `end` alone.
"""

from __future__ import annotations

from typing import Any

from gtasker import Config, Runner, State, Task
from tests.ledger import Ledger, LedgerResource


class WatchedRunner(Runner[LedgerResource]):
    """A runner over `ledger`, whose books get its bound, and say how many resources may be left at the end."""

    def __init__(self, config: Config[LedgerResource], ledger: Ledger) -> None:
        super().__init__(config)
        self._ledger = ledger
        self._handles: list[Task[Any]] = []
        self._sizes = {
            "worker_count": config.worker_count,
            "max_worker_count": config.max_worker_count,
            "resource_pool_size": config.resource_pool_size,
        }
        self._bound = config.max_resources
        ledger.bound = (ledger.bound or 0) + self._bound

    def submit(self, *args: Any, **kwargs: Any) -> Task[Any]:  # type: ignore[override]  # it passes on whatever comes
        """Queue as `Runner.submit` does, and remember the handle. Switches when that does."""
        task = super().submit(*args, **kwargs)
        self._handles.append(task)
        return task

    def resize(self, *, max_resources: int | None = None, **sizes: int | None) -> None:  # type: ignore[override]
        """Resize as `Runner.resize` does; the ledger's bound grows, but does not shrink. Never switches.

        Shrinking interrupts nothing, so for a while there may still be as many resources as before.
        """
        super().resize(max_resources=max_resources, **sizes)
        self._sizes.update({name: size for name, size in sizes.items() if size is not None})
        needed = max(self._sizes["worker_count"], self._sizes["max_worker_count"]) + self._sizes["resource_pool_size"]
        growth = (needed if max_resources is None else max_resources) - self._bound
        if growth > 0:
            self._bound += growth
            self._ledger.bound = (self._ledger.bound or 0) + growth

    def end(self) -> None:
        """Kill what still runs, then raise unless all was answered and nothing is left. Switches."""
        report = None if self.state is State.CLOSED else self.kill()

        unanswered = [task for task in self._handles if not task.ready()]
        stats = self.stats()

        assert not unanswered, f"submitted and never answered: {unanswered}"
        if not self._ledger.abandoned:
            assert report is None or report.complete, f"the shutdown is not complete: {report}"
            assert self.state is State.CLOSED
            assert stats.live_resources == stats.active_workers == stats.queued_tasks == 0, stats
