"""Each example runs as it stands, and prints what its docstring says.

Invariant: a number behind "~" is measured and differs from run to run, and so does how many such lines there are in a
row; everything else has to be as it is told.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEASURED = re.compile(r" *~[\d.]+")

SERVED = {"django_snippet", "falcon_app"}
"""Web applications: a server runs them."""
EXAMPLES = sorted({path.stem for path in (ROOT / "examples").glob("[!_]*.py")} - SERVED)
MARKS = {"advanced": [pytest.mark.slow], "postgres": [pytest.mark.slow, pytest.mark.postgres]}


def told(path: Path) -> str:
    """What the docstring says that the example prints."""
    docstring = ast.get_docstring(ast.parse(path.read_text()), clean=False) or ""
    _, command, output = docstring.partition(f"\n    $ python {path.relative_to(ROOT)}\n")
    assert command, f"the docstring of {path.name} does not say what it prints"
    return textwrap.dedent(output)


@cache
def run(path: Path) -> str:
    """What the example prints, on either stream, when it is run as a reader runs it. Once for all tests."""
    done = subprocess.run(
        [sys.executable, "-W", "error", path],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def masked(output: str) -> list[str]:
    """The lines, without the measured numbers and without what repeats itself but for them."""
    lines = [MEASURED.sub(" ~", line) for line in output.splitlines()]
    return [line for line, repeats in groupby(lines) for _ in (repeats if "~" not in line else [0])]


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in EXAMPLES])
def test_an_example_prints_what_its_docstring_says(name: str) -> None:
    path = ROOT / "examples" / f"{name}.py"

    output = run(path)

    assert masked(output) == masked(told(path)), output


@pytest.mark.slow
def test_the_workers_of_the_advanced_example_come_with_the_rush() -> None:
    output = run(ROOT / "examples" / "advanced.py")

    rows = [line.replace("~", "").split() for line in output.splitlines() if line.count("~") > 1]
    workers = [int(row[3]) for row in rows]
    assert workers[0] == 2
    assert 2 < max(workers) <= 10


@pytest.mark.parametrize(
    ("printed", "same"),
    [
        ("took ~12.5 ms\n", True),
        ("took ~0 ms\ntook ~999 ms\n", True),
        ("took    ~3 ms\n", True),
        ("took 12 ms\n", False),
        ("took ~12 s\n", False),
        ("took ~12 ms\nand more\n", False),
        ("", False),
    ],
)
def test_only_measured_numbers_may_differ(printed: str, same: bool) -> None:
    assert (masked(printed) == masked("took ~31 ms\n")) is same


def test_lines_without_measured_numbers_count() -> None:
    assert masked("once\nonce\n") != masked("once\n")
