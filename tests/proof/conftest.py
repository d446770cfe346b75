"""What the proofs tell at the end of a run: how much they covered.

Invariant: only counts what the tests report; decides nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest

_covered: dict[str, list[int]] = defaultdict(lambda: [0, 0])


@pytest.fixture
def tally() -> Callable[[str, int, int], None]:
    """Add what was covered, and in how many runs of a scenario or a storm, to a line of the summary."""

    def add(heading: str, count: int, runs: int) -> None:
        row = _covered[heading]
        row[0] += count
        row[1] += runs

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was covered."""
    if _covered:
        terminalreporter.section("proofs", "-")
    for heading, (count, runs) in _covered.items():
        terminalreporter.line(f"{count} {heading} in {runs} runs")
