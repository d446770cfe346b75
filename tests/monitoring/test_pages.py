"""The pages on monitoring: their code runs as it stands, and they name all that is told and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gtasker.integrations._instruments import HUB_LAG, INSTRUMENTS, RUN_TIME, WAIT_TIME, Kind

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "how-to"
PAGES = {
    name: (FOLDER / f"{name}.md").read_text()
    for name in ("prometheus", "opentelemetry", "logging", "dashboard", "command-line")
}
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(*block, id=f"{name}-{number}")
    for name, page in PAGES.items()
    for number, block in enumerate(BLOCK.findall(page))
]
SERVED = re.compile(r"^```\{code-block\} python\n(# needs a server\n.*?)^```\n", re.MULTILINE | re.DOTALL)
EVENT_NAMES = {f"db.client.connection.{name}" for name in ("create_time", "wait_time", "use_time")}


def run(code: str, folder: Path) -> str:
    """What it prints, as a reader runs it; raise when it says anything else, or fails."""
    (folder / "page.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GTASKER_DASHBOARD_TOKEN": "at least sixteen characters"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(("code", "printed"), BLOCKS)
def test_code_runs_as_it_stands(code: str, printed: str, tmp_path: Path) -> None:
    said = run(code, tmp_path)

    assert not printed or said == printed


@pytest.mark.parametrize("name", ["prometheus", "dashboard"])
def test_what_needs_a_server_answers_one(name: str, tmp_path: Path) -> None:
    [code] = SERVED.findall(PAGES[name])
    place = {"prometheus": "/metrics", "dashboard": "/gtasker/"}[name]
    ask = f"""
from wsgiref.util import setup_testing_defaults

for path in ("/", {place!r}):
    environ = {{"PATH_INFO": path, "REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost"}}
    setup_testing_defaults(environ)
    body = b"".join(app(environ, lambda status, headers: print(path, status)))
    print(path, len(body) > 0)
runner.stop()
"""
    folder = tmp_path / "shared"
    folder.mkdir()
    said = run(f"import os\n\nos.environ['PROMETHEUS_MULTIPROC_DIR'] = {str(folder)!r}\n{code}{ask}", tmp_path)

    status = {"prometheus": "200 OK", "dashboard": "401 Unauthorized"}[name]
    assert said == f"/ 200 OK\n/ True\n{place} {status}\n{place} True\n"


def test_prometheus_names_are_those_that_are_told() -> None:
    told = {one.exposed + "_total" * (one.kind is Kind.COUNTER) for one in INSTRUMENTS}
    told |= {fact.exposed for fact in (HUB_LAG, WAIT_TIME, RUN_TIME)}

    named = re.findall(r"^\| `(\w+)` \|", PAGES["prometheus"], re.MULTILINE)

    assert set(named) == told
    assert len(named) == len(told)


def test_opentelemetry_names_are_those_that_are_told() -> None:
    told = {one.name for one in (*INSTRUMENTS, HUB_LAG, WAIT_TIME, RUN_TIME)} | EVENT_NAMES

    rows = re.findall(r"^\| (`.+?) \|", PAGES["opentelemetry"], re.MULTILINE)

    assert set(re.findall(r"`([\w.]+)`", " ".join(rows))) == told


def test_pictures_and_pages_that_are_named_are_there() -> None:
    for page in PAGES.values():
        for target in re.findall(r"\]\(([^):]+)\)", page):
            assert (FOLDER / target).exists(), target
