"""The shelf: a directory where each process lays its latest snapshot, for any of them to read all.

Invariant: a file is whole or not there (it is written aside and renamed), and only this user may write here.

Moments are on the monotonic clock, which all processes of a machine share; a file from before the machine's last boot
is of the future or very old, and is dropped either way.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

STALE_AFTER = 5.0
"""Seconds after which a snapshot no longer counts: its process ended, or its event loop stands still."""
GONE_AFTER = 60.0
"""Seconds after which it is thrown away whatever its process does."""


class Shelf:
    """One directory; made, for this user alone, if it is not there. Raises PermissionError if others may write."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._directory.stat()
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"others may write to {self._directory}: use a directory of mode 0700 of your own")

    def put(self, name: str, content: dict[str, Any]) -> None:
        """Lay a file there, in place of an older one of its name. Never switches."""
        text = json.dumps(content, separators=(",", ":"))
        aside = self._directory / f".{name}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(aside, self._directory / name)

    def take(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each file with this prefix that is not too old, by name; what is, is thrown away. Never switches."""
        now = monotonic()
        for path in sorted(self._directory.glob(f"{kind}-*")):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                age = now - content["at"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # gone meanwhile, or not ours
            if -1.0 <= age <= GONE_AFTER:
                yield path.name, content
            else:
                self.drop(path.name)

    def drop(self, name: str) -> None:
        """Take a file away, if it is there. Never switches."""
        with suppress(FileNotFoundError):
            (self._directory / name).unlink()
