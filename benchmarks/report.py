"""The table: results as JSON between processes and on disk, and as Markdown for people.

Invariant: both forms are written from the same results; nothing is rounded before it is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import catalogue
from benchmarks.measure import MICRO, Figure, Result, Series, Target

PREFACE = """\
A ratio is the median, with its quartiles, over interleaved rounds of one process. *cost / X* below 1 is cheaper than X,
*rate / X* above 1 is faster than X."""

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


def write(directory: Path, results: Results, machine: Mapping[str, str]) -> tuple[Path, Path]:
    """Write `benchmarks.md` and `benchmarks.json` into the directory, which is made if need be; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    text, data = directory / "benchmarks.md", directory / "benchmarks.json"
    text.write_text(markdown(results, machine), encoding="utf-8")
    data.write_text(json.dumps(_document(results, machine), indent=1) + "\n", encoding="utf-8")
    return text, data


def markdown(results: Results, machine: Mapping[str, str]) -> str:
    """Return the table, the medians behind it, and the machine it was made on."""
    lines = ["# Benchmarks", "", PREFACE, "", *_verdicts(results), ""]
    lines += ["## What the rounds took", "", *_medians(results), ""]
    lines += ["## Machine", "", *(f"- {name}: {value}" for name, value in machine.items()), ""]
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
    yield "| work | of | measure | median | quartiles | target | |"
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
    yield "| work | contender | median us | least | most | rounds |"
    yield "|---|---|---:|---:|---:|---:|"
    for name, result in results.items():
        for series in result.series if isinstance(result, Result) else ():
            low, high = min(series.seconds), max(series.seconds)
            micros = " | ".join(_number(value * MICRO) for value in (series.median, low, high))
            yield f"| {catalogue.named(name).title} | {series.name} | {micros} | {len(series.seconds)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _mark(figure: Figure) -> str:
    return {True: "yes", False: "**no**", None: ""}[figure.holds]


def _all(result: Result) -> list[Figure]:
    return [*result.figures, *result.facts]


def _document(results: Results, machine: Mapping[str, str]) -> dict[str, Any]:
    rows = {
        name: {"title": catalogue.named(name).title}
        | (
            {"failed": result}
            if isinstance(result, str)
            else asdict(result) | {"holds": [one.holds for one in _all(result)]}
        )
        for name, result in results.items()
    }
    return {"machine": dict(machine), "rows": rows}


def _figure(raw: dict[str, Any]) -> Figure:
    target = raw.pop("target")
    return Figure(**raw, target=None if target is None else Target(**target))
