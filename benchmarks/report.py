"""The table: results as JSON between processes and on disk, and as Markdown for people.

Invariant: both forms are written from the same results; nothing is rounded before it is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import catalogue
from benchmarks.measure import MICRO, Figure, Result, Series, Target

PREFACE = """\
*cost / X* below 1 is cheaper than X, *rate / X* above 1 is faster than X. A ratio is that of the best rounds of both,
interleaved in one process, each round a median; the quartiles are those of the ratios of neighbouring rounds, with the
machine's slow moments."""
GLANCE = "A glance: fewer and shorter rounds, smaller depths. Not for figures."

Results = Mapping[str, Result | str]
"""What each row found, by its name; a string says why a row found nothing."""


def encode(result: Result) -> str:
    """Return the result as one line of JSON."""
    return json.dumps(asdict(result))


def decode(text: str) -> Result:
    """Return what `encode` was given."""
    raw = json.loads(text)
    return Result(
        series=[Series(one["name"], tuple(one["seconds"])) for one in raw["series"]],
        figures=[_figure(one) for one in raw["figures"]],
        facts=[_figure(one) for one in raw["facts"]],
    )


@dataclass(frozen=True)
class Origin:
    """What a table came from: the command that made it, whether that was but a glance, and the machine."""

    command: str
    is_glance: bool
    machine: Mapping[str, str]


def write(directory: Path, results: Results, origin: Origin) -> tuple[Path, Path]:
    """Write `benchmarks.md` and `benchmarks.json` into the directory, which is made if need be; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    text, data = directory / "benchmarks.md", directory / "benchmarks.json"
    text.write_text(markdown(results, origin), encoding="utf-8")
    data.write_text(json.dumps(_document(results, origin), indent=1) + "\n", encoding="utf-8")
    return text, data


def markdown(results: Results, origin: Origin) -> str:
    """Return the table, the medians behind it, the machine it was made on, and what was not measured."""
    lines = ["# Table of costs", "", f"Printed by `{origin.command}`.", ""]
    lines += [GLANCE, ""] if origin.is_glance else []
    lines += [PREFACE, "", *_verdicts(results), ""]
    absent = [row.title for row in catalogue.ROWS if row.name not in results]
    lines += [f"Not measured: {'; '.join(absent)}.", ""] if absent else []
    lines += ["## What the rounds took", "", *_medians(results), ""]
    lines += ["## Machine", "", *(f"- {name}: {value}" for name, value in origin.machine.items()), ""]
    return "\n".join(lines)


def missed(results: Results) -> list[str]:
    """Return a line for each target that was missed and each row that failed."""
    lines = [f"{name}: {result}" for name, result in results.items() if isinstance(result, str)]
    for name, result in results.items():
        if isinstance(result, Result):
            lines += [
                f"{name}: {one.subject} {one.value:.3g}, wanted {one.target}"
                for one in _all(result)
                if one.holds is False
            ]
    return lines


def _verdicts(results: Results) -> Iterator[str]:
    yield "| work | of | measure | best | quartiles | target | |"
    yield "|---|---|---|---:|---:|---:|---|"
    for name, result in results.items():
        title = catalogue.named(name).title
        if isinstance(result, str):
            yield f"| {title} | | | | | | {result} |"
            continue
        for one in _all(result):
            quartiles = f"{_number(one.low)} – {_number(one.high)}"
            cells = (title, one.subject, one.measure, _number(one.value), quartiles, one.target or "", _mark(one))
            yield f"| {' | '.join(map(str, cells))} |"


def _medians(results: Results) -> Iterator[str]:
    yield "| work | contender | best us | median us | most us | rounds |"
    yield "|---|---|---:|---:|---:|---:|"
    for name, result in results.items():
        for series in result.series if isinstance(result, Result) else ():
            micros = " | ".join(_number(value * MICRO) for value in (series.best, series.median, max(series.seconds)))
            yield f"| {catalogue.named(name).title} | {series.name} | {micros} | {len(series.seconds)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _mark(figure: Figure) -> str:
    return {True: "met", False: "**not met**", None: ""}[figure.holds]


def _all(result: Result) -> list[Figure]:
    return [*result.figures, *result.facts]


def _document(results: Results, origin: Origin) -> dict[str, Any]:
    rows = {
        name: {"title": catalogue.named(name).title}
        | (
            {"failed": result}
            if isinstance(result, str)
            else asdict(result) | {"holds": [one.holds for one in _all(result)]}
        )
        for name, result in results.items()
    }
    return {"command": origin.command, "machine": dict(origin.machine), "rows": rows}


def _figure(raw: dict[str, Any]) -> Figure:
    target = raw.pop("target")
    return Figure(**raw, target=None if target is None else Target(**target))
