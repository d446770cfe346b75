"""Every block of Python in the documentation runs as it stands, page by page, as a reader would who follows the page.

Invariant: a block that is not run is named in `COMPILED_ONLY`, with its reason.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gevent import subprocess

from tests.docs._pages import ROOT, Block, blocks, fenced_python, pages
from tests.docs.conftest import Places

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages() if blocks(page)]
DEADLINE = 100.0
"""Seconds for one page; each makes do with a few when the machine is idle."""

COMPILED_ONLY = {
    ("docs/distributed/keys.md", 2): "sends to worker processes, which a command starts",
    ("docs/distributed/set-up.md", 2): "sends to worker processes, which a command starts; tests/distributed runs it",
    ("docs/how-to/prometheus.md", 3): "an application for a server's processes; tests/monitoring runs it",
}
"""Blocks that need more than a throw-away server, by page and number."""

SETTINGS = {"GTASKER_DASHBOARD_TOKEN": "at least sixteen characters"}
"""What a reader has set in the environment."""
HIDDEN = {"GTASKER_DSN", "GTASKER_REDIS_URL", "PROMETHEUS_MULTIPROC_DIR"}
"""What the machine may have set, and a reader has not."""


def run(page: list[Block], servers: Places, folder: Path) -> list[str]:
    """What each block prints on standard output; nothing may be said on the other one."""
    ends = [f"--- end of block {block.number} ---" for block in page]
    job = {
        "servers": servers,
        "blocks": [
            {**block._asdict(), "needs_server": block.needs_server, "end": end}
            for block, end in zip(page, ends, strict=True)
        ],
    }
    (folder / "job.json").write_text(json.dumps(job))
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    done = subprocess.run(  # gevent's, for a server of the test's may be in this process
        [sys.executable, "-W", "error", str(Path(__file__).with_name("_run_page.py")), "job.json"],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**environment, **SETTINGS, "PYTHONPATH": str(ROOT)},
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    rest, said = done.stdout, []
    for end in ends:
        output, _, rest = rest.partition(f"{end}\n")
        said.append(output)
    return said


def servers_for(page: list[Block], request: pytest.FixtureRequest) -> Places:
    """Start what the blocks that need a server name."""
    code = "".join(block.code for block in page if block.needs_server)
    servers: Places = {}
    if any(word in code for word in ("GTASKER_DSN", "dbname=shop", ":///shop")):
        make_database: Callable[[], Places] = request.getfixturevalue("make_database")
        servers |= make_database()
    for variable, fixture in (("REDIS_URL", "redis_place"), ("SHOP_URL", "web_place")):
        if variable in code:
            servers |= request.getfixturevalue(fixture)
    return servers


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(int(DEADLINE) + 30)
@pytest.mark.parametrize("page", PAGES)
def test_each_block_runs_in_its_turn(page: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    runnable = [block for block in blocks(page) if (block.page, block.number) not in COMPILED_ONLY]

    said = run(runnable, servers_for(runnable, request), tmp_path)

    for block, output in zip(runnable, said, strict=True):
        assert block.output is None or output == block.output, f"{block.page}, block {block.number}, line {block.line}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), COMPILED_ONLY)
def test_a_block_that_is_not_run_is_code_that_mypy_takes(name: str, number: int, tmp_path: Path) -> None:
    [code] = [block.code for block in blocks(ROOT / name) if block.number == number]
    compile(code, name, "exec")
    for page in (ROOT / name).parent.glob("*.md"):  # a page shows a module under its name
        for block in blocks(page):
            first, _, _ = block.code.partition("\n")
            if first.endswith(".py"):
                (tmp_path / first.removeprefix("# ")).write_text(block.code)
    (tmp_path / "block.py").write_text(code)

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--disable-error-code=var-annotated", "block.py"],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()])
def test_no_fence_of_python_is_overlooked(page: Path) -> None:
    assert len(blocks(page)) == fenced_python(page)
