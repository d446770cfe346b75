"""An application with a dashboard, whose backend can be taken away: for what is seen from outside.

Invariant: its load is what it is told to do, so that what is shown is known beforehand.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import time
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event

from gtasker import Priority, Runner
from gtasker.integrations.dashboard import Dashboard
from tests.monitoring._processes import obey
from tests.monitoring._visitor import TOKEN, insider

block = monkey.get_original("time", "sleep")


class Backend:
    """What the shop's resources are connections to."""

    def __init__(self) -> None:
        self.is_up = True

    def connect(self) -> Backend:
        """Make a resource."""
        gevent.sleep(0.01)
        if not self.is_up:
            raise ConnectionRefusedError("postgres://shop:hunter2@db")
        return self

    def query(self, seconds: float = 0.0) -> None:
        """Wait so long, as for an answer; fail as soon as the backend is away."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.is_up:
            gevent.sleep(0.005)
        if not self.is_up:
            raise ConnectionResetError


class Shop:
    """The application, and what it can be told."""

    def __init__(self, name: str, port: int, **options: Any) -> None:
        self.dashboard = Dashboard(token=TOKEN, title="Shop", directory=os.environ.get("SHOP_DIRECTORY"), **options)
        self.backend = Backend()
        self.runner: Runner[Backend] = Runner(
            name=name,
            on_create=self.backend.connect,
            on_destroy=lambda resource: None,
            check_health=lambda error: not isinstance(error, ConnectionError),
            worker_count=4,
            resource_pool_size=2,
            max_resources=8,
            fail_fast_after=30.0,
            on_event=self.dashboard.recorder(),
        ).start()
        self.server = self.dashboard.serve(port=port) if port >= 0 else None
        self.doors: list[Event] = []

    def work(self, tasks: int, seconds: float = 0.0) -> None:
        """Do so many tasks."""
        for _ in range(tasks):
            self.runner.queue_task(Backend.query, seconds)

    def hold(self, number: int) -> None:
        """Have so many tasks running, or waiting if there is no worker, until `release`."""
        door = Event()
        self.doors.append(door)
        for _ in range(number):
            self.runner.submit(checkout, door, priority=Priority.HIGH)

    def release(self) -> None:
        """Let all that is held end."""
        for door in self.doors:
            door.set()

    def take_away(self) -> None:
        """Take the backend away; those who use it notice."""
        self.backend.is_up = False
        self.runner.recycle()

    def give_back(self) -> None:
        """Bring the backend back."""
        self.backend.is_up = True

    def numbers(self) -> Any:
        """What the dashboard shows."""
        return insider(self.dashboard).numbers()

    def command(self, runner: str, action: str) -> int:
        """Give an order as the page does; the status of the answer."""
        return insider(self.dashboard).command(runner=runner, action=action).status

    def state(self) -> str:
        """What the runner is."""
        return self.runner.state.value

    def hang(self, seconds: float) -> None:
        """Stop the event loop for so long, a moment from now."""
        gevent.get_hub().loop.timer(0.01).start(block, seconds)

    def fork(self, tasks: int) -> int:
        """Fork a child that does so many tasks and stays; its process id."""
        child = os.fork()
        if child:
            return child
        self.work(tasks)
        while True:
            gevent.sleep(1)

    def end_child(self, child: int) -> None:
        """End that child, and see that it has."""
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    def stop(self) -> None:
        """End in order."""
        self.release()
        self.runner.kill()
        self.dashboard.close()


def checkout(backend: Backend, door: Event) -> None:
    """A task that lasts until it is let go, or its backend goes away."""
    while not door.wait(0.005):
        backend.query()


def main() -> None:
    """Obey until told no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--port", type=int, default=-1)
    parser.add_argument("--options", type=json.loads, default={})
    given = parser.parse_args()
    logging.getLogger("gtasker").setLevel(logging.CRITICAL)
    shop = Shop(given.name, given.port, **{"control": True, **given.options})
    address = shop.server.address if shop.server is not None else None
    obey({word: getattr(shop, word) for word in vars(Shop) if word[0] != "_"}, address)
    shop.stop()


if __name__ == "__main__":
    main()
