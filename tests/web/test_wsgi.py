"""The 503 helper, with the reference checker of the WSGI rules on both of its sides."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

import gtasker
from gtasker.integrations.wsgi import NOT_NOW, ServerStoppingError, answer_503, unavailable

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PLAIN = [("Content-Type", "text/plain")]
OTHERS = (gtasker.TaskTimeoutError, gtasker.WouldDeadlockError, gtasker.ConfigError, ValueError, KeyboardInterrupt)


class Answer:
    """What a server would send, as far as it got; and what it was told when."""

    def __init__(self, application: WSGIApplication, **environ: Any) -> None:
        self.heads: list[tuple[str, dict[str, str]]] = []
        self.sent = b""
        self.error: BaseException | None = None
        environ = {**environ, "QUERY_STRING": ""}
        setup_testing_defaults(environ)
        body: Any = None
        try:
            body = application(environ, self._start_response)
            for part in body:
                assert self.heads, "a part came before its head"
                self.sent += part
        except BaseException as error:
            self.error = error
        finally:
            if hasattr(body, "close"):
                body.close()

    @property
    def status(self) -> str:
        [(status, _)] = self.heads
        return status

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        if exc_info and self.sent:
            raise exc_info[1]
        assert exc_info or not self.heads, "a second head"
        self.heads = [(status, dict(headers))]
        return self._write

    def _write(self, data: bytes) -> None:
        self.sent += data


def guarded(application: WSGIApplication, **options: Any) -> WSGIApplication:
    """`application` with the helper, and the checker around each of them."""
    return validator(answer_503(validator(application), **options))


def thrown(error: BaseException) -> bytes:
    raise error


def fails_at_once(error: BaseException, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    raise error


def fails_after_its_head(error: BaseException, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [*PLAIN, ("Content-Length", "1000")])
    raise error


def fails_when_its_body_is_asked_for(
    error: BaseException, environ: WSGIEnvironment, start: StartResponse
) -> Iterator[bytes]:
    start("200 OK", [*PLAIN, ("Content-Length", "1000")])
    yield thrown(error)


def fails_after_an_empty_part(error: BaseException, environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    start("200 OK", PLAIN)
    yield b""
    raise error


EARLY = [fails_at_once, fails_after_its_head, fails_when_its_body_is_asked_for, fails_after_an_empty_part]


@pytest.mark.parametrize("fails", EARLY)
@pytest.mark.parametrize("kind", NOT_NOW)
def test_not_now_becomes_a_503(kind: type[Exception], fails: Any) -> None:
    answer = Answer(guarded(partial(fails, kind("a secret")), retry_after=7))

    [(status, headers)] = answer.heads
    assert answer.error is None
    assert status == "503 Service Unavailable"
    assert headers["Retry-After"] == "7"
    assert headers["Cache-Control"] == "no-store"
    assert int(headers["Content-Length"]) == len(answer.sent)
    assert b"secret" not in answer.sent


@pytest.mark.parametrize("fails", EARLY)
def test_a_503_to_who_wants_the_head_alone_has_no_body(fails: Any) -> None:
    wrapped = answer_503(partial(fails, gtasker.RunnerStoppedError("a secret")))

    answer = Answer(wrapped, REQUEST_METHOD="HEAD")

    assert answer.status == "503 Service Unavailable"
    assert answer.sent == b""


@pytest.mark.parametrize("fails", EARLY)
@pytest.mark.parametrize("kind", OTHERS)
def test_every_other_error_passes_through(kind: type[BaseException], fails: Any) -> None:
    error = kind("other")

    answer = Answer(answer_503(partial(fails, error)))

    assert answer.error is error
    assert not answer.sent


def test_a_response_that_has_begun_is_not_followed_by_another() -> None:
    error = gtasker.RunnerKilledError("killed")

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
        start("200 OK", PLAIN)
        yield b"first"
        raise error

    answer = Answer(guarded(application))

    assert answer.error is error
    assert answer.status == "200 OK"
    assert answer.sent == b"first"


def test_what_was_written_by_hand_has_begun_the_response() -> None:
    error = gtasker.RunnerKilledError("killed")

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        write = start("200 OK", PLAIN)
        write(b"one ")
        write(b"two")
        raise error

    answer = Answer(guarded(application))

    assert answer.error is error
    assert answer.status == "200 OK"
    assert answer.sent == b"one two"


@pytest.mark.parametrize("body", [[b"a", b"b"], (b"ab",), iter([b"a", b"", b"b"]), iter([b"", b"ab"])])
def test_a_good_response_is_as_the_application_made_it(body: Iterable[bytes]) -> None:
    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        start("201 Created", PLAIN)
        return body

    answer = Answer(answer_503(application))

    assert answer.error is None
    assert answer.heads == [("201 Created", dict(PLAIN))]
    assert answer.sent == b"ab"


@pytest.mark.parametrize("body", [[], iter([]), iter([b""])])
def test_a_response_without_a_body_has_its_head(body: Iterable[bytes]) -> None:
    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        start("204 No Content", [])
        return body

    answer = Answer(answer_503(application))

    assert answer.error is None
    assert answer.status == "204 No Content"


def test_an_application_may_replace_its_own_head_with_an_error() -> None:
    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        start("200 OK", [*PLAIN, ("X-First", "1")])
        try:
            raise ValueError("late")
        except ValueError as error:
            start("500 Oops", PLAIN, (ValueError, error, None))  # type: ignore[arg-type]
        return iter([b"oops"])

    answer = Answer(answer_503(application))

    assert answer.heads == [("500 Oops", dict(PLAIN))]


def test_a_second_head_without_an_error_is_for_the_server_to_refuse() -> None:
    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        start("200 OK", PLAIN)
        start("200 OK", PLAIN)
        return [b"body"]

    answer = Answer(answer_503(application))

    assert isinstance(answer.error, AssertionError)
    assert str(answer.error).startswith("a second head")


@pytest.mark.parametrize("fails", [False, True])
def test_the_body_is_closed(*, fails: bool) -> None:
    closed = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            if fails:
                raise gtasker.QueueFullError("full")
            yield b"good"

        def close(self) -> None:
            closed.append(True)

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        start("200 OK", PLAIN)
        return Body()

    answer = Answer(guarded(application))

    assert answer.error is None
    assert closed == [True]


def test_what_servers_know_by_its_type_is_handed_to_them_as_it_is() -> None:
    file, sign, parts = FileWrapper(io.BytesIO(b"file")), object(), [b"part"]
    for body in (file, sign, parts):
        started: list[str] = []

        def application(environ: WSGIEnvironment, start: StartResponse, body: Any = body) -> Any:
            start("200 OK", PLAIN)
            return body

        def start_response(status: str, headers: Any, exc_info: Any = None, /, started: Any = started) -> Any:
            started.append(status)

        returned = answer_503(application)({"wsgi.file_wrapper": FileWrapper}, start_response)

        assert returned is body
        assert started == ["200 OK"]


def test_wrapping_twice_answers_once() -> None:
    answer = Answer(guarded(answer_503(partial(fails_at_once, gtasker.QueueFullError("full")), retry_after=3)))

    assert answer.status == "503 Service Unavailable"
    assert answer.heads[0][1]["Retry-After"] == "3"


def test_a_negative_delay_is_refused() -> None:
    with pytest.raises(ValueError, match="retry_after is seconds, 0 or more, not -1"):
        answer_503(partial(fails_at_once, ValueError()), retry_after=-1)


def test_the_parts_are_there_for_frameworks_that_catch_errors_themselves() -> None:
    body, status, headers = unavailable(gtasker.QueueFullError("a secret"), retry_after=2)

    assert status == 503
    assert headers["Retry-After"] == "2"
    assert "secret" not in body + str(headers)


def test_what_may_be_tried_again_is_told_from_what_may_not() -> None:
    assert ServerStoppingError in NOT_NOW
    assert not any(issubclass(kind, NOT_NOW) for kind in OTHERS)
    assert issubclass(gtasker.RunnerKilledError, NOT_NOW)
    assert not issubclass(gtasker.TaskCancelledError, NOT_NOW)
