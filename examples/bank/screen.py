"""The screen: a live table at a terminal, a line a second elsewhere.

Invariant: it only reads, four times a second at most.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import Any

import gevent
from gevent.pool import Group

from examples.bank.callers import Callers
from examples.bank.trouble import Trouble
from gtasker import Runner
from gtasker.integrations.psycopg2 import GreenConnection

try:
    from rich.live import Live
    from rich.table import Table
except ImportError:  # only the looks need it
    Live = None  # type: ignore[assignment, misc]

_TABLE_INTERVAL, _LINE_INTERVAL = 0.25, 1.0  # seconds


class Screen:
    """Shows how it goes, until the block ends."""

    def __init__(self, runner: Runner[GreenConnection], callers: Callers, trouble: Trouble) -> None:
        self._runner, self._callers, self._trouble = runner, callers, trouble
        self._begin = time.monotonic()
        self._greenlets = Group()
        self._closing = ExitStack()
        self._live: Any = None
        if Live is not None and sys.stdout.isatty():
            # rich would refresh it from a thread; a greenlet does.
            self._live = Live(self._table(), auto_refresh=False)

    def __enter__(self) -> None:
        if self._live is not None:
            self._closing.enter_context(self._live)
        self._greenlets.spawn(self._run)

    def __exit__(self, *error: object) -> None:
        self._greenlets.kill()
        self._show()
        self._closing.close()

    def _run(self) -> None:
        while True:
            self._show()
            gevent.sleep(_LINE_INTERVAL if self._live is None else _TABLE_INTERVAL)

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        else:
            seconds = time.monotonic() - self._begin
            print(f"{seconds:5.1f} s  " + "  ".join(f"{name} {value}" for name, value in self._facts().items()))

    def _table(self) -> Any:
        bound = self._runner.config.max_resources
        title = f"{self._callers.count:,} transfers, {bound} connections, and somebody shoots"
        table = Table(title=title, show_header=False, min_width=72)
        table.add_column(style="cyan")
        table.add_column(justify="right")
        for name, value in self._facts().items():
            table.add_row(name, value)
        return table

    def _facts(self) -> dict[str, str]:
        stats, metrics, config = self._runner.stats(), self._runner.metrics(), self._runner.config
        return {
            "answered": f"{len(self._callers.told)}/{self._callers.count}",
            "in flight": f"{self._callers.in_flight}",
            "workers": f"{stats.busy_workers} busy of {stats.active_workers} ({stats.base_workers} base)",
            "waiting": f"{stats.queued_tasks} + {stats.priority_tasks} with priority + {stats.waiting_leases} leases",
            "connections": f"{stats.live_resources} of at most {config.max_resources}",
            "made": f"{metrics.resources_created}",
            "lost": f"{metrics.resources_destroyed}",
            "retried": f"{metrics.total_tasks_retried}",
            "a second": f"{metrics.task_completion_rate:.0f}",
            "wait": _percentiles(metrics.p50_wait_time, metrics.p95_wait_time, metrics.p99_wait_time),
            "run": _percentiles(metrics.p50_execution_time, metrics.p95_execution_time, metrics.p99_execution_time),
            "shot": f"{sum(salvo.terminated for salvo in self._trouble.salvos)}",
            "cancelled": f"{self._trouble.cancelled}",
        }


def _percentiles(*seconds: float) -> str:
    return "/".join(f"{1000 * second:.0f}" for second in seconds) + " ms"
