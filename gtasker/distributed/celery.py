"""Celery with Redis, for those who have it already: served by `celery worker --pool gevent`.

Invariant: Celery owns every retry. Runners start in `worker_init` and stop in `worker_shutdown`, after the last task:
`worker_process_init` is not sent under gevent, and `worker_shutting_down` comes in the hub, where nothing may wait.

    engine = CeleryEngine("redis://localhost", runners=[runner])
    app = engine.app      # celery --app shop.tasks:app worker --pool gevent --concurrency 20

Known losses: SIGQUIT acknowledges what it interrupts, and those tasks are gone; stop with SIGTERM alone. The tasks of a
process that was shot are delivered again after `visibility_timeout`, and so, a second time, is whatever takes longer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, final
from uuid import uuid4

import gevent
import kombu.exceptions
import redis
from celery import Celery, signals  # type: ignore[import-untyped]
from gevent import Greenlet, monkey
from kombu.entity import Exchange, Queue

from gtasker import Runner, StartError
from gtasker.distributed._attempt import NotBegunError, attempt, is_worth_another, may_try_again
from gtasker.distributed._celery_results import Backend, answer_of, hurry, settle, told_as
from gtasker.distributed._engine import Work
from gtasker.distributed._handle import RemoteTask
from gtasker.distributed._keys import Keys
from gtasker.distributed._patience import Patience, connect
from gtasker.distributed._poller import Poller
from gtasker.distributed._queues import QUEUES, queue_of
from gtasker.distributed._wire import describe
from gtasker.distributed.errors import EngineUnavailableError

__all__ = ["Backend", "CeleryEngine"]

_log = logging.getLogger("gtasker.distributed")
_KEY, _UNBEGUN = "gtasker_key", "gtasker_unbegun"  # headers: the key, and the tries that found no resource
_RETRY_BACKOFF = (0.5, 60.0)  # seconds: the first further attempt, and the longest pause
_START_TIMEOUT = 3.0  # seconds; a backend that is slower or down is waited for while messages come in
_SOCKET_TIMEOUT = 10.0  # seconds
_SENDERS_TRIES = {"max_retries": 3, "interval_start": 0.05, "interval_step": 0.1, "interval_max": 0.2}  # seconds
_SWEEPS = 4  # in a visibility timeout


class _InterruptedError(Exception):
    """An attempt ended by what is no Exception, such as a time-out of the task's own; what it was is told apart."""


@final
class CeleryEngine:
    """An application of Celery's with settings that suit gevent.

    `runners`: those whose resources the tasks use. `visibility_timeout` (seconds): when an unacknowledged message is
    delivered again; longer than any task takes, its wait for a greenlet included. `connections`: to Redis, for the
    results; more greenlets wait for one. `result_ttl`, `key_ttl` (seconds): how long a result is kept, a key stands.
    `stop_timeout` (seconds): passed to `Runner.stop`. `namespace`: prefix of everything in Redis.
    """

    def __init__(
        self,
        url: str = "redis://localhost",
        *,
        runners: Iterable[Runner[Any]] = (),
        visibility_timeout: float = 300.0,
        connections: int = 16,
        result_ttl: float = 600.0,
        key_ttl: float = 3600.0,
        stop_timeout: float | None = None,
        namespace: str = "gtasker",
    ) -> None:
        self.tasks: dict[str, Work] = {}
        self.client = connect(url, connections, Patience())
        self.keys = Keys(self.client, f"{namespace}-keys", key_ttl)
        self._runners = list(runners)
        self._stop_timeout = stop_timeout
        self._namespace = namespace
        self._sweeper: Greenlet[[], None] | None = None
        self._poller = Poller(self._ask, settle)
        self.app = Celery(namespace, broker=url, backend=f"{Backend.__module__}:Backend+{url}", set_as_current=False)
        self.app.conf.update(_settings(namespace, visibility_timeout, result_ttl))
        # Not weakly: nobody else keeps a bound method.
        signals.worker_init.connect(self._start, weak=False)
        signals.worker_shutting_down.connect(hurry, weak=False)
        signals.worker_shutdown.connect(self._stop, weak=False)
        signals.task_postrun.connect(self._ended, weak=False)

    def __repr__(self) -> str:
        return f"<CeleryEngine {self._namespace!r}, {len(self.tasks)} tasks>"

    def close(self) -> None:
        """Close it and hear no more of signals; unanswered handles get EngineUnavailableError. Switches."""
        self._poller.close()
        signals.worker_init.disconnect(self._start)
        signals.worker_shutdown.disconnect(self._stop)
        signals.task_postrun.disconnect(self._ended)
        self.app.close()
        self.client.connection_pool.disconnect()

    def declare(self, task: Work) -> None:
        """Make a Celery task of it. Raises ValueError for a name that is taken. Never switches."""
        if task.name in self.tasks:
            raise ValueError(f"there are two tasks with the name {task.name!r}")
        self.tasks[task.name] = task
        # With `once` the message goes before the attempt: at most once, and an attempt that dies is never answered.
        self.app.task(
            self._body(task), name=task.name, bind=True, shared=False, acks_late=not task.once, max_retries=None
        )

    def send(self, task: Work, args: list[Any], key: str | None) -> RemoteTask[Any]:
        """Send a message and return its handle. Switches. Raises EngineUnavailableError."""
        try:
            handle = self._enqueue(task, args, None if key is None else f"{task.name}:{key}")
        except (redis.RedisError, kombu.exceptions.OperationalError) as error:
            raise EngineUnavailableError(f"{task.name} could not be sent: {error}") from error
        self._poller.watch(handle)
        return handle

    def _enqueue(self, task: Work, args: list[Any], key: str | None) -> RemoteTask[Any]:
        message_id = str(uuid4())
        other = None if key is None else self.keys.claim(key, message_id)
        if other is not None:
            return RemoteTask(task.name, other, joined=True)
        self.app.tasks[task.name].apply_async(
            args, task_id=message_id, queue=self._queue(task), headers={_KEY: key}, retry=False
        )
        if key is not None:
            self.keys.confirm(key, message_id)
        return RemoteTask(task.name, message_id)

    def _queue(self, task: Work) -> str:
        return f"{self._namespace}-{queue_of(task)}"

    def _ask(self, handles: Sequence[RemoteTask[Any]]) -> Sequence[Any]:
        backend = self.app.backend
        found: list[Any] = self.client.mget([backend.get_key_for_task(handle.message_id) for handle in handles])
        return [None if one is None else answer_of(backend, one) for one in found]

    def _body(self, task: Work) -> Any:
        def serve(request: Any, *args: Any) -> Any:
            if key := request.request.get(_KEY):
                self.keys.renew(key, request.request.id)
            unbegun = request.request.get(_UNBEGUN) or 0
            tried = request.request.retries + 1 - unbegun
            try:
                return _limited(task, args)
            except BaseException as error:
                # Of what is no Exception Celery stores nothing: it would be delivered again, for ever.
                told = error if isinstance(error, Exception) else _InterruptedError(repr(error))
                if may_try_again(task, error, tried - 1):
                    headers = {_KEY: key, _UNBEGUN: unbegun + isinstance(error, NotBegunError)}
                    raise request.retry(exc=told, countdown=_pause(tried + unbegun), headers=headers) from error
                told_as[request.request.id] = describe(
                    error, tried if tried > 1 and is_worth_another(task, error) else None
                )
                raise told from error

        return serve

    def _start(self, **_: Any) -> None:
        if not monkey.is_module_patched("threading"):
            raise SystemExit("run the worker with --pool gevent: a runner belongs to one thread")
        for runner in self._runners:
            try:
                runner.start(_START_TIMEOUT)
            except StartError as error:
                _log.error("%r did not start, and goes on trying: %s", runner, error.__cause__ or error)

        self._sweeper = Greenlet(self._sweep)
        self._sweeper.start()

    def _sweep(self) -> None:
        """Have the messages of the dead delivered again: without an event loop of its own, Celery does so by chance."""
        pause = self.app.conf.broker_transport_options["visibility_timeout"] / _SWEEPS
        while True:
            gevent.sleep(pause)
            try:
                with self.app.connection_for_read() as connection:
                    connection.default_channel.qos.restore_visible(num=None, interval=1)
            except Exception as error:
                _log.warning("could not sweep: %s", error)

    def _stop(self, **_: Any) -> None:
        if self._sweeper is not None:
            self._sweeper.kill()
        for runner in self._runners:
            _log.info("%r: %s", runner, runner.stop(self._stop_timeout))

    def _ended(self, task_id: str = "", task: Any = None, state: str = "", **_: Any) -> None:
        key = None if task is None else task.request.get(_KEY)
        if key and state in ("SUCCESS", "FAILURE") and task.app is self.app:
            self.keys.forget(key, task_id)


def _settings(namespace: str, visibility_timeout: float, result_ttl: float) -> dict[str, Any]:
    return {
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        # A message is there until its task has ended; it is the prefetched ones that a dead process holds longest.
        "task_acks_late": True,
        "worker_prefetch_multiplier": 1,
        "task_queues": [_queue(f"{namespace}-{name}") for name in QUEUES],
        "task_default_queue": f"{namespace}-{QUEUES[1]}",
        "result_expires": result_ttl,
        # What a task returned is not to become its failure because Redis was away.
        "result_backend_always_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_transport": "gtasker.distributed._transport:Transport",
        "broker_transport_options": {
            "visibility_timeout": visibility_timeout,
            "queue_order_strategy": "priority",  # in the order of `task_queues`
            "global_keyprefix": f"{namespace}-",
            "socket_timeout": _SOCKET_TIMEOUT,
            "socket_connect_timeout": _SOCKET_TIMEOUT,
            **_SENDERS_TRIES,
        },
        "result_backend_transport_options": {"global_keyprefix": f"{namespace}-results-"},
        "redis_socket_timeout": _SOCKET_TIMEOUT,
        "worker_hijack_root_logger": False,
    }


def _queue(name: str) -> Any:
    # Without an exchange of their own all queues would be bound alike, and each get every message.
    return Queue(name, Exchange(name, type="direct"), routing_key=name)  # type: ignore[no-untyped-call]


def _limited(task: Work, args: tuple[Any, ...]) -> Any:
    """One attempt within the task's time: Celery has no limit of its own that a greenlet could catch."""
    with gevent.Timeout(task.timeout) as limit:
        return attempt(task, args, lambda: True, lambda error: error is limit)


def _pause(tried: int) -> float:
    least, most = _RETRY_BACKOFF
    return float(min(least * 2 ** (tried - 1), most))
