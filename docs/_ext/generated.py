"""Sphinx: the directive `generated`, which takes in a file of `docs/_generated` if it is there.

Invariant: without the file the page says so, in the words that are the directive's content.

    ```{generated} benchmarks.md
    What to say instead.
    ```

The file's headings become smaller by one step: its title is a section of the page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """One file."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Parse it as if it stood here."""
        path = Path(self.env.srcdir) / "_generated" / self.arguments[0]
        self.env.note_dependency(path)
        if not path.exists():
            return self.parse_content_to_nodes()
        text = re.sub(r"^#", "##", path.read_text(), flags=re.MULTILINE)
        lines = StringList(text.splitlines(), source=str(path))
        with_sections: list[nodes.Node] = self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)
        return with_sections


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
