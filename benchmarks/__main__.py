"""The table's command: `python -m benchmarks [--quick] [--only ROW] [--check]`.

Invariant: each row runs in a process of its own, one at a time, under a deadline.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from benchmarks import catalogue, machine, report
from benchmarks.measure import Result

RIVALS = ("psycopg", "psycopg-pool", "psycopg2-binary", "SQLAlchemy", "redis")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows, print the table, write it; 1 if `--check` was given and a target missed."""
    options = _parse(arguments)
    rows = (
        [catalogue.named(name) for name in options.only]
        if options.only
        else [row for row in catalogue.ROWS if not (row.big and options.quick)]
    )
    words = ["python -m benchmarks", *(["--quick"] if options.quick else [])]
    words += [f"--only {name}" for name in options.only or ()]
    origin = report.Origin(" ".join(words), options.quick, machine.describe(RIVALS))
    results: dict[str, Result | str] = {}
    for row in rows:
        print(f"{row.name} ...", end=" ", file=sys.stderr, flush=True)
        began = monotonic()
        results[row.name] = outcome = _run(row, quick=options.quick)
        said = outcome if isinstance(outcome, str) else "done"
        print(f"{said}, {monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    print(report.markdown(results, origin))
    paths = report.write(options.output, results, origin)
    print(f"written: {', '.join(map(str, paths))}", file=sys.stderr)
    return _judge(results) if options.check else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="gtasker beside its rivals, as ratios")
    parser.add_argument(
        "--quick", action="store_true", help="a glance, under a minute: fewer and shorter rounds, smaller depths"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="ROW",
        choices=[row.name for row in catalogue.ROWS],
        help=f"this row alone; may be repeated: {', '.join(row.name for row in catalogue.ROWS)}",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results"), help="directory for the table (default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    return parser.parse_args(arguments)


def _run(row: catalogue.Row, *, quick: bool) -> Result | str:
    command = [sys.executable, "-m", "benchmarks.child", row.name, *(["--quick"] if quick else [])]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=row.deadline, check=False)
    except subprocess.TimeoutExpired:
        return f"did not end within {row.deadline:.0f} s"
    if done.returncode:
        return f"ended with status {done.returncode}"
    return report.decode(done.stdout.splitlines()[-1])


def _judge(results: report.Results) -> int:
    lines = report.missed(results)
    for line in lines:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
