"""A runner over real connections, with what the tests ask of it: why connections went, whether all are back.

Invariant: the runner's options are those of `resource`, so that what is tested is what a user gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent
from gevent import Greenlet

from gtasker import Runner, RunnerEvent
from gtasker.events import DestroyReason, ResourceDestroyed
from gtasker.integrations.psycopg2 import GreenConnection, resource
from tests.postgres._server import eventually


class Fleet:
    """A runner, and a tally of the connections it destroyed; ``connecting`` are the options of ``resource``."""

    def __init__(self, dsn: str, connecting: dict[str, Any], **options: Any) -> None:
        self.reasons: Counter[DestroyReason] = Counter()
        settings: dict[str, Any] = {"worker_count": 4, "resource_pool_size": 2, "on_event": self._note}
        # What these tests do may be done twice.
        made = resource(dsn, **{"replay_unknown_commit": True, **connecting})
        self.runner: Runner[GreenConnection] = Runner(**{**made, **settings, **options})

    def _note(self, event: RunnerEvent) -> None:
        if isinstance(event, ResourceDestroyed):
            self.reasons[event.reason] += 1

    @property
    def is_full(self) -> bool:
        """Whether every base worker and the whole reserve have their connection, and nothing more is to be done."""
        stats, config = self.runner.stats(), self.runner.config
        return (
            stats.active_workers == config.worker_count
            and stats.available_resources >= config.resource_pool_size
            and stats.busy_workers == stats.creating_resources == stats.waiting_leases == stats.abandoned == 0
        )

    def refills(self) -> None:
        """Wait, without a call of the runner, until it is full."""
        eventually(lambda: self.is_full, "the runner fills up by itself")


class Crowd:
    """Greenlets that each make one call and keep its answer."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self._callers: list[Greenlet[..., None]] = []

    def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Greenlet[..., None]:
        """Make the call in a greenlet of its own; what it raises is its answer, a kill included."""

        def caller() -> None:
            try:
                self.answers.append(fn(*args, **kwargs))
            except BaseException as error:
                self.answers.append(error)

        greenlet = gevent.spawn(caller)
        self._callers.append(greenlet)
        return greenlet

    def wait(self) -> list[Any]:
        """Every answer, once all have theirs."""
        gevent.joinall(self._callers)
        return self.answers

    @property
    def size(self) -> int:
        """How many calls were made."""
        return len(self._callers)


def answer(connection: GreenConnection, number: int, sleep: float = 0.0) -> int:
    """A task: the number, by way of the server, in a transaction."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s, pg_sleep(%s)", [number, sleep])
        [(found, _)] = cursor.fetchall()
    return int(found)


def sleep_on_the_server(connection: GreenConnection, seconds: float = 600.0) -> None:
    """A task that is still under way when something happens to it."""
    connection.cursor().execute("SELECT pg_sleep(%s)", [seconds])
