"""The runner as the rows use it: every feature at its default, a resource that costs nothing.

Invariant: nothing is switched off to look fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gtasker import Runner


def destroy(resource: object) -> None:
    """Unmake a resource that holds nothing."""


def noop(resource: object) -> None:
    """Do nothing: the task whose cost is the runner's own."""


@contextmanager
def running(worker_count: int, **options: Any) -> Iterator[Runner[object]]:
    """A started runner over plain objects, stopped at the end. Switches."""
    runner: Runner[object] = Runner(on_create=object, on_destroy=destroy, worker_count=worker_count, **options)
    with runner:
        yield runner
