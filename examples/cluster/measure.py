"""What a message costs: ``python -m examples.cluster.measure``. Writes a table and a plot.

Needs a Redis, a Postgres, psutil and matplotlib. Processor seconds are counted apart for who sends, who serves, and
each server, for on a machine with few cores the tasks per second are those of all of them together.

Invariant: nothing is written that was not measured. Of several rounds the fastest counts, with all of its figures, for
whatever else the machine does can only slow it.
"""
# ruff: noqa: E402 (an application patches before it imports anything else)

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import gevent.subprocess
import psutil
import psycopg2
import redis
from gevent.pool import Pool

from examples.bank.transfers import ACCOUNTS, open_bank
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.redis import ThrowAwayRedis

_CALLERS = 300
_PROCESSES = (1, 2)
_KINDS = {"nothing": "examples.cluster.nothing", "transfer": "examples.cluster.tasks"}
_MESSAGES = 2000  # that wait
_LOOKS = 20  # single tasks sent to an idle worker


class Round(NamedTuple):
    """One round. Milliseconds are of a processor, bytes those of Redis, for one task."""

    tasks_per_second: float
    serving_ms: float
    sending_ms: float
    redis_ms: float
    postgres_ms: float
    round_trips: float
    here_per_second: float
    idle_ms: float
    waiting_bytes: float
    result_bytes: float
    log_bytes: float


def main() -> int:
    """Measure, write, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m examples.cluster.measure", description=__doc__)
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("docs/distributed"))
    parser.add_argument("--round", nargs=2, metavar=("KIND", "PROCESSES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.round:
        kind, processes = options.round
        print(json.dumps(measure(kind, int(processes), options.tasks)._asdict()))
        return 0
    table = {
        kind: {str(count): _figures(kind, count, options.tasks, options.rounds) for count in _PROCESSES}
        for kind in _KINDS
    }
    _write(options.output, table)
    return 0


def _figures(kind: str, count: int, tasks: int, rounds: int) -> dict[str, float]:
    """Several rounds, each in a process of its own: an application reads where its servers are when it is imported."""
    command = [sys.executable, "-m", "examples.cluster.measure", "--tasks", str(tasks), "--round", kind, str(count)]
    told = []
    for _ in range(rounds):
        answer = gevent.subprocess.run(command, check=True, stdout=gevent.subprocess.PIPE).stdout
        told.append(Round(**json.loads(answer)))
    fastest = max(told, key=lambda one: one.tasks_per_second)
    figures = {name: round(value, 4) for name, value in fastest._asdict().items()}
    print(f"{kind}, {count} processes: {figures}", flush=True)
    return figures


def measure(kind: str, processes: int, count: int) -> Round:
    """One round: so many tasks from three hundred callers, served by so many processes."""
    with _servers() as (books, messages), tempfile.TemporaryDirectory(prefix="gtasker-measure-") as folder:
        send, here = _calls(kind)
        client = redis.Redis.from_url(messages.url)
        waiting_bytes = _waiting_bytes(client, send)
        from examples.cluster.fleet import Fleet  # noqa: PLC0415

        with Fleet(Path(folder), _KINDS[kind]) as fleet:
            for _ in range(processes):
                fleet.add()
            _all(lambda number: send(number).get(60.0), count // 10)
            serving = [worker.pid for worker in fleet.workers]
            parts = [serving, [os.getpid()], [messages.pid], [books.pid]]
            before = [_processor(pids) for pids in parts]
            reads, kept, log = _reads(client), _memory(client), _log(client)
            begin = time.monotonic()
            _all(lambda number: send(number).get(60.0), count)
            seconds = time.monotonic() - begin
            spent = [1000 * (_processor(pids) - was) / count for pids, was in zip(parts, before, strict=True)]
            trips = (_reads(client) - reads) / count
            result_bytes, log_bytes = (_memory(client) - kept) / count, (_log(client) - log) / count
            idle = _idle(send)
            fleet.stop()
        rate_here = _rate_here(here, count)
    return Round(
        count / seconds,
        spent[0],
        spent[1],
        spent[2],
        spent[3],
        trips,
        rate_here,
        idle,
        waiting_bytes,
        result_bytes,
        log_bytes,
    )


@contextmanager
def _servers() -> Iterator[tuple[ThrowAwayPostgres, ThrowAwayRedis]]:
    with ThrowAwayPostgres() as books, ThrowAwayRedis() as messages:
        os.environ.update(
            CLUSTER_DSN=books.dsn, CLUSTER_REDIS=messages.url, CLUSTER_NAME=f"measure_{uuid.uuid4().hex[:12]}"
        )
        session = psycopg2.connect(books.dsn)
        open_bank(session)
        session.close()
        yield books, messages


def _calls(kind: str) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
    """What sends a task, and what runs one in this process."""
    if kind == "nothing":
        from examples.cluster.nothing import nothing  # noqa: PLC0415

        return lambda _: nothing.remote(), lambda _: nothing.queue()
    from examples.cluster.tasks import transfer  # noqa: PLC0415

    numbers = iter(range(1, sys.maxsize))

    def order() -> tuple[int, int, int, int, float]:
        number = next(numbers)
        debtor = number % ACCOUNTS + 1
        return number, debtor, debtor % ACCOUNTS + 1, 1, 0.0

    return lambda _: transfer.remote(*order()), lambda _: transfer.queue(*order())


def _all(call: Callable[[int], Any], count: int) -> None:
    callers = Pool(_CALLERS)
    for _ in callers.imap_unordered(call, range(count)):
        pass


def _rate_here(call: Callable[[int], Any], count: int) -> float:
    """The same tasks without messages, one process alone: tasks per second."""
    _all(call, count // 10)
    begin = time.monotonic()
    _all(call, count)
    return count / (time.monotonic() - begin)


def _idle(send: Callable[[int], Any]) -> float:
    """Milliseconds of one task while nobody else sends, the median."""
    taken = []
    for number in range(_LOOKS):
        gevent.sleep(0.1)
        begin = time.monotonic()
        send(number).get(60.0)
        taken.append(1000 * (time.monotonic() - begin))
    return statistics.median(taken)


def _processor(pids: list[int]) -> float:
    """Processor seconds of these processes and of what they have started."""
    total = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        times = process.cpu_times()
        total += times.user + times.system
        if pid != os.getpid():
            # What those spent that have ended is their parent's.
            total += times.children_user + times.children_system
            for child in process.children(recursive=True):
                spent = child.cpu_times()
                total += spent.user + spent.system
    return total


def _reads(client: redis.Redis) -> int:
    """How often Redis has read from a client: one for each round trip, however many commands it brings."""
    told: Any = client.info("stats")
    return int(told["total_reads_processed"])


def _memory(client: redis.Redis) -> int:
    told: Any = client.info("memory")
    return int(told["used_memory"])


def _log(client: redis.Redis) -> int:
    """Bytes of the append-only file."""
    told: Any = client.info("persistence")
    return int(told["aof_current_size"])


def _waiting_bytes(client: redis.Redis, send: Callable[[int], Any]) -> float:
    """Memory of a message that nobody serves yet."""
    send(0)
    before = _memory(client)
    for number in range(_MESSAGES):
        send(number)
    return (_memory(client) - before) / _MESSAGES


def _write(folder: Path, table: dict[str, dict[str, dict[str, float]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(json.dumps(table, indent=2) + "\n")
    _draw(folder / "throughput.svg", table)


def _draw(path: Path, table: dict[str, dict[str, dict[str, float]]]) -> None:
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    plt.rcParams.update({"svg.hashsalt": "gtasker", "figure.constrained_layout.use": True, "axes.grid": True})
    figure, (rates, costs) = plt.subplots(1, 2, figsize=(9.0, 4.0))
    for kind, rows in table.items():
        counts = [int(count) for count in rows]
        rates.plot(counts, [row["tasks_per_second"] for row in rows.values()], marker="o", label=kind)
    rates.set(xlabel="worker processes", ylabel="tasks per second", xticks=list(_PROCESSES), ylim=(0, None))
    rates.legend()
    bars = [(f"{kind}, {count}", row) for kind, rows in table.items() for count, row in rows.items()]
    lows = [0.0] * len(bars)
    for part in ("serving", "sending", "redis", "postgres"):
        heights = [row[f"{part}_ms"] for _, row in bars]
        costs.bar([name for name, _ in bars], heights, bottom=lows, label=part)
        lows = [low + height for low, height in zip(lows, heights, strict=True)]
    costs.set(xlabel="task, worker processes", ylabel="processor milliseconds a task")
    costs.legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
