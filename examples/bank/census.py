"""The census: another process asks the server, again and again, how many sessions the application has.

Invariant: it knows nothing of the application but its name, and believes the server alone.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

_RATE = 150  # samples a second, at most
_COUNT = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name = %s"
_ROOT = Path(__file__).parents[2]


class Count(NamedTuple):
    """What was seen."""

    samples: int
    peak: int
    seconds: float


class Census:
    """The near end: start it, and ask for the result at the end."""

    def __init__(self, dsn: str, application: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "examples.bank.census", dsn, application],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has begun

    def finish(self) -> Count:
        """End the count."""
        answer, _ = self._process.communicate()
        return Count(*json.loads(answer))


def main(dsn: str, application: str) -> None:
    """Count until standard input is closed; then print the result."""
    import psycopg2  # noqa: PLC0415  # the near end has no need of it

    session = psycopg2.connect(dsn, application_name=f"{application} census")
    session.autocommit = True
    cursor = session.cursor()
    print("counting", flush=True)
    begin = time.monotonic()
    samples = peak = 0
    while not select.select([sys.stdin], [], [], 1 / _RATE)[0]:
        cursor.execute(_COUNT, [application])
        [(sessions,)] = cursor.fetchall()
        samples, peak = samples + 1, max(peak, sessions)
    print(json.dumps(Count(samples, peak, time.monotonic() - begin)))


if __name__ == "__main__":
    main(*sys.argv[1:])
