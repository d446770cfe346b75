"""Sphinx: a type is referred to by the name that users import, wherever the package keeps it.

Invariant: a reference is resolved only to something that is documented.
"""

from __future__ import annotations

from typing import Any

from docutils.nodes import Element, reference
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PUBLIC = ("gtasker", "gtasker.events", "gtasker.errors")


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element) -> reference | None:
    """Look for `gtasker._room.Name` as `gtasker.Name`, and in the other public modules."""
    if node.get("refdomain") != "py" or not node["reftarget"].startswith("gtasker"):
        return None
    name = node["reftarget"].rpartition(".")[2]
    python = env.domains.python_domain
    for module in PUBLIC:
        found = python.resolve_xref(env, node["refdoc"], app.builder, "obj", f"{module}.{name}", node, content)
        if found is not None:
            return found
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
