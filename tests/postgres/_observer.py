"""A process of its own that asks the server what it sees, so that the tested process cannot colour the answer.

Invariant: it waits for the server with psycopg2's plain blocking calls; nothing of gtasker or gevent is in it.

Run as a script it answers questions: one JSON line in, one out. Between them it samples how many sessions of the
watched application the server has.
"""

from __future__ import annotations

import json
import select
import sys
from typing import Any

SAMPLES_PER_SECOND = 100
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name = %s"


def main(dsn: str) -> None:
    """Serve until standard input is closed."""
    import psycopg2  # noqa: PLC0415

    session = psycopg2.connect(dsn, application_name="observer")
    session.autocommit = True
    cursor = session.cursor()
    watched: str | None = None
    peak = samples = 0
    while True:
        if not select.select([sys.stdin], [], [], 1 / SAMPLES_PER_SECOND if watched else None)[0]:
            cursor.execute(_SESSIONS, [watched])
            [(count,)] = cursor.fetchall()
            peak, samples = max(peak, count), samples + 1
            continue
        line = sys.stdin.readline()
        if not line:
            return
        question = json.loads(line)
        if "watch" in question:
            watched, answer = question["watch"], {"peak": peak, "samples": samples}
            peak = samples = 0
        else:
            answer = _ask(cursor, question["statement"], question["values"])
        print(json.dumps(answer, default=str), flush=True)


def _ask(cursor: Any, statement: str, values: list[Any]) -> Any:
    cursor.execute(statement, values or None)
    return cursor.fetchall() if cursor.description else []


if __name__ == "__main__":
    main(sys.argv[1])
