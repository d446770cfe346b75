"""The battery's command: `python -m benchmarks.robustness [--pool NAME] [--scenario NAME] [--seeds N] [--check]`.

Invariant: each run is a process of its own with a deadline; one that does not end is a finding, not a failure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import machine
from benchmarks.robustness import scoreboard, verdicts
from benchmarks.robustness.bench import Findings
from benchmarks.robustness.pools import POOLS
from benchmarks.robustness.scenarios import SCENARIOS, SEEDED

DEADLINE = 75.0
"""Seconds for one run: the longest scenario waits 30 s for a connection and counts slots afterwards."""
RIVALS = ("psycopg-pool", "SQLAlchemy", "redis", "DBUtils", "django-db-geventpool", "urllib3", "psycopg2-binary")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the battery, print the scoreboard, write it; 1 if `--check` was given and gtasker has a blemish."""
    options = _parse(arguments)
    pools, scenarios = options.pool or list(POOLS), options.scenario or list(SCENARIOS)
    surroundings = machine.describe(RIVALS)
    with ThreadPoolExecutor(options.jobs) as executor:
        waiting = {
            scenario: {pool: executor.submit(_worst, pool, scenario, options.seeds) for pool in pools}
            for scenario in scenarios
        }
        board = {scenario: {pool: one.result() for pool, one in row.items()} for scenario, row in waiting.items()}
    print(scoreboard.markdown(board, pools, surroundings))
    paths = scoreboard.write(options.output, board, pools, surroundings)
    print(f"written: {', '.join(map(str, paths))}", file=sys.stderr)
    return _judge(board) if options.check else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robustness", description="what kills and outages leave of a pool"
    )
    parser.add_argument("--pool", action="append", choices=list(POOLS), help="this pool alone; may be repeated")
    parser.add_argument(
        "--scenario", action="append", choices=list(SCENARIOS), help="this scenario alone; may be repeated"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of a seeded scenario (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=2, help="runs at the same time; they mostly sleep (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results"), help="directory for the table (default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 when gtasker has a blemish anywhere")
    return parser.parse_args(arguments)


def _worst(pool: str, scenario: str, seeds: int) -> Findings | str:
    runs: list[Findings] = []
    for seed in range(1, seeds + 1) if scenario in SEEDED else (1,):
        outcome = _run(pool, scenario, seed)
        if isinstance(outcome, str):
            return outcome
        runs.append(outcome)
    return verdicts.worst(runs)


def _run(pool: str, scenario: str, seed: int) -> Findings | str:
    command = [sys.executable, "-m", "benchmarks.robustness.child", pool, scenario, str(seed)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    except subprocess.TimeoutExpired:
        return "**hangs**"
    if done.returncode or not done.stdout:
        print(f"{pool}, {scenario}, seed {seed}:\n{done.stderr}", file=sys.stderr)
        return "**crashes**"
    return Findings(**json.loads(done.stdout.splitlines()[-1]))


def _judge(board: scoreboard.Board) -> int:
    lines = [
        f"{pool}, {scenario}"
        for scenario, row in board.items()
        for pool, outcome in row.items()
        if pool.startswith("gtasker") and not scoreboard.clean(scenario, outcome)
    ]
    for line in lines:
        print(f"blemish: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
