"""Real servers and real clients, as the tests hold them.

Invariant: a process that was started here is gone when its block is left, and ends with this one at the latest; every
wait is bounded, and says what it waited for.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
from gevent import subprocess as gevent_subprocess
from gevent.pool import Group

from gtasker.testing._server import end_with_parent
from tests.postgres._server import PATIENCE, ROOT, eventually
from tests.web._load import CONNECTED

HOOKED: Mapping[str, Any] = {
    "hooks": "from gtasker.integrations.gunicorn import post_worker_init, worker_exit, worker_int",
    "worker_class": "gevent",
}
"""Settings of a Gunicorn with its own worker class and our hooks."""
_UNWANTED = ("Traceback", "SIGKILL", "SIGABRT", "TIMEOUT", "exited with code", "was not stopped")
"""What the log of a server that ended in order does not say."""


class Server:
    """A server process, with those it may have forked, and its log."""

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("wb") as out:
            self.process = gevent_subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": _path(), "PYTHONWARNINGS": "default", **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # so that its children can be found, whoever their parent is by then
                preexec_fn=end_with_parent(signal.SIGQUIT),  # system calls alone, looked up before the fork
            )
        try:
            [port] = self.await_log(r"Listening at: http://127\.0\.0\.1:(\d+)")
        except BaseException:
            self.close()
            raise
        self.port = int(port)

    @property
    def log(self) -> str:
        """All that it has said until now."""
        return self._log.read_text(errors="replace")

    @property
    def workers(self) -> list[int]:
        """The process ids of all its worker processes ever, in the order of their start."""
        return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.log)]

    def await_log(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until the log has `pattern` so often; return the matches."""

        def found() -> list[str]:
            assert self.process.poll() is None, f"the server has ended:\n{self.log}"
            matches = re.findall(pattern, self.log)
            return matches if len(matches) >= count else []

        matches: list[str] = eventually(found, f"{pattern} in the log:\n{self.log}")
        return matches

    def request(self, path: str, method: str = "GET") -> tuple[int, str, str | None]:
        """Status, body and Retry-After of the answer to one request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode(), response.headers["Retry-After"]
        finally:
            connection.close()

    def ask(self, path: str) -> str:
        """The body of the answer to one request, which must be a 200."""
        status, body, _ = self.request(path)
        assert status == 200, body
        return body

    def await_waiting(self, count: int) -> None:
        """Wait until its one worker has `count` requests, each of which is waiting for something."""
        eventually(lambda: self.ask("/waiting") == str(count), f"{count} requests under way")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process that was started; its workers are its own affair."""
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait until it and all its children have ended; return its exit status."""
        eventually(lambda: self.process.poll() is not None, f"the end of the server:\n{self.log}", 40)
        eventually(lambda: not self._left(), f"the end of its children:\n{self.log}")
        status = self.process.returncode
        assert isinstance(status, int)
        return status

    def assert_in_order(self, *expected: str) -> None:
        """Its log says nothing of a process that was ended from outside, or of an unexpected error."""
        found = [line for line in self.log.splitlines() if any(word in line for word in _UNWANTED)]
        assert not [line for line in found if not any(word in line for word in expected)], self.log

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.send(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        if self._left():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _left(self) -> bool:
        """Whether anything that it started is alive. What has ended and was never asked about does not count."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        members = psutil.process_iter(["pid", "status"])
        alive = [member.pid for member in members if member.info["status"] != psutil.STATUS_ZOMBIE]
        return any(_group_of(pid) == self.process.pid for pid in alive)


class Load:
    """Clients in a process of their own."""

    def __init__(self, port: int, path: str, *, clients: int, requests: int = 0, keep_alive: bool = False) -> None:
        command = [sys.executable, "-m", "tests.web._load", str(port), path, str(clients), str(requests)]
        self._process = gevent_subprocess.Popen(
            [*command, str(keep_alive)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._lines: list[str] = []
        self._reader = Group()
        self._reader.spawn(self._read)

    @property
    def outcomes(self) -> Counter[str]:
        """What became of how many requests until now."""
        outcomes = Counter(self._lines)
        del outcomes[CONNECTED]
        return outcomes

    @property
    def connections(self) -> int:
        """How many connections it has made."""
        return self._lines.count(CONNECTED)

    def await_answers(self, count: int) -> None:
        """Wait until so many more requests have an outcome."""
        wanted = self.outcomes.total() + count
        eventually(lambda: self.outcomes.total() >= wanted, f"{count} more outcomes after {self.outcomes}")

    def all(self) -> Counter[str]:
        """Wait until every client has ended; return what became of all requests."""
        eventually(lambda: self._process.poll() is not None, f"the end of the clients, after {self.outcomes}", 50)
        self.stop()
        return self.outcomes

    def stop(self) -> None:
        """End the clients, in the midst of their requests."""
        self._input.close()
        self._process.wait()
        self._reader.join()
        self._output.close()

    def _read(self) -> None:
        for line in self._output:
            self._lines.append(line.decode().strip())


@contextmanager
def gunicorn(folder: Path, environment: Mapping[str, str], **settings: Any) -> Iterator[Server]:
    """Gunicorn with these settings, over those of the tests."""
    hooks = settings.pop("hooks", "")
    settings = {
        "worker_class": "gtasker.integrations.gunicorn.GTaskerWorker",
        "bind": "127.0.0.1:0",
        "workers": 2,
        "control_socket_disable": True,
        "worker_tmp_dir": str(folder),
        **settings,
    }
    lines = [hooks, *(f"{name} = {value!r}" for name, value in settings.items())]
    configuration = folder / "gunicorn.conf.py"
    configuration.write_text("\n".join(lines))
    command = ["-m", "gunicorn", "--config", str(configuration), "tests.web._app:application"]
    with running(command, folder, environment) as server:
        yield server


@contextmanager
def pywsgi(
    folder: Path, environment: Mapping[str, str], *, grace: float, max_connections: int = 1000
) -> Iterator[Server]:
    """`serve` in a process of its own."""
    command = ["-m", "gevent.monkey", "--module", "tests.web._serve", str(grace), str(max_connections)]
    with running(command, folder, environment) as server:
        yield server


@contextmanager
def running(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    """`python` with these arguments, which says where it listens as Gunicorn does."""
    server = Server(command, folder / "log", environment)
    try:
        yield server
    finally:
        server.close()


def is_alive(pid: int) -> bool:
    """Whether there is such a process. One that has ended and that nobody asked about does not count."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
