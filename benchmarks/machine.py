"""The machine and the versions a table was made with.

Invariant: names no host, user or path.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

CORE = ("gtasker", "gevent", "greenlet")


def describe(packages: Sequence[str] = ()) -> dict[str, str]:
    """Return the processor, the interpreter and the versions of the core's and the given packages."""
    versions = {name: version for name in (*CORE, *packages) if (version := _version(name))}
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load at the start": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        **versions,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
