"""What watches the tests works: what is left is found, what ends in time is not, and a hang ends the run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import gevent
import pytest
from gevent.event import Event
from gevent.hub import get_hub
from greenlet import greenlet

from tests import _env

ROOT = Path(__file__).parents[1]

PYTEST = ["-m", "gevent.monkey", "--module", "pytest"] if _env.PATCHED else ["-m", "pytest"]


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take what is there after one turn of the loop for left."""
    monkeypatch.setattr(_env, "GRACE", 0.0)


def leave_greenlet() -> Callable[[], object]:
    return gevent.spawn(Event().wait).kill


def leave_raw_greenlet() -> Callable[[], object]:
    left = greenlet(lambda: get_hub().switch())
    get_hub().loop.run_callback(left.switch)
    gevent.sleep(0)
    return lambda: left.throw(gevent.GreenletExit)


def leave_timer() -> Callable[[], object]:
    timer = get_hub().loop.timer(60)
    timer.start(lambda: None)
    return timer.close


def leave_unreferenced_timer() -> Callable[[], object]:
    timer = get_hub().loop.timer(60, ref=False)
    timer.start(lambda: None)
    return timer.close


@pytest.mark.parametrize("leave", [leave_greenlet, leave_raw_greenlet, leave_timer, leave_unreferenced_timer])
@pytest.mark.usefixtures("no_grace")
def test_what_is_left_behind_is_found(leave: Callable[[], Callable[[], object]]) -> None:
    before = _env.survey()

    end = leave()
    left = _env.left_behind(before)
    end()

    assert len(left) == 1
    assert _env.left_behind(before) == []


@pytest.mark.usefixtures("no_grace")
def test_what_was_there_before_is_not_told() -> None:
    end = leave_greenlet()

    left = _env.left_behind(_env.survey())
    end()

    assert left == []


def test_what_ends_in_time_is_not_told() -> None:
    before = _env.survey()

    ending = gevent.spawn(gevent.sleep, 0.05)

    assert _env.left_behind(before) == []
    assert ending.dead


def test_an_error_in_a_loop_callback_is_told_and_one_in_a_callers_greenlet_is_not(hub_errors: list[str]) -> None:
    with _env.hub_errors() as errors:
        gevent.spawn(int, "no number").join()
        get_hub().loop.run_callback(int, "no number either")
        gevent.sleep(0)

    assert len(errors) == 1
    assert "no number either" in errors[0]
    assert hub_errors == errors
    hub_errors.clear()


class Project(Protocol):
    """Run a test's source under the suite's conftest in a process of its own."""

    def __call__(self, source: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def project(tmp_path: Path) -> Project:
    def run(source: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_it.py").write_text(source)
        settings = ["-q", "-p", "no:cacheprovider", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]
        return subprocess.run(
            [sys.executable, *PYTEST, *settings, f"--rootdir={ROOT}", *options, str(tmp_path)],
            check=False,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
        )

    return run


@pytest.mark.parametrize("hang", ["while True: pass", "gevent.sleep(99)"])
def test_a_test_that_hangs_ends_the_run_and_shows_where(project: Project, hang: str) -> None:
    done = project(f"import gevent\ndef test_hang():\n    {hang}\n", "--timeout=1")

    assert done.returncode == 1
    assert "test_hang took longer than 1 s" in done.stderr
    assert "in test_hang" in done.stderr


def test_a_test_that_leaves_a_greenlet_fails_the_run(project: Project) -> None:
    done = project("import gevent\ndef test_leave():\n    global left\n    left = gevent.spawn(gevent.sleep, 9)\n")

    assert done.returncode == 1
    assert "left behind" in done.stdout


def test_a_skip_is_a_failure_under_ci_alone(project: Project) -> None:
    source = "import pytest\ndef test_skip():\n    pytest.skip('not here')\n"

    assert project(source, CI="").returncode == 0
    assert project(source, CI="true").returncode == 1


def test_half_a_patching_is_refused(project: Project) -> None:
    done = project("def test_it(): pass\n", GTASKER_TEST_PATCHED="0" if _env.PATCHED else "1")

    assert done.returncode != 0
    assert "gevent.monkey" in done.stderr
