"""The cluster of the examples, as it stands: two thousand transfers, one worker shot, and its own verdict."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from gevent import subprocess as gevent_subprocess

from tests.postgres._server import ROOT


@pytest.mark.timeout(240)
def test_the_books_of_the_bank_balance_over_processes_of_which_one_is_shot() -> None:
    ended = gevent_subprocess.run(
        [sys.executable, "-m", "examples.cluster", "--transfers", "2000"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout
    said = [line for line in ended.stdout.splitlines() if line[:4] in ("yes ", "NO  ")]
    assert "yes every caller was answered: 2000 of 2000" in said
    assert "yes Redis has 0 messages left" in said
    assert all(line.startswith("yes ") for line in said)
