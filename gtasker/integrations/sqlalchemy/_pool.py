"""The pool: SQLAlchemy's contract on one side, a runner's leases on the other.

Invariant: a connection exists only within a slot of the runner's stock, but for one that was detached; and giving one
back never waits, but for SQLAlchemy's own reset.

SQLAlchemy resets (rolls back) what comes back, in the greenlet that used it, and calls it closed if that fails, is
interrupted, or ``invalidate`` was called. All else is the runner's: making, looking after, ending, and who is next.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

from gevent.event import Event
from gevent.lock import BoundedSemaphore
from sqlalchemy import exc
from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection
from sqlalchemy.pool.base import _ConnectionRecord

from gtasker import AcquireTimeoutError, Config, ResourceUnavailableError, Runner, State, TooManyWaitersError
from gtasker.integrations._frames import let_go_of_frames
from gtasker.integrations.sqlalchemy._drivers import Drivers, drivers_of
from gtasker.integrations.sqlalchemy._entry import Entry
from gtasker.integrations.sqlalchemy._settings import Settings, config_of


class GTaskerPool(Pool):
    """A pool of SQLAlchemy's over a runner: ``create_engine(url, poolclass=GTaskerPool)``.

    The arguments are ``QueuePool``'s: ``pool_size`` connections are kept ready, from the first use on, and at most
    ``max_overflow`` more exist at any moment, those being made and ended included; both must be bounds. ``timeout``:
    seconds to wait for one. ``recycle``: seconds a connection may live (-1: the runner's hour). A connection that idled
    for a second is asked for a sign of life before it is used, with ``pre_ping`` each one is. ``use_lifo`` is taken and
    makes no difference: what was used last is used next.
    ``runner_options`` are further fields of ``gtasker.Config``.

    It belongs to the OS thread that uses it first, and a connection to the greenlet that took it: if that ends without
    giving it back, the connection is closed within a second.
    Raises ArgumentError and ConfigError.
    """

    _is_asyncio = False

    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float | None = 30.0,
        recycle: float = -1,
        pre_ping: bool = False,
        use_lifo: bool = True,
        runner_options: Mapping[str, Any] | None = None,
        dialect: Any = None,
        **kw: Any,
    ) -> None:
        super().__init__(creator, dialect=dialect, **kw)
        self._settings = Settings(pool_size, max_overflow, timeout, recycle, pre_ping, dict(runner_options or {}))
        self._connect = self._invoke_creator
        self._invoke_creator = self._connect_within
        self._drivers: Drivers | None = drivers_of(dialect) if dialect is not None else None
        self._entries: dict[ConnectionPoolEntry, Entry] = {}
        self._first = BoundedSemaphore(1)
        self._pid = os.getpid()
        self._has_connected = False
        self._recycled_at = 0.0
        self._config = Config(**config_of(self._settings, self._orig_logging_name, self._hooks()))
        self._stop = Event()
        self._runner: Runner[Entry] | None = None

    @property
    def runner(self) -> Runner[Entry]:
        """The runner whose stock is lent: for its numbers, and for ``recycle``, ``resize`` and ``leases``."""
        if self._runner is None or self._runner.state is State.CLOSED:
            self._stop = Event()
            self._runner = Runner(replace(self._config, ctx=self._stop))
        return self._runner

    def _hooks(self) -> dict[str, Any]:
        hooks = {
            "on_create": self._create,
            "on_destroy": self._destroy,
            "on_forget": self._forget,
            "check_health": self._is_healthy,
            "check_resource": lambda entry: entry.driver.answers(entry.connection),
            "check_readable": False,
            "reset": None,
            "on_interrupt": None,
        }
        if self._drivers is None or self._drivers.are_adapted:
            hooks["check_readable"] = True
            hooks["reset"] = lambda entry: entry.driver.reset(entry.connection)
            hooks["on_interrupt"] = lambda entry: entry.driver.clean_up(entry.connection)
        return hooks

    @property
    def _known_drivers(self) -> Drivers:
        # A pool that was made before its engine learns its dialect from that.
        if self._drivers is None:
            self._drivers = drivers_of(self._dialect)
        return self._drivers

    def _is_healthy(self, error: BaseException) -> bool:
        return self._known_drivers.is_healthy(error)

    def _create(self) -> Entry:
        if self._has_connected:
            return self._make()
        # SQLAlchemy guards the first connection with a lock that, if threading is not patched, would stop the hub for
        # ever when a second greenlet comes to it.
        if self._pid != os.getpid():  # whoever connected when this child was forked does so in its parent alone
            self._pid, self._first = os.getpid(), BoundedSemaphore(1)
        with self._first:
            entry = self._make()
            self._has_connected = True
            return entry

    def _make(self) -> Entry:
        record = _ConnectionRecord(self, connect=False)
        entry = self._entries[record] = Entry(record, self._known_drivers.plain)
        try:
            record.get_connection()
            entry.driver.settle(entry.connection)
        except BaseException as error:
            let_go_of_frames(error)
            if entry.connection is not None:
                record.close()
            del self._entries[record]
            raise
        return entry

    def _connect_within(self, rec: ConnectionPoolEntry) -> Any:
        """Connect, within the slot of the record. What it had before is ended first. Switches."""
        entry = self._entries[rec]
        if entry.lease is not None:  # a listener of the application's found it bad, and SQLAlchemy reconnects at once
            entry.is_makeshift = True
            self._end_parting(entry)
        connection = self._connect(rec)
        entry.driver = self._known_drivers.of(connection)
        entry.fileno, entry.read_unasked = entry.driver.look(connection)
        return connection

    def _destroy(self, entry: Entry) -> None:
        entry.lease = None  # its greenlet may have ended with it
        try:
            self._end_parting(entry)
            if entry.connection is not None:
                entry.record.close()
        finally:
            del self._entries[entry.record]

    def _end_parting(self, entry: Entry) -> None:
        parting, entry.parting = entry.parting, None
        if parting is not None:
            entry.driver.destroy(parting)

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.record]
        if entry.connection is not None:
            entry.driver.forget(entry.connection)

    def _do_get(self) -> ConnectionPoolEntry:
        """Take a connection, waiting for its turn. Switches."""
        lease = self.runner.lease()
        try:
            entry = lease.__enter__()
        except (AcquireTimeoutError, TooManyWaitersError) as error:
            raise exc.TimeoutError(str(error), code="3o7r") from error
        except ResourceUnavailableError as error:
            raise self._as_database_error(error) from error
        entry.lease = lease
        entry.under = sys.exc_info()[1]
        record: ConnectionPoolEntry = entry.record
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        """Give a connection back, with what ended its use. Never switches."""
        entry = self._entries.get(record)
        if entry is None or entry.lease is None:  # its greenlet had ended, and it was taken back
            return
        lease, entry.lease = entry.lease, None
        error = sys.exc_info()[1]
        if error is entry.under or isinstance(error, GeneratorExit):  # that is of before, or how a generator ends
            error = None
        entry.under = None
        if entry.is_spent:
            lease.discard()
        lease.__exit__(None if error is None else type(error), error, None)

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        """Close; one that is out is closed by the runner, when it has come back. Switches only for one that is not."""
        entry = next((one for one in self._entries.values() if one.connection is connection), None)
        if entry is None:  # it was detached, and is no business of the runner's
            super()._close_connection(connection, terminate=terminate)
        elif entry.lease is not None:
            entry.parting = connection
        else:
            entry.driver.destroy(connection)

    def _invalidate(
        self, connection: PoolProxiedConnection, exception: BaseException | None = None, _checkin: bool = True
    ) -> None:
        """Have all that is as old as ``connection`` replaced: its server was lost. Never switches."""
        record: Any = getattr(connection, "_connection_record", None)
        entry = self._entries.get(record)
        if entry is None or entry.born_at > self._recycled_at:
            self._recycled_at = monotonic()
            self.runner.recycle()
        if _checkin and getattr(connection, "is_valid", False):
            connection.invalidate(exception)

    def _as_database_error(self, error: ResourceUnavailableError) -> Exception:
        """What an application expects where no connection can be made: the driver's error, wrapped."""
        cause = error.__cause__
        driver_error: Any = getattr(getattr(self._dialect, "loaded_dbapi", None), "Error", ())
        if isinstance(cause, driver_error):
            return exc.DBAPIError.instance(None, None, cause, driver_error, dialect=self._dialect)  # type: ignore[arg-type]
        return exc.OperationalError(None, None, cause or error)

    def recreate(self) -> GTaskerPool:
        """Return a new pool with the same settings and listeners; this one closes when it has got all back."""
        self.logger.info("Pool recreating")
        self._retire()
        return type(self)(
            self._creator,
            **self._settings._asdict(),
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )

    def dispose(self) -> None:
        """Close all connections that are not out, and the others when they come back. Switches unless one is out."""
        if self.checkedout():
            self._retire()
        else:
            # Let go of it first: who comes while it ends is served by the next one.
            runner, self._runner = self._runner, None
            if runner is not None:
                runner.stop()
        self.logger.info("Pool disposed. %s", self.status())

    def _retire(self) -> None:
        """Begin to close, without waiting for who has a connection out. Never switches."""
        runner, self._runner = self._runner, None
        if runner is not None and runner.state in (State.RUNNING, State.PAUSED):  # NEW in a forked child
            runner.resize(worker_count=1, max_worker_count=1, resource_pool_size=0)
            self._stop.set()

    def size(self) -> int:
        """Connections kept ready."""
        return self._settings.pool_size

    def timeout(self) -> float | None:
        """Seconds that a caller waits for a connection."""
        return self._settings.timeout

    def checkedout(self) -> int:
        """Connections that are out."""
        return sum(entry.lease is not None for entry in self._entries.values())

    def checkedin(self) -> int:
        """Connections that are not, those being made and ended included."""
        return len(self._entries) - self.checkedout()

    def overflow(self) -> int:
        """Connections beyond ``size``; below 0 while there are fewer."""
        return len(self._entries) - self.size()

    def status(self) -> str:
        """One line, in ``QueuePool``'s words."""
        return (
            f"Pool size: {self.size()}  Connections in pool: {self.checkedin()} "
            f"Current Overflow: {self.overflow()} Current Checked out connections: {self.checkedout()}"
        )


def gtasker_pool(**runner_options: Any) -> dict[str, Any]:
    """Return the arguments of ``create_engine`` for a pool whose runner has these further options.

    ``create_engine(url, pool_size=20, **gtasker_pool(max_creating=8, leak_warning=10))``
    """
    return {"poolclass": GTaskerPool, "runner_options": runner_options}
