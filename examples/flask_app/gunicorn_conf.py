"""How Gunicorn runs the shop."""

from __future__ import annotations

import os

from gevent import monkey

monkey.patch_all()  # before anything else is imported that might wait

bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
workers = 2
worker_class = "gtasker.integrations.gunicorn.GTaskerWorker"
graceful_timeout = 20  # longer than the longest request
control_socket_disable = True
raw_env = ["GTASKER_SERVER_LIMIT=97"]  # max_connections, less those that Postgres keeps for its superuser
