"""Prometheus: the runners of one process read at scrape time, or those of many processes added up.

Invariant: a task costs nothing here; runners are read when somebody scrapes, or once a second.

    from gtasker.integrations import prometheus

    prometheus.install()        # once in each process, in the thread of its runners

With `PROMETHEUS_MULTIPROC_DIR` set (several processes behind one address, as under Gunicorn) what happened since the
last second is written to prometheus_client's own files, so that any process tells the sum of all. Then this belongs in
Gunicorn's configuration file:

    from gtasker.integrations.prometheus import child_exit
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, multiprocess, values

from gtasker import Runner
from gtasker.integrations.prometheus._collector import RunnerCollector
from gtasker.integrations.prometheus._flusher import Flusher

__all__ = ["Flusher", "RunnerCollector", "child_exit", "install"]


def install(*runners: Runner[Any], registry: CollectorRegistry = REGISTRY) -> RunnerCollector | Flusher:
    """Tell Prometheus of `runners`, or else of every runner that is at work in this thread. Never switches.

    Runners given are told of even after they closed, as a job needs that pushes its numbers at its end. Of the others
    those are missed, where there are several processes, that begin and end between two seconds.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        if not getattr(values.ValueClass, "_multiprocess", True):
            text = "PROMETHEUS_MULTIPROC_DIR was set too late: prometheus_client was imported, and tells of one process"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        flusher = Flusher(*runners, registry=registry)
        flusher.start()
        return flusher
    collector = RunnerCollector(*runners)
    try:
        registry.register(collector)
    except ValueError:  # another one tells the same there
        collector.close()
        raise
    return collector


def child_exit(server: Any, worker: Any) -> None:
    """Take the levels of a process that ended out of the sums. A server hook of Gunicorn."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # its annotations are not there yet
