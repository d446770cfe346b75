"""The set-up of the docs, as a reader would follow it: the module, the command that serves it, and who sends.

Invariant: code and command are taken out of the page; nothing here repeats them. (That all blocks of all pages run is
seen to where the docs are tested.)
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from gevent import subprocess as gevent_subprocess

from tests.distributed._workers import Site, WorkerProcess, workers
from tests.postgres._server import ROOT

PAGE = (ROOT / "docs" / "distributed" / "set-up.md").read_text()
FENCES = dict(re.findall(r"^```(?:\{code-block\} )?python\n(# [^\n]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
"""Each block of Python, by its first line."""

[COMMAND] = re.findall(r"^\$ dramatiq-gevent (.*)$", PAGE, re.MULTILINE)


def test_the_set_up_works_as_it_is_written(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", site.redis)
    (tmp_path / "shop_tasks.py").write_text(FENCES["# shop_tasks.py"])

    def serve() -> WorkerProcess:
        program = str(Path(sys.executable).with_name("dramatiq-gevent"))
        command = [program, *shlex.split(COMMAND), "--path", str(tmp_path)]
        return WorkerProcess(command, r"\[PID (\d+)\].*Worker process is ready for action", site, 0)

    with workers(1, serve):
        sent = gevent_subprocess.run(
            [sys.executable, "-W", "error", "-c", FENCES["# needs a server"]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=50,
            check=False,
        )

    assert sent.returncode == 0, sent.stdout
    assert re.fullmatch(r"hello Ann, from process \d+\n\['hello Bob, .*', 'hello Cy, .*'\]\n", sent.stdout), sent.stdout
