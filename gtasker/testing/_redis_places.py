"""Where a throw-away Redis lives: a private folder, and the remains of those whose process was killed.

Invariant: a folder is removed only by its owner, or after its owner's end.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TextIO

_PREFIX = "gtasker-redis-"
_OWNER = "owner"


def make_folder() -> Path:
    """Make the server's private folder, and remove those that processes which were killed have left."""
    _clear_abandoned(Path(tempfile.gettempdir()))
    return Path(tempfile.mkdtemp(prefix=_PREFIX))


def claim(folder: Path) -> TextIO:
    """Mark the folder as in use for as long as the file returned is open, which it is at most while we live."""
    owner = open(folder / _OWNER, "w")  # noqa: SIM115  # open is what it is for
    fcntl.flock(owner, fcntl.LOCK_EX)
    return owner


def _clear_abandoned(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        # Not claimed yet, removed meanwhile, somebody else's, or in use.
        with suppress(OSError), open(folder / _OWNER) as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
