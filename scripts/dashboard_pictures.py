"""Takes the pictures of the dashboard that the documentation shows, with Debian's Chromium: about six minutes.

    python scripts/dashboard_pictures.py docs/_static

It runs a shop of three processes under load, takes its database away for a while, and looks at what the page shows.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gevent
from gevent.fileobject import FileObject
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gtasker import GTaskerError, Priority, Runner, Task  # noqa: E402  # found by the line above
from gtasker.integrations.dashboard import Dashboard  # noqa: E402
from tests.monitoring._browser import DESKTOP, PHONE, Browser, browser  # noqa: E402

TOKEN = "only for these pictures"
PROCESSES = 3
HISTORY = 290
"""Seconds of load before the first picture, so that the lines are five minutes long."""
SETTLING = 15
"""Seconds after which what the browser's own start cost the shop is no longer its worst lag."""


class Database:
    """What the shop's resources are connections to."""

    def __init__(self) -> None:
        self.is_up = True

    def connect(self) -> Database:
        """Make a resource."""
        gevent.sleep(random.uniform(0.3, 1.0))  # so slow that the healing is seen
        if not self.is_up:
            raise ConnectionRefusedError
        return self

    def query(self, mean: float) -> None:
        """Wait about so many seconds; fail as soon as the database is away."""
        until = time.monotonic() + random.lognormvariate(0, 0.6) * mean
        while time.monotonic() < until:
            if not self.is_up:
                raise ConnectionResetError
            gevent.sleep(min(0.05, max(0.0, until - time.monotonic())))
        if random.random() < 0.003:
            raise ValueError("out of stock")


def checkout(database: Database) -> None:
    """A task."""
    database.query(0.06)


def search(database: Database) -> None:
    """A shorter one."""
    database.query(0.02)


def monthly_report(database: Database) -> None:
    """A longer one."""
    database.query(1.2)


def shop(directory: str, port: str) -> None:
    """One process: serves the page, obeys what it reads, and is busy meanwhile."""
    dashboard = Dashboard(token=TOKEN, title="Shop", directory=directory)
    database = Database()
    runner: Runner[Database] = Runner(
        name="orders",
        on_create=database.connect,
        on_destroy=lambda connection: gevent.sleep(0.05),
        check_health=lambda error: not isinstance(error, ConnectionError),
        worker_count=8,
        burst_task_threshold=20,
        max_worker_count=12,
        resource_pool_size=3,
        max_resources=18,
        max_idle=10,
        retry_backoff=(0.1, 5.0),
        on_event=dashboard.recorder(),
    ).start()
    gevent.spawn(_load, runner)
    gevent.spawn(_lend, runner)
    dashboard.serve(port=int(port))
    for line in FileObject(sys.stdin.fileno(), "r", close=False):
        database.is_up = json.loads(line)


def _load(runner: Runner[Database]) -> None:
    while True:
        gevent.sleep(random.expovariate(60 + 25 * (time.monotonic() % 90 > 60)))
        task = random.choices([checkout, search, monthly_report], [10, 20, 1])[0]
        try:
            runner.submit(task, priority=Priority.HIGH if task is checkout else Priority.NORMAL, callback=_look)
        except GTaskerError:
            pass


def _lend(runner: Runner[Database]) -> None:
    while True:
        try:
            with runner.lease():
                gevent.sleep(random.uniform(1, 9))
        except GTaskerError:
            pass
        gevent.sleep(random.uniform(0, 3))


def _look(task: Task[None]) -> None:
    """Somebody has to, or the failure would be logged."""
    _ = task.exception


def pictures(folder: Path, eye: Browser, shops: list[subprocess.Popen[str]]) -> None:
    """Take them all."""

    def have(*, is_up: bool) -> None:
        for one in shops:
            assert one.stdin is not None
            one.stdin.write(json.dumps(is_up) + "\n")
            one.stdin.flush()

    def take(name: str, height: int) -> None:
        eye.run("scrollTo(0, 0)")
        eye.resize(DESKTOP[0], height)
        time.sleep(0.5)
        eye.picture(folder / f"dashboard-{name}.png")

    def choose() -> None:
        click = "document.querySelector('#cells [data-state=used]').click(); return true"
        eye.until(lambda: eye.run(click), "a resource is in use")

    address = f"http://127.0.0.1:{_port(0)}/#token={TOKEN.replace(' ', '%20')}"
    eye.open(address)
    time.sleep(SETTLING)
    choose()
    take("normal", 1000)
    eye.prefer_dark()
    choose()
    take("dark", 1000)
    eye.run("document.querySelector('#uses summary').click()")
    eye.resize(DESKTOP[0], 560)
    eye.run("document.querySelector('.pair').scrollIntoView(); scrollBy(0, -70)")
    time.sleep(0.5)
    eye.picture(folder / "dashboard-uses.png")
    eye.run("document.querySelector('#uses summary').click(); scrollTo(0, 0)")
    eye.resize(*PHONE, is_phone=True, scale=2)
    time.sleep(0.5)
    eye.picture(folder / "dashboard-phone.png")
    eye.open(address)
    have(is_up=False)
    time.sleep(8)
    take("outage", 820)
    have(is_up=True)
    eye.until(lambda: eye.find("#banner").get_attribute("data-level") == "warn", "it heals")
    take("healing", 820)


def shrink(picture: Path) -> None:
    """Make do with 256 colours: a third of the size, and nobody sees it."""
    with Image.open(picture) as image:
        # By coverage, or a small green dot would be grey; moved to the means, or the ground would be another.
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


def _port(number: int) -> int:
    return 8490 + number


def main(folder: Path) -> None:
    """Start the shop, wait, take the pictures."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, __file__, "--shop", directory]
        shops = [
            subprocess.Popen([*command, str(_port(number))], stdin=subprocess.PIPE, text=True)
            for number in range(PROCESSES)
        ]
        try:
            time.sleep(HISTORY)
            with browser(Path(directory) / "profile") as eye:
                pictures(folder, eye, shops)
            for picture in folder.glob("dashboard-*.png"):
                shrink(picture)
        finally:
            for one in shops:
                one.kill()
                one.wait()


if __name__ == "__main__":
    if sys.argv[1] == "--shop":
        shop(*sys.argv[2:])
    else:
        main(Path(sys.argv[1]))
