"""The throw-away Redis: its data outlives a crash, it lives alone, and it ends with who started it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gtasker.testing import _folders
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.redis import RedisFailedError, RedisNotFoundError, ThrowAwayRedis, find_server
from gtasker.testing.redis import redis as throw_away
from tests.postgres._server import ROOT, eventually

CHILD = """
import sys
from gtasker.testing.redis import ThrowAwayRedis
server = ThrowAwayRedis()
server.start()
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["restart", "crash"])
def test_what_was_acknowledged_is_there_after_a_restart_and_after_a_crash(how: str) -> None:
    with ThrowAwayRedis() as server:
        first = server.pid
        client = redis.Redis.from_url(server.url)
        client.set("key", "value")

        getattr(server, how)()
        server.start()

        assert server.pid != first
        assert client.get("key") == b"value"
        client.close()


def test_nothing_is_left() -> None:
    with ThrowAwayRedis() as server:
        folder, pid = server.folder, server.pid

    assert not folder.exists()
    assert not Path(f"/proc/{pid}/cmdline").exists()
    with pytest.raises(RuntimeError):
        _ = server.folder


def test_a_stranger_is_asked_for_the_password_and_finds_it_nowhere() -> None:
    with ThrowAwayRedis() as server:
        stranger = redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0))
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
        stranger.close()

        password = server.url.partition(":")[2].partition("@")[0].strip("/:")
        assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()


def test_it_ends_with_the_process_that_started_it() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    pid, folder = child.stdout.readline().split()

    os.kill(child.pid, signal.SIGKILL)
    child.wait()

    eventually(lambda: not Path(f"/proc/{pid}/cmdline").exists(), "the server ends")
    # What it left is cleared away by the next one, which leaves those alone that are in use.
    with ThrowAwayRedis() as one, ThrowAwayRedis() as other:
        assert not Path(folder).exists()
        assert one.folder.exists()
        assert other.folder.exists()
    child.stdin.close()
    child.stdout.close()


@pytest.mark.parametrize("kind", [ThrowAwayRedis, ThrowAwayPostgres])
def test_a_forked_child_that_leaves_the_block_leaves_the_server_to_its_parent(
    kind: type[ThrowAwayRedis | ThrowAwayPostgres],
) -> None:
    with kind() as server:
        folder, child = server.folder, os.fork()
        if not child:
            status = 1
            try:
                with pytest.raises(RuntimeError, match="belongs to the process that has started it"):
                    server.crash()
                server.stop()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

        assert folder.exists()
        server.restart()
    assert not folder.exists()


def test_a_folder_that_another_process_took_for_left_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []

    def come_first(owner: Any, how: int) -> None:
        if not taken:
            taken.append(Path(owner.name).parent)
            shutil.rmtree(taken[0])
        fcntl.flock(owner, how)

    monkeypatch.setattr(_folders, "flock", come_first)

    folder = _folders.make_folder(tmp_path, "server-")

    assert [*tmp_path.iterdir()] == [folder.path] != taken
    folder.remove()


def test_a_server_that_exists_is_used_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTASKER_REDIS_URL", "redis://elsewhere")

    with throw_away() as url:
        assert url == "redis://elsewhere"


def test_a_program_that_is_not_there_is_told_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GTASKER_REDIS_SERVER", str(tmp_path / "nothing"))

    with pytest.raises(RedisNotFoundError, match="nothing"):
        find_server()


def test_a_server_that_does_not_start_says_why() -> None:
    server = ThrowAwayRedis(settings={"appendonly": "perhaps"}, start_timeout=10.0)

    with pytest.raises(RedisFailedError, match="appendonly"):
        server.start()
