"""Observed: what a runner tells of itself.

Invariant: looking changes nothing, never switches, and costs the same after 10**7 tasks as after ten.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from gtasker._config import Config
from gtasker._core import Core
from gtasker._lending import Lending
from gtasker._lifecycle import State
from gtasker._metrics import Histograms, TaskMetrics
from gtasker._snapshots import BackendInfo, Bounds, LeaseInfo, ResourceInfo, RunnerStats

R = TypeVar("R")


class Observed(Generic[R]):
    """The reading half of a runner: its settings, its state, and copies of its numbers."""

    def __init__(self, config: Config[R]) -> None:
        self.config = config
        self._core: Core[R] | None = None

    @property
    def state(self) -> State:
        """Where it is in its life. Never switches."""
        core = self._core
        if core is None or core.site.forked or core.is_over:
            return State.NEW
        return core.site.life.state

    def stats(self) -> RunnerStats:
        """What there is now. Never switches."""
        return self._there().views.stats()

    def metrics(self) -> TaskMetrics:
        """What happened so far. Never switches."""
        return self._there().views.metrics()

    def leases(self, *, limit: int | None = None) -> list[LeaseInfo]:
        """Who uses which resource at this moment, the longest use first, `limit` at most. Never switches."""
        return self._there().views.leases(limit)

    def resources(self) -> list[ResourceInfo]:
        """What happens to each resource, those being made and unmade included, in order of creation. Never switches."""
        return self._there().views.resources()

    def bounds(self) -> Bounds:
        """The numbers of workers and resources in force, also after `resize`. Never switches."""
        return self._there().views.bounds()

    def backend(self) -> BackendInfo:
        """How the creation of resources fares. Never switches."""
        return self._there().views.backend()

    def histograms(self) -> Histograms:
        """How long tasks waited and ran so far, in cumulative buckets (seconds). Never switches."""
        return self._there().views.histograms()

    def __repr__(self) -> str:
        core = self._core
        if core is None or core.site.forked or core.is_over:
            return f"<Runner {self.config.name!r} new>"
        return core.views.repr()

    def _there(self) -> Core[R]:
        """A core to look at. Looking binds an unused runner to no thread, so then it is one for this look alone."""
        core = self._core
        return core if core is not None and not core.site.forked and not core.is_over else self._make_core()

    def _lending(self) -> Lending[R]:
        return self._here().lending

    def _here(self) -> Core[R]:
        """The core of this process."""
        core = self._core
        if core is None or core.site.forked or core.is_over:
            before = core
            core = self._core = self._make_core()
            if before is not None and before.site.forked:
                before.forget()
        return core

    def _make_core(self) -> Core[R]:
        before = self._core
        core: Core[R] = Core(self.config, self)
        core.lending.find = self._lending
        if before is not None and before.is_over:  # its start failed, which takes nothing back that was asked before
            core.keep_bounds(before)
        return core
