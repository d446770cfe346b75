"""Storms over sockets that are hung up on at any moment: none is handed out that was closed before.

Invariant: one thread, so a moment that is read is the order of things: what was closed before it was taken was there to
be seen by the look before its use.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random
from time import monotonic
from typing import Any

import gevent
import pytest

from gtasker import Runner
from gtasker.errors import GTaskerError
from tests.proof._world import quiet, settles
from tests.sockets import SocketPair

PATIENCE = 10.0  # seconds; only a hang waits for so long
SEEDS = 40
CALLERS, CALLS = 8, 25
CALL_ERRORS = (GTaskerError, OSError, ValueError, gevent.Timeout)


class Line(SocketPair):
    """A line whose peer hangs up, or says something unasked."""

    def __init__(self) -> None:
        super().__init__()
        self.used = False
        self.user: object = None
        self.lost_at: float | None = None
        self.endings = 0

    def lose(self, *, says_something: bool) -> None:
        """The peer's part."""
        if self.lost_at is None and not self.endings:
            self.far.sendall(b"!") if says_something else self.far.close()
            self.lost_at = monotonic()


class Reset:
    """A reset that needs to wait, or not, by chance."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance

    def __call__(self, line: Line) -> None:
        """Do it. May switch."""
        if self.chance.random() < 0.5:
            gevent.sleep(0)

    def nowait(self, line: Line) -> bool:
        """Whether it was done."""
        return self.chance.random() < 0.7


class Looks:
    """One storm: callers, who are killed, over lines that are lost, and a runner that is resized and paused."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.made: list[Line] = []
        self.faults: list[str] = []
        self.callers: list[gevent.Greenlet[..., object]] = []
        options: dict[str, Any] = {}
        if self.chance.random() < 0.6:
            options["reset"] = Reset(self.chance)
        if self.chance.random() < 0.4:
            options |= {"check_resource": self.check, "check_idle": 0.002}
        self.runner: Runner[Line] = Runner(
            on_create=self.create,
            on_destroy=self.destroy,
            check_readable=True,
            check_health=lambda error: not isinstance(error, OSError),
            create_backoff=(0.001, 0.002),
            logger=quiet,
            **self.sizes(),
            **options,
        )

    def sizes(self) -> dict[str, int]:
        """Of the runner: with a reserve, or without."""
        workers, reserve = self.chance.randint(1, 4), self.chance.choice([0, 0, 1, 2])
        return {
            "worker_count": workers,
            "max_worker_count": workers,
            "resource_pool_size": reserve,
            "max_resources": workers + reserve,
        }

    def create(self) -> Line:
        """Make a line. May switch."""
        if self.chance.random() < 0.2:
            gevent.sleep(0.001)
        self.made.append(Line())
        return self.made[-1]

    def destroy(self, line: Line) -> None:
        """Unmake it, once."""
        line.endings += 1
        if line.user is not None:
            self.faults.append("it was destroyed in use")
        line.close()

    def check(self, line: Line) -> bool:
        """Whether it is good. May switch."""
        gevent.sleep(0)
        return line.lost_at is None

    def use(self, line: Line) -> None:
        """Use it for some time, end well or not, and lose it now and then."""
        self.begin(line)
        try:
            if self.chance.random() < 0.5:
                gevent.sleep(self.chance.choice([0, 0, 0.001]))
            drawn = self.chance.random()
            if drawn < 0.1:
                line.lose(says_something=drawn < 0.05)
            elif drawn < 0.15:
                raise OSError("it broke")
            elif drawn < 0.2:
                raise ValueError("it is well")
        finally:
            line.user = None

    def begin(self, line: Line) -> None:
        """Note a use that should not have begun."""
        assert self.runner._core is not None
        records = [each for each in self.runner._core.stock.records.values() if each.value is line]
        if len(records) != 1 or line.endings:
            self.faults.append("it is used after its end")
            return
        [record] = records
        taken_at = record.taken_at if record.holder is not None else record.worker.started_at
        if line.user is not None:
            self.faults.append("it is used by two")
        if line.used and line.lost_at is not None and line.lost_at < taken_at:
            self.faults.append(f"it was lost {taken_at - line.lost_at:.6f} s before it was taken")
        line.used, line.user = True, gevent.getcurrent()

    def call(self) -> None:
        """Some calls, one after another."""
        for _ in range(CALLS):
            drawn = self.chance.random()
            with suppress(*CALL_ERRORS), gevent.Timeout(0.003 if drawn < 0.2 else None):
                if drawn < 0.5:
                    with self.runner.lease(priority=self.chance.choice([0, 10])) as line:
                        self.use(line)
                        self.disturb()
                    if self.chance.random() < 0.1:  # the next one, who has it, may not know yet, and may be gone
                        line.lose(says_something=False)
                elif drawn < 0.7:
                    self.runner.run_task(self.use)
                elif drawn < 0.9:
                    self.runner.queue_task(self.use, priority=self.chance.choice([0, 10]))
                else:
                    self.runner.submit(self.use)
            if self.chance.random() < 0.3:
                gevent.sleep(self.chance.choice([0, 0.003]))

    def blow(self) -> list[str]:
        """All of it; return the faults. Switches."""
        with self.runner:
            self.callers += [gevent.spawn(self.call) for _ in range(CALLERS)]
            while any(not caller.dead for caller in self.callers):
                gevent.sleep(0.001)
                self.disturb()
            assert settles(lambda: not self.runner.stats().queued_tasks, PATIENCE)
        self.faults += [f"a caller got {caller.exception!r}" for caller in self.callers if caller.exception is not None]
        if any(line.endings != 1 for line in self.made):
            self.faults.append("not every line was destroyed once")
        return self.faults

    def disturb(self) -> None:
        """Do something to somebody, or nothing. May switch."""
        drawn = self.chance.random()
        if drawn < 0.2:
            self.chance.choice(self.made).lose(says_something=drawn < 0.1)
        elif drawn < 0.25:
            self.chance.choice(self.callers).kill(block=False)
            if len(self.callers) < 5 * CALLERS:
                self.callers.append(gevent.spawn(self.call))
        elif drawn < 0.3:
            self.runner.resize(**self.sizes())
        elif drawn < 0.32:
            self.runner.recycle()
        elif drawn < 0.35:
            self.runner.pause()
            gevent.sleep(0.001)
            self.runner.resume()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_handed_out_that_was_lost_before(seed: int) -> None:
    with gevent.Timeout(PATIENCE):
        faults = Looks(seed).blow()

    assert not faults
