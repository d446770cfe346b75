"""What counts as a blemish.

Invariant: arithmetic only; the bounds are the same for every pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.robustness.bench import Findings

SLOWEST_RECOVERY = 0.75
"""Seconds: a back-off of 0.5 s, and the machine's share."""
SLOWEST_STALE = 0.25
LEAST_JAIN = 0.99


def blemishes(findings: Findings) -> list[str]:
    """Return what is wrong, a few words for each; nothing for a pool that came through."""
    found = []
    if findings.slots < findings.size:
        found.append(f"{findings.slots}/{findings.size} slots left")
    if findings.peak > findings.size:
        found.append(f"{findings.peak} open of {findings.size}")
    if findings.dirty:
        found.append(f"{findings.dirty} dirty")
    if findings.wronged:
        found.append(f"{sum(findings.wronged.values())} callers wronged ({', '.join(sorted(findings.wronged))})")
    if findings.masked:
        found.append(f"{sum(findings.masked.values())} kills masked ({', '.join(sorted(findings.masked))})")
    return found


def slow(scenario: str, findings: Findings) -> bool:
    """Whether the scenario's own number is out of bounds."""
    if findings.figure is None:
        return False
    if findings.unit == "Jain":
        return findings.figure < LEAST_JAIN
    return findings.figure > (SLOWEST_STALE if scenario.startswith("8 stale") else SLOWEST_RECOVERY)


def worst(runs: Sequence[Findings]) -> Findings:
    """Return the worst of each finding over several seeds."""
    whole = runs[0]
    for run in runs[1:]:
        whole = replace(
            whole,
            slots=min(whole.slots, run.slots),
            peak=max(whole.peak, run.peak),
            dirty=max(whole.dirty, run.dirty),
            wronged=_larger(whole.wronged, run.wronged),
            masked=_larger(whole.masked, run.masked),
        )
    return whole


def _larger(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in one.keys() | other.keys()}
