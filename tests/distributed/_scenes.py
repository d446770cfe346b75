"""Processes that send, patched as an application is; each prints one line of JSON.

Invariant: it ends by itself, or with its time limit.
"""
# ruff: noqa: E402 (an application patches before it imports anything else)

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json
import signal
import sys
from typing import Any
from urllib.parse import urlsplit

import gevent
import psutil

from gtasker.distributed._keys import Keys
from gtasker.distributed.dramatiq import DramatiqEngine
from gtasker.integrations.psycopg2 import make_cooperative
from tests.distributed._app import App, make_runner

SHORT_CLAIM = 1.0  # seconds


def crowd(redis: str, namespace: str, dsn: str) -> object:
    """Three hundred callers at once, over few connections; what each got."""
    engine = DramatiqEngine(redis, namespace=namespace, connections=8)
    return _call(engine, redis, namespace, dsn)


def celery_crowd(redis: str, namespace: str, dsn: str) -> object:
    """The same with Celery."""
    from gtasker.distributed.celery import CeleryEngine  # noqa: PLC0415

    return _call(CeleryEngine(redis, namespace=namespace, connections=8), redis, namespace, dsn)


def _call(engine: Any, redis: str, namespace: str, dsn: str) -> object:
    make_cooperative()
    app = App(make_runner(dsn, f"{namespace} crowd"), engine)

    def call(number: int) -> Any:
        return app.add.remote(number, 1).get(60.0)

    greenlets = [gevent.spawn(call, number) for number in range(300)]
    gevent.joinall(greenlets, timeout=90.0)
    port = urlsplit(redis).port
    mine = [one for one in psutil.Process().net_connections() if getattr(one.raddr, "port", None) == port]
    return {"values": [greenlet.value for greenlet in greenlets], "connections": len(mine)}


def claim_and_die(redis: str, namespace: str, dsn: str, key: str) -> object:
    """Claim a key, and die before the message is sent."""
    make_cooperative()
    engine = DramatiqEngine(redis, namespace=namespace)
    App(make_runner(dsn, "never connects"), engine)
    Keys(engine.client, f"{namespace}-keys", 60.0, SHORT_CLAIM).claim(f"note:{key}", "a message that is never sent")
    print("claimed", flush=True)
    signal.pause()
    return None


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])), flush=True)
