"""The throw-away server: it comes up, it is private, it is gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from gevent import monkey

from gtasker.testing._postgres_places import PostgresNotFoundError, find_binaries
from gtasker.testing.postgres import PostgresFailedError, ThrowAwayPostgres, postgres
from tests.postgres._server import eventually, play

PATCHED = monkey.is_module_patched("socket")


def rows(dsn: str, *statements: str) -> list[tuple[object, ...]]:
    """What the last statement returns, in a session of its own."""
    session = psycopg2.connect(dsn)
    try:
        with session, session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        session.close()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process nobody has waited for is still in the table.
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


@pytest.fixture
def own_server() -> Iterator[ThrowAwayPostgres]:
    with ThrowAwayPostgres() as server:
        yield server


@pytest.mark.parametrize("tcp", [False, True])
def test_a_started_server_answers_at_its_dsn(tcp: bool) -> None:
    with ThrowAwayPostgres(tcp=tcp) as server:
        assert rows(server.dsn, "SELECT 1") == [(1,)]
        assert rows(server.dsn, "SELECT inet_server_addr() IS NOT NULL") == [(tcp,)]


def test_a_stopped_server_leaves_neither_a_process_nor_a_folder() -> None:
    server = ThrowAwayPostgres()
    server.start()
    pid, folder = server.pid, server.folder

    server.stop()

    assert not is_running(pid)
    assert not folder.exists()
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.dsn
    server.stop()


def test_a_stopped_server_can_be_started_anew() -> None:
    server = ThrowAwayPostgres()
    for _ in range(2):
        with server:
            assert rows(server.dsn, "CREATE TABLE fresh ()", "SELECT 1") == [(1,)]


def test_what_was_committed_survives_a_crash(own_server: ThrowAwayPostgres) -> None:
    dsn, pid = own_server.dsn, own_server.pid
    rows(dsn, "CREATE TABLE kept AS SELECT 7 AS number")

    own_server.crash()

    assert not is_running(pid)
    with pytest.raises(psycopg2.OperationalError):
        rows(dsn, "SELECT 1")
    own_server.start()
    assert own_server.dsn == dsn
    assert rows(dsn, "SELECT number FROM kept") == [(7,)]


def test_a_server_that_was_killed_can_be_started_again(own_server: ThrowAwayPostgres) -> None:
    rows(own_server.dsn, "CREATE TABLE kept ()")
    os.kill(own_server.pid, signal.SIGKILL)
    own_server.crash()

    own_server.start()

    assert rows(own_server.dsn, "SELECT * FROM kept") == []


@pytest.mark.parametrize("tcp", [False, True])
def test_a_restart_ends_the_sessions_and_keeps_address_and_data(tcp: bool) -> None:
    with ThrowAwayPostgres(tcp=tcp) as server:
        dsn, pid = server.dsn, server.pid
        session = psycopg2.connect(dsn)
        session.cursor().execute("CREATE TABLE kept ()")
        session.commit()

        server.restart()

        assert server.pid != pid
        assert server.dsn == dsn
        with pytest.raises(psycopg2.Error):
            session.cursor().execute("SELECT 1")
        assert rows(dsn, "SELECT * FROM kept") == []


def test_settings_reach_the_server() -> None:
    with ThrowAwayPostgres(settings={"max_connections": 33}) as server:
        assert rows(server.dsn, "SHOW max_connections") == [("33",)]


def test_two_servers_live_side_by_side(own_server: ThrowAwayPostgres) -> None:
    with ThrowAwayPostgres() as other:
        rows(own_server.dsn, "CREATE TABLE mine ()")

        assert rows(other.dsn, "SELECT to_regclass('mine')") == [(None,)]


def test_variables_of_libpq_do_not_lead_the_server_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGPORT", "1")

    with ThrowAwayPostgres() as server:
        assert rows(server.dsn, "SELECT 1") == [(1,)]


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = ThrowAwayPostgres(settings={"no_such_setting": "on"})

    with pytest.raises(PostgresFailedError, match="no_such_setting"):
        server.start()

    with pytest.raises(RuntimeError, match="not started"):
        _ = server.folder


def test_a_start_is_bounded() -> None:
    server = ThrowAwayPostgres(start_timeout=0.0)

    with pytest.raises(PostgresFailedError, match="did not start"):
        server.start()


def test_a_server_ends_with_the_process_that_started_it() -> None:
    # The scene starts a server, says where it is, and is killed by its own hand, so that nothing of it can clean up.
    pid, folder = play("start_a_server_and_die", patched=PATCHED, ends_by=signal.SIGKILL).split()
    try:
        eventually(lambda: not is_running(int(pid)), f"the orphaned server {pid} ends")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_what_a_killed_process_left_behind_goes_when_the_next_server_comes(own_server: ThrowAwayPostgres) -> None:
    _, folder = play("start_a_server_and_die", patched=PATCHED, ends_by=signal.SIGKILL).split()

    with ThrowAwayPostgres():
        assert not Path(folder).exists()
        assert rows(own_server.dsn, "SELECT 1") == [(1,)], "what is in use stays"


def test_a_server_runs_for_a_user_who_is_not_root() -> None:
    assert play("serve_as_another_user", patched=PATCHED).split() == ["1", "cleaned"]


def test_programs_below_a_private_folder_serve_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As root the server's user cannot enter the folder, and runs a copy.
    binaries = find_binaries()
    installation, package = binaries.parent, binaries.parents[1]
    site = tmp_path / "private" / "site"
    copied = site / package.name / installation.name
    shutil.copytree(installation, copied, symlinks=True)
    libraries = package.with_name(package.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, site / libraries.name)
    (tmp_path / "private").chmod(0o700)
    before = {place: place.stat().st_mode for place in (*tmp_path.parents, *tmp_path.rglob("*"))}
    monkeypatch.setenv("GTASKER_PG_BIN", str(copied / binaries.name))

    with ThrowAwayPostgres() as server:
        assert rows(server.dsn, "SELECT 1") == [(1,)]

    assert {place: place.stat().st_mode for place in before} == before


def test_a_named_folder_without_programs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTASKER_PG_BIN", str(tmp_path))

    with pytest.raises(PostgresNotFoundError, match=str(tmp_path)):
        find_binaries()


def test_a_given_server_is_used_and_none_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GTASKER_DSN", "host=given")
    monkeypatch.setenv("GTASKER_PG_BIN", str(tmp_path))

    with postgres() as dsn:
        assert dsn == "host=given"


def test_without_a_given_server_one_is_started_for_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GTASKER_DSN", raising=False)

    with postgres(tcp=True) as dsn:
        assert rows(dsn, "SELECT 1") == [(1,)]

    with pytest.raises(psycopg2.OperationalError):
        rows(dsn, "SELECT 1")


def test_the_server_does_not_hear_the_terminal(own_server: ThrowAwayPostgres) -> None:
    # Ctrl-C goes to the foreground's process group: who handles it still needs the server meanwhile.
    assert os.getpgid(own_server.pid) != os.getpgid(0)
