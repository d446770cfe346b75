"""Dramatiq with Redis: messages, results, redelivery after a death. Served by `dramatiq-gevent`.

Invariant: Dramatiq owns every retry; a runner lends resources to its greenlets and tries nothing again by itself.

    engine = DramatiqEngine("redis://localhost", runners=[runner])
    broker = engine.broker      # dramatiq-gevent shop.tasks:broker --processes 1 --threads 20
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, final
from uuid import uuid4

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import (
    Callbacks,
    CurrentMessage,
    Middleware,
    Pipelines,
    Retries,
    ShutdownNotifications,
    TimeLimit,
)
from dramatiq.middleware.time_limit import TimeLimitExceeded
from dramatiq.results import Results as StoreResults

from gtasker import Runner
from gtasker.distributed._attempt import NotBegunError, attempt, may_try_again
from gtasker.distributed._engine import Work
from gtasker.distributed._handle import RemoteTask
from gtasker.distributed._keys import Keys
from gtasker.distributed._patience import Patience, connect
from gtasker.distributed._poller import Poller
from gtasker.distributed._queues import queue_of
from gtasker.distributed._results import KEY, UNBEGUN, Results
from gtasker.distributed._serving import Parts, RunnerMiddleware
from gtasker.distributed.errors import EngineUnavailableError

__all__ = ["DramatiqEngine", "RunnerMiddleware"]

_WEEK = 7 * 24 * 3600  # seconds; Dramatiq itself keeps nothing longer
_RETRY_BACKOFF = (500, 60_000)  # milliseconds: the first further attempt, and the longest pause


@final
class DramatiqEngine:
    """A broker, its result backend and its middleware, with settings that suit gevent.

    `runners`: those whose resources the tasks use; they start when a serving process has booted and stop after its last
    task. `heartbeat` (seconds): a process that was not heard of for so long counts as dead, and its messages are
    delivered again; longer than any task ever blocks the event loop. `connections`: to Redis, from this process; more
    greenlets wait for one. `result_ttl`, `key_ttl`, `dead_ttl` (seconds): how long a result is kept, a key stands, and
    the message of a failed task lies in the dead-letter queue.
    `idle_poll` (seconds): the longest pause between two looks into an empty queue, and so what a task may wait in an
    idle process. `stop_timeout` (seconds): passed to `Runner.stop`. `namespace`: prefix of everything in Redis.
    """

    def __init__(
        self,
        url: str = "redis://localhost",
        *,
        runners: Iterable[Runner[Any]] = (),
        heartbeat: float = 6.0,
        connections: int = 16,
        result_ttl: float = 600.0,
        key_ttl: float = 3600.0,
        dead_ttl: float = 86_400.0,
        idle_poll: float = 0.2,
        stop_timeout: float | None = None,
        namespace: str = "gtasker",
    ) -> None:
        self.tasks: dict[str, Work] = {}
        patience = Patience()
        self.client = connect(url, connections, patience)
        self._namespace = namespace
        self.result_ttl = int(result_ttl * 1000)
        self.keys = Keys(self.client, f"{namespace}-keys", key_ttl)
        self.results = Results(self.client, f"{namespace}-results", self.tasks, self.keys)
        self._poller = Poller(self.results.ask, self.results.settle)
        parts = Parts(self.client, patience, self.keys, self.results, self.result_ttl, int(idle_poll * 1000))
        self.broker = RedisBroker(  # type: ignore[no-untyped-call]
            client=self.client,
            namespace=namespace,
            heartbeat_timeout=int(heartbeat * 1000),
            dead_message_ttl=int(dead_ttl * 1000),
            # Done for certain by `RunnerMiddleware`, not by chance: an idle queue sees one command a second.
            maintenance_chance=0,
            middleware=self._middleware(RunnerMiddleware(parts, runners, stop_timeout)),
        )

    def __repr__(self) -> str:
        return f"<DramatiqEngine {self._namespace!r}, {len(self.tasks)} tasks>"

    def close(self) -> None:
        """Close the connections to Redis; handles without an answer get EngineUnavailableError. Switches."""
        self._poller.close()
        self.client.connection_pool.disconnect()

    def declare(self, task: Work) -> None:
        """Make an actor of the task. Raises ValueError for a name that is taken. Never switches."""
        if task.name in self.tasks:
            raise ValueError(f"there are two tasks with the name {task.name!r}")
        self.tasks[task.name] = task

        def retry_when(tries: int, error: BaseException) -> bool:
            options = CurrentMessage.get_current_message().options  # type: ignore[union-attr]
            unbegun = options.get(UNBEGUN, 0)
            options[UNBEGUN] = unbegun + isinstance(error, NotBegunError)
            return may_try_again(task, error, tries - unbegun)

        options: dict[str, Any] = {"retry_when": retry_when}
        if task.timeout is not None:
            options["time_limit"] = int(task.timeout * 1000)
        make_actor = dramatiq.actor(
            actor_name=task.name,
            queue_name=queue_of(task),
            priority=task.priority,
            broker=self.broker,
            **options,
        )
        make_actor(self._body(task))

    def send(self, task: Work, args: list[Any], key: str | None) -> RemoteTask[Any]:
        """Send a message and return its handle. Switches. Raises EngineUnavailableError."""
        actor: Any = self.broker.get_actor(task.name)
        options = {} if key is None else {KEY: f"{task.name}:{key}"}
        message = actor.message_with_options(args=args, **options)
        try:
            handle = self._enqueue(task, message, options.get(KEY))
        except redis.RedisError as error:
            raise EngineUnavailableError(f"{task.name} could not be sent: {error}") from error
        self._poller.watch(handle)
        return handle

    def _middleware(self, serving: RunnerMiddleware) -> list[Middleware]:
        """What comes later in it is told first of an end."""
        return [
            ShutdownNotifications(),
            Callbacks(),
            Pipelines(),
            CurrentMessage(),
            # Knows what became of the message, for before it is told,
            serving,
            # it is decided whether there is another attempt,
            Retries(min_backoff=_RETRY_BACKOFF[0], max_backoff=_RETRY_BACKOFF[1]),
            # and before that, its result is stored,
            StoreResults(  # type: ignore[no-untyped-call]
                backend=self.results, store_results=True, result_ttl=self.result_ttl
            ),
            # and, first of all, the clock is stopped: storing may have to wait for Redis.
            TimeLimit(time_limit=math.inf),
        ]

    def _enqueue(self, task: Work, message: Any, key: str | None) -> RemoteTask[Any]:
        message_id = message.message_id
        if key is None:
            self.broker.enqueue(message)
            return RemoteTask(task.name, message_id)
        other = self.keys.claim(key, message_id)
        if other is not None:
            return RemoteTask(task.name, other, joined=True)
        # A failure leaves a claim that lapses: whether the message was taken is unknown.
        self.broker.enqueue(message)
        self.keys.confirm(key, message_id)
        return RemoteTask(task.name, message_id)

    def _body(self, task: Work) -> Any:
        def serve(*args: Any) -> Any:
            return attempt(task, args, self._begin, lambda error: isinstance(error, TimeLimitExceeded))

        return serve

    def _begin(self) -> bool:
        """Whether this is the first attempt of the current message, by whomever. Switches."""
        message: Any = CurrentMessage.get_current_message()
        name, mine = f"{self._namespace}-once:{message.message_id}", uuid4().hex
        if self.client.set(name, mine, nx=True, ex=_WEEK):
            return True
        found: Any = self.client.get(name)
        return bool(found == mine.encode())  # the answer to the first try was lost on its way
