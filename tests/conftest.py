"""What every test shares: the watchdog, the check that nothing is left, the ledger, and runners that use it.

Invariant: a test that leaves a greenlet, a watcher, a resource or an unanswered task behind fails, whatever it asserts.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import pytest_timeout  # type: ignore[import-untyped]
from gevent import monkey
from hypothesis import settings

from tests import _env
from tests.ledger import Ledger, LedgerResource

if TYPE_CHECKING:
    from gtasker import Runner

if monkey.is_module_patched("socket") is not _env.PATCHED:
    # pytest and its plugins are imported before any conftest: patching here would leave them with half of each world.
    raise pytest.UsageError(
        "run the patched suite as `GTASKER_TEST_PATCHED=1 python -m gevent.monkey --module pytest`, "
        "and the plain one as `python -m pytest`"
    )

# Under CI the same examples each time, so that a red run is the change's own doing. A deadline would be a timed test.
settings.register_profile("suite", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
settings.load_profile("suite")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it does not wait for
    signal.signal(signal.SIGINT, signal.default_int_handler)

_WATCHDOG = pytest.StashKey[_env.Watchdog]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real standard error for the watchdog: while a test runs, pytest holds file descriptor 2."""
    config.stash[_WATCHDOG] = _env.Watchdog(os.fdopen(os.dup(2), "w"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all that is in the folder `postgres`, so that no test of it forgets to."""
    for item in items:
        if item.path.parent.name == "postgres":
            item.add_marker(pytest.mark.postgres)


def pytest_collection_finish() -> None:
    """Let the search for what is left skip all that was there before the first test."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """Use the watchdog of ours, which works when the hub is blocked and shows each greenlet's stack."""
    if not pytest_timeout.is_debugging():
        item.config.stash[_WATCHDOG].start(settings.timeout, item.nodeid)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    """Call the watchdog off: the test has ended."""
    item.config.stash[_WATCHDOG].cancel()
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI, a skip is a failure: it would hide that something was not tested."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def hub_errors() -> Iterator[list[str]]:
    """Errors in loop callbacks and in the runner's own greenlets; a test that expects one clears the list."""
    with _env.hub_errors() as errors:
        yield errors
    assert not errors, "\n".join(["unheard errors:", *errors])


@pytest.fixture(autouse=True)
def nothing_left_behind(hub_errors: list[str]) -> Iterator[None]:
    """Fail a test that leaves a greenlet or an armed watcher of its own behind."""
    before = _env.survey()
    yield
    left = _env.left_behind(before)
    assert not left, "\n".join(["left behind:", *left])


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """Resources that keep books; at the test's end each must have been destroyed once and none misused."""
    books = Ledger()
    yield books
    books.assert_balanced()


class MakeRunner(Protocol):
    """Build a runner on the test's ledger; `options` go to `Config` and override the ledger's."""

    def __call__(self, **options: Any) -> Runner[LedgerResource]: ...


@pytest.fixture
def make_runner(ledger: Ledger) -> Iterator[MakeRunner]:
    """Build runners; those that still run at the test's end are killed, and then nothing may be unanswered or left."""
    # Imported here, so that the lower floors can be tested while an upper one is broken.
    from gtasker import Config  # noqa: PLC0415
    from tests.watched import WatchedRunner  # noqa: PLC0415

    runners: list[WatchedRunner] = []

    def make(**options: Any) -> Runner[LedgerResource]:
        runner = WatchedRunner(Config(**{"worker_count": 2, **ledger.options(), **options}), ledger)
        runners.append(runner)
        return runner

    yield make
    for runner in runners:
        runner.end()
