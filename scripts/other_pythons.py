"""Run the fast part of the suite on every other supported Python that this machine has.

Invariant: what is absent, or cannot run or make an environment, is said and passed over; what is there has to pass.

Usage: other_pythons.py --environments PREFIX -- PYTEST-ARGUMENTS
Python 3.x gets an environment of its own, PREFIX-3.x, which later runs use again while pyproject.toml stays as it is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

ROOT = Path(__file__).parents[1]
SUPPORTED = range(10, 15)
PROBE = "import sys, venv, ensurepip; print(*sys.version_info[:2], sep='.')"


def candidates(version: str) -> Iterator[str]:
    """Where `version` may be: on the path, and with pyenv, whose shims run only the version that is switched on."""
    for folder in os.get_exec_path():
        if found := shutil.which(f"python{version}", path=folder):
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    yield from sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python{version}")))


def find(version: str) -> str | None:
    """An interpreter of that version that runs and can make environments."""
    for python in candidates(version):
        try:
            probe = subprocess.run([python, "-c", PROBE], check=False, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if probe.stdout.strip() == version:
            return python
    return None


def run(*command: str | Path) -> None:
    """Say what is run, and run it."""
    print(*command, flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


def prepared(environment: Path, python: str) -> Path:
    """The interpreter of `environment`, which is made if it is not there, and filled if it is not up to date."""
    inside = environment / "bin" / "python"
    stamp = environment / f".test-{crc32((ROOT / 'pyproject.toml').read_bytes())}"
    if not stamp.exists():
        if not inside.exists():
            run(python, "-m", "venv", environment)
        quietly = ("--quiet", "--disable-pip-version-check", "--no-input")
        run(inside, "-m", "pip", "install", *quietly, "--editable", ".[test]")
        stamp.touch()
    return inside


def main() -> int:
    """Test each version; the exit code tells whether all that are here passed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--environments", required=True)
    options.add_argument("pytest", nargs="*")
    chosen = options.parse_args()
    failed = []
    for version in (f"3.{minor}" for minor in SUPPORTED if minor != sys.version_info.minor):
        python = find(version)
        if python is None:
            print(f"Python {version}: not on this machine, or cannot make an environment; passed over", flush=True)
            continue
        try:
            run(prepared(ROOT / f"{chosen.environments}-{version}", python), "-m", "pytest", *chosen.pytest)
        except subprocess.CalledProcessError:
            failed.append(version)
    if failed:
        print(f"failed on Python {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
