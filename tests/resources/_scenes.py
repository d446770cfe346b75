"""Scenes that need a process of their own: what a fork does, and what an import that came too early does.

Invariant: a scene ends by itself, within its watchdog's time, and prints what it saw.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from gevent import subprocess

from tests import _env
from tests.postgres._server import ROOT

_PATIENCE = 40.0  # seconds


def url_of(dsn: str, driver: str, application: str) -> str:
    """The server of ``dsn`` as SQLAlchemy names it."""
    words = dict(word.split("=", 1) for word in dsn.split())
    database = words.pop("dbname")
    query = "&".join(f"{name}={value}" for name, value in {**words, "application_name": application}.items())
    return f"postgresql+{driver}:///{database}?{query}"


def play_here(scene: str, *arguments: str, patched: bool = _env.PATCHED) -> str:
    """Run a scene in a process of its own, patched as this one is unless told; return what it printed."""
    starter = ["-m", "gevent.monkey", "--module"] if patched else ["-m"]
    ended = subprocess.run(
        [sys.executable, *starter, "tests.resources._scenes", scene, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{scene}: {ended.stdout}\n{ended.stderr}"
    return str(ended.stdout)


def fork(dsn: str) -> None:
    """A child uses the engine while the parent has a connection out and others idle; then the parent goes on."""
    from sqlalchemy import create_engine, text  # noqa: PLC0415

    from gtasker.integrations.psycopg2 import make_cooperative  # noqa: PLC0415
    from gtasker.integrations.sqlalchemy import GTaskerPool  # noqa: PLC0415

    make_cooperative()
    engine = create_engine(url_of(dsn, "psycopg2", "forking"), poolclass=GTaskerPool, pool_size=2, max_overflow=0)

    def pids() -> set[int]:
        with engine.connect() as one, engine.connect() as other:
            return {connection.scalar(text("SELECT pg_backend_pid()")) for connection in (one, other)}

    before = pids()
    child = os.fork()
    if not child:
        _in_child(lambda: print("child", "own" if not pids() & before else "the parent's", flush=True), engine.dispose)
    assert os.waitpid(child, 0)[1] == 0
    print("parent", "same" if pids() == before else "lost", flush=True)
    engine.dispose()


def fork_at_the_first_connect(dsn: str) -> None:
    """A child is forked while its parent makes the engine's first connection, and uses the engine itself."""
    import gevent  # noqa: PLC0415
    from sqlalchemy import create_engine, event, text  # noqa: PLC0415

    from gtasker.integrations.psycopg2 import make_cooperative  # noqa: PLC0415
    from gtasker.integrations.sqlalchemy import GTaskerPool  # noqa: PLC0415

    make_cooperative()
    engine = create_engine(url_of(dsn, "psycopg2", "forking"), poolclass=GTaskerPool, pool_size=1, max_overflow=0)
    connecting = gevent.event.Event()
    event.listen(engine, "do_connect", lambda *_: connecting.set())

    def use() -> None:
        with engine.connect() as connection:
            print(connection.scalar(text("SELECT 'used'")), flush=True)

    parents = gevent.spawn(use)
    connecting.wait()
    child = os.fork()
    if not child:
        _in_child(use, engine.dispose)
    assert os.waitpid(child, 0)[1] == 0
    parents.get()
    engine.dispose()


def _in_child(*steps: Any) -> None:
    try:
        for step in steps:
            step()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def imported_too_early() -> None:
    """An import of psycopg, then gevent patches."""
    import psycopg  # noqa: F401, PLC0415
    from gevent import monkey  # noqa: PLC0415

    monkey.patch_all()
    _say_what_psycopg3_says()


def never_patched() -> None:
    """An import of psycopg, and nothing patches."""
    _say_what_psycopg3_says()


def patched_first() -> None:
    """Nothing is wrong."""
    from gevent import monkey  # noqa: PLC0415

    monkey.patch_all()
    _say_what_psycopg3_says()


def _say_what_psycopg3_says() -> None:
    from gtasker.integrations.psycopg3 import NotCooperativeError, resource  # noqa: PLC0415

    try:
        resource()
    except NotCooperativeError as error:
        print(error)
    else:
        print("cooperative")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(_PATIENCE, exit=True)
    scenes: dict[str, Callable[..., None]] = {
        "fork": fork,
        "fork_at_the_first_connect": fork_at_the_first_connect,
        "imported_too_early": imported_too_early,
        "never_patched": never_patched,
        "patched_first": patched_first,
    }
    scenes[sys.argv[1]](*sys.argv[2:])
