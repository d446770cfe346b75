"""A child process that is told what to do line by line, and answers each line with one.

Invariant: it ends with its parent: its end of the pipe then reads nothing more.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gevent.fileobject import FileObject
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]


class Process:
    """One child. Waits for it block the whole test process, whose own greenlets have nothing to do meanwhile."""

    def __init__(self, module: str, *arguments: str, **environment: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        try:
            self.ready = self._read()
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """Its number."""
        return self._popen.pid

    def tell(self, word: str, *arguments: Any) -> Any:
        """Have it do `word`; return its answer, or raise if it had none."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps([word, *arguments]) + "\n")
        self._popen.stdin.flush()
        return self._read()

    def leave(self) -> int:
        """Let it end by itself; return its exit status."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        return self._popen.wait(20)

    def kill(self) -> None:
        """End it at once."""
        self._popen.kill()
        self._popen.wait(20)
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None
            pipe.close()

    def _read(self) -> Any:
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        assert line, f"process {self._popen.pid} ended with {self._popen.wait(20)}"
        return json.loads(line)


def scrape() -> str:
    """In the child: what Prometheus would read of all processes.

    Nothing while another process is just making a file: the client reads it before it has a size, and raises. Then
    Prometheus asks again.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no annotations
    try:
        return generate_latest(registry).decode()
    except struct.error:
        return ""


def value(page: str, name: str, **labels: str) -> float | None:
    """One number of a page."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    found = [sample.value for sample in samples if sample.name == name and sample.labels == labels]
    assert len(found) <= 1
    return found[0] if found else None


def arrived(page: str) -> float | None:
    """How many tasks all processes together have accepted."""
    return value(page, "gtasker_task_arrived_total", runner="shop")


def obey(orders: dict[str, Callable[..., Any]], ready: Any = "ready") -> None:
    """In the child: say `ready`, then do what each line says until there is none; the event loop turns meanwhile."""
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    for line in FileObject(sys.stdin.fileno(), "r", close=False):
        word, *arguments = json.loads(line)
        sys.stdout.write(json.dumps(orders[word](*arguments)) + "\n")
        sys.stdout.flush()
