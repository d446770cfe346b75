"""What a pool has to know of its driver: how a connection ends, answers, is cleaned, and is left alone in a child.

Invariant: each method may meet a connection in any state. Those of a driver with an integration of gtasker's never stop
the hub; with any other DB-API they do what SQLAlchemy's dialect does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import event


class Driver:
    """Any DB-API, as its dialect knows it; SQLAlchemy's stub of a dialect knows no more than ``do_close``."""

    def __init__(self, dialect: Any) -> None:
        self.dialect = dialect

    def settle(self, connection: Any) -> None:
        """Its ``connect`` events are over: it is now as every use is to find it. Never switches."""

    def destroy(self, connection: Any) -> None:
        """End the session. Switches as the driver does."""
        self.dialect.do_close(connection)

    def answers(self, connection: Any) -> bool:
        """Ask the server for a sign of life, and leave no transaction open. Switches as the driver does."""
        if not hasattr(self.dialect, "do_ping"):
            return True
        if not self.dialect.do_ping(connection):
            return False
        self.dialect.do_rollback(connection)
        return True

    def reset(self, connection: Any) -> None:
        """See that it is clean after SQLAlchemy has reset it; raise if it cannot be. Switches."""

    def clean_up(self, connection: Any) -> bool:
        """Whether it is clean although its use was interrupted. Switches."""
        return False

    def forget(self, connection: Any) -> None:
        """In a forked child: let go of what is the parent's, without a word to the server. Never switches."""

    def is_healthy(self, error: BaseException) -> bool:
        """Whether a use that ended with ``error`` left the connection good. Never switches."""
        return True

    def look(self, connection: Any) -> tuple[Callable[[], int] | None, Callable[[], None] | None]:
        """What tells the socket, if that is quiet while the connection idles, but for what the other one reads."""
        return None, None


class Adapted(Driver):
    """A driver with an integration of gtasker's; ``hooks`` are the options that gives to a runner."""

    def __init__(self, dialect: Any, hooks: Mapping[str, Any]) -> None:
        super().__init__(dialect)
        self._hooks = hooks

    def settle(self, connection: Any) -> None:
        """What the application's events have set is what a use is to find. Never switches."""
        connection.remember_session()

    def destroy(self, connection: Any) -> None:
        """End its statement on the server first, then the session. Switches."""
        self._hooks["on_destroy"](connection)

    def answers(self, connection: Any) -> bool:
        """Ask in one round trip. Switches."""
        return bool(self._hooks["check_resource"](connection))

    def reset(self, connection: Any) -> None:
        """Roll back what is open, without a round trip if nothing is. Switches."""
        self._hooks["reset"](connection)

    def clean_up(self, connection: Any) -> bool:
        """Roll back, let go of session locks, and have it answer. Switches."""
        return bool(self._hooks["on_interrupt"](connection))

    def forget(self, connection: Any) -> None:
        """Close the descriptor only. Never switches."""
        self._hooks["on_forget"](connection)

    def is_healthy(self, error: BaseException) -> bool:
        """Judged by SQLSTATE and severity, through what SQLAlchemy wraps around it. Never switches."""
        return bool(self._hooks["check_health"](error))

    def look(self, connection: Any) -> tuple[Callable[[], int] | None, Callable[[], None] | None]:
        """Its own ``fileno``, and what reads notices and the like, if it has that."""
        return connection.fileno, getattr(connection, "read_unasked", None)


class Drivers:
    """The drivers of one dialect: the adapted one for ``green`` connections, and the plain one for all others.

    Others come where the application brings a ``creator`` of its own.
    """

    def __init__(
        self,
        plain: Driver,
        adapted: Driver | None = None,
        green: type[Any] | None = None,
        adopt: Callable[[Any], object] | None = None,
    ) -> None:
        self.plain = plain
        self._adapted = adapted or plain
        self._green = green
        self._adopt = adopt

    @property
    def are_adapted(self) -> bool:
        """Whether there are more than the plain one."""
        return self._green is not None

    def of(self, connection: Any) -> Driver:
        """The driver of a connection that was just made. Never switches."""
        if self._green is None:
            return self.plain
        if self._adopt is not None:
            self._adopt(connection)
        return self._adapted if isinstance(connection, self._green) else self.plain

    def is_healthy(self, error: BaseException) -> bool:
        """Whether ``error`` leaves its connection good. Never switches."""
        return self._adapted.is_healthy(error)


def drivers_of(dialect: Any) -> Drivers:
    """Return what is known of the drivers of ``dialect``. Warns or raises where they would stop the hub."""
    name = getattr(dialect, "driver", None)
    if name == "psycopg2":
        return _psycopg2(dialect)
    if name == "psycopg":
        return _psycopg3(dialect)
    return Drivers(Driver(dialect))


def _psycopg2(dialect: Any) -> Drivers:
    from gtasker.integrations.psycopg2 import (  # noqa: PLC0415  # another driver's user need not have it
        GreenConnection,
        resource,
    )

    if not event.contains(dialect, "do_connect", _connect_by_psycopg2):
        event.listen(dialect, "do_connect", _connect_by_psycopg2)
    return Drivers(Driver(dialect), Adapted(dialect, {**resource()}), GreenConnection)


def _connect_by_psycopg2(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
    """Have the integration make the connection: names looked up by gevent, the whole bounded, statements cancellable.

    Nothing is returned, so that listeners of the application's still see the parameters, and may change them.
    """
    from gtasker.integrations.psycopg2 import resource  # noqa: PLC0415  # as above

    theirs = parameters.get("connection_factory")

    def make(dsn: str, *_: Any) -> Any:
        return resource(dsn, connection_factory=theirs)["on_create"]()

    parameters["connection_factory"] = make


def _psycopg3(dialect: Any) -> Drivers:
    from gtasker.integrations.psycopg3 import GreenConnection, adopt, resource  # noqa: PLC0415  # as above

    return Drivers(Driver(dialect), Adapted(dialect, {**resource()}), GreenConnection, adopt)
