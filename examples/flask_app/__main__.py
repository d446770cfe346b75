"""Try the shop: a throw-away Postgres, and Gunicorn in front of it, until Ctrl-C.

Invariant: Gunicorn is asked to leave before its database goes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg2

from gtasker.testing.postgres import postgres

SCHEMA = """
CREATE TABLE IF NOT EXISTS products (id int PRIMARY KEY, name text NOT NULL, stock int NOT NULL);
CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, product int NOT NULL, count int NOT NULL);
INSERT INTO products VALUES (1, 'lamp', 1000), (2, 'chair', 1000), (3, 'table', 2) ON CONFLICT DO NOTHING;
"""
HINT = """
    curl http://127.0.0.1:{port}/products
    curl -X POST 'http://127.0.0.1:{port}/orders/first?product=3'
    curl http://127.0.0.1:{port}/report
    curl http://127.0.0.1:{port}/healthz

    kill -HUP {pid}     # a reload, which cuts no request
    kill -TERM {pid}    # or Ctrl-C, which is quick
"""


def main() -> int:
    """Run until told to stop."""
    with postgres() as dsn:
        _create_schema(dsn)
        settings = Path(__file__).with_name("gunicorn_conf.py")
        command = [sys.executable, "-m", "gunicorn", f"--config={settings}", "examples.flask_app.app:create_app()"]
        server = subprocess.Popen(command, env={**os.environ, "SHOP_DSN": dsn})
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, lambda number, _: server.send_signal(number))
        print(HINT.format(port=os.environ.get("PORT", "8000"), pid=server.pid), flush=True)
        return server.wait()


def _create_schema(dsn: str) -> None:
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute(SCHEMA)
    connection.close()


if __name__ == "__main__":
    sys.exit(main())
