"""Orders: pause, resume, recycle and resize, given to one process and obeyed by all that share its shelf.

Invariant: an order is obeyed at most once by each process, and by none that sees it later than `SPAN`
after it was given.
"""

from __future__ import annotations

import secrets
from time import monotonic
from typing import Any

import gtasker
from gtasker.errors import ConfigError
from gtasker.integrations.dashboard._journal import Journal
from gtasker.integrations.dashboard._shelf import Shelf

SPAN = 10.0
"""Seconds for which an order holds: each process looks once a second."""
SIZES = ("worker_count", "max_worker_count", "resource_pool_size", "max_resources")
MOST = 10_000
"""The greatest size that is taken from a page: a slip of the finger should not open a million connections."""


class OrderError(ValueError):
    """The order makes no sense; its text is for the one who gave it."""


def check(wanted: Any) -> dict[str, Any]:
    """An order out of what a page sent. Raises OrderError."""
    if not isinstance(wanted, dict) or not isinstance(wanted.get("runner"), str):
        raise OrderError("an order names a runner")
    if wanted.get("action") not in ("pause", "resume", "recycle", "resize"):  # it may be anything, a list too
        raise OrderError("the actions are pause, resume, recycle and resize")
    sizes = {name: wanted[name] for name in SIZES if wanted.get(name) is not None}
    for name, size in sizes.items():
        if type(size) is not int or not 0 <= size <= MOST:
            raise OrderError(f"{name} is a whole number from 0 to {MOST}")
    if bool(sizes) is not (wanted["action"] == "resize"):
        raise OrderError("resize takes sizes, and nothing else does")
    return {"at": monotonic(), "runner": wanted["runner"], "action": wanted["action"], "sizes": sizes}


class Orders:
    """What this process was told to do."""

    def __init__(self, journal: Journal, shelf: Shelf | None) -> None:
        self._journal = journal
        self._shelf = shelf
        self._obeyed: set[str] = set()

    def give(self, order: dict[str, Any]) -> None:
        """Obey at once, and have the other processes do so within a second. Never switches.

        Raises ConfigError if the runners here refuse it; then nobody else hears of it.
        """
        self._obey(order)
        if self._shelf is not None:
            name = f"order-{secrets.token_hex(8)}"
            self._obeyed.add(name)
            self._shelf.put(name, order)

    def look(self) -> None:
        """Obey what others were told. Never switches."""
        if self._shelf is None:
            return
        present = dict(self._shelf.take("order"))
        for name in present.keys() - self._obeyed:
            self._obeyed.add(name)
            if monotonic() - present[name]["at"] <= SPAN:
                self._obey_late(present[name])
        self._obeyed &= present.keys()

    def _obey(self, order: dict[str, Any]) -> None:
        for runner in gtasker.runners():
            if runner.config.name == order["runner"]:
                getattr(runner, order["action"])(**order["sizes"])
                sizes = "".join(f", {name} {size}" for name, size in order["sizes"].items())
                self._journal.write(monotonic(), runner.config.name, "info", f"Told to {order['action']}{sizes}")

    def _obey_late(self, order: dict[str, Any]) -> None:
        try:
            self._obey(order)
        except ConfigError as error:
            self._journal.write(monotonic(), order["runner"], "warn", f"Refused to {order['action']}: {error}")
