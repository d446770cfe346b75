"""The poller: one greenlet for the answers of all messages."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from typing import Any

import gevent
import pytest

from gtasker.distributed import DistributedError, EngineUnavailableError, RemoteTask
from gtasker.distributed._poller import Poller

WAIT = 20.0


class Answers:
    """Where the results are; who asks, and for what, is noted."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.asked: list[list[str]] = []
        self.by: set[Any] = set()
        self.away = 0

    def ask(self, handles: Sequence[RemoteTask[Any]]) -> list[Any]:
        self.by.add(gevent.getcurrent())
        self.asked.append([handle.message_id for handle in handles])
        gevent.sleep(0)
        if self.away:
            self.away -= 1
            raise ConnectionError("no results")
        return [self.found.get(handle.message_id) for handle in handles]

    def settle(self, handle: RemoteTask[Any], found: Any) -> None:
        handle.settle_value(found)


def watch(poller: Poller, *names: str) -> list[RemoteTask[Any]]:
    handles: list[RemoteTask[Any]] = [RemoteTask("task", name) for name in names]
    for handle in handles:
        poller.watch(handle)
    return handles


def test_one_greenlet_asks_for_a_thousand_answers_in_batches() -> None:
    answers = Answers()
    answers.found = {str(number): number for number in range(1000)}
    poller = Poller(answers.ask, answers.settle)

    handles = watch(poller, *answers.found)

    assert [handle.get(WAIT) for handle in handles] == list(range(1000))
    assert len(answers.by) == 1
    assert [len(batch) for batch in answers.asked] == [500, 500]


def test_an_answer_that_comes_late_is_found() -> None:
    answers = Answers()
    poller = Poller(answers.ask, answers.settle)
    [early, late] = watch(poller, "early", "late")

    answers.found["early"] = 1
    assert early.get(WAIT) == 1
    assert not late.ready()
    answers.found["late"] = 2

    assert late.get(WAIT) == 2
    assert "early" not in answers.asked[-1]


def test_a_handle_that_nobody_has_any_more_is_not_asked_for() -> None:
    answers = Answers()
    answers.found = {"kept": 1}
    poller = Poller(answers.ask, answers.settle)

    watch(poller, "dropped")
    gc.collect()
    [kept] = watch(poller, "kept")

    assert kept.get(WAIT) == 1
    assert answers.asked == [["kept"]]


def test_while_there_are_no_results_to_be_had_it_asks_again(caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers()
    answers.found, answers.away = {"a": 1}, 1
    poller = Poller(answers.ask, answers.settle)

    with caplog.at_level(logging.WARNING, "gtasker.distributed"):
        [handle] = watch(poller, "a")
        assert handle.get(WAIT) == 1

    assert "results cannot be asked for: no results" in caplog.text
    assert answers.asked == [["a"], ["a"]]


def test_an_answer_that_cannot_be_read_costs_no_other_handle_its_own() -> None:
    answers = Answers()
    answers.found = {"bad": ValueError("no JSON"), "good": 1}

    def settle(handle: RemoteTask[Any], found: Any) -> None:
        if isinstance(found, Exception):
            raise found
        handle.settle_value(found)

    poller = Poller(answers.ask, settle)
    bad, good, late = watch(poller, "bad", "good", "late")

    assert good.get(WAIT) == 1
    with pytest.raises(DistributedError, match="the answer of task cannot be read"):
        bad.get(WAIT)
    answers.found["late"] = 2
    assert late.get(WAIT) == 2


def test_who_waits_when_it_is_closed_is_told() -> None:
    answers = Answers()
    poller = Poller(answers.ask, answers.settle)
    handles = watch(poller, "a", "b")
    gevent.sleep(0)

    poller.close()

    for handle in handles:
        with pytest.raises(EngineUnavailableError, match="closed before task had answered"):
            handle.get(WAIT)
