"""Dramatiq's results, with what an exception needs to be raised again as its own class.

Invariant: what is stored can be read by Dramatiq's own `get_result` as well; and in the step in which a message has its
answer its key is free, so whoever has heard it can ask anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dramatiq.results.backends import RedisBackend

from gtasker.distributed._attempt import is_worth_another
from gtasker.distributed._engine import Work
from gtasker.distributed._handle import RemoteTask
from gtasker.distributed._queues import queue_of
from gtasker.distributed._wire import describe, rebuild

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis

    from gtasker.distributed._keys import Keys

_CANARY = "dramatiq.results.Result"
_OURS = "gtasker"
KEY = "gtasker_key"
"""The option of a message that has a key: the key."""
UNBEGUN = "gtasker_unbegun"
"""The option of a message that counts the tries which found no resource; Dramatiq counts them as retries."""


class Results(RedisBackend):  # type: ignore[misc]  # the base has no types
    """The result backend of a `DramatiqEngine`."""

    def __init__(self, client: redis.Redis, namespace: str, tasks: Mapping[str, Work], keys: Keys) -> None:
        super().__init__(client=client, namespace=namespace, use_namespace_prefix_keys=True)
        self._tasks = tasks
        self._keys = keys
        self.unstored: set[str] = set()
        """The messages whose result could not be stored yet."""

    def store_result(self, message: Any, result: Any, ttl: int) -> None:
        """Store it."""
        self._answer(message, result, ttl)

    def store_exception(self, message: Any, exception: BaseException, ttl: int) -> None:
        """Store it with its module, arguments and traceback."""
        task = self._tasks.get(message.actor_name)
        tries = message.options.get("retries", 1) - message.options.get(UNBEGUN, 0)
        spent = task is not None and tries > 1 and is_worth_another(task, exception)
        told = describe(exception, tries if spent else None)
        stored = {"__t": _CANARY, "exn": {"type": told["type"], "msg": told["message"], _OURS: told}}
        self._answer(message, stored, ttl)

    def _answer(self, message: Any, stored: Any, ttl: int) -> None:
        name = self.build_message_key(message)
        self.unstored.add(message.message_id)
        with self.client.pipeline() as pipe:  # a transaction
            pipe.delete(name)
            pipe.lpush(name, self.encoder.encode(stored))
            pipe.pexpire(name, ttl)
            if key := message.options.get(KEY):
                self._keys.forget_with(pipe, key, message.message_id)
            pipe.execute()
        self.unstored.discard(message.message_id)

    def ask(self, handles: Sequence[RemoteTask[Any]]) -> list[bytes | None]:
        """What is stored for each of them, or None, in one round trip. Switches."""
        with self.client.pipeline(transaction=False) as pipe:
            for handle in handles:
                pipe.lindex(self.key_of(handle), 0)
            found: list[bytes | None] = pipe.execute()
            return found

    def key_of(self, handle: RemoteTask[Any]) -> str:
        """Where the result of a message is. Never switches."""
        queue = queue_of(self._tasks[handle.name])
        return f"{self.namespace}:{queue}:{handle.name}:{handle.message_id}"

    def settle(self, handle: RemoteTask[Any], found: bytes) -> None:
        """Answer with what was stored. Never switches."""
        stored = self.encoder.decode(found)
        if isinstance(stored, dict) and stored.get("__t") == _CANARY:
            told = stored["exn"]
            handle.settle_error(rebuild(told.get(_OURS) or _foreign(told)))
        else:
            handle.settle_value(stored)


def _foreign(told: dict[str, Any]) -> dict[str, Any]:
    return {"module": "", "type": told["type"], "args": [], "message": told["msg"], "traceback": "", "attempts": None}
