"""The pages of the documentation, and the code in them.

Invariant: a block is taken out of its page each time, as it stands; nothing here repeats it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NEEDS_SERVER = "# needs a server\n"

_PYTHON = re.compile(
    r"^(?P<fence>`{3,})(?:python|\{code-block\} python)\n"
    r"(?P<options>(?::[\w-]+:.*\n)*)\n*"
    r"(?P<code>.*?)^(?P=fence)\n"
    r"(?:\n^```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One block of Python in a page."""

    page: str
    """Where it is, from the root of the checkout."""
    number: int
    """Counted from 1 within its page."""
    line: int
    """The line of the page on which its first line stands."""
    code: str
    output: str | None
    """What has to be printed, where a block of text follows at once."""

    @property
    def needs_server(self) -> bool:
        """Whether it is given the addresses of throw-away servers."""
        return self.code.startswith(NEEDS_SERVER)


def pages() -> list[Path]:
    """All that are written by hand; what starts with an underscore is made, or kept for the pages."""
    found = [
        page for page in DOCS.rglob("*.md") if not any(part.startswith("_") for part in page.relative_to(DOCS).parts)
    ]
    return [ROOT / "README.md", *sorted(found)]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text()
    name = str(page.relative_to(ROOT))
    found = enumerate(_PYTHON.finditer(text), start=1)
    return [
        Block(name, number, text.count("\n", 0, match.start("code")) + 1, match["code"], match["output"])
        for number, match in found
    ]


def fenced_python(page: Path) -> int:
    """How many fences of Python a page opens, counted in the plainest way."""
    return len(re.findall(r"^\s*`{3,}\s*(?:python|py\b|\{code-block\}\s*python)", page.read_text(), re.MULTILINE))
