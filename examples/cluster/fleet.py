"""The worker processes: started, shot, replaced and stopped.

Invariant: whatever was started here has ended when the block is left.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import final

import gevent

from examples.cluster.tasks import GREENLETS

_ROOT = Path(__file__).parents[2]
_READY = re.compile(r"\[PID (\d+)\].*Worker process is ready for action")
_LOOK = 0.02  # seconds between two looks into a log
_PATIENCE = 30.0  # seconds for a start or an end


class Worker:
    """One worker: a master of Dramatiq's and the process that serves."""

    def __init__(self, folder: Path, number: int, module: str) -> None:
        self._log = folder / f"worker-{number}.log"
        program = str(Path(sys.executable).with_name("dramatiq-gevent"))
        with self._log.open("wb") as out:
            self._master = subprocess.Popen(
                [sys.executable, program, f"{module}:broker", "-p", "1", "-t", str(GREENLETS)],
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
                stdout=out,
                stderr=out,
            )
        self.pid = self._await_ready()

    def shoot(self) -> None:
        """Kill the process that serves; nothing can be said to it, and it says nothing."""
        os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> int:
        """Ask for an end in order; return the exit status."""
        self._master.terminate()
        return self._master.wait(_PATIENCE)

    def end(self) -> None:
        """Leave nothing behind, however this program ends."""
        if self._master.poll() is None:
            self.shoot()
            self._master.wait(_PATIENCE)

    def log(self) -> str:
        """All that it has said."""
        return self._log.read_text(errors="replace")

    def _await_ready(self) -> int:
        deadline = time.monotonic() + _PATIENCE
        while not (found := _READY.search(self.log())):
            if self._master.poll() is not None or time.monotonic() > deadline:
                self._master.kill()
                raise RuntimeError(f"the worker did not start:\n{self.log()}")
            gevent.sleep(_LOOK)
        return int(found[1])


@final
class Fleet:
    """The workers that are there."""

    def __init__(self, folder: Path, module: str = "examples.cluster.tasks") -> None:
        self._folder = folder
        self._module = module
        self.workers: list[Worker] = []
        self.victim: Worker | None = None

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            worker.end()

    def add(self) -> Worker:
        """Start one, and return when it serves."""
        worker = Worker(self._folder, len(self.workers) + 1, self._module)
        self.workers.append(worker)
        return worker

    def shoot_one(self) -> Worker:
        """Kill the first one."""
        self.victim = self.workers[0]
        self.victim.shoot()
        return self.victim

    def stop(self) -> list[int]:
        """Stop all that were not shot; return their exit statuses."""
        return [worker.stop() for worker in self.workers if worker is not self.victim]
