"""OpenTelemetry: the instruments of runners, and the spans of their tasks, with the real SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gevent
import pytest
from opentelemetry.metrics import Counter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import db_attributes
from opentelemetry.semconv._incubating.metrics import db_metrics
from opentelemetry.trace import StatusCode

from gtasker import Config, Priority, Runner, RunnerStats, TaskCancelledError
from gtasker.integrations import _home
from gtasker.integrations.opentelemetry import Telemetry, TracedRunner, observe, traced
from tests.acceptance.kit import eventually
from tests.conftest import MakeRunner
from tests.ledger import HeldTask, Ledger, LedgerResource, UnfitError, touch
from tests.monitoring.conftest import MakeBusy, UsualError, fail, work

Closing = Callable[[Any], Any]
Options = dict[str, Any]


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """What collects numbers when it is asked."""
    return InMemoryMetricReader()


@pytest.fixture
def telemetry(reader: InMemoryMetricReader, closing: Closing) -> Telemetry:
    """The instruments, read by `reader`."""
    provider = MeterProvider([reader])
    telemetry: Telemetry = closing(observe(meter_provider=provider))
    return telemetry


def metrics_of(data: MetricsData | None) -> dict[str, Metric]:
    """What was exported, by name."""
    assert data is not None
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    assert [scope.scope.name for scope in scopes] == ["gtasker"]
    return {metric.name: metric for scope in scopes for metric in scope.metrics}


def numbers(metric: Metric) -> dict[tuple[Any, ...], Any]:
    """The numbers of an instrument by the values of their attributes, in the order of the attributes' names."""
    points: list[Any] = list(metric.data.data_points)
    return {tuple(value for _, value in sorted(point.attributes.items())): point.value for point in points}


def test_instruments_tell_what_a_runner_did(busy: MakeBusy, telemetry: Telemetry, reader: InMemoryMetricReader) -> None:
    busy(completed=5, failed=2, name="shop")

    told = metrics_of(reader.get_metrics_data())

    assert numbers(told["gtasker.task.arrived"]) == {("shop",): 7}
    ended = numbers(told["gtasker.task.ended"])
    assert ended == {("shop", "completed"): 5, ("shop", "failed"): 2, ("shop", "cancelled"): 0}
    assert told["gtasker.task.ended"].unit == "{task}"


def test_pools_are_told_in_the_words_of_the_semantic_conventions(
    make_runner: MakeRunner, telemetry: Telemetry, reader: InMemoryMetricReader
) -> None:
    runner = make_runner(
        name="shop", worker_count=2, resource_pool_size=1, max_resources=6, on_event=telemetry.recorder()
    ).start()
    with runner.lease():
        told = metrics_of(reader.get_metrics_data())

    count = told[db_metrics.DB_CLIENT_CONNECTION_COUNT]
    attributes = [dict(point.attributes or {}) for point in count.data.data_points]
    words = {db_attributes.DB_CLIENT_CONNECTION_POOL_NAME, db_attributes.DB_CLIENT_CONNECTION_STATE}
    assert all(set(one) == words for one in attributes)
    assert numbers(count) == {("shop", "idle"): 2, ("shop", "used"): 1}
    assert numbers(told[db_metrics.DB_CLIENT_CONNECTION_MAX]) == {("shop",): 6}
    assert numbers(told[db_metrics.DB_CLIENT_CONNECTION_IDLE_MIN]) == {("shop",): 1}
    assert numbers(told[db_metrics.DB_CLIENT_CONNECTION_PENDING_REQUESTS]) == {("shop",): 0}
    assert numbers(told[db_metrics.DB_CLIENT_CONNECTION_TIMEOUTS]) == {("shop",): 0}


def test_units_and_kinds_are_those_of_the_conventions(
    busy: MakeBusy, telemetry: Telemetry, reader: InMemoryMetricReader
) -> None:
    busy(completed=1, name="shop")
    conventions = MeterProvider([InMemoryMetricReader()]).get_meter("conventions")

    told = metrics_of(reader.get_metrics_data())

    for create in (
        db_metrics.create_db_client_connection_count,
        db_metrics.create_db_client_connection_max,
        db_metrics.create_db_client_connection_idle_min,
        db_metrics.create_db_client_connection_pending_requests,
        db_metrics.create_db_client_connection_timeouts,
    ):
        expected: Any = create(conventions)
        metric = told[expected.name]
        assert metric.unit == expected.unit
        assert getattr(metric.data, "is_monotonic", None) is isinstance(expected, Counter)


def test_events_fill_the_histograms_of_creation_waiting_and_use(
    make_runner: MakeRunner, telemetry: Telemetry, reader: InMemoryMetricReader
) -> None:
    heard: list[str] = []
    record = telemetry.recorder(lambda event: heard.append(type(event).__name__))
    runner = make_runner(name="shop", worker_count=1, resource_pool_size=1, on_event=record).start()
    for _ in range(3):
        with runner.lease():
            gevent.sleep(0.001)

    told = metrics_of(reader.get_metrics_data())

    counts = {
        name: [(point.count, point.attributes) for point in told[name].data.data_points]  # type: ignore[union-attr]
        for name in (
            db_metrics.DB_CLIENT_CONNECTION_CREATE_TIME,
            db_metrics.DB_CLIENT_CONNECTION_WAIT_TIME,
            db_metrics.DB_CLIENT_CONNECTION_USE_TIME,
        )
    }
    pool = {db_attributes.DB_CLIENT_CONNECTION_POOL_NAME: "shop"}
    assert list(counts.values()) == [[(2, pool)], [(3, pool)], [(3, pool)]]
    assert all(told[name].unit == "s" for name in counts)
    assert "LeaseReturned" in heard


def test_percentiles_are_of_the_time_since_the_last_export(
    busy: MakeBusy, telemetry: Telemetry, reader: InMemoryMetricReader
) -> None:
    runner = busy(name="shop")
    for _ in range(3):
        runner.queue_task(lambda resource: gevent.sleep(0.05))

    first = numbers(metrics_of(reader.get_metrics_data())["gtasker.task.run_time"])
    work(runner, completed=20)
    second = numbers(metrics_of(reader.get_metrics_data())["gtasker.task.run_time"])
    third = metrics_of(reader.get_metrics_data())

    assert set(first) == {("0.5", "shop"), ("0.95", "shop"), ("0.99", "shop")}
    assert all(number >= 0.05 for number in first.values())
    assert all(number < 0.05 for number in second.values())
    assert "gtasker.task.run_time" not in third, "nothing ran meanwhile"


def test_one_export_reads_each_runner_once(
    busy: MakeBusy, telemetry: Telemetry, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = busy(completed=1)
    reads: list[RunnerStats] = []
    stats = runner.stats

    def count() -> RunnerStats:
        reads.append(stats())
        return reads[-1]

    monkeypatch.setattr(runner, "stats", count)

    reader.get_metrics_data()

    assert len(reads) == 1


def test_only_runners_at_work_are_told_of_unless_they_were_given(
    busy: MakeBusy, telemetry: Telemetry, reader: InMemoryMetricReader, closing: Closing
) -> None:
    runner = busy(completed=3, name="job")
    given = InMemoryMetricReader()
    closing(observe(runner, meter_provider=MeterProvider([given])))

    runner.stop()

    assert "gtasker.task.arrived" not in metrics_of(reader.get_metrics_data())
    assert numbers(metrics_of(given.get_metrics_data())["gtasker.task.arrived"]) == {("job",): 3}


def test_a_counter_does_not_fall_when_one_of_two_runners_of_a_name_ends(
    busy: MakeBusy, telemetry: Telemetry, reader: InMemoryMetricReader
) -> None:
    gone, _ = (busy(completed=done, name="shop") for done in (5, 3))
    assert numbers(metrics_of(reader.get_metrics_data())["gtasker.task.arrived"]) == {("shop",): 8}

    gone.stop()

    assert numbers(metrics_of(reader.get_metrics_data())["gtasker.task.arrived"]) == {("shop",): 8}


class Remembering(MetricExporter):
    """An exporter that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.exported: list[MetricsData] = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **kwargs: Any) -> MetricExportResult:
        self.exported.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        pass


def test_a_reader_in_a_thread_of_its_own_may_export_while_tasks_run(
    busy: MakeBusy, closing: Closing, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = busy(name="shop")
    exporter = Remembering()
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=100)])
    closing(observe(meter_provider=provider))

    def enough() -> bool:
        work(runner, completed=10)
        return len(exporter.exported) >= 3

    eventually(enough, "three exports")
    monkeypatch.setattr(_home, "PATIENCE", 0.02)
    provider.shutdown()  # exports once more, and joins the thread meanwhile: nobody turns the loop

    arrived = [numbers(metrics_of(data)["gtasker.task.arrived"])["shop",] for data in exporter.exported]
    assert len(arrived) >= 4
    assert arrived == sorted(arrived)


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """What keeps spans that ended."""
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> TracerProvider:
    """The provider behind `spans`."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider


MakeTraced = Callable[..., TracedRunner[LedgerResource]]


@pytest.fixture
def make_traced(ledger: Ledger, tracing: TracerProvider) -> Iterator[MakeTraced]:
    """Make runners whose tasks are traced; they are stopped at the test's end."""
    runners: list[TracedRunner[LedgerResource]] = []

    def make(**options: Any) -> TracedRunner[LedgerResource]:
        config = Config(**{"worker_count": 2, **ledger.options(), **options})
        runners.append(TracedRunner(config, tracer_provider=tracing))
        return runners[-1]

    yield make
    for runner in runners:
        runner.kill()


def the_span(spans: InMemorySpanExporter) -> ReadableSpan:
    """The one span that ended."""
    [span] = spans.get_finished_spans()
    return span


Submit = Callable[[Runner[LedgerResource]], object]
WAYS: dict[str, Submit] = {
    "queue_task": lambda runner: runner.queue_task(touch, 1),
    "queue_task_with_priority_once": lambda runner: runner.queue_task_with_priority_once(touch, 1),
    "submit": lambda runner: runner.submit(touch, 1).get(),
    "map": lambda runner: runner.map(touch, [1]),
    "imap_unordered": lambda runner: list(runner.imap_unordered(touch, [1])),
    "run_task": lambda runner: runner.run_task(touch, 1),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_attempt_joins_the_trace_of_its_submitter(
    way: str, make_traced: MakeTraced, tracing: TracerProvider, spans: InMemorySpanExporter
) -> None:
    runner = make_traced(name="shop").start()
    with tracing.get_tracer("request").start_as_current_span("request") as request:
        WAYS[way](runner)

    attempt, _ = spans.get_finished_spans()
    assert attempt.name == "touch"
    assert attempt.context is not None
    assert attempt.context.trace_id == request.get_span_context().trace_id
    assert attempt.parent is not None
    assert attempt.parent.span_id == request.get_span_context().span_id
    assert attempt.attributes is not None
    assert attempt.attributes["gtasker.runner.name"] == "shop"
    assert attempt.attributes["gtasker.task.attempt"] == 1


def test_what_a_task_opens_is_inside_its_span(
    make_traced: MakeTraced, tracing: TracerProvider, spans: InMemorySpanExporter
) -> None:
    def query(resource: LedgerResource) -> None:
        with tracing.get_tracer("driver").start_as_current_span("SELECT"):
            gevent.sleep(0)

    make_traced().queue_task(query)

    inner, attempt = spans.get_finished_spans()
    assert attempt.context is not None
    assert inner.parent is not None
    assert inner.parent.span_id == attempt.context.span_id


def test_a_failure_is_told_and_the_caller_gets_the_very_exception(
    make_traced: MakeTraced, spans: InMemorySpanExporter
) -> None:
    error = UsualError("no")

    def task(resource: LedgerResource) -> None:
        raise error

    with pytest.raises(UsualError) as caught:
        make_traced().queue_task(task)

    assert caught.value is error
    assert the_span(spans).status.status_code is StatusCode.ERROR
    assert [event.name for event in the_span(spans).events] == ["exception"]


def test_each_attempt_has_a_span(make_traced: MakeTraced, spans: InMemorySpanExporter) -> None:
    failures = iter([UnfitError, UnfitError])

    def task(resource: LedgerResource) -> str:
        for failure in failures:
            raise failure
        return "value"

    assert make_traced().queue_task(task) == "value"

    told = spans.get_finished_spans()
    assert [span.attributes and span.attributes["gtasker.task.attempt"] for span in told] == [1, 2, 3]
    assert [span.status.status_code for span in told] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]


def test_an_interruption_is_told(make_traced: MakeTraced, spans: InMemorySpanExporter) -> None:
    held = HeldTask("held")
    task = make_traced().submit(held)
    held.wait_begun()

    assert task.cancel()

    with pytest.raises(TaskCancelledError):
        task.get()
    eventually(spans.get_finished_spans, "the attempt has ended")
    assert the_span(spans).status.status_code is StatusCode.ERROR
    assert "interrupted" in (the_span(spans).status.description or "")


def test_the_span_tells_how_long_its_task_waited(make_traced: MakeTraced, spans: InMemorySpanExporter) -> None:
    held = HeldTask("held")
    runner = make_traced(worker_count=1).start()
    first = runner.submit(held)
    held.wait_begun()
    second = runner.submit(touch, 1, priority=Priority.HIGH)
    gevent.sleep(0.03)
    held.release()
    first.wait()
    second.wait()

    waits = [span.attributes and span.attributes["gtasker.task.waited"] for span in spans.get_finished_spans()]
    assert waits[0] is not None
    assert waits[1] is not None
    assert float(str(waits[1])) >= 0.03


def test_a_traced_task_keeps_its_name(make_traced: MakeTraced) -> None:
    def checkout(resource: LedgerResource, held: HeldTask[str]) -> str:
        return held(resource)

    held = HeldTask("held")
    runner = make_traced()
    task = runner.submit(partial(checkout, held=held))
    held.wait_begun()

    [info] = runner.leases()
    assert info.task is not None
    assert info.task.endswith("checkout")
    held.release()
    assert task.get() == "held"


def test_one_task_may_be_traced_alone(busy: MakeBusy, tracing: TracerProvider, spans: InMemorySpanExporter) -> None:
    runner = busy(completed=1, failed=1)

    with pytest.raises(UsualError):
        runner.queue_task(traced(fail, tracing))

    assert the_span(spans).name == "fail"


def test_what_is_not_callable_is_refused_as_ever(make_traced: MakeTraced) -> None:
    with pytest.raises(TypeError, match="callable"):
        make_traced().queue_task(None)  # type: ignore[arg-type]  # that is the test
