"""What monitoring tests share: tasks that have run, processes to look at, and a browser.

Invariant: when a test ends, its processes and its browser are gone, and no timer of an exporter's is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from gtasker import Runner
from tests.conftest import MakeRunner
from tests.ledger import LedgerResource, touch
from tests.monitoring._browser import Browser
from tests.monitoring._browser import browser as start_browser
from tests.monitoring._processes import Process

C = TypeVar("C")


SLOW = {"start_process", "site", "browser"}
"""Fixtures that take their time."""


def pytest_configure(config: pytest.Config) -> None:
    """Know the mark of the tests that need a browser, so that they can be left out where there is none."""
    config.addinivalue_line("markers", "browser: needs Debian's chromium and chromium-driver")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts processes in this folder, and what needs a browser."""
    here = Path(__file__).parent
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ())) if here in item.path.parents else set()
        if fixtures & SLOW:
            item.add_marker("slow")
        if "browser" in fixtures:
            item.add_marker("browser")


class UsualError(Exception):
    """What a task of these tests raises when it fails."""


def fail(resource: LedgerResource) -> None:
    """Fail, and leave the resource fit: a task."""
    with resource.use():
        raise UsualError("dsn=postgres://shop:hunter2@db")


class MakeBusy(Protocol):
    """Make a runner that has completed and failed so many tasks; `options` go to its `Config`."""

    def __call__(self, completed: int = 0, failed: int = 0, **options: Any) -> Runner[LedgerResource]: ...


@pytest.fixture
def busy(make_runner: MakeRunner) -> MakeBusy:
    """Runners that have done something."""

    def make(completed: int = 0, failed: int = 0, **options: Any) -> Runner[LedgerResource]:
        runner = make_runner(**options).start()
        work(runner, completed, failed)
        return runner

    return make


def work(runner: Runner[LedgerResource], completed: int = 0, failed: int = 0) -> None:
    """Have the runner do so many tasks. Switches."""
    for number in range(completed):
        runner.queue_task(touch, number)
    for _ in range(failed):
        with pytest.raises(UsualError):
            runner.queue_task(fail)


@pytest.fixture
def closing() -> Iterator[Callable[[C], C]]:
    """Have what is passed through closed when the test ends, the last first."""
    opened: list[Any] = []

    def close_later(one: C) -> C:
        opened.append(one)
        return one

    yield close_later
    for one in reversed(opened):
        one.close()


class StartProcess(Protocol):
    """Start a Python module of this folder as a process of its own."""

    def __call__(self, module: str, *arguments: str, **environment: str) -> Process: ...


@pytest.fixture
def start_process() -> Iterator[StartProcess]:
    """Start processes; those that still run at the test's end are killed."""
    processes: list[Process] = []

    def start(module: str, *arguments: str, **environment: str) -> Process:
        process = Process(f"{__package__}.{module}", *arguments, **environment)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of the test's own."""
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    with start_browser(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser; at the test's end its console must have nothing to complain of."""
    yield chromium
    complaints = chromium.complaints()
    chromium.driver.get("about:blank")
    assert not complaints
