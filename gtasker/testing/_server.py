"""A throw-away server, whatever it serves: its folder, its process, its address, and its end.

Invariant: one server lives in one private folder, and nobody but the process that started it ends it or removes the
folder, a forked child neither. (Where that process is killed, its server ends with it, and the folder goes when the
next server is started.)

Plain blocking calls of the standard library, cooperative after ``gevent.monkey.patch_all()``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from gtasker.testing._folders import Folder

if TYPE_CHECKING:
    from typing_extensions import Self

_PR_SET_PDEATHSIG = 1
_PORT_ATTEMPTS = 5
_POLL_INTERVAL = 0.01  # seconds between two looks at a server that starts
_END_TIMEOUT = 10  # seconds for each way to end it


class ThrowAwayServer(ABC):
    """The life of one server; what it serves is a subclass's."""

    _failed: ClassVar[type[RuntimeError]]
    """What is raised when it does not start."""
    _ends_in_order: ClassVar[signal.Signals]
    _ends_at_once: ClassVar[signal.Signals]
    _stops_by: ClassVar[signal.Signals]
    """How it ends when its data is not needed any more."""

    def __init__(self, start_timeout: float) -> None:
        self.start_timeout = start_timeout
        self._place: Folder | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_pid = 0
        self._port = 0
        self._password = secrets.token_hex(16)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"running, pid {self._process.pid}" if self._process else "not running"
        return f"<{type(self).__name__} {self._place.path if self._place else 'without a folder'}, {state}>"

    @property
    def folder(self) -> Path:
        """The private folder: data, log, and what else it needs. Raises RuntimeError while there is none."""
        if self._place is None:
            raise RuntimeError("the server was not started, or it was stopped")
        return self._place.path

    @property
    def port(self) -> int:
        """The port; the same after ``restart`` and ``crash``."""
        return self._port

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
        """Start the server, in a new folder or after ``crash``, and return when it accepts its clients.

        Raises an error with the end of its log where it does not start, another where the server's programs are not
        to be found.
        """
        if self._process is not None:
            return
        if self._place is not None:
            self._launch()
            return
        try:
            self._owner_pid = os.getpid()
            self._place = self._make_folder()
            self._prepare()
            self._launch_on_free_port()
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """Stop the server in order (sessions are ended) and start it again with the same data and address."""
        self.shut_down()
        self.start()

    def shut_down(self) -> None:
        """End the server in order; its data is there after the next ``start``."""
        self._end(self._ends_in_order)

    def crash(self) -> None:
        """End the server at once; what it had acknowledged is there after the next ``start``."""
        self._end(self._ends_at_once)

    def stop(self) -> None:
        """End the server and remove its folder. Harmless when there is none, and in a forked child."""
        if self._owner_pid != os.getpid():
            self._process = self._place = None  # they are the parent's
            return
        self._end(self._stops_by)
        place, self._place = self._place, None
        if place is not None:
            place.remove()

    @abstractmethod
    def _make_folder(self) -> Folder:
        """Make the private folder."""

    def _prepare(self) -> None:  # noqa: B027  # most need nothing
        """Lay in the folder what the first start needs."""

    @abstractmethod
    def _command(self) -> list[str]:
        """What starts the server in the foreground."""

    def _input(self) -> bytes | None:
        """What it is told on its standard input."""
        return None

    def _child_options(self) -> dict[str, Any]:
        """Options of the server's process."""
        return {"cwd": self.folder}

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it accepts its clients, as far as can be seen now."""

    def _needs_port(self) -> bool:
        return True

    def _launch_on_free_port(self) -> None:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            if self._needs_port():
                self._port = _free_port()
            try:
                self._launch()
                break
            except self._failed:
                # Somebody else may have taken the port since it was seen free.
                if not self._needs_port() or attempt == _PORT_ATTEMPTS:
                    raise

    def _launch(self) -> None:
        command, told = self._command(), self._input()
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if told is None else subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent(self._ends_at_once),  # noqa: PLW1509  # see there
                **self._child_options(),
            )
        if self._process.stdin is not None and told is not None:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stream:
                stream.write(told)
        self._await_ready()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while not self._is_ready():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self._end(self._ends_at_once)
                raise self._failed(f"the server did not start:\n{self.log()}")
            time.sleep(_POLL_INTERVAL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._owner_pid != os.getpid():
            raise RuntimeError("the server belongs to the process that has started it")
        process, self._process = self._process, None
        for last_word in dict.fromkeys((how, self._ends_at_once, signal.SIGKILL)):
            process.send_signal(last_word)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_TIMEOUT)
                return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def end_with_parent(how: signal.Signals) -> Callable[[], None] | None:
    """Return what the child calls before it becomes the server, so that the kernel ends it with its parent.

    System calls alone, looked up before the fork.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, how)
        # The parent may have ended before the kernel was asked.
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel
