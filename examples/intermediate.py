"""Thumbnails: more workers while there is a crowd, helpers that die and are replaced, and work that cannot wait.

The resource is a helper process. To shrink a picture is work for a CPU, and here it would stop every other greenlet;
over there it does not, and the runner keeps a bounded number of such processes alive.

    $ python examples/intermediate.py
    24 pictures came in at once; workers: 2, and 4 more for the burst
    a preview at once: 80 x 60 (~19 pictures still wait)
    24 thumbnails of 80 x 60
    half of them took at most ~37 ms, 95 % at most ~65 ms
    the burst is over; workers: 2
    a text file is no picture, says the helper, and lives
    a helper died under way; 80 x 60 at attempt 2, on another
    three helpers died of it: gave up after 3 attempts, the last with: the helper died
    processes left: 0, of ~11
"""
# ruff: noqa: E402 (an application patches before it imports anything else)

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gtasker import MaxRetriesExceededError, Runner

HELPER = Path(__file__).with_name("_shrink.py")
PICTURE = b"P5 640 480 255\n" + bytes(range(256)) * (640 * 480 // 256)


class NotAPictureError(Exception):
    """The input is at fault; the helper is as good as before."""


class HelperDiedError(Exception):
    """The helper is gone; the input may well be good."""


class Helper:
    """A process that shrinks pictures: the resource."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", str(HELPER)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def shrink(self, picture: bytes) -> str:
        """Return the thumbnail's size, as "80 x 60"."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(b"%d\n%s" % (len(picture), picture))
            self._process.stdin.flush()
            length = int(self._process.stdout.readline())
            thumbnail = self._process.stdout.read(length)
        except (OSError, ValueError):
            raise HelperDiedError("the helper died") from None
        if not length:
            raise NotAPictureError("this is no picture")
        if len(thumbnail) < length:
            raise HelperDiedError("the helper died in the middle of its answer")
        _, width, height, _ = thumbnail.split(None, 3)
        return f"{int(width)} x {int(height)}"

    def kill(self) -> None:
        """End it at once, as the kernel does to a process when memory runs out."""
        self._process.kill()

    def close(self) -> None:
        """End it, and wait for its end."""
        self._process.kill()
        self._process.communicate()


def shrink_with_bad_luck(helper: Helper, picture: bytes, deaths: Iterator[None]) -> str:
    """Shrink a picture while there is trouble: each of `deaths` kills a helper under way."""
    for _ in deaths:
        helper.kill()
        break
    return helper.shrink(picture)


def burst(runner: Runner[Helper]) -> None:
    """A crowd: workers are added at once, and go when they have been idle for a while."""
    tasks = [runner.submit(Helper.shrink, PICTURE) for _ in range(24)]
    stats = runner.stats()
    print(
        f"{len(tasks)} pictures came in at once; "
        f"workers: {stats.base_workers}, and {stats.burst_workers} more for the burst"
    )

    # Somebody looks at the screen: this one goes past the line, with a helper that is kept ready for that.
    preview = runner.run_task(Helper.shrink, PICTURE)
    print(f"a preview at once: {preview} (~{runner.stats().queued_tasks} pictures still wait)")

    sizes = {task.get() for task in tasks}
    print(f"{len(tasks)} thumbnails of {', '.join(sizes)}")
    told = runner.metrics()
    half, most = told.p50_execution_time * 1000, told.p95_execution_time * 1000
    print(f"half of them took at most ~{half:.0f} ms, 95 % at most ~{most:.0f} ms")

    while runner.stats().burst_workers:
        time.sleep(0.02)
    print("the burst is over; workers:", runner.stats().active_workers)


def trouble(runner: Runner[Helper]) -> None:
    """Whose fault is it? `check_health` decides: the task's, or the helper's, who then is replaced for another try."""
    try:
        runner.queue_task(Helper.shrink, b"once upon a time\n")
    except NotAPictureError:
        print("a text file is no picture, says the helper, and lives")

    task = runner.submit(shrink_with_bad_luck, PICTURE, iter([None]))
    print(f"a helper died under way; {task.get()} at attempt {task.attempts}, on another")

    try:
        runner.queue_task(shrink_with_bad_luck, PICTURE, iter([None] * 3))
    except MaxRetriesExceededError as error:
        print(f"three helpers died of it: gave up after {error.attempts} attempts, the last with: {error.__cause__}")


def main() -> None:
    """Shrink pictures in at most seven processes."""
    runner: Runner[Helper] = Runner(
        on_create=Helper,
        on_destroy=Helper.close,
        check_health=lambda error: not isinstance(error, HelperDiedError),
        max_retries=2,
        worker_count=2,
        burst_task_threshold=10,
        burst_worker_count=4,
        max_idle=0.2,
        resource_pool_size=1,
    )
    with runner:
        burst(runner)
        trouble(runner)
    print(f"processes left: {runner.stats().live_resources}, of ~{runner.metrics().resources_created}")


if __name__ == "__main__":
    main()
