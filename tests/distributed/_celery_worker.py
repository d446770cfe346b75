"""What `celery` imports: the application, and Celery's own.

Invariant: the process ends with the one that started it.
"""

from __future__ import annotations

import os

from gtasker.distributed.celery import CeleryEngine
from gtasker.integrations.psycopg2 import make_cooperative
from tests.distributed._app import App, make_runner

make_cooperative()
runner = make_runner(os.environ["TEST_DSN"], os.environ["TEST_APPLICATION"])
engine = CeleryEngine(
    os.environ["TEST_REDIS"],
    runners=[runner],
    namespace=os.environ["TEST_NAMESPACE"],
    visibility_timeout=float(os.environ.get("TEST_VISIBILITY", "60")),
)
celery_app = engine.app
app = App(runner, engine)
