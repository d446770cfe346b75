"""Logging: fields on each record, nothing a task at INFO, and never a wait in the hub."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.event import Event
from gevent.hub import get_hub
from greenlet import getcurrent

from gtasker import RunnerEvent, events
from gtasker.integrations.logging import WAITING, EventLog
from tests.acceptance.kit import eventually
from tests.acceptance.test_p12_fork import in_child
from tests.conftest import MakeRunner
from tests.ledger import Ledger, UnfitError, touch
from tests.monitoring.conftest import MakeBusy


class Records(logging.Handler):
    """Keeps records, with the greenlet that logged each; may be held, as a handler that waits for a disk."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.greenlets: list[object] = []
        self.door = Event()
        self.door.set()

    def emit(self, record: logging.LogRecord) -> None:
        self.door.wait()
        self.greenlets.append(getcurrent())
        self.records.append(record)

    def of(self, event: str) -> list[logging.LogRecord]:
        """Those of one kind of event."""
        return [record for record in self.records if record.__dict__.get("event") == event]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of the test's own, where everything is heard."""
    logger = logging.getLogger("test of event log")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    logger.handlers.clear()


@pytest.fixture
def records(logger: logging.Logger) -> Records:
    """What it was given."""
    records = Records()
    logger.addHandler(records)
    return records


@pytest.fixture
def log(logger: logging.Logger) -> Iterator[EventLog]:
    """Writes to it; at the test's end all is written."""
    log = EventLog(logger)
    yield log
    assert log.flush(10)


def test_a_record_has_the_fields_of_its_event(
    make_runner: MakeRunner, ledger: Ledger, log: EventLog, records: Records
) -> None:
    runner = make_runner(name="shop", worker_count=1, resource_pool_size=0, max_retries=0, on_event=log.recorder())

    def spoil(resource: object) -> None:
        raise UnfitError("gone")

    with pytest.raises(UnfitError):
        runner.queue_task(spoil)
    eventually(lambda: records.of("ResourceDestroyed"), "the destruction is logged")

    [record] = records.of("ResourceDestroyed")
    fields = record.__dict__
    assert (fields["runner"], fields["resource_id"], fields["reason"]) == ("shop", 1, "unhealthy")
    assert record.getMessage() == "shop: ResourceDestroyed resource_id=1 reason=unhealthy"


def test_nothing_a_task_is_logged_at_info(
    make_runner: MakeRunner, log: EventLog, logger: logging.Logger, records: Records
) -> None:
    logger.setLevel(logging.INFO)
    runner = make_runner(name="shop", logger=logger, on_event=log.recorder()).start()
    log.flush()
    before = len(records.records)

    for number in range(100):
        runner.queue_task(touch, number)
        runner.run_task(touch, number)
        with runner.lease():
            pass
    log.flush()

    assert len(records.records) == before
    assert records.of("StateChanged")


def test_what_the_runner_logs_by_itself_has_its_name_and_the_resource(
    make_runner: MakeRunner, logger: logging.Logger, records: Records
) -> None:
    runner = make_runner(name="shop", worker_count=1, resource_pool_size=1, logger=logger).start()

    gevent.spawn(lambda: runner.lease().__enter__()).join()
    eventually(lambda: records.records, "the leak is logged")

    [record] = records.records
    assert record.levelno == logging.ERROR
    assert record.__dict__["runner"] == "shop"
    assert record.__dict__["resource_id"] >= 1


def test_a_handler_that_waits_holds_up_nobody(make_runner: MakeRunner, log: EventLog, records: Records) -> None:
    records.door.clear()
    runner = make_runner(on_event=log.recorder()).start()

    assert runner.queue_task(touch, "value") == "value"
    assert runner.stop().complete
    assert not records.records

    records.door.set()
    assert log.flush(10)
    assert records.of("StateChanged")[-1].__dict__["after"] == "closed"
    assert get_hub() not in records.greenlets


def test_what_does_not_fit_is_dropped_and_counted(log: EventLog, records: Records) -> None:
    record = log.recorder()
    records.door.clear()
    for number in range(WAITING + 10):
        record(events.ResourceCreating(at=0.0, runner="shop", resource_id=number))

    records.door.set()
    assert log.flush(10)

    assert len(records.of("ResourceCreating")) == WAITING
    [told] = [one for one in records.records if one not in records.of("ResourceCreating")]
    assert told.getMessage().startswith("10 events were not logged")


def test_events_go_on_to_who_listens(make_runner: MakeRunner, log: EventLog) -> None:
    heard: list[RunnerEvent] = []
    make_runner(on_event=log.recorder(heard.append)).start()

    assert any(isinstance(event, events.StateChanged) for event in heard)


def test_levels_may_be_chosen(logger: logging.Logger, records: Records) -> None:
    log = EventLog(logger, {events.ResourceCreating: logging.ERROR})
    logger.setLevel(logging.ERROR)

    log.recorder()(events.ResourceCreating(at=0.0, runner="shop", resource_id=1))
    log.recorder()(events.ResourceCreated(at=0.0, runner="shop", resource_id=1, seconds=0.1))
    log.flush()

    assert [record.__dict__["event"] for record in records.records] == ["ResourceCreating"]


def test_an_event_that_waits_does_not_keep_its_error_alive(log: EventLog, records: Records) -> None:
    class FailedError(Exception):
        pass

    def fail() -> Callable[[], object]:
        try:
            raise FailedError("no")
        except FailedError as error:
            log.recorder()(events.BackendDown(at=0.0, runner="shop", error=error))
            return weakref.ref(error)

    records.door.clear()
    error = fail()
    gc.collect()
    assert error() is None

    records.door.set()
    assert log.flush(10)
    assert records.of("BackendDown")[0].__dict__["error"] == "FailedError('no')"


def test_what_waits_at_a_fork_is_logged_by_the_parent_alone(log: EventLog, records: Records) -> None:
    record = log.recorder()
    records.door.clear()
    for number in range(3):
        record(events.ResourceCreating(at=0.0, runner="shop", resource_id=number))

    def child() -> list[int]:
        record(events.ResourceCreating(at=0.0, runner="shop", resource_id=99))
        records.door.set()
        assert log.flush(10)
        return [one.__dict__["resource_id"] for one in records.records]

    assert in_child(child) == [99]
    records.door.set()
    assert log.flush(10)
    assert [one.__dict__["resource_id"] for one in records.records] == [0, 1, 2]


def test_a_runner_works_with_all_its_levels_on(busy: MakeBusy, log: EventLog) -> None:
    runner = busy(completed=10, failed=1, on_event=log.recorder())

    assert runner.stop().complete
