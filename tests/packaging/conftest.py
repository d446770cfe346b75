"""The package, built once from a copy of the checkout, and a bare environment that has it.

Invariant: the checkout is as it was; nothing is left of the copy.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.check_extras import make_environment

ROOT = Path(__file__).parents[2]
MADE = ("__pycache__", "*.egg-info", "build", "dist", "_build", "*.so")
"""What is made in a checkout, and is no part of the source; so is all that begins with a dot."""


class Built(NamedTuple):
    """What `python -m build` makes."""

    sdist: Path
    wheel: Path


def _no_source(folder: str, names: list[str]) -> set[str]:
    return {*shutil.ignore_patterns(*MADE)(folder, names), *(name for name in names if name.startswith("."))}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """The source distribution, and the wheel that was made of it and of nothing else."""
    copy = tmp_path_factory.mktemp("source") / "gtasker"
    shutil.copytree(ROOT, copy, ignore=_no_source)
    target = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(target), str(copy)],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
    [sdist], [wheel] = target.glob("*.tar.gz"), target.glob("*.whl")
    yield Built(sdist, wheel)
    shutil.rmtree(copy)


@pytest.fixture(scope="session")
def bare_python(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, what it requires, and nothing else."""
    return make_environment(tmp_path_factory.mktemp("bare") / "environment", str(built.wheel))
