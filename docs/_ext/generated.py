"""Sphinx: the directive `generated`, which takes in a page or a picture of `docs/_generated` if it is there.

Invariant: without the file the page says so, in the words that are the directive's content.

    ```{generated} benchmarks.md
    What to say instead.
    ```

A page's headings become smaller by one step: its title is a section of the page. A picture has to be told to those who
do not see it: `:alt:`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """One file."""

    required_arguments = 1
    has_content = True
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012  # docutils' name and type

    def run(self) -> list[nodes.Node]:
        """Parse it as if it stood here."""
        path = Path(self.env.srcdir) / "_generated" / self.arguments[0]
        self.env.note_dependency(path)
        if not path.exists():
            return self.parse_content_to_nodes()
        if path.suffix != ".md":
            return [nodes.image(uri=f"/_generated/{path.name}", alt=self.options["alt"])]
        text = re.sub(r"^#", "##", path.read_text(), flags=re.MULTILINE)
        lines = StringList(text.splitlines(), source=str(path))
        with_sections: list[nodes.Node] = self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)
        return with_sections


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
