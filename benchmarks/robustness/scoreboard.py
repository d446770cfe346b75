"""The scoreboard, in Markdown and JSON.

Invariant: a cell says "ok" only when there is no blemish and the scenario's own number, if any, is within bounds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.robustness import verdicts
from benchmarks.robustness.bench import Findings

Board = Mapping[str, Mapping[str, Findings | str]]
"""What each scenario found, by pool; a string says why there are no findings."""

NOTES = """\
*slots left*: connections that can be held at once afterwards. *open of*: sessions the server saw at once, above the
pool's bound. *dirty*: uses of a connection with another caller's answer pending. *callers wronged*: calls that failed
though nobody harmed them and the server was well. *kills masked*: kills that came out as another error. Seeded
scenarios show the worst over the seeds. psycopg2's pool does not wait: with every connection out it raises."""


def clean(scenario: str, outcome: Findings | str) -> bool:
    """Whether the pool came through without a blemish."""
    return isinstance(outcome, Findings) and not verdicts.blemishes(outcome) and not verdicts.slow(scenario, outcome)


def markdown(board: Board, pools: Sequence[str], machine: Mapping[str, str]) -> str:
    """Return the table with its notes and the machine."""
    lines = ["# Robustness", "", *_table(board, pools), "", NOTES, "", "## Machine", ""]
    return "\n".join([*lines, *(f"- {name}: {value}" for name, value in machine.items()), ""])


def write(directory: Path, board: Board, pools: Sequence[str], machine: Mapping[str, str]) -> tuple[Path, Path]:
    """Write `robustness.md` and `robustness.json` into the directory; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    text, data = directory / "robustness.md", directory / "robustness.json"
    text.write_text(markdown(board, pools, machine), encoding="utf-8")
    rows = {
        scenario: {pool: one if isinstance(one, str) else asdict(one) for pool, one in row.items()}
        for scenario, row in board.items()
    }
    data.write_text(json.dumps({"machine": dict(machine), "scenarios": rows}, indent=1) + "\n", encoding="utf-8")
    return text, data


def _table(board: Board, pools: Sequence[str]) -> Iterator[str]:
    yield f"| scenario | {' | '.join(pools)} |"
    yield f"|---|{'---|' * len(pools)}"
    for scenario, row in board.items():
        yield f"| {scenario} | {' | '.join(_cell(scenario, row[pool]) for pool in pools)} |"
    sums = (sum(not clean(scenario, row[pool]) for scenario, row in board.items()) for pool in pools)
    yield f"| **scenarios with a blemish** | {' | '.join(f'**{count}**' for count in sums)} |"


def _cell(scenario: str, outcome: Findings | str) -> str:
    if isinstance(outcome, str):
        return outcome
    words = verdicts.blemishes(outcome)
    if outcome.figure is not None:
        number = f"{outcome.figure:.2f} {outcome.unit}"
        words.insert(0, f"**{number}**" if verdicts.slow(scenario, outcome) else number)
    return "; ".join(words) or "ok"
