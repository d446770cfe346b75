"""Does each extra suffice? Installs the wheel with one extra at a time, and imports what that is for.

Invariant: an environment holds the wheel, one extra and what these require, and nothing else.

    python scripts/check_extras.py dist/gtasker-0.1.0-py3-none-any.whl          all of them
    python scripts/check_extras.py dist/gtasker-0.1.0-py3-none-any.whl redis http
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

IMPORTED_WITH: dict[str, tuple[str, ...]] = {
    "": (
        "gtasker",
        "gtasker.cli",
        "gtasker.errors",
        "gtasker.events",
        "gtasker.distributed",
        "gtasker.distributed.errors",
        "gtasker.distributed.limiter",
        "gtasker.integrations",
        "gtasker.integrations.cli",
        "gtasker.integrations.cli.doctor",
        "gtasker.integrations.dashboard",
        "gtasker.integrations.http",
        "gtasker.integrations.logging",
        "gtasker.integrations.pywsgi",
        "gtasker.integrations.wsgi",
        "gtasker.testing",
        "gtasker.testing.immediate",
        "gtasker.testing.ledger",
        "gtasker.testing.postgres",
        "gtasker.testing.proxy",
        "gtasker.testing.redis",
    ),
    "cli": ("gtasker.integrations.cli.top",),
    "psycopg2": ("gtasker.integrations.psycopg2",),
    "psycopg3": ("gtasker.integrations.psycopg3",),
    "sqlalchemy": ("gtasker.integrations.sqlalchemy",),
    "redis": ("gtasker.integrations.redis",),
    "http": (
        "gtasker.integrations.http.httpx",
        "gtasker.integrations.http.requests",
        "gtasker.integrations.http.urllib3",
    ),
    "gunicorn": ("gtasker.integrations.gunicorn",),
    "prometheus": ("gtasker.integrations.prometheus",),
    "opentelemetry": ("gtasker.integrations.opentelemetry",),
    "distributed": (
        "gtasker.distributed.dramatiq",
        "gtasker.distributed.rate",
        "gtasker.distributed.semaphore",
    ),
    "celery": ("gtasker.distributed.celery",),
}
"""The public modules, by the extra that they need; "" needs none."""

PATCH = "from gevent import monkey; monkey.patch_all()"
"""As an application does: psycopg looks at its import whether that was done."""
_AT_A_TIME = 2


def run(*command: str | Path, timeout: float = 240.0) -> None:
    """Run it. Raises CalledProcessError, with what it printed."""
    subprocess.run(
        [str(word) for word in command],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def make_environment(folder: Path, requirement: str) -> Path:
    """Make an environment with nothing but the requirement in it; return its Python."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    run(sys.executable, "-m", "pip", "--python", python, "install", *quiet, requirement)
    return python


def check(wheel: Path, extra: str, folder: Path) -> str:
    """Return what went wrong, or nothing."""
    named = f"gtasker[{extra}]" if extra else "gtasker"
    imports = "; ".join(f"import {module}" for module in IMPORTED_WITH[extra])
    try:
        python = make_environment(folder, f"{named} @ {wheel.resolve().as_uri()}")
        run(python, "-I", "-c", f"{PATCH}; {imports}")
    except subprocess.CalledProcessError as error:
        return str(error.stdout).strip()
    return ""


def check_all(wheel: Path, extras: list[str]) -> dict[str, str]:
    """What went wrong, by extra."""
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(_AT_A_TIME) as pool:
        folders = [Path(place) / (extra or "none") for extra in extras]
        found = pool.map(check, [wheel] * len(extras), extras, folders)
        return dict(zip(extras, found, strict=True))


def main() -> int:
    """Say for each extra whether it suffices."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("extras", nargs="*", metavar="extra")
    args = parser.parse_args()
    found = check_all(args.wheel, args.extras or list(IMPORTED_WITH))
    for extra, fault in found.items():
        print(f"{extra or 'none':15}", fault or "suffices")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
