"""Celery's results, with what an exception needs to be raised again as its own class.

Invariant: what is stored can be read by Celery's own `AsyncResult` as well; and while Redis is away, full, or no
primary, a result waits, for a task that did what it should must not be told as failed; in a worker that is being
stopped it does not wait for ever: its message is delivered again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from celery.backends.redis import RedisBackend  # type: ignore[import-untyped]
from redis.exceptions import OutOfMemoryError, ReadOnlyError

from gtasker.distributed._handle import RemoteTask
from gtasker.distributed._wire import rebuild

_OURS = "gtasker"
_ENDS = frozenset({"SUCCESS", "FAILURE"})

told_as: dict[str, dict[str, Any]] = {}
"""How the failures are told that are on their way to the backend, by message."""


_LAST_PATIENCE = 30.0  # seconds that a worker which is being stopped goes on trying to store a result


class _Patience:
    until = math.inf


def hurry(**_: Any) -> None:
    """The worker is being stopped: try for so long, and no longer. Never switches. For `worker_shutting_down`."""
    _Patience.until = min(_Patience.until, time.monotonic() + _LAST_PATIENCE)


class Backend(RedisBackend):  # type: ignore[misc]  # Celery has no types
    """Celery's results, without a subscription for each message sent, and with what an exception is rebuilt from."""

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Subscribe to nothing: one poller asks for all."""

    def store_result(self, task_id: str, result: Any, state: str, *args: Any, **options: Any) -> Any:
        """Bring together the exception, which Celery may have wrapped, and what it was told as."""
        told = told_as.pop(task_id, None)
        if told is not None and isinstance(result, BaseException):
            result.gtasker_told = told  # type: ignore[attr-defined]
        return super().store_result(task_id, result, state, *args, **options)

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """Add its module, arguments and traceback to what Celery stores."""
        stored = super().prepare_exception(exc, serializer)
        return {**stored, _OURS: getattr(exc, "gtasker_told", None)} if isinstance(stored, dict) else stored

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Whether to store it again later (`result_backend_always_retry`)."""
        if time.monotonic() > _Patience.until:
            return False
        return isinstance(exc, (OutOfMemoryError, ReadOnlyError)) or super().exception_safe_to_retry(exc)


def answer_of(backend: Any, found: bytes) -> dict[str, Any] | Exception | None:
    """What is stored for a message, if that is its end; an exception if it cannot be read. Never switches."""
    try:
        meta: dict[str, Any] = backend.decode(found)
        return meta if meta["status"] in _ENDS else None
    except Exception as error:  # one that is amiss must not keep the others from being asked for
        return error


def settle(handle: RemoteTask[Any], answer: dict[str, Any] | Exception) -> None:
    """Answer with what was stored. Never switches."""
    if isinstance(answer, Exception):
        raise answer
    if answer["status"] == "SUCCESS":
        handle.settle_value(answer["result"])
    else:
        handle.settle_error(rebuild(answer["result"].get(_OURS) or _foreign(answer)))


def _foreign(meta: Mapping[str, Any]) -> dict[str, Any]:
    told = meta["result"]
    message = " ".join(map(str, told.get("exc_message") or ()))
    return {
        "module": told.get("exc_module") or "",
        "type": told.get("exc_type") or "",
        "args": [],
        "message": message,
        "traceback": meta.get("traceback") or "",
        "attempts": None,
    }
