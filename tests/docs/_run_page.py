"""Runs the blocks of one page, in order, in one namespace: `python _run_page.py BLOCKS`, a file of JSON.

Invariant: only a block that asks for servers sees their addresses; a traceback names the page and its line.
"""

from __future__ import annotations

import json
import linecache
import os
import sys
from pathlib import Path
from typing import Any


def run(block: dict[str, Any], servers: dict[str, str], namespace: dict[str, Any]) -> None:
    """Run one block, and tell where its output ends."""
    name = f"{block['page']}, block {block['number']}"
    source = "\n" * (block["line"] - 1) + block["code"]
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    for variable, address in servers.items():
        if block["needs_server"]:
            os.environ[variable] = address
        else:
            os.environ.pop(variable, None)
    exec(compile(source, name, "exec"), namespace)  # the reader's own code is what is tested
    print(block["end"], flush=True)


def main() -> None:
    """Run all of them."""
    job = json.loads(Path(sys.argv[1]).read_text())
    sys.path.insert(0, os.getcwd())
    namespace = vars(sys.modules["__main__"])
    for block in job["blocks"]:
        run(block, job["servers"], namespace)


main()
