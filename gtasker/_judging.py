"""Judging: whether a resource is fit for its next user.

Invariant: what is handed out was fit when last looked at, and had its reset since its last use.

`look` and `settle` are arithmetic and an unpatched `poll`, and never switch; `check`, `reset` and `vouch` call the
hooks of the user's and run in greenlets of the runner's only.

A `reset` may have a way of its own that never waits, `reset.nowait(resource) -> bool`. Where that says true, a use ends
without a call that might switch, so without a greenlet for it.
"""

from __future__ import annotations

import enum
import logging
import select
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from gevent import monkey

from gtasker._calls import Calls
from gtasker._events import DestroyReason
from gtasker._extras import told
from gtasker._loan import Resource
from gtasker._site import Site
from gtasker.errors import GTaskerError

R = TypeVar("R")

_poll: Any = monkey.get_original("select", "poll") if hasattr(select, "poll") else None
# As often as this it is polled, and reads what came unasked, before it is taken for dirty.
_LOOKS = 4
# For so many seconds after the resource has read all that its peer had said it is not looked at: a look costs as much
# as a fifth of a small query, and finds what came in between. HikariCP (aliveBypassWindowMs) allows for 500 ms.
_FRESH = 0.0002


class Verdict(enum.Enum):
    """What a look says, if it does not say why the resource has to go."""

    FIT = "fit"
    CHECK = "check"
    CLEAN = "clean"  # it has to be, by a hook that may switch


# An enumeration's attribute costs as much as a call of a function does.
FIT: Final = Verdict.FIT
CHECK: Final = Verdict.CHECK
CLEAN: Final = Verdict.CLEAN


class Waiting(Protocol):
    """How many wait: what is settled while that is not 0 may be handed on in the same step."""

    waiting: int


class Judge(Generic[R]):
    """Knows the rules by which resources are kept or replaced."""

    def __init__(self, site: Site[R], calls: Calls[R], records: dict[int, Resource[R]]) -> None:
        config = site.config
        self._site = site
        self._calls = calls
        self._records = records
        self._check = config.check_resource
        self._readable = config.check_readable
        self._pollers: dict[int, Any] = {}  # by descriptor; as many as there ever were at once
        self._reset = config.reset
        self._reset_nowait: Callable[[R], object] | None = getattr(config.reset, "nowait", None)
        self._heard_at: Callable[[R], float] | None = getattr(config.reset, "heard_at", None)
        # Idle for less than this it may be used unseen, before its `good_until`.
        self.patience = config.check_idle if config.check_resource is not None else inf
        # Whether a use that ended well leaves nothing to be done.
        self.is_plain = config.reset is None and not config.check_readable
        self.backlog: Waiting  # wired by the core

    def look(self, resource: Resource[R], now: float, served_at: float) -> Verdict | DestroyReason:
        """Say whether it may be used, has to be checked first, or has to go. Never switches.

        What was found fit for a task that waits, later than `served_at`, is on its way to it, and not idle.
        """
        if now < resource.good_until and now - resource.idle_since < self.patience:
            return FIT
        idle = now - max(resource.idle_since, resource.checked_at)
        if now < resource.good_until and idle < self.patience:
            return FIT
        condemned = resource.condemned
        if condemned is not None:
            return condemned
        if now >= resource.expires_at:
            return DestroyReason.EXPIRED
        if self._readable and resource.used:
            if self._is_readable(resource):
                return DestroyReason.READABLE
            if resource.condemned is not None:  # by what `fileno` called
                return resource.condemned
        if self._check is None or not (resource.suspect or idle >= self.patience):
            return FIT
        is_promised = resource.idle_since <= resource.promised_at > served_at
        return FIT if is_promised and not resource.suspect else CHECK

    def check(self, resource: Resource[R], on_survived: Callable[[], object]) -> DestroyReason | None:
        """Ask `check_resource`; if it says no, all older ones are suspect. Switches as the hook does.

        `on_survived` is called in the hub if the hook goes on after its interruption.
        """
        assert self._check is not None
        limit = self._site.config.hook_timeout
        try:
            answer = self._calls.call("check_resource", limit, self._check, resource.value, on_survived=on_survived)
            good = bool(answer)
        except BaseException as error:
            self._site.log(logging.INFO, "check_resource says no: %s", told(error))
            good = False
        if good:
            resource.checked_at = monotonic()
            resource.suspect = False
            resource.good_until = resource.expires_at
            return self._last_look(resource)
        for other in self._records.values():
            if other.id < resource.id:
                other.distrust()
        return DestroyReason.CHECK_FAILED

    def settle(self, resource: Resource[R], now: float) -> Literal[Verdict.FIT, Verdict.CLEAN] | DestroyReason:
        """After a use that ended well at `now`: FIT, why it has to go, or CLEAN: `reset` has to say. Never switches.

        What nobody waits for is looked at before its next use only.
        """
        resource.used = True
        condemned = resource.condemned
        if condemned is not None:
            return condemned
        fresh_until = -inf
        if self._reset is not None:
            try:
                nowait, heard_at = self._reset_nowait, self._heard_at
                if nowait is None or nowait(resource.value) is not True:
                    return CLEAN
                if heard_at is not None:
                    fresh_until = heard_at(resource.value) + _FRESH
            except BaseException as error:  # it was not done, then
                self._site.hook_failed("reset.nowait", error)
                return CLEAN
        if now >= resource.expires_at:
            return DestroyReason.EXPIRED
        resource.idle_since = now
        if self._readable:
            resource.good_until = -inf
            if now < fresh_until <= now + _FRESH and not resource.suspect:
                resource.good_until = min(fresh_until, resource.expires_at)
            elif self.backlog.waiting and self._is_readable(resource):
                return DestroyReason.READABLE
        condemned = resource.condemned  # maybe by what the hooks called
        return FIT if condemned is None else condemned

    def clean(self, resource: Resource[R], now: float) -> DestroyReason | None:
        """After a use that ended well: `reset` it, unless it has to go anyway. Switches as the hook does."""
        verdict = self.settle(resource, now)
        if verdict is FIT:
            return None
        if isinstance(verdict, DestroyReason):
            return verdict
        return self.reset(resource, now)

    def reset(self, resource: Resource[R], now: float) -> DestroyReason | None:
        """What is left to be done after `settle` said CLEAN. Switches as the hook does."""
        if resource.condemned is not None:
            return resource.condemned
        assert self._reset is not None
        try:
            self._calls.call("reset", self._site.config.hook_timeout, self._reset, resource.value)
        except BaseException as error:
            self._site.fault("reset", error)
            return DestroyReason.RESET_FAILED
        resource.idle_since = now
        return self._last_look(resource)

    def _last_look(self, resource: Resource[R]) -> DestroyReason | None:
        # After a hook, which took its time: it may be handed on at once, without a further look at it.
        if resource.condemned is not None:
            return resource.condemned
        if monotonic() >= resource.expires_at:
            return DestroyReason.EXPIRED
        if self._readable and resource.used:
            resource.good_until = -inf
            if self._is_readable(resource):
                return DestroyReason.READABLE
        return None

    def vouch(self, resource: Resource[R]) -> DestroyReason | None:
        """After an interrupted use: ask `on_interrupt` whether it is clean again. Switches as the hook does."""
        hook = self._site.config.on_interrupt
        if hook is None:
            return DestroyReason.INTERRUPTED
        try:
            clean = self._calls.call("on_interrupt", self._site.config.hook_timeout, hook, resource.value)
        except BaseException as error:
            self._site.fault("on_interrupt", error)
            return DestroyReason.INTERRUPTED
        if clean is not True:
            return DestroyReason.INTERRUPTED
        resource.used = True
        return self._last_look(resource)

    def is_healthy(self, error: Exception) -> bool:
        """Ask `check_health`; errors of ours are healthy, and if it raises itself, the error is not."""
        check_health = self._site.config.check_health
        if check_health is None or isinstance(error, GTaskerError):
            return True
        try:
            return bool(self._calls.call("check_health", None, check_health, error))
        except BaseException as fault:
            self._site.fault("check_health", fault)
            return False

    def _is_readable(self, resource: Resource[R]) -> bool:
        value: Any = resource.value
        try:
            fileno = getattr(value, "fileno", None)
            if fileno is None or _poll is None:
                return False
            for _ in range(_LOOKS):
                descriptor = fileno()
                poller = self._pollers.get(descriptor) or self._make_poller(descriptor)
                if not poller.poll(0):
                    return False
                # A notice, say, means no harm, where the resource knows how to read it; more may come right after it.
                read_unasked = getattr(value, "read_unasked", None)
                if read_unasked is None:
                    return True
                read_unasked()
        except Exception:  # closed: it has no descriptor any more
            pass
        except BaseException as error:  # what it is raised into may not lose the resource
            self._site.hook_failed("fileno", error)
        return True

    def _make_poller(self, descriptor: int) -> Any:
        # Nothing but a note of the number, so it is right for whatever has that number later.
        poller = _poll()
        poller.register(descriptor, select.POLLIN | select.POLLPRI)  # raises for that of a closed socket
        self._pollers[descriptor] = poller
        return poller
