"""The connection a runner holds: it ends its own statement on the server when it is interrupted.

Invariant: when ``wait`` raises, no statement is in flight any more, or the connection is closed.

psycopg does so for Ctrl-C alone. After a kill or a ``gevent.Timeout`` it would leave the connection open with its
statement running: neither usable nor to be rolled back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

import gevent
import psycopg
from gevent import Greenlet, socket
from psycopg.pq import PipelineStatus, TransactionStatus

from gtasker.integrations._postgres import mark_as_committing
from gtasker.integrations.psycopg3._cancelling import cancel
from gtasker.integrations.psycopg3._commits import committing

_CHUNK = 4096  # bytes
_FIRST_PATIENCE = 0.01  # seconds; the answer of a cancelled statement takes a tenth of it


class _Session(NamedTuple):
    """What psycopg itself remembers of a session."""

    autocommit: bool
    isolation_level: Any
    read_only: bool | None
    deferrable: bool | None
    row_factory: Any
    cursor_factory: Any
    server_cursor_factory: Any
    prepare_threshold: int | None


class GreenConnection(psycopg.Connection[Any]):
    """A psycopg connection whose interrupted statement ends on the server, and which is usable afterwards.

    ``keep_on_interrupt``: false closes it instead. ``cancel_timeout``: seconds that ending a statement may take before
    the connection is given up. ``with connection:`` commits or rolls back and, unlike psycopg's, does not close: it is
    the runner's.
    """

    keep_on_interrupt = True
    cancel_timeout = 2.0
    _session: _Session | None = None
    _blocks = 0  # of ``transaction`` that are open
    _interrupt: BaseException | None = None  # why it was closed

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for the server; an interrupted statement is ended there, then the interrupt is raised. Switches."""
        if self._interrupt is not None and self.pgconn.status != psycopg.pq.ConnStatus.OK:
            raise self._interrupt  # what cleans up on its way out, such as the end of a COPY, would mask it
        was_open = not self.closed
        try:
            return super().wait(gen, *args, **kwargs)
        except psycopg.DatabaseError as error:
            if was_open and self._commits_itself:
                mark_as_committing(error)
            raise
        except (Exception, KeyboardInterrupt, SystemExit):
            raise  # errors, and what psycopg handles so itself
        except BaseException as error:
            interrupt = self._end_own_statement(gen, error)
        # Raised outside of the handler: a kill that came while a time-out was handled would carry that as its context.
        raise interrupt

    def commit(self) -> None:
        """Commit. Switches."""
        with committing(self):
            super().commit()

    def tpc_prepare(self) -> None:
        """Prepare a two-phase transaction. Switches."""
        with committing(self):
            super().tpc_prepare()

    def tpc_commit(self, xid: Any = None) -> None:
        """Commit a two-phase transaction. Switches."""
        with committing(self):
            super().tpc_commit(xid)

    @contextlib.contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """As psycopg's: a transaction or, within one, a savepoint. Switches."""
        with contextlib.ExitStack() as stack:
            is_outermost = self.info.transaction_status == TransactionStatus.IDLE
            with super().transaction(savepoint_name, force_rollback) as block:
                self._blocks += 1
                try:
                    yield block
                finally:
                    self._blocks -= 1
                if is_outermost and not force_rollback:
                    stack.enter_context(committing(self))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit; roll back after an exception. Switches."""
        if self.closed:
            return
        if kind is None:
            self.commit()
        else:
            with contextlib.suppress(psycopg.Error):  # what ended the block is to be heard
                self.rollback()

    @property
    def _commits_itself(self) -> bool:
        """Whether each statement is a transaction of its own; in a pipeline a commit may be among what is answered."""
        if getattr(self, "_pipeline", None) is not None:
            return True
        return self.autocommit and not self.read_only and not self._blocks

    @property
    def busy(self) -> bool:
        """Whether a statement is in flight. Never switches."""
        return not self.closed and self.info.transaction_status == TransactionStatus.ACTIVE

    def end_session(self) -> None:
        """Hang up, and cancel until the server has ended the session, within ``cancel_timeout`` seconds. Switches.

        Whatever is in flight, and whoever waits for it. A cancel ends one statement; having lost its client, the server
        begins no other.
        """
        if self.closed:
            return
        with socket.socket(fileno=os.dup(self.fileno())) as line:
            with contextlib.suppress(OSError, psycopg.Error):
                line.shutdown(socket.SHUT_WR)
                self._cancel_until(lambda: _read_to_end(line))
            self.close()

    def say_goodbye(self, timeout: float) -> None:
        """Close, and wait up to ``timeout`` seconds until the server has ended the session, too. Switches.

        Who counts sessions may then make the next one: the server never sees more of them than we do.
        """
        if self.closed:
            self.close()
            return
        with socket.socket(fileno=os.dup(self.fileno())) as line:
            self.close()
            with contextlib.suppress(OSError):
                gevent.with_timeout(timeout, _read_to_end, line, timeout_value=None)

    def let_go(self) -> None:
        """Give up the handle in a forked child, without a word to the server, whose session is the parent's."""
        if self.closed:
            return
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, self.fileno(), inheritable=False)
        os.close(nowhere)
        self.close()

    def remember_session(self) -> None:
        """Take the session as it is for what ``restore_session`` restores. Never switches."""
        self._session = self._session_now()

    def restore_session(self) -> None:
        """Put back what the last user changed of it, outside of a transaction. Switches, without a round trip."""
        if self._session is None:
            return
        now = self._session_now()
        for name, wanted in self._session._asdict().items():
            if getattr(now, name) is not wanted:
                setattr(self, name, wanted)

    def _session_now(self) -> _Session:
        return _Session(*(getattr(self, name) for name in _Session._fields))

    def _end_own_statement(self, gen: Any, interrupt: BaseException) -> BaseException:
        """End what ``gen`` waits for; return what to raise: ``interrupt``, or what came after it and weighs more."""
        # Of a pipeline, ``gen`` may be a step, and libpq cannot tell what of it is under way.
        in_pipeline = self.pgconn.pipeline_status != PipelineStatus.OFF
        if not self.busy and not in_pipeline:
            return interrupt
        is_kept = self.keep_on_interrupt and not in_pipeline
        helper = Greenlet(self._end_statement, gen) if is_kept else Greenlet(self.end_session)
        helper.start()
        while not helper.ready():
            try:
                helper.join()
            except BaseException as later:  # it shortens nothing
                interrupt = _weightier(interrupt, later)
        if self.busy:  # a COPY is over only when its end was read, and a server may not answer at all
            self.close()
        self._interrupt = interrupt if self.closed else None
        return interrupt

    def _end_statement(self, gen: Any) -> None:
        with contextlib.suppress(psycopg.Error):
            self._cancel_until(lambda: self._drain(gen))

    def _cancel_until(self, wait_until_over: Callable[[], bool]) -> None:
        gevent.with_timeout(self.cancel_timeout, self._insist, wait_until_over, timeout_value=None)

    def _insist(self, wait_until_over: Callable[[], bool]) -> None:
        """Ask again and again: the server ignores a request that overtakes its statement, and begins on that then."""
        patience = _FIRST_PATIENCE
        while True:
            cancel(self, self.cancel_timeout)
            if gevent.with_timeout(patience, wait_until_over, timeout_value=False):
                return
            patience *= 2

    def _drain(self, gen: Any) -> bool:
        with contextlib.suppress(psycopg.Error):  # that the statement was cancelled, most likely
            super().wait(gen)
        return True


def adopt(connection: Any) -> Any:
    """Make a plain ``psycopg.Connection`` that somebody else has made a ``GreenConnection``. Never switches."""
    if type(connection) is psycopg.Connection:
        connection.__class__ = GreenConnection
    return connection


def _weightier(first: BaseException, later: BaseException) -> BaseException:
    """Return the one to raise of two: the first, but a kill rather than a time-out, whose catcher would go on."""
    outranked = isinstance(first, gevent.Timeout) and not isinstance(later, gevent.Timeout)
    return later if outranked else first


def _read_to_end(line: socket.socket) -> bool:
    while line.recv(_CHUNK):
        pass
    return True
