"""What all workers together may open: a number that no single process shows.

Invariant: each runner is told of once by one process, and the sum is never compared with a limit of another server.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from gtasker import ConfigError, Runner
from gtasker.integrations._draining import Log

VARIABLE = "GTASKER_SERVER_LIMIT"
_ALL = ""
"""The name that stands for all runners together."""


class Sum:
    """Tells of the runners of one process, times the number of workers."""

    def __init__(self, workers: int, limits: Mapping[str, int], log: Log, *, speaks: bool) -> None:
        self._workers = workers
        self._limits = limits
        self._log = log
        self._speaks = speaks
        self._told: dict[str, int] = {}

    @classmethod
    def of(cls, workers: int, log: Log, *, speaks: bool) -> Sum:
        """The sum under the limits of the environment. Raises ConfigError when those cannot be read."""
        return cls(workers, limits_of(os.environ), log, speaks=speaks)

    def look_at(self, runners: Iterable[Runner[Any]]) -> None:
        """Tell of those that were not there before. Never switches, but as the log does."""
        if not self._speaks:
            return
        new = [runner.config for runner in runners if runner.config.name not in self._told]
        for config in new:
            total = self._told[config.name] = self._workers * config.max_resources
            sum_ = f"{self._workers} workers x {config.max_resources} resources = {total}"
            self._log.info("gtasker: runner %r may open %s", config.name, sum_)
            self._compare(config.name, f"runner {config.name!r}", total)
        if new:
            self._compare(_ALL, "all runners together", sum(self._told.values()))

    def _compare(self, name: str, who: str, total: int) -> None:
        limit = self._limits.get(name)
        if limit is not None and total > limit:
            self._log.warning("gtasker: %s may open %d resources, but the server allows %d", who, total, limit)


def limits_of(environment: Mapping[str, str]) -> dict[str, int]:
    """The limits by the runners' names; what a bare number limits is all of them. Raises ConfigError."""
    text, limits = environment.get(VARIABLE, ""), {}
    for word in text.split():
        name, _, number = word.rpartition("=")
        if not number.isdecimal():
            raise ConfigError(f"{VARIABLE} is {text!r}, which is neither a number nor pairs like 'shop=97 cache=500'")
        limits[name] = int(number)
    return limits
