"""Prometheus, one process: what a scrape tells of runners."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import monkey
from gevent.hub import get_hub
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gtasker.integrations import _home
from gtasker.integrations.prometheus import Flusher, install
from tests.acceptance.kit import eventually
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, touch
from tests.monitoring.conftest import MakeBusy, work

Closing = Callable[[Any], Any]
start_thread: Callable[..., Any] = monkey.get_original("_thread", "start_new_thread")
make_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")


@pytest.fixture
def registry() -> CollectorRegistry:
    """Where the test's collectors are registered."""
    return CollectorRegistry()


def scrape(registry: CollectorRegistry) -> dict[str, Metric]:
    """What Prometheus would read, by family."""
    return {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """One number of what Prometheus would read."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    found = [one.value for family in families for one in family.samples if one.name == name and one.labels == labels]
    assert len(found) <= 1, f"{name} {labels} is told {len(found)} times"
    return found[0] if found else None


def test_a_scrape_tells_what_a_runner_did(busy: MakeBusy, registry: CollectorRegistry, closing: Closing) -> None:
    busy(completed=5, failed=2, name="shop")

    closing(install(registry=registry))

    assert value(registry, "gtasker_task_arrived_total", runner="shop") == 7
    assert value(registry, "gtasker_task_ended_total", runner="shop", outcome="completed") == 5
    assert value(registry, "gtasker_task_ended_total", runner="shop", outcome="failed") == 2
    assert value(registry, "gtasker_task_ended_total", runner="shop", outcome="cancelled") == 0
    assert value(registry, "gtasker_task_run_time_seconds_count", runner="shop") == 7


def test_a_scrape_tells_what_there_is(make_runner: MakeRunner, registry: CollectorRegistry, closing: Closing) -> None:
    held = HeldTask("held")
    runner = make_runner(name="shop", worker_count=2, resource_pool_size=1, max_resources=6).start()
    tasks = [runner.submit(held) for _ in range(5)]
    held.wait_begun(2)
    closing(install(registry=registry))
    pool = {"db_client_connection_pool_name": "shop"}

    assert value(registry, "db_client_connection_count", **pool, db_client_connection_state="used") == 2
    assert value(registry, "db_client_connection_count", **pool, db_client_connection_state="idle") == 1
    assert value(registry, "db_client_connection_max", **pool) == 6
    assert value(registry, "db_client_connection_idle_min", **pool) == 1
    assert value(registry, "db_client_connection_pending_requests", **pool) == 3
    assert value(registry, "gtasker_worker_active", runner="shop", state="busy") == 2
    assert value(registry, "gtasker_task_waiting", runner="shop", line="normal") == 3
    assert (value(registry, "gtasker_task_oldest_wait_seconds", runner="shop") or 0) > 0

    held.release()
    gevent.wait(tasks)


def test_a_lease_that_comes_too_late_is_a_time_out(
    make_runner: MakeRunner, registry: CollectorRegistry, closing: Closing
) -> None:
    runner = make_runner(name="shop", worker_count=1, resource_pool_size=0, max_resources=1).start()
    closing(install(registry=registry))

    with runner.lease(), pytest.raises(TimeoutError), runner.lease(timeout=0.01):
        pass

    assert value(registry, "db_client_connection_timeouts_total", db_client_connection_pool_name="shop") == 1


def test_histograms_say_as_much_as_the_runner_knows(
    busy: MakeBusy, registry: CollectorRegistry, closing: Closing
) -> None:
    runner = busy(completed=50, name="shop")
    closing(install(registry=registry))
    mine = runner.histograms().run

    [family] = [one for one in scrape(registry).values() if one.name == "gtasker_task_run_time_seconds"]
    buckets = {one.labels["le"]: one.value for one in family.samples if one.name.endswith("_bucket")}
    counts = list(buckets.values())

    assert counts == sorted(counts)
    assert buckets["+Inf"] == 50
    exact = {round(bound, 9): count for bound, count in zip(mine.bounds, mine.counts, strict=True)}
    assert all(exact[float(bound)] == count for bound, count in buckets.items())
    assert 15 <= len(buckets) <= 30
    assert value(registry, "gtasker_task_run_time_seconds_sum", runner="shop") == pytest.approx(mine.total)


def test_names_follow_prometheus_rules(busy: MakeBusy, registry: CollectorRegistry, closing: Closing) -> None:
    busy(completed=1, name="shop")
    closing(install(registry=registry))

    families = scrape(registry).values()

    assert len(families) > 20
    for family in families:
        assert re.fullmatch(r"(gtasker|db_client_connection)_[a-z_]*[a-z]", family.name)
        assert family.documentation
        if family.name != "db_client_connection_count":  # OpenTelemetry's word
            assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
        assert all(one.name.endswith("_total") for one in family.samples if family.type == "counter")
        assert not re.search("gauge|counter|histogram|summary|_ms$|milli", family.name)
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert all(re.fullmatch(r"[a-z_]+", label) for label in labels)
        if re.search("wait|time|lag", family.name) and family.type in {"gauge", "histogram"}:
            assert family.name.endswith("_seconds") or family.name == "gtasker_task_waiting"


def test_a_page_of_openmetrics_can_be_read_too(busy: MakeBusy, registry: CollectorRegistry, closing: Closing) -> None:
    busy(completed=1, name="shop")
    flushed = CollectorRegistry()
    closing(install(registry=registry))
    closing(Flusher(registry=flushed)).flush()

    for one in (registry, flushed):
        page = openmetrics.generate_latest(one).decode()  # type: ignore[no-untyped-call]  # not annotated
        families = read_openmetrics(page)  # type: ignore[no-untyped-call]  # as above
        assert {family.name for family in families} == set(scrape(registry))


def test_runners_of_one_name_are_told_as_one(busy: MakeBusy, registry: CollectorRegistry, closing: Closing) -> None:
    busy(completed=3, name="shop", max_resources=4)
    busy(completed=4, name="shop", max_resources=5)
    closing(install(registry=registry))

    assert value(registry, "gtasker_task_arrived_total", runner="shop") == 7
    assert value(registry, "gtasker_task_run_time_seconds_count", runner="shop") == 7
    assert value(registry, "db_client_connection_max", db_client_connection_pool_name="shop") == 9


def test_only_runners_at_work_are_told_of_unless_they_were_given(
    busy: MakeBusy, registry: CollectorRegistry, closing: Closing
) -> None:
    runner = busy(completed=3, name="job")
    given = CollectorRegistry()
    closing(install(registry=registry))
    closing(install(runner, registry=given))

    runner.stop()

    assert value(registry, "gtasker_task_arrived_total", runner="job") is None
    assert value(given, "gtasker_task_arrived_total", runner="job") == 3


def test_a_counter_does_not_fall_when_one_of_two_runners_of_a_name_ends(
    busy: MakeBusy, registry: CollectorRegistry, closing: Closing
) -> None:
    closing(install(registry=registry))
    gone, left = (busy(completed=done, name="shop") for done in (5, 3))
    assert value(registry, "gtasker_task_arrived_total", runner="shop") == 8

    work(gone, completed=1)
    gone.stop()
    assert value(registry, "gtasker_task_arrived_total", runner="shop") == 9
    assert value(registry, "gtasker_task_run_time_seconds_count", runner="shop") == 9
    left.stop()
    assert value(registry, "gtasker_task_arrived_total", runner="shop") is None


def test_installing_twice_is_refused_and_leaves_nothing(registry: CollectorRegistry, closing: Closing) -> None:
    closing(install(registry=registry))

    with pytest.raises(ValueError, match="Duplicated"):
        install(registry=registry)  # that no timer is left is looked at after each test


def test_another_os_thread_may_scrape_while_tasks_run(
    busy: MakeBusy, registry: CollectorRegistry, closing: Closing
) -> None:
    runner = busy(name="shop")
    closing(install(registry=registry))
    scrapes = get_hub().threadpool.spawn(lambda: [generate_latest(registry) for _ in range(50)])

    done = 0
    while not scrapes.ready():
        work(runner, completed=20)
        done += 20
        gevent.sleep(0)

    told = [re.search(rb'gtasker_task_arrived_total{runner="shop"} ([\d.e+]+)', page) for page in scrapes.get() or []]
    numbers = [float(found[1]) for found in told if found]
    assert len(numbers) == 50
    assert numbers == sorted(numbers)
    assert value(registry, "gtasker_task_arrived_total", runner="shop") == done


def test_a_scrape_while_the_loop_stands_still_tells_the_last_numbers(
    busy: MakeBusy, registry: CollectorRegistry, closing: Closing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_home, "PATIENCE", 0.02)
    runner = busy(completed=3, name="shop")
    closing(install(registry=registry))
    first = generate_latest(registry)
    pages: list[bytes] = []
    ended = make_lock()
    ended.acquire()

    def scrape_there() -> None:
        pages.append(generate_latest(registry))
        ended.release()

    work(runner, completed=1)
    start_thread(scrape_there, ())
    assert ended.acquire(timeout=10)  # natively: the event loop stands still

    assert pages == [first]
    assert value(registry, "gtasker_task_arrived_total", runner="shop") == 4


def test_a_task_that_keeps_the_hub_shows_as_lag(busy: MakeBusy, registry: CollectorRegistry, closing: Closing) -> None:
    closing(install(registry=registry))
    gevent.sleep(0.15)  # past the first look at the loop

    until = time.monotonic() + 0.4
    while time.monotonic() < until:
        pass
    eventually(lambda: (value(registry, "gtasker_hub_lag_seconds") or 0) > 0.15, "the lag is told")


def test_a_folder_that_is_named_too_late_is_warned_of(
    registry: CollectorRegistry, closing: Closing, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))

    with pytest.warns(RuntimeWarning, match="too late"):
        closing(install(registry=registry))


def test_flushing_again_adds_nothing(busy: MakeBusy, registry: CollectorRegistry, closing: Closing) -> None:
    runner = busy(completed=5, failed=1, name="shop")
    flusher = closing(Flusher(registry=registry))

    flusher.flush()
    flusher.flush()
    assert value(registry, "gtasker_task_arrived_total", runner="shop") == 6
    assert value(registry, "gtasker_task_run_time_seconds_count", runner="shop") == 6

    work(runner, completed=2)
    flusher.flush()
    assert value(registry, "gtasker_task_arrived_total", runner="shop") == 8
    assert value(registry, "gtasker_task_run_time_seconds_sum", runner="shop") == pytest.approx(
        runner.histograms().run.total
    )


def test_what_a_runner_did_before_its_end_is_flushed_and_its_levels_are_nought(
    busy: MakeBusy, registry: CollectorRegistry, closing: Closing
) -> None:
    runner = busy(completed=1, name="shop")
    flusher = closing(Flusher(registry=registry))
    flusher.flush()

    work(runner, completed=2)
    runner.stop()
    flusher.flush()
    flusher.flush()

    assert value(registry, "gtasker_task_arrived_total", runner="shop") == 3
    assert value(registry, "gtasker_resource_destroyed_total", runner="shop") == 4
    assert value(registry, "db_client_connection_max", db_client_connection_pool_name="shop") == 0


def test_a_given_runner_that_has_ended_is_counted_once(
    busy: MakeBusy, registry: CollectorRegistry, closing: Closing
) -> None:
    runner = busy(completed=3, name="job")
    flusher = closing(Flusher(runner, registry=registry))
    runner.stop()

    for _ in range(3):
        flusher.flush()

    assert value(registry, "gtasker_task_arrived_total", runner="job") == 3
    assert value(registry, "gtasker_task_run_time_seconds_count", runner="job") == 3


def test_a_runner_of_the_same_name_adds_to_the_one_before(
    busy: MakeBusy, registry: CollectorRegistry, closing: Closing
) -> None:
    flusher = closing(Flusher(registry=registry))
    for done in (4, 2):
        runner = busy(completed=done, name="shop")
        flusher.flush()
        runner.stop()
        flusher.flush()

    assert value(registry, "gtasker_task_arrived_total", runner="shop") == 6


def test_both_ways_tell_the_same(busy: MakeBusy, registry: CollectorRegistry, closing: Closing) -> None:
    busy(completed=7, failed=2, name="shop")
    flushed = CollectorRegistry()
    closing(install(registry=registry))
    closing(Flusher(registry=flushed)).flush()

    def told(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in scrape(registry).values()
            for sample in family.samples
            if not sample.name.endswith("_created") and "lag" not in sample.name
        }

    assert told(registry) == pytest.approx(told(flushed))


def test_looking_costs_a_runner_no_switch(busy: MakeBusy, registry: CollectorRegistry, closing: Closing) -> None:
    runner = busy(name="shop")
    collector = closing(install(registry=registry))
    ran: list[str] = []
    gevent.spawn(ran.append, "another greenlet")

    collector.collect()

    assert ran == []
    gevent.sleep(0)
    assert ran
    assert runner.queue_task(touch, "value") == "value"
