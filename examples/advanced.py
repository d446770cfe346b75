"""Deliveries: as many workers as the rates call for, numbers and a log of one's own, and two ways to stop.

The resource is a kept-alive HTTP connection of the standard library.

    $ python examples/advanced.py
    time  arrived  waiting  workers  a second
    ~0.0       ~1       ~0       ~2        ~0
    ~0.2      ~18       ~8       ~6       ~30
    ~0.6      ~55       ~3      ~10      ~100
    ~1.6     ~143       ~0      ~10       ~75
    ~2.0     ~150       ~0       ~6        ~0
    the rush is over; workers: 2
    147 delivered, ~90 % of them within 0.2 s of their arrival; 3 refused
    ERROR deliveries: deliver failed, and nobody looked: RefusedError('number 50')
    SIGTERM: took no more, delivered the 8 that were left; complete: True
    kill: 2 interrupted, 4 not begun; 6 callers got a RunnerKilledError
"""
# ruff: noqa: E402 (an application patches before it imports anything else)

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from http.client import HTTPConnection
from typing import Any

import gevent
from gevent.event import Event
from gevent.pywsgi import WSGIServer

from gtasker import Config, Runner, RunnerKilledError, TaskMetrics, TaskTimes

MESSAGES = 150
REFUSED_EVERY = 50
TARGET = 0.2  # seconds from its arrival within which a message should be delivered


class RefusedError(Exception):
    """The receiver does not want this message; another connection would not change that."""


def receive(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Be the other side: take 50 ms for a message, refuse some, and answer others never."""
    number = int(environ["PATH_INFO"].strip("/"))
    if number < 0:
        Event().wait()
    gevent.sleep(0.05)
    start_response("422 Refused" if number % REFUSED_EVERY == 0 else "200 OK", [])
    return [b"read"]


def deliver(connection: HTTPConnection, number: int) -> None:
    """Deliver one message, or raise RefusedError."""
    connection.request("POST", f"/{number}", body="a message")
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise RefusedError(f"number {number}")


class Promptness:
    """A collector of one's own: it counts the messages that were delivered within the target.

    `Runner.metrics()` then gives what its `snapshot` returns.
    """

    def __init__(self) -> None:
        self.arrived = self.completed = self.failed = self.retried = self.prompt = 0

    def record_arrival(self) -> None:
        """Count a message that came."""
        self.arrived += 1

    def record_completion(self, times: TaskTimes) -> None:
        """Count a message that was delivered."""
        self.completed += 1
        self.prompt += times.finished_at - times.queued_at <= TARGET

    def record_failure(self, times: TaskTimes) -> None:
        """Count a message that was not."""
        self.failed += 1

    def record_retry(self) -> None:
        """Count a further attempt."""
        self.retried += 1

    def snapshot(self) -> TaskMetrics:
        """Tell what was counted; what was not stays 0."""
        return TaskMetrics(
            total_tasks_arrived=self.arrived,
            total_tasks_completed=self.completed,
            total_tasks_failed=self.failed,
            total_tasks_retried=self.retried,
        )


def make_logger() -> logging.Logger:
    """Return the application's own logger; left alone, the runner logs to "gtasker"."""
    logger = logging.getLogger("deliveries")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    return logger


def show(runner: Runner[HTTPConnection]) -> None:
    """Print a line of live numbers, five times a second."""
    print("time  arrived  waiting  workers  a second")
    began, delivered = time.monotonic(), 0
    while True:
        stats, metrics = runner.stats(), runner.metrics()
        columns = (
            (f"~{time.monotonic() - began:.1f}", 4),
            (f"~{metrics.total_tasks_arrived}", 9),
            (f"~{stats.queued_tasks}", 9),
            (f"~{stats.active_workers}", 9),
            (f"~{(metrics.total_tasks_completed - delivered) / 0.2:.0f}", 10),
        )
        print("".join(text.rjust(width) for text, width in columns))
        delivered = metrics.total_tasks_completed
        time.sleep(0.2)


def rush(runner: Runner[HTTPConnection], promptness: Promptness) -> None:
    """A message every 10 ms, more than two workers can deliver: workers come, and go again when it is over."""
    watcher = gevent.spawn(show, runner)
    tasks = []
    for number in range(1, MESSAGES + 1):
        tasks.append(runner.submit(deliver, number))
        time.sleep(0.01)
    gevent.wait(tasks)
    while runner.stats().active_workers > runner.stats().base_workers:
        time.sleep(0.02)
    watcher.kill()
    print("the rush is over; workers:", runner.stats().active_workers)

    delivered = promptness.completed
    refused = sum(isinstance(task.exception, RefusedError) for task in tasks)
    percent = 100 * promptness.prompt / delivered
    print(f"{delivered} delivered, ~{percent:.0f} % of them within {TARGET} s of their arrival; {refused} refused")


def forget(runner: Runner[HTTPConnection]) -> None:
    """A task that fails, and whose handle nobody keeps, does not fail in silence."""
    failed = runner.metrics().total_tasks_failed
    runner.submit(deliver, REFUSED_EVERY)
    while runner.metrics().total_tasks_failed == failed:
        time.sleep(0.01)


def stop_on_signal(runner: Runner[HTTPConnection]) -> None:
    """A deploy: SIGTERM sets the runner's context, which finishes what it has and takes no more."""
    tasks = [runner.submit(deliver, number) for number in range(1, 9)]
    os.kill(os.getpid(), signal.SIGTERM)
    gevent.wait(tasks)
    report = runner.stop()
    print(f"SIGTERM: took no more, delivered the {report.finished} that were left; complete: {report.complete}")


def kill(runner: Runner[HTTPConnection]) -> None:
    """No time left: what runs is interrupted, what waits is answered, and every connection is closed."""
    tasks = [runner.submit(deliver, -1) for _ in range(6)]
    while sum(task.attempts for task in tasks) < 2:
        time.sleep(0.01)
    report = runner.kill()
    begun = sum(task.attempts for task in tasks)
    told = sum(isinstance(task.exception, RunnerKilledError) for task in tasks)
    print(f"kill: {begun} interrupted, {report.cancelled - begun} not begun; {told} callers got a RunnerKilledError")


def main() -> None:
    """Deliver messages to a server of our own."""
    server = WSGIServer(("127.0.0.1", 0), receive, log=None)
    server.start()

    def connect() -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", server.server_port)
        connection.connect()
        return connection

    shutdown = Event()
    gevent.signal_handler(signal.SIGTERM, shutdown.set)
    promptness = Promptness()
    config = Config(
        on_create=connect,
        on_destroy=HTTPConnection.close,
        worker_count=2,
        resource_pool_size=0,
        scaling="rate",
        burst_task_threshold=2,
        max_worker_count=10,
        ctx=shutdown,
        collector=promptness,
        logger=make_logger(),
        name="deliveries",
    )
    runner = Runner(config).start()
    rush(runner, promptness)
    forget(runner)
    stop_on_signal(runner)
    kill(Runner(on_create=connect, on_destroy=HTTPConnection.close, worker_count=2))
    server.stop()


if __name__ == "__main__":
    main()
