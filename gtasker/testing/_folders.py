"""Private folders of throw-away servers, and the remains of those whose process was killed.

Invariant: a folder is removed only by its owner, or after its owner's end.
"""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import NamedTuple, TextIO

_OWNER = "owner"


class Folder(NamedTuple):
    """A folder that is in use for as long as `owner` is open, which it is at most while we live."""

    path: Path
    owner: TextIO

    def remove(self) -> None:
        """Remove it, and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.owner.close()


def make_folder(place: Path, prefix: str, user: pwd.struct_passwd | None = None) -> Folder:
    """Make one in `place`, for `user` to live in; remove those of this prefix that killed processes have left."""
    _clear_abandoned(place, prefix)
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        if user is not None:
            os.chown(path, user.pw_uid, user.pw_gid)
        owner = open(path / _OWNER, "w")  # noqa: SIM115  # open is what it is for
        flock(owner, LOCK_EX)
        if (path / _OWNER).exists():
            return Folder(path, owner)
        # Another process that clears away came in between, and took it for left.
        owner.close()


def _clear_abandoned(place: Path, prefix: str) -> None:
    for path in place.glob(f"{prefix}*"):
        # Not claimed yet, removed meanwhile, somebody else's, or in use.
        with suppress(OSError), open(path / _OWNER) as owner:
            flock(owner, LOCK_EX | LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
