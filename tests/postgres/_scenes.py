"""Scenes that would stop or end the process of the tests if they went wrong, each played in a process of its own.

Invariant: a scene that hangs, be it in C with every greenlet stopped, is ended by a watchdog thread of C's own.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import gevent
import psycopg2

from gtasker import Runner
from gtasker.integrations.psycopg2 import GreenConnection, _cancelling, make_cooperative, resource
from gtasker.testing._postgres_places import server_user
from gtasker.testing.postgres import ThrowAwayPostgres
from gtasker.testing.proxy import FaultProxy, Mode
from tests.postgres._fleet import answer, sleep_on_the_server
from tests.postgres._server import eventually

DEADLINE = 40.0  # seconds, less than a test may take

SCENES: dict[str, Callable[..., None]] = {}


def scene(play: Callable[..., None]) -> Callable[..., None]:
    """Give a scene its name on the command line."""
    SCENES[play.__name__] = play
    return play


@scene
def start_a_server_and_die() -> None:
    """Leave a running server behind, without a chance to clean up."""
    server = ThrowAwayPostgres()
    server.start()
    print(server.pid, server.folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


@scene
def serve_as_another_user() -> None:
    """Give root's rights up where there are any, and start a server like anybody."""
    user = server_user()
    with ThrowAwayPostgres() as reachable:
        if user is not None:
            os.environ["GTASKER_PG_BIN"] = str(reachable.binaries)
            os.setgroups([])
            os.setresgid(user.pw_gid, user.pw_gid, 0)
            os.setresuid(user.pw_uid, user.pw_uid, 0)
        with ThrowAwayPostgres() as server:
            folder = server.folder
            session = psycopg2.connect(server.dsn)
            cursor = session.cursor()
            cursor.execute("SELECT 1")
            print(*cursor.fetchone() or ())
            session.close()
        print("left behind" if folder.exists() else "cleaned")
        if user is not None:
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)


class Statement:
    """A greenlet that sleeps on the server and keeps what it raised; begun when ``in flight``."""

    def __init__(self, connection: GreenConnection) -> None:
        self.raised: BaseException | None = None
        self._connection = connection
        self.greenlet = gevent.spawn(self._run)
        eventually(lambda: connection.in_flight, "the statement is in flight")

    def _run(self) -> None:
        try:
            self._connection.cursor().execute("SELECT pg_sleep(600)")
        except BaseException as error:
            self.raised = error


@scene
def interrupt_in_a_black_hole(way: str) -> None:
    """Interrupt a statement of a server that accepts and says nothing, through a proxy in this very process.

    What kept the interpreter's lock while it waits for the server would wait for ever.
    """
    ways = {"cooperative": _cancelling.cancel_cooperatively, "thread": _cancelling.cancel_in_thread}
    _cancelling._cancel = ways[way]
    make_cooperative()
    ticks = itertools.count()

    def tick() -> None:
        for _ in ticks:
            gevent.sleep(0.001)

    ticker = gevent.spawn(tick)
    with ThrowAwayPostgres() as server, FaultProxy(str(server.socket_path)) as proxy:
        dsn = f"host={proxy.host} port={proxy.port} user=postgres"
        connection = resource(dsn, cancel_timeout=0.1)["on_create"]()
        statement = Statement(connection)
        proxy.set_mode(Mode.BLACK_HOLE)
        before = next(ticks)
        statement.greenlet.kill(interrupt := gevent.GreenletExit())
        print("interrupted" if statement.raised is interrupt else repr(statement.raised))
        print("closed" if connection.closed else "open")
        print("ticking" if next(ticks) > before + 10 else "stopped")
    ticker.kill()


@scene
def touch_a_connection_in_flight() -> None:
    """Call from another greenlet all that would wait for psycopg2's lock, and stop the process if it did."""
    make_cooperative()
    with ThrowAwayPostgres() as server:
        connection = resource(server.dsn)["on_create"]()
        statement = Statement(connection)
        for name in ("commit", "rollback", "reset", "set_session", "tpc_recover", "cursor"):
            try:
                getattr(connection, name)()
            except psycopg2.ProgrammingError:
                print("refused")
        connection.close()
        statement.greenlet.join()
        print("closed" if connection.closed else "open")
        print(type(statement.raised).__name__)


@scene
def close_a_dead_connection_in_flight() -> None:
    """Close a connection that is known to be dead while its greenlet still waits for the end of its cancel."""
    _cancelling._cancel = lambda connection: gevent.sleep(0.5)
    make_cooperative()
    with ThrowAwayPostgres() as server, FaultProxy(str(server.socket_path)) as proxy:
        connection = resource(f"host={proxy.host} port={proxy.port} user=postgres")["on_create"]()
        statement = Statement(connection)
        statement.greenlet.kill(gevent.GreenletExit(), block=False)
        gevent.sleep(0)
        proxy.cut()
        while not connection.closed:
            try:
                gevent.sleep(0.001)
                connection.poll()
            except psycopg2.OperationalError:
                print("dead", "in flight" if connection.in_flight else "at rest")
        connection.close()
        connection.say_goodbye(0.1)
        statement.greenlet.join()
        print("ended" if isinstance(statement.raised, gevent.GreenletExit) else repr(statement.raised))


@scene
def destroy_in_flight() -> None:
    """Destroy a connection while another greenlet's statement is in flight on it."""
    make_cooperative()
    with ThrowAwayPostgres() as server:
        options = resource(server.dsn, application_name="victim")
        connection = options["on_create"]()
        statement = Statement(connection)
        options["on_destroy"](connection)
        statement.greenlet.join()
        print("closed" if connection.closed else "open")
        admin = resource(server.dsn)["on_create"]()
        cursor = admin.cursor()
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'victim' AND state = 'active'")
        print(*cursor.fetchone() or ())
        print("ended" if isinstance(statement.raised, psycopg2.Error) else repr(statement.raised))
        admin.close()


@contextmanager
def forked(play: Callable[[], None]) -> Iterator[None]:
    """Fork; ``play`` in the child, the block in the parent, which then waits for the child's good end."""
    child = os.fork()
    if child == 0:
        try:
            play()
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            # Never back into the parent's frames, and not by way of the interpreter's end: its watchdog has no thread.
            os._exit(1)
    try:
        yield
        _, status = eventually(lambda: ended(child), "the child ends")
        assert status == 0, "the child has failed"
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def ended(child: int) -> tuple[int, int] | None:
    """The child's id and status, once it has ended."""
    found = os.waitpid(child, os.WNOHANG)
    return found if found[0] else None


@scene
def forget_in_a_child(state: str) -> None:
    """Fork with a connection in the given state; the child lets go of it, the parent goes on with it."""
    make_cooperative()
    with ThrowAwayPostgres() as server:
        options = resource(server.dsn)
        connection = options["on_create"]()
        cursor = connection.cursor()
        asking = gevent.spawn(cursor.execute, "SELECT 1, pg_sleep(%s)", [0.3 if state == "in_flight" else 0])
        if state == "in_flight":
            eventually(lambda: connection.in_flight, "it is in flight")
        else:
            asking.join()
        if state == "idle":
            options["reset"](connection)

        def let_go() -> None:
            options["on_forget"](connection)
            print("child")

        with forked(let_go):
            pass
        asking.get()
        if state == "idle":
            cursor.execute("SELECT 1")
        print("parent")
        print((cursor.fetchone() or [None])[0])
        connection.close()


@scene
def fork_a_runner() -> None:
    """Fork with a running runner in mid-query: the child makes its own connections, the parent's sessions live on."""
    make_cooperative()
    with ThrowAwayPostgres() as server:
        runner: Runner[GreenConnection] = Runner(**resource(server.dsn), worker_count=2)
        runner.start()
        own = set(runner.map(session_of, range(4)))
        asked = runner.submit(sleep_on_the_server, 0.3)

        def use() -> None:
            print("child", runner.queue_task(answer, 7))
            print("shared" if own & set(runner.map(session_of, range(4))) else "apart")
            runner.stop()

        with forked(use):
            pass
        asked.get()
        print("parent", runner.queue_task(answer, 8))
        print("same" if set(runner.map(session_of, range(4))) <= own else "other")
        runner.stop()


def session_of(connection: GreenConnection, _: int) -> int:
    """A task that takes a while: which session it has."""
    sleep_on_the_server(connection, 0.02)
    return connection.info.backend_pid


def main() -> None:
    """Play the scene of the command line."""
    faulthandler.dump_traceback_later(DEADLINE, exit=True)
    name, *arguments = sys.argv[1:]
    SCENES[name](*arguments)
    gevent.get_hub().destroy()


if __name__ == "__main__":
    main()
