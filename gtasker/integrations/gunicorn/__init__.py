"""Gunicorn for applications with runners: deploys that cut no request short, and leave no connection behind.

Invariant: a worker process that is asked to leave ends its requests, then its runners, before it can be killed.

    worker_class = "gtasker.integrations.gunicorn.GTaskerWorker"        # in gunicorn.conf.py; or, with less:

    from gtasker.integrations.gunicorn import post_worker_init, worker_exit, worker_int

Make the runner where the application is made, and nothing more: it starts in each worker process on its first use,
with `--preload` too. Let `graceful_timeout` be longer than the longest request, and what stops Gunicorn (systemd, a
container's host) wait longer than that. While a reload goes on, the workers of both generations hold resources.

The environment variable GTASKER_SERVER_LIMIT says how many resources the server allows: "97" for all runners together,
"shop=97 cache=500" for each by its name. A warning is logged when all workers together may open more.
"""

from __future__ import annotations

from gtasker.integrations.gunicorn._hooks import post_worker_init, worker_exit, worker_int
from gtasker.integrations.gunicorn._worker import GTaskerWorker

__all__ = ["GTaskerWorker", "post_worker_init", "worker_exit", "worker_int"]
