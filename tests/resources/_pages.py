"""Runs the code of a page: each block by itself, as it stands.

Invariant: what a block prints is what the page says it prints, to the letter; a warning is an error.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(
    r"^```(?:python|\{code-block\} python)\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """Code, and the text that follows it."""

    code: str
    output: str


def blocks_of(page: Path) -> list[Block]:
    """The blocks of Python on a page."""
    return [Block(*found) for found in _BLOCK.findall(page.read_text())]


def play(page: Path) -> None:
    """Run each block; raise at the first that fails or says something else."""
    for number, block in enumerate(blocks_of(page), start=1):
        said = io.StringIO()
        code = compile(block.code, f"{page.name}, block {number}", "exec")
        with contextlib.redirect_stdout(said):
            exec(code, {"__name__": "__main__"})
        assert said.getvalue() == block.output, f"{page.name}, block {number}: {said.getvalue()!r}"


if __name__ == "__main__":
    play(Path(sys.argv[1]))
    print("as it stands")
