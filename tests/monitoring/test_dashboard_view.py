"""The dashboard's numbers: what is told of runners, of their past, and of other processes."""

from __future__ import annotations

import gc
import json
import os
import shutil
import stat
import time
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

from gtasker import RunnerEvent, StartError, State, events
from gtasker.integrations.dashboard import Dashboard
from gtasker.integrations.dashboard import _history as history
from gtasker.integrations.dashboard import _journal as journal
from gtasker.integrations.dashboard._journal import Journal
from gtasker.integrations.dashboard._merging import merge
from gtasker.integrations.dashboard._sampler import STACKS
from gtasker.integrations.dashboard._shelf import GONE_AFTER, STALE_AFTER, Shelf
from tests.acceptance.kit import eventually
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch
from tests.monitoring._visitor import TOKEN, Visitor, insider
from tests.monitoring.conftest import MakeBusy, StartProcess, work

Closing = Callable[[Any], Any]


@pytest.fixture
def dashboard(closing: Closing) -> Dashboard:
    """A dashboard as it is by default, but for its token."""
    made: Dashboard = closing(Dashboard(token=TOKEN))
    return made


def runner_of(view: Any, name: str = "shop") -> Any:
    """One runner of a view."""
    [found] = [runner for runner in view["runners"] if runner["name"] == name]
    return found


def slots_of(dashboard: Dashboard) -> list[Any]:
    """What this process told of the past of one runner."""
    return [json.loads(content) for _, content in dashboard._sampler._latest["tracks"]["shop"]]


def test_a_view_tells_what_a_runner_is_and_did(dashboard: Dashboard, busy: MakeBusy) -> None:
    busy(completed=5, failed=2, name="shop", worker_count=2, resource_pool_size=1, max_resources=6)

    view = insider(dashboard).numbers()

    shop = runner_of(view)
    assert shop["state"] == "running"
    assert (shop["totals"]["total_tasks_completed"], shop["totals"]["total_tasks_failed"]) == (5, 2)
    assert (shop["stats"]["live_resources"], shop["bounds"]["max_resources"]) == (3, 6)
    assert view["processes"][0]["pid"] == os.getpid()


def test_each_resource_is_told_with_who_has_it(dashboard: Dashboard, make_runner: MakeRunner) -> None:
    held = HeldTask("held")
    runner = make_runner(name="shop", worker_count=1, resource_pool_size=2).start()
    task = runner.submit(held)
    held.wait_begun()
    with runner.lease():
        shop = runner_of(insider(dashboard).numbers())
    held.release()
    task.wait()

    states = sorted((one["state"], one["owner"], one["kind"]) for one in shop["resources"] if one["state"] == "used")
    assert states == [("used", "reserve", "lease"), ("used", "worker", "worker")]
    assert [one["state"] for one in shop["resources"]].count("idle") == 1
    by_kind = {use["kind"]: use for use in shop["uses"]}
    assert by_kind["worker"]["task"] == "HeldTask"
    assert "ledger.py" in by_kind["worker"]["stack"]
    assert by_kind["lease"]["task"] is None


def test_stacks_are_formatted_only_while_somebody_looks(
    dashboard: Dashboard, make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(name="shop").start()
    asked: list[int | None] = []
    leases = runner.leases

    def count(*, limit: int | None = None) -> Any:
        asked.append(limit)
        return leases(limit=limit)

    monkeypatch.setattr(runner, "leases", count)
    dashboard.start()
    dashboard._sampler.look()
    assert asked == []

    insider(dashboard).numbers()
    assert asked
    assert all(limit is not None and limit <= 20 for limit in asked)


def test_neither_messages_nor_source_lines_are_told_unless_allowed(
    closing: Closing, make_runner: MakeRunner, ledger: Ledger
) -> None:
    def told(*, details: bool) -> str:
        dashboard = closing(Dashboard(token=TOKEN, details=details))
        runner = make_runner(name="shop", worker_count=1, resource_pool_size=0, on_event=dashboard.recorder())
        ledger.creating.fail(ConnectionError("dsn=postgres://shop:hunter2@db"))
        task = runner.submit(touch, "an argument")
        eventually(lambda: runner.backend().failures, "a create fails")
        first = json.dumps(insider(dashboard).numbers())
        ledger.creating.heal()
        assert task.get() == "an argument"
        with runner.lease():
            dsn = "password=hunter2"  # noqa: F841  # a line of a stack
            dashboard._sampler.look()
            second = json.dumps(insider(dashboard).numbers())
        runner.stop()
        dashboard.close()
        return first + second

    shy, frank = told(details=False), told(details=True)

    assert "ConnectionError" in shy
    assert "hunter2" not in shy
    assert "an argument" not in shy
    assert "hunter2@db" in frank
    assert "dashboard._sampler.look()" in frank
    assert "an argument" not in frank
    assert f"{Path(__file__).parent}/" in frank
    assert f"{Path(__file__).parent}/" not in shy
    assert "tests/monitoring/test_dashboard_view.py:" in shy


def test_what_happened_is_told_in_words(closing: Closing, make_runner: MakeRunner, ledger: Ledger) -> None:
    dashboard = closing(Dashboard(token=TOKEN))
    heard: list[RunnerEvent] = []
    runner = make_runner(
        name="shop", worker_count=1, resource_pool_size=0, max_retries=1, on_event=dashboard.recorder(heard.append)
    ).start()

    def spoil(resource: LedgerResource) -> None:
        raise UnfitError("gone")

    ledger.creating.fail(times=3)
    task = runner.submit(spoil)
    task.wait()
    eventually(lambda: runner.metrics().resources_destroyed == 2, "both that failed are destroyed")

    dashboard._sampler.look()
    told = {event["text"]: event for event in insider(dashboard).numbers()["events"]}
    assert told["Could not make a resource: CreateFailedError"]["count"] == 3
    assert told["Resource destroyed: its error was unhealthy"]["count"] == 2
    assert any("is tried again: UnfitError" in text for text in told)
    assert any(text.startswith("Backend back") for text in told)
    assert told["Runner new → running"]["runner"] == "shop"
    assert heard, "events go on to who listens"


@pytest.mark.parametrize("kind", sorted(set(events.__all__) - {"DestroyReason", "LeaseFailure", "LeaseKind"}))
def test_every_kind_of_event_can_be_noted(kind: str, make_runner: MakeRunner) -> None:
    runner = make_runner(name="shop", resource_pool_size=1).start()
    with runner.lease():
        [info] = runner.leases()
    values: dict[str, Any] = {
        "at": 1.0, "runner": "shop", "error": UnfitError("no"), "info": info, "why": "backlog", "task": "checkout",
        "tasks": ("checkout",), "after": State.RUNNING, "before": State.NEW,
        "reason": next(iter(events.LeaseFailure if kind == "LeaseFailed" else events.DestroyReason)),
    }  # fmt: skip
    event_type = getattr(events, kind)
    event = event_type(**{name: values.get(name, 1) for name in event_type.__dataclass_fields__})
    notes = Journal(show_messages=False)

    notes.note(event)

    assert len(notes.lines()) <= 1
    json.dumps(notes.lines())


def test_the_journal_is_bounded_and_keeps_no_error_alive() -> None:
    notes = Journal(show_messages=False)
    error = UnfitError("no")
    watched = weakref.ref(error)
    for number in range(1000):
        notes.note(events.TaskTimedOut(at=float(number), runner="shop", task=f"task-{number}"))
        notes.note(events.BackendDown(at=float(number), runner="shop", error=error))
    del error
    gc.collect()

    assert watched() is None
    assert len(notes.lines()) == journal.LINES
    assert notes.lines()[-1]["text"] == "Backend down: UnfitError"
    assert notes.lines()[-1]["count"] == 1000


def test_what_happens_again_after_a_while_is_a_line_of_its_own() -> None:
    notes = Journal(show_messages=False)
    for at in (0.0, 1.0, 1.0 + journal.FOLD_SPAN + 0.1):
        notes.note(events.TaskTimedOut(at=at, runner="shop", task="checkout"))

    assert [(line["since"], line["count"]) for line in notes.lines()] == [(31.1, 1)]


def test_the_past_is_told_by_slots_in_rates_and_percentiles(
    dashboard: Dashboard, busy: MakeBusy, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(history, "monotonic", lambda: now)
    runner = busy(name="shop")
    dashboard.start()
    for done in (10, 4):
        work(runner, completed=done, failed=1)
        dashboard._sampler.look()
        now += history.SLOT
    view = merge([dashboard._sampler._latest | {"at": now}], now + history.SETTLING, 0)

    first, second, *_ = runner_of(view)["points"]
    assert (first["slot"], second["slot"]) == (500, 501)
    assert (first["completed"], first["failed"], first["arrived"]) == (5.0, 0.5, 5.5)
    assert second["completed"] == 2.0
    assert len(first["run"]) == 3
    assert first["run"] == sorted(first["run"])


def test_what_was_before_the_first_look_is_no_news(dashboard: Dashboard, busy: MakeBusy) -> None:
    runner = busy(completed=50, name="shop")
    dashboard.start()
    work(runner, completed=1)
    dashboard._sampler.look()

    assert sum(slot["completed"] for slot in slots_of(dashboard)) == 1


def test_a_slot_that_is_not_over_is_not_told_and_none_is_told_twice() -> None:
    track = [history._told({**history._empty(number), "completed": number}) for number in range(500, 505)]
    settled = 504 * history.SLOT + history.SETTLING  # slot 503 ended so long ago

    assert [one["slot"] for one in history.points([track], 0, settled)] == [500, 501, 502, 503]
    assert [one["slot"] for one in history.points([track], 501, settled)] == [502, 503]
    assert [one["slot"] for one in history.points([track], 0, settled - 0.1)] == [500, 501, 502]


def test_slots_of_several_processes_add_up() -> None:
    def slot(**told: Any) -> history.Slot:
        return history._told({**history._empty(7), **told})

    tracks = [
        [slot(completed=4, waiting=2, oldest=1.0, run={"0.1": 98})],
        [slot(completed=6, waiting=3, oldest=3.0, run={"0.1": 1, "2.0": 1})],
    ]

    [one] = history.points(tracks, 0, 100.0)

    assert (one["completed"], one["waiting"], one["oldest"]) == (5.0, 5, 3.0)
    assert one["run"] == pytest.approx([0.1 / 2**0.1, 0.1 / 2**0.1, 0.1 / 2**0.1], rel=0.01)
    assert history.percentiles({"0.1": 1, "2.0": 1}) == pytest.approx([0.1 / 2**0.1, 2 / 2**0.1, 2 / 2**0.1], rel=0.01)
    assert history.percentiles({}) is None


@pytest.mark.parametrize("seconds", [0.0001, 0.003, 0.05, 1.7])
def test_a_percentile_of_the_past_is_within_eight_percent(
    seconds: float, make_runner: MakeRunner, dashboard: Dashboard
) -> None:
    runner = make_runner(name="shop").start()
    dashboard.start()
    # The meter is fed directly: a task would have to last exactly so long.
    meter = runner._here().site.meter
    meter.runs.extend([seconds] * 10)
    meter.waits.extend([seconds] * 10)
    dashboard._sampler.look()

    quantiles = history.percentiles(slots_of(dashboard)[-1]["run"])
    assert quantiles is not None
    assert quantiles == pytest.approx([seconds] * 3, rel=0.08)


def test_memory_is_bounded_however_long_it_looks(
    dashboard: Dashboard, busy: MakeBusy, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(history, "monotonic", lambda: now)
    runner = busy(name="shop")
    dashboard.start()
    for _ in range(history.SLOTS + 20):
        now += history.SLOT
        runner.queue_task(touch, 1)
        dashboard._sampler.look()

    assert len(dashboard._sampler._latest["tracks"]["shop"]) == history.SLOTS
    runner.stop()
    dashboard._sampler.look()
    assert dashboard._sampler._latest["tracks"] == {}
    assert dashboard._sampler._growth._seen == {}


def test_a_runner_that_closed_is_shown_no_more(dashboard: Dashboard, busy: MakeBusy) -> None:
    runner = busy(completed=1, name="shop")
    visitor = insider(dashboard)
    assert visitor.numbers()["runners"]

    runner.stop()

    dashboard._sampler.look()
    assert visitor.numbers()["runners"] == []


def test_a_dashboard_that_is_closed_looks_at_nothing_any_more(
    dashboard: Dashboard, make_runner: MakeRunner, folder: Path
) -> None:
    shared = Dashboard(token=TOKEN, directory=folder)
    runner = make_runner(name="shop", on_event=shared.recorder()).start()
    assert list(folder.iterdir())

    shared.close()
    runner.stop()

    assert list(folder.iterdir()) == []
    assert Visitor(shared).ask("/").status == 404


def test_another_os_thread_may_ask(dashboard: Dashboard, busy: MakeBusy) -> None:
    busy(completed=2, name="shop")
    visitor = insider(dashboard)

    view = gevent.get_hub().threadpool.apply(visitor.numbers)

    assert runner_of(view)["totals"]["total_tasks_completed"] == 2


def test_what_is_told_of_many_resources_is_bounded(dashboard: Dashboard, make_runner: MakeRunner) -> None:
    held = HeldTask("held")
    runner = make_runner(name="shop", worker_count=100, resource_pool_size=100).start()
    tasks = [runner.submit(held) for _ in range(100)]
    held.wait_begun(100)

    view = insider(dashboard).numbers()
    held.release()
    gevent.wait(tasks)

    assert len(runner_of(view)["resources"]) == 200
    assert len(runner_of(view)["uses"]) == STACKS
    assert len(json.dumps(view)) < 200_000


def test_runners_of_one_name_are_shown_as_one(dashboard: Dashboard, make_runner: MakeRunner) -> None:
    held = HeldTask("held")
    runners = [make_runner(name="shop", worker_count=1, resource_pool_size=1).start() for _ in range(2)]
    dashboard.start()
    tasks = [runner.submit(held) for runner in runners for _ in range(3)]
    held.wait_begun(2)

    dashboard._sampler.look()
    shop = runner_of(insider(dashboard).numbers())
    slot = slots_of(dashboard)[-1]
    held.release()
    gevent.wait(tasks)

    assert shop["waiting"] == slot["waiting"] == 4
    assert slot["busy"] == 2
    assert len({resource["key"] for resource in shop["resources"]}) == 4


# -- several processes ------------------------------------------------------------------------------------------------


def test_the_shelf_is_this_users_alone(tmp_path: Path) -> None:
    Shelf(tmp_path / "new" / "shelf").put("snapshot-1", {"at": time.monotonic()})

    assert stat.S_IMODE((tmp_path / "new" / "shelf").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / "shelf" / "snapshot-1").stat().st_mode) == 0o600
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(PermissionError, match="0700"):
        Shelf(open_to_all)


def test_what_is_old_or_of_the_future_or_no_file_of_ours_is_not_taken(folder: Path) -> None:
    now = time.monotonic()
    shelf = Shelf(folder)
    for number, at in enumerate([now, now - STALE_AFTER - 1, now - GONE_AFTER - 1, now + 1000]):
        shelf.put(f"snapshot-{number}", {"at": at})
    (folder / "snapshot-a").write_text("{")
    (folder / "snapshot-b").write_text("[]")
    (folder / "elsewhere-1").write_text("{}")

    assert [name for name, _ in shelf.take("snapshot")] == ["snapshot-0", "snapshot-1"]
    assert not (folder / "snapshot-2").exists()
    assert (folder / "elsewhere-1").exists()


def test_a_directory_that_cannot_be_written_hides_the_process_and_hurts_nobody(
    closing: Closing, busy: MakeBusy, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    busy(completed=1, name="shop")
    visitor = insider(closing(Dashboard(token=TOKEN, directory=folder / "gone", control=True)))
    visitor.numbers()
    shutil.rmtree(folder / "gone")

    assert visitor.command(runner="shop", action="recycle").status == 503
    for _ in range(3):
        assert runner_of(visitor.numbers())["totals"]["total_tasks_completed"] == 1

    said = [record.getMessage() for record in caplog.records if record.name == "gtasker.dashboard"]
    assert len(said) <= 1
    (folder / "gone").mkdir(mode=0o700)
    assert visitor.command(runner="shop", action="recycle").status == 200
    assert list((folder / "gone").glob("snapshot-*"))


def test_a_runner_whose_start_failed_hurts_nobody(
    dashboard: Dashboard, make_runner: MakeRunner, ledger: Ledger, busy: MakeBusy
) -> None:
    busy(completed=1, name="shop")
    failing = make_runner(name="other", on_event=dashboard.recorder())
    ledger.creating.fail(times=1)
    with pytest.raises(StartError):
        failing.start()

    dashboard._sampler.look()

    assert [runner["name"] for runner in insider(dashboard).numbers()["runners"]] == ["shop"]
    failing.start()
    dashboard._sampler.look()
    assert len(insider(dashboard).numbers()["runners"]) == 2


def test_any_process_shows_all(start_process: StartProcess, folder: Path) -> None:
    processes = [start_process("_shop", "shop", SHOP_DIRECTORY=str(folder)) for _ in range(3)]
    for process in processes:
        process.tell("work", 10)

    def total(process: Any) -> int:
        view = process.tell("numbers")
        shop = runner_of(view)
        return int(shop["totals"]["total_tasks_completed"]) if len(view["processes"]) == 3 else 0

    for process in processes:
        eventually(lambda: total(process) == 30, "every process' tasks are shown")  # noqa: B023  # called here
        shop = runner_of(process.tell("numbers"))
        assert {resource["pid"] for resource in shop["resources"]} == {one.pid for one in processes}
        assert shop["bounds"]["max_resources"] == 3 * 8


def test_a_process_that_ended_is_gone_and_one_that_hangs_is_named(start_process: StartProcess, folder: Path) -> None:
    watching, leaving, killed, hanging = (start_process("_shop", "shop", SHOP_DIRECTORY=str(folder)) for _ in range(4))

    def shown() -> dict[int, float]:
        return {one["pid"]: one["silent"] for one in watching.tell("numbers")["processes"]}

    eventually(lambda: len(shown()) == 4, "all are shown")
    assert leaving.leave() == 0
    assert leaving.pid not in shown()

    hanging.tell("hang", STALE_AFTER + 3)
    killed.kill()
    eventually(lambda: set(shown()) == {watching.pid, hanging.pid}, "the killed one is gone", 20)
    eventually(lambda: shown()[hanging.pid] > 0, "the hanging one is silent", 20)
    assert runner_of(watching.tell("numbers"))["bounds"]["max_resources"] == 8
    eventually(lambda: shown()[hanging.pid] == 0, "it is back", 20)


def test_an_order_reaches_every_process_once(start_process: StartProcess, folder: Path) -> None:
    first, second = (start_process("_shop", "shop", SHOP_DIRECTORY=str(folder)) for _ in range(2))
    eventually(lambda: len(first.tell("numbers")["processes"]) == 2, "both are shown")

    assert first.tell("command", "shop", "pause") == 200
    assert first.tell("state") == "paused"
    eventually(lambda: second.tell("state") == "paused", "the other is paused")

    assert second.tell("command", "shop", "resume") == 200
    eventually(lambda: first.tell("state") == "running", "the first is resumed")
    told: Counter[str] = Counter()
    for event in first.tell("numbers")["events"]:
        told[event["text"]] += event["count"]
    assert told["Told to pause"] == told["Told to resume"] == 2, "once in each process"


def test_a_forked_child_shows_itself_and_not_its_parent(start_process: StartProcess, folder: Path) -> None:
    parent = start_process("_shop", "shop", SHOP_DIRECTORY=str(folder))
    parent.tell("work", 5)

    child = parent.tell("fork", 3)

    def of(pid: int) -> list[Any]:
        return [one for one in parent.tell("numbers")["processes"] if one["pid"] == pid]

    eventually(lambda: of(child), "the child is shown")
    eventually(lambda: runner_of(parent.tell("numbers"))["totals"]["total_tasks_completed"] == 8, "both add up")
    parent.tell("end_child", child)
    assert of(parent.pid)
    assert not of(child)
