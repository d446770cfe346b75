"""One of several processes of an application: runs tasks, and tells what Prometheus would read from it.

Invariant: it flushes only by itself, once a second and at its end, as an application does.
"""

from __future__ import annotations

import os

import gevent

from gtasker import Runner
from gtasker.integrations.prometheus import Flusher, install
from tests.monitoring._processes import obey, scrape


def main() -> None:
    """Obey until told no more."""
    flusher = install()
    assert isinstance(flusher, Flusher)
    runner: Runner[object] = Runner(
        name="shop", on_create=object, on_destroy=lambda resource: None, worker_count=2, max_resources=5
    )

    def work(tasks: int) -> None:
        for _ in range(tasks):
            runner.queue_task(lambda resource: gevent.sleep(0.002))

    def fork(tasks: int) -> int:
        """Have a forked child do so many tasks, the last after its last flush, and end; its exit status."""
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1]
        work(tasks - 1)
        flusher.flush()
        work(1)
        runner.stop()
        raise SystemExit(0)

    obey({"work": work, "scrape": scrape, "fork": fork, "stop": lambda: runner.stop().complete})


if __name__ == "__main__":
    main()
