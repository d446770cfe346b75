"""pytest's fixtures of gtasker: a ledger, runners that end with their test, throw-away servers, and fault proxies.

Invariant: pytest loads this in every project that has gtasker installed, so nothing but pytest is imported before a
fixture is used: no gevent, nothing that is patched later, no server that nobody asked for. That is why it stands beside
the package: importing any part of that imports gevent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gtasker import Runner
    from gtasker.testing.immediate import ImmediateRunner
    from gtasker.testing.ledger import Ledger
    from gtasker.testing.proxy import FaultProxy

__all__ = [
    "gtasker_immediate",
    "gtasker_ledger",
    "gtasker_postgres",
    "gtasker_proxy",
    "gtasker_redis",
    "gtasker_runner",
]


@pytest.fixture
def gtasker_ledger() -> Iterator[Ledger]:
    """Resources that keep books: at the test's end each was destroyed once, and none was misused."""
    from gtasker.testing.ledger import Ledger  # noqa: PLC0415  # see above

    ledger = Ledger()
    yield ledger
    ledger.assert_balanced()


@pytest.fixture
def gtasker_runner(gtasker_ledger: Ledger) -> Iterator[Callable[..., Runner[Any]]]:
    """Make a `Runner` of the given options (else over the ledger, with one worker); it is killed at the test's end."""
    from gtasker import Runner  # noqa: PLC0415  # see above

    yield from _runners(Runner, gtasker_ledger)


@pytest.fixture
def gtasker_immediate(gtasker_ledger: Ledger) -> Iterator[Callable[..., ImmediateRunner[Any]]]:
    """Make an `ImmediateRunner` in the same way."""
    from gtasker.testing.immediate import ImmediateRunner  # noqa: PLC0415  # see above

    yield from _runners(ImmediateRunner, gtasker_ledger)


def _runners(kind: type[Any], ledger: Ledger) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(**options: Any) -> Any:
        runner = kind(**{**ledger.options(), "worker_count": 1, **options})
        made.append(runner)
        return runner

    yield make
    reports = [runner.kill() for runner in made]
    assert all(report.complete and not report.abandoned for report in reports), f"a runner did not end: {reports}"


@pytest.fixture(scope="session")
def gtasker_postgres() -> Iterator[str]:
    """The DSN of a throw-away Postgres, one for the session; of ``$GTASKER_DSN`` where that is set."""
    from gtasker.testing.postgres import postgres  # noqa: PLC0415  # see above

    with postgres() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def gtasker_redis() -> Iterator[str]:
    """The URL of a throw-away Redis, one for the session; of ``$GTASKER_REDIS_URL`` where that is set."""
    from gtasker.testing.redis import redis  # noqa: PLC0415  # see above

    with redis() as url:
        yield url


@pytest.fixture
def gtasker_proxy() -> Iterator[Callable[[tuple[str, int] | str], FaultProxy]]:
    """Make a proxy before a (host, port) or a Unix socket, through which a test breaks connections; it ends with it."""
    from gtasker.testing.proxy import FaultProxy  # noqa: PLC0415  # see above

    with ExitStack() as stack:
        yield lambda target: stack.enter_context(FaultProxy(target))
