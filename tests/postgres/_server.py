"""What the tests with a real server have in common: the observer's near end, bounded waits, processes of their own.

Invariant: every wait is bounded and cooperative, and says what it waited for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
from gevent import subprocess as gevent_subprocess

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
"""Seconds that something which has to happen may take, on a machine that has other things to do."""

_ACTIVE = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state = 'active'"
_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND backend_type = 'client backend'"


class Observer:
    """Another process that asks the server: the near end. Used by one greenlet at a time."""

    def __init__(self, dsn: str) -> None:
        command = [sys.executable, "-m", "tests.postgres._observer", dsn]
        self._process = gevent_subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout

    def close(self) -> None:
        """End the other process."""
        self._questions.close()
        self._process.wait()
        self._answers.close()

    def ask(self, statement: str, *values: Any) -> list[list[Any]]:
        """The rows of ``statement``."""
        rows: list[list[Any]] = self._exchange({"statement": statement, "values": values})
        return rows

    def watch(self, application: str | None) -> dict[str, int]:
        """Begin to count the sessions of ``application``; the peak and the number of samples until now."""
        seen: dict[str, int] = self._exchange({"watch": application})
        return seen

    def active(self, application: str) -> int:
        """How many statements of ``application`` the server works on."""
        [[count]] = self.ask(_ACTIVE, application)
        return int(count)

    def sessions(self, application: str) -> set[int]:
        """The process ids of the server's sessions of ``application``."""
        return {pid for (pid,) in self.ask(_SESSIONS, application)}

    def terminate(self, *pids: int) -> None:
        """End sessions as an administrator does."""
        self.ask("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", list(pids))

    def _exchange(self, question: dict[str, Any]) -> Any:
        self._questions.write(json.dumps(question).encode() + b"\n")
        self._questions.flush()
        answer = self._answers.readline()
        assert answer, "the observer has ended"
        return json.loads(answer)


def eventually(holds: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until ``holds`` returns something true, and return that."""
    deadline = time.monotonic() + patience
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited {patience:g} s for: {what}"
        gevent.sleep(0.005)
    return found


def play(scene: str, *arguments: str, patched: bool, ends_by: int = 0) -> str:
    """Run a scene of ``_scenes`` in a process of its own, and return what it printed.

    A call that waits for psycopg2's lock stops every greenlet and every time-out of its process, so that a test with
    a deadlock in it could never fail. The scene's own watchdog ends it.
    """
    starter = ["-m", "gevent.monkey", "--module"] if patched else ["-m"]
    ended = gevent_subprocess.run(
        [sys.executable, *starter, "tests.postgres._scenes", scene, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -ends_by, f"{scene}: {ended.stdout}\n{ended.stderr}"
    return str(ended.stdout)
