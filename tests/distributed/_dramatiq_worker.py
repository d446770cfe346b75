"""What `dramatiq-gevent` imports: the application, and its broker.

Invariant: the process ends with the one that forked it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from gtasker.distributed.dramatiq import DramatiqEngine
from gtasker.distributed.semaphore import RedisLimiter
from gtasker.integrations.psycopg2 import make_cooperative
from tests.distributed._app import TTL, App, make_runner

if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)

make_cooperative()
_url, _namespace = os.environ["TEST_REDIS"], os.environ["TEST_NAMESPACE"]
_bound = int(os.environ["TEST_BOUND"])
_limiter = RedisLimiter(_url, _namespace, _bound, ttl=TTL) if _bound else None
# Where they are counted, connections come and go all the time.
_options = {"max_lifetime": 1.0} if _bound else {}
runner = make_runner(os.environ["TEST_DSN"], os.environ["TEST_APPLICATION"], _limiter, **_options)
engine = DramatiqEngine(_url, runners=[runner], namespace=_namespace, heartbeat=4.0, idle_poll=0.1)
broker = engine.broker
app = App(runner, engine)
