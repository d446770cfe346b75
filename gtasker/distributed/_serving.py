"""What a process that serves messages does besides: it starts and stops runners, and looks after the dead.

Invariant: a runner starts after the process was forked and before the first message, and stops after the last one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import gevent
import redis
from dramatiq import ActorNotFound, Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware, MiddlewareError
from gevent import Greenlet, monkey

from gtasker import Runner, StartError
from gtasker.distributed._keys import Keys
from gtasker.distributed._patience import Patience, wait_for_connections
from gtasker.distributed._results import KEY, Results

_log = logging.getLogger("gtasker.distributed")
_ALWAYS = 1_000_000  # of a million
_SWEEPS = 4  # in the time after which a silent process counts as dead
_LAST_PATIENCE = 30.0  # seconds that a process which is being stopped goes on trying to reach Redis
_START_TIMEOUT = 3.0  # seconds; a backend that is slower or down is waited for while messages come in


class Parts(NamedTuple):
    """What it needs of its engine. `result_ttl` and `idle_poll` are in milliseconds."""

    client: redis.Redis
    patience: Patience
    keys: Keys
    results: Results
    result_ttl: int
    idle_poll: int


class RunnerMiddleware(Middleware):
    """Starts the runners in `after_process_boot`, stops them in `after_worker_shutdown`, and sweeps in between."""

    def __init__(self, parts: Parts, runners: Iterable[Runner[Any]], stop_timeout: float | None) -> None:
        self._parts = parts
        self._runners = list(runners)
        self._stop_timeout = stop_timeout
        self._sweeper: Greenlet[..., None] | None = None
        self._parting: set[str] = set()  # ids of what is being acknowledged
        self._running: set[str] = set()  # ids in Redis of what is being processed, until it is gone from there

    def after_process_boot(self, broker: Any) -> None:
        """Start the runners. One whose backend is down is left to heal by itself. Switches."""
        if not monkey.is_module_patched("threading"):
            raise SystemExit("run the workers with dramatiq-gevent: a runner belongs to one thread")
        self._parts.patience.be_patient(math.inf)
        wait_for_connections(self._parts.client)
        for runner in self._runners:
            try:
                runner.start(_START_TIMEOUT)
            except StartError as error:
                _log.error("%r did not start, and goes on trying: %s", runner, error.__cause__ or error)

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        """Have it look often: with Dramatiq's own setting a task waits up to a second in an idle process."""
        worker.worker_timeout = self._parts.idle_poll

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        """Begin to sweep. Never switches."""
        self._sweeper = Greenlet(self._sweep, worker)
        self._sweeper.start()

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Bound the patience with Redis. Never switches."""
        self._parts.patience.be_patient(_LAST_PATIENCE)

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Stop the runners: the last task has ended. Switches."""
        if self._sweeper is not None:
            self._sweeper.kill()
        for runner in self._runners:
            _log.info("%r: %s", runner, runner.stop(self._stop_timeout))

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Let the message's key stand for as long again. Switches."""
        self._running.add(message.options["redis_message_id"])
        if key := message.options.get(KEY):
            self._parts.keys.renew(key, message.message_id)

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Answer a message that has failed, and let go of the key of one whose value cannot be stored. Switches."""
        if exception is not None and message.failed:
            # Dramatiq stores it after the message is gone; if this process died in between, nobody would ever answer.
            self._parts.results.store_exception(message, exception, self._parts.result_ttl)
            return
        is_unanswered = exception is None and message.message_id in self._parts.results.unstored
        if is_unanswered and (key := message.options.get(KEY)):
            self._parts.keys.forget(key, message.message_id)

    def before_ack(self, broker: Any, message: Any) -> None:
        """Keep in Redis what nobody could be told of. Never switches. Raises MiddlewareError.

        When patience is over, Dramatiq goes on trying to acknowledge, for ten minutes: were Redis back by then, the
        message would be gone without an answer.
        """
        tried_before = message.message_id in self._parting
        self._parting.add(message.message_id)
        if self._parts.patience.is_over and (tried_before or message.message_id in self._parts.results.unstored):
            raise MiddlewareError(f"{message} is left to be delivered again: Redis did not answer in time")

    def before_nack(self, broker: Any, message: Any) -> None:
        """Tell the sender of a task that is not known here, for Dramatiq tells nobody. Switches."""
        self.before_ack(broker, message)
        if message.actor_name in broker.actors:
            return
        unknown: Any = ActorNotFound(  # type: ignore[no-untyped-call]
            f"this process has no task {message.actor_name!r}: serve with the sender's code"
        )
        self._parts.results.store_exception(message, unknown, self._parts.result_ttl)

    def after_ack(self, broker: Any, message: Any) -> None:
        """Redis has forgotten it. Never switches."""
        self._parting.discard(message.message_id)
        self._parts.results.unstored.discard(message.message_id)
        self._running.discard(message.options["redis_message_id"])

    after_nack = after_ack

    def _sweep(self, worker: Any) -> None:
        """Have the messages of dead processes delivered again, and those that got lost on their way to this one."""
        broker = worker.broker
        # With an id of its own: it commands nothing but the maintenance that comes with each command.
        sweeper = RedisBroker(  # type: ignore[no-untyped-call]
            client=self._parts.client,
            namespace=broker.namespace,
            heartbeat_timeout=broker.heartbeat_timeout,
            dead_message_ttl=broker.dead_message_ttl,
            maintenance_chance=_ALWAYS,
            middleware=[],
        )
        sweeper.broker_id = broker.broker_id
        strays: set[bytes] = set()
        while True:
            gevent.sleep(broker.heartbeat_timeout / 1000 / _SWEEPS)
            found: set[bytes] = set()
            for queue, thread in list(worker.consumers.items()):
                try:
                    sweeper.do_qsize(queue)
                    found |= self._give_back(sweeper, queue, self._known(worker, thread), strays)
                except Exception as error:
                    _log.warning("could not sweep %s: %s", queue, error)
            strays = found

    def _known(self, worker: Any, thread: Any) -> set[bytes]:
        waiting = [item.message for item in (*worker.work_queue.queue, *thread.delay_queue.queue)]
        if thread.consumer is not None:
            waiting += [Message.decode(data) for data in thread.consumer.message_cache if data is not None]
        return {one.encode() for one in self._running} | {
            message.options["redis_message_id"].encode() for message in waiting
        }

    def _give_back(self, broker: Any, queue: str, known: set[bytes], strays: set[bytes]) -> set[bytes]:
        """Put back what Redis says this process has, and this process does not know, twice in a row.

        The answer to a fetch can be lost with its connection; without this its messages would wait for our death.
        """
        taken: Any = self._parts.client.smembers(f"{broker.namespace}:__acks__.{broker.broker_id}.{queue}")
        unknown = taken - known
        if lost := unknown & strays:
            _log.warning("%d messages were lost on their way here, and are put back", len(lost))
            broker.do_requeue(queue, *lost)
        return set(unknown - lost)
