"""A pool's settings, in the words of ``QueuePool``, and what they mean to a runner.

Invariant: an option means here what it means there; what a runner has more comes from ``runner_options`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import exc

_KEEPALIVE = 60.0  # seconds


class Settings(NamedTuple):
    """What ``GTaskerPool`` was given. Raises nothing by itself: ``config_of`` looks."""

    pool_size: int
    max_overflow: int
    timeout: float | None
    recycle: float
    pre_ping: bool
    runner_options: Mapping[str, Any]


def config_of(settings: Settings, name: str | None, hooks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of ``gtasker.Config``. Raises ArgumentError."""
    size, overflow = settings.pool_size, settings.max_overflow
    if size < 1 or overflow < 0:
        raise exc.ArgumentError(f"there must be a bound: pool_size={size} of 1 or more, max_overflow={overflow} of 0")
    options: dict[str, Any] = {**settings.runner_options}
    workers = options.setdefault("worker_count", 1)
    most = options.setdefault("max_worker_count", workers)
    options.setdefault("resource_pool_size", max(0, size - workers))
    options.setdefault("keepalive", _KEEPALIVE)
    if settings.recycle > -1:
        options.setdefault("max_lifetime", settings.recycle)
    if settings.pre_ping:
        options.setdefault("check_idle", 0.0)
    if name:
        options.setdefault("name", name)
    bound = max(size + overflow, most + options["resource_pool_size"])
    ours = {"max_resources": bound, "acquire_timeout": settings.timeout, "ctx": None, **hooks}
    if wrong := sorted(ours.keys() & options.keys()):
        raise exc.ArgumentError(f"runner_options may not hold {', '.join(wrong)}: the pool sets them")
    return {**options, **ours}
