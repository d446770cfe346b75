"""How the documentation is built: `make docs`, or `sphinx-build -W -n --keep-going docs docs/_build`.

Invariant: whoever reads the built pages is asked for nothing by anybody else: no font, script or picture comes from
another host.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import gtasker

project = "gtasker"
author = "the gtasker authors"
copyright = "the gtasker authors, MIT licence"  # noqa: A001  # Sphinx's name
version = release = gtasker.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "generated", "public_names", "settings"]
exclude_patterns = ["_build", "_ext", "_generated"]
root_doc = "index"
language = "en"

nitpicky = True
default_role = "code"
# What is not ours has its documentation elsewhere; `public_names` finds what is ours.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!gtasker).*"),
    (r"py:class", r"gtasker\._\w+\.(R|T|Ts|Item)"),  # type variables
]

myst_enable_extensions = ["deflist", "attrs_inline"]
myst_heading_anchors = 4
myst_ref_domains = ["std"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"gtasker {release}"
html_static_path = ["_static"]
html_css_files = ["settings.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
suppress_warnings = ["config.cache"]
