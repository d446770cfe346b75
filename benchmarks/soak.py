"""The soak: ten million tasks, then a million with kills; the memory is to be flat.

Invariant: memory is compared with that after the warm-up (the first tenth of each part), never with that at the start.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402
import gc  # noqa: E402
import random  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from itertools import repeat  # noqa: E402

import gevent  # noqa: E402
import psutil  # noqa: E402

from benchmarks.ours import noop  # noqa: E402
from gtasker import Runner  # noqa: E402

MEGABYTE = 1024 * 1024
SLACK = 5 * MEGABYTE
STEPS = 20
CALLERS = 100
WARM_UP = STEPS // 10


@dataclass
class Ledger:
    """Every resource that was made and unmade."""

    created: int = 0
    destroyed: int = 0

    def create(self) -> object:
        self.created += 1
        return object()

    def destroy(self, resource: object) -> None:
        self.destroyed += 1


@dataclass
class Part:
    """One part of the soak: `step` runs so many tasks; the memory is read after each of the steps."""

    name: str
    step: Callable[[Runner[object], int], None]
    tasks: int
    series: list[int] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """Bytes between the warm-up's end and the highest reading after it."""
        return max(self.series[WARM_UP:]) - self.series[WARM_UP - 1]

    def run(self, runner: Runner[object]) -> None:
        """Run all steps. Switches."""
        process = psutil.Process()
        for number in range(1, STEPS + 1):
            self.step(runner, self.tasks // STEPS)
            gc.collect()
            self.series.append(process.memory_info().rss)
            print(
                f"{self.name}: {number * self.tasks // STEPS:>12,} tasks, {self.series[-1] / MEGABYTE:8.2f} MB",
                flush=True,
            )


def plain(runner: Runner[object], tasks: int) -> None:
    """Run no-op tasks by a hundred callers. Switches."""

    def caller() -> None:
        for _ in repeat(None, tasks // CALLERS):
            runner.queue_task(noop)

    gevent.joinall([gevent.spawn(caller) for _ in range(CALLERS)], raise_error=True)


class Deadly:
    """Callers that are killed at a random moment: waiting, running, answered."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)

    def __call__(self, runner: Runner[object], tasks: int) -> None:
        """Run tasks that switch, by callers of which every other one is struck. Switches."""
        for _ in repeat(None, tasks // CALLERS):
            callers = [gevent.spawn(runner.queue_task, turn) for _ in range(CALLERS)]
            for _ in range(self._dice.randrange(3)):
                gevent.sleep(0)
            for caller in self._dice.sample(callers, CALLERS // 2):
                caller.kill(block=False)
            gevent.joinall(callers)


def turn(resource: object) -> None:
    """Let the others have a turn. Switches."""
    gevent.sleep(0)


def main() -> int:
    """Run both parts and say whether memory was flat and the books balance; 1 if not."""
    options = _parse()
    print(f"seed {options.seed}")
    ledger = Ledger()
    runner: Runner[object] = Runner(
        on_create=ledger.create, on_destroy=ledger.destroy, worker_count=10, cancel_on_abandon=True
    )
    parts = [Part("no-op", plain, options.tasks), Part("with kills", Deadly(options.seed), options.tasks // 10)]
    with runner:
        for part in parts:
            part.run(runner)
        stats = runner.stats()
    faults = [f"{part.name}: memory grew by {part.growth / MEGABYTE:.2f} MB" for part in parts if part.growth > SLACK]
    if ledger.created != ledger.destroyed:
        faults.append(f"{ledger.created} resources made, {ledger.destroyed} destroyed")
    if stats.queued_tasks or stats.priority_tasks or stats.abandoned:
        faults.append(f"left behind: {stats}")
    for part in parts:
        print(f"{part.name}: {part.growth / MEGABYTE:+.2f} MB after the warm-up, allowed {SLACK / MEGABYTE:.0f}")
    print(f"resources: {ledger.created:,} made, {ledger.destroyed:,} destroyed")
    print("\n".join(f"FAULT {fault}" for fault in faults) or "flat")
    return 1 if faults else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="memory over ten million tasks")
    parser.add_argument(
        "--tasks",
        type=int,
        default=10_000_000,
        help="no-op tasks; a tenth of it runs with kills (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the kills (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
