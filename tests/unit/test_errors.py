"""The tree of errors is what users catch by: every arrow of it is a promise."""

from __future__ import annotations

import builtins
import pickle

import pytest

from gtasker import errors

PARENTS = {
    "GTaskerError": (Exception,),
    "ConfigError": (errors.GTaskerError, ValueError),
    "WorkerCountMustBePositiveError": (errors.ConfigError,),
    "OnCreateFunctionRequiredError": (errors.ConfigError,),
    "OnDestroyFunctionRequiredError": (errors.ConfigError,),
    "StartError": (errors.GTaskerError,),
    "RunnerStoppedError": (errors.GTaskerError,),
    "QueueFullError": (errors.GTaskerError,),
    "ResourceError": (errors.GTaskerError,),
    "ResourceUnavailableError": (errors.ResourceError,),
    "AcquireTimeoutError": (errors.ResourceError, builtins.TimeoutError),
    "TooManyWaitersError": (errors.ResourceError,),
    "TaskError": (errors.GTaskerError,),
    "TaskCancelledError": (errors.TaskError,),
    "RunnerKilledError": (errors.TaskCancelledError,),
    "TaskTimeoutError": (errors.TaskError, builtins.TimeoutError),
    "MaxRetriesExceededError": (errors.TaskError,),
    "WouldDeadlockError": (errors.TaskError,),
    "WrongThreadError": (errors.GTaskerError,),
    "WouldBlockHubError": (errors.GTaskerError,),
}


@pytest.mark.parametrize("name", PARENTS)
def test_an_error_has_exactly_the_parents_it_is_promised(name: str) -> None:
    assert getattr(errors, name).__bases__ == PARENTS[name]


def test_all_errors_are_exported_sorted_and_nothing_else_is() -> None:
    assert errors.__all__ == sorted(PARENTS)


@pytest.mark.parametrize("name", PARENTS)
def test_an_error_says_what_it_means(name: str) -> None:
    assert "__doc__" in vars(getattr(errors, name))
    assert len(getattr(errors, name).__doc__) > 40


@pytest.mark.parametrize("name", sorted(set(PARENTS) - {"MaxRetriesExceededError"}))
def test_an_error_reads_as_its_message(name: str) -> None:
    assert str(getattr(errors, name)("4 of 4 are out")) == "4 of 4 are out"


def test_spent_retries_tell_how_many_attempts_were_begun() -> None:
    error = errors.MaxRetriesExceededError("gave up after 4 attempts", 4)
    assert (str(error), error.attempts) == ("gave up after 4 attempts", 4)


def test_spent_retries_survive_pickling_with_their_count() -> None:
    error = pickle.loads(pickle.dumps(errors.MaxRetriesExceededError("gave up", 4)))
    assert (type(error), str(error), error.attempts) == (errors.MaxRetriesExceededError, "gave up", 4)
