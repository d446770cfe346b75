"""The application of these tests: its tasks, and the runner whose connections they use.

Invariant: built alike in the test's process, which sends, and in the workers, which serve.
"""

from __future__ import annotations

import os
import time
from typing import Any

import gevent

from gtasker import Config, Priority, Runner
from gtasker.distributed import Definition, task
from gtasker.distributed.limiter import bounded
from gtasker.distributed.semaphore import RedisLimiter
from gtasker.integrations.psycopg2 import GreenConnection, resource

SCHEMA = """
    CREATE TABLE IF NOT EXISTS effect (name text, number int, PRIMARY KEY (name, number));
    CREATE TABLE IF NOT EXISTS attempt (name text, number int, pid int, at timestamptz DEFAULT clock_timestamp());
"""
TTL = 3.0
"""Seconds after which a dead process's slots are free again."""


class StrangeError(Exception):
    """Cannot be rebuilt from its arguments."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class MuteError(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise LookupError("nothing to say")


class UnfitError(Exception):
    """Says that the resource is no good."""


def make_runner(dsn: str, application: str, limiter: RedisLimiter | None = None, **options: Any) -> Runner[Any]:
    """A runner over connections, bounded where there is a limiter."""
    connecting: Any = resource(dsn, application_name=application, replay_unknown_commit=True)
    judge = connecting["check_health"]
    connecting["check_health"] = lambda error: not isinstance(error, UnfitError) and judge(error)
    if limiter is not None:
        connecting = bounded(connecting, limiter, patience=0.5)
    sizes = {"worker_count": 1, "max_worker_count": 1, "resource_pool_size": 1, "max_resources": 21, "max_idle": 2.0}
    # Those who find the bound reached wait for their turn, however long the server's machine takes.
    return Runner(
        Config(**{**connecting, "name": "bank", "acquire_timeout": 60.0, "fail_fast_after": None, **sizes, **options})
    )


class App:
    """The tasks, as they are known to one engine."""

    def __init__(self, runner: Runner[Any], engine: Any, **options: Any) -> None:
        self.runner, self.engine = runner, engine

        def define(fn: Any, **own: Any) -> Definition[Any, Any, Any]:
            return task(runner, **{"name": fn.__name__, "engine": engine, **options, **own})(fn)

        self.add = define(add)
        self.echo = define(echo, priority=Priority.HIGH)
        self.fail = define(fail)
        self.divide = define(divide)
        self.say_nothing = define(say_nothing)
        self.time_out = define(time_out, retries=1)
        self.unfit = define(unfit, retries=2)
        self.note = define(note)
        self.note_once = define(note_once, once=True)
        self.note_in_time = define(note, name="note_in_time", timeout=1.5)
        self.hold = define(hold)
        self.too_long = define(too_long, timeout=0.5)
        self.give_back = define(give_back)
        self.leave = define(leave, room=5)


def add(_: GreenConnection, left: int, right: int) -> int:
    return left + right


def echo(_: GreenConnection, value: Any) -> Any:
    return value


def fail(_: GreenConnection, message: str) -> None:
    raise StrangeError(7, reason=message)


def divide(_: GreenConnection, left: int, right: int) -> float:
    return left / right


def say_nothing(_: GreenConnection) -> None:
    raise MuteError("x")


def time_out(_: GreenConnection) -> None:
    """Let a time-out of its own go on, which is no Exception."""
    raise gevent.Timeout(0.25)


def unfit(connection: GreenConnection, name: str) -> None:
    _note_attempt(connection, name, 0)
    raise UnfitError(name)


def note(connection: GreenConnection, name: str, number: int, seconds: float = 0.0) -> int:
    """An effect that takes place once, however often it is tried; and a record of each attempt."""
    _note_attempt(connection, name, number)
    with connection, connection.cursor() as cursor:
        if seconds:
            cursor.execute("SELECT pg_sleep(%s)", [seconds])
        cursor.execute("INSERT INTO effect VALUES (%s, %s) ON CONFLICT DO NOTHING", [name, number])
    return number


def note_once(connection: GreenConnection, name: str, number: int, seconds: float = 0.0) -> int:
    return note(connection, name, number, seconds)


def hold(connection: GreenConnection, seconds: float) -> int:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [seconds])
    return os.getpid()


def too_long(connection: GreenConnection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(60)")


def give_back(_: GreenConnection) -> Any:
    return {"when": [time.localtime()]}


def leave(_: GreenConnection) -> int:
    gevent.sleep(0)
    return os.getpid()


def _note_attempt(connection: GreenConnection, name: str, number: int) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO attempt (name, number, pid) VALUES (%s, %s, %s)", [name, number, os.getpid()])
