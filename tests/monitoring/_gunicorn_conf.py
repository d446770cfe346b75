"""Settings of Gunicorn, as the documentation tells them."""

from __future__ import annotations

from gtasker.integrations.prometheus import child_exit

__all__ = ["child_exit"]

bind = "127.0.0.1:0"
worker_class = "gtasker.integrations.gunicorn.GTaskerWorker"
graceful_timeout = 10
