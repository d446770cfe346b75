"""Worker processes as the tests hold them.

Invariant: each is gone when its block is left, and ends with this process at the latest; every wait is bounded.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from gevent import subprocess as gevent_subprocess

from gtasker.testing._server import end_with_parent
from tests.postgres._server import ROOT, eventually

PATIENCE = 30.0
"""Seconds; a worker's start takes one or two on an idle machine."""

_numbers = itertools.count(1)


class Site(NamedTuple):
    """Where everything is: the two servers, and what this test's part of them is called."""

    redis: str
    dsn: str
    name: str
    folder: Path

    def environment(self, bound: int) -> Mapping[str, str]:
        """What tells it to a worker."""
        return {
            "TEST_REDIS": self.redis,
            "TEST_DSN": self.dsn,
            "TEST_NAMESPACE": self.name,
            "TEST_APPLICATION": self.name,
            "TEST_BOUND": str(bound),
        }


def new_name() -> str:
    """A name that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"


class WorkerProcess:
    """A master process of the engine's and the one worker process that it starts."""

    def __init__(self, command: list[str], ready: str, site: Site, bound: int) -> None:
        self._ready = ready
        self._log = site.folder / f"{site.name}-worker-{next(_numbers)}.log"
        with self._log.open("wb") as out:
            self._process = gevent_subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    **site.environment(bound),
                },
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=end_with_parent(signal.SIGKILL),  # system calls alone, looked up before the fork
            )

    @property
    def log(self) -> str:
        """All that it has said until now."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The process that serves. Waits until it does."""
        found = eventually(
            lambda: re.search(self._ready, self.log) or self._has_ended(), "the worker's start", PATIENCE
        )
        assert found is not True, self.log
        return self._served_by(found[1])

    def kill(self) -> None:
        """Shoot the process that serves."""
        os.kill(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """Ask for an end in order, as a service manager does."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for the end; return the exit status."""
        eventually(self._has_ended, "the worker's end", PATIENCE)
        return int(self._process.returncode)

    def end(self) -> None:
        """End it at once, whatever it does."""
        if self._has_ended():
            return
        if found := re.search(self._ready, self.log):
            # The master ends when its worker has, and it takes its log along.
            with suppress(ProcessLookupError):
                os.kill(self._served_by(found[1]), signal.SIGKILL)
        else:
            self._process.kill()
        with suppress(AssertionError):
            eventually(self._has_ended, "the worker's end", 10.0)
        self._process.kill()
        self._process.wait()

    def _served_by(self, told: str) -> int:
        return int(told) if "PID" in self._ready else int(self._process.pid)

    def _has_ended(self) -> bool:
        return self._process.poll() is not None


def dramatiq_worker(site: Site, bound: int = 0, threads: int = 20) -> WorkerProcess:
    """Start one that serves with Dramatiq."""
    command = [str(Path(sys.executable).with_name("dramatiq-gevent")), "tests.distributed._dramatiq_worker:broker"]
    command += ["--processes", "1", "--threads", str(threads)]
    return WorkerProcess(command, r"\[PID (\d+)\].*Worker process is ready for action", site, bound)


def celery_worker(site: Site, greenlets: int = 20) -> WorkerProcess:
    """Start one that serves with Celery; there is no master, the process is the worker."""
    command = [str(Path(sys.executable).with_name("celery")), "--app", "tests.distributed._celery_worker:celery_app"]
    command += ["worker", "--pool", "gevent", "--concurrency", str(greenlets), "--loglevel", "INFO"]
    # What they say to each other about each other is not needed, and costs.
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "--hostname", f"w{next(_numbers)}@here"]
    return WorkerProcess(command, r"w(\d+)@here ready", site, 0)


@contextmanager
def workers(count: int, start: Callable[[], WorkerProcess]) -> Iterator[list[WorkerProcess]]:
    """Start so many at once, wait until they serve, and end them."""
    started: list[WorkerProcess] = []
    try:
        started.extend(start() for _ in range(count))
        for worker in started:
            assert worker.pid
        yield started
    finally:
        for worker in started:
            worker.end()


@contextmanager
def scene(name: str, site: Site, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of `_scenes`, ended with the block."""
    process = gevent_subprocess.Popen(
        [sys.executable, "-m", "tests.distributed._scenes", name, site.redis, site.name, site.dsn, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
