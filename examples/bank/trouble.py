"""The trouble: connections are terminated by the half, and queries cancelled, while the bank is open.

Invariant: each salvo is fired while at least so many transfers are in flight, and says how many there were.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import gevent
import psycopg2
from gevent.pool import Group

from examples.bank.callers import Callers

SALVOS = 2
IN_FLIGHT = 20
"""Transfers that have to be under way when a salvo is fired."""

_CANCEL_INTERVAL = 0.25  # seconds
_AIM_INTERVAL = 0.002  # seconds between two looks at what is in flight

_TERMINATE = """
    SELECT count(pg_terminate_backend(pid))
    FROM (SELECT pid, row_number() OVER (ORDER BY pid) AS number FROM pg_stat_activity WHERE application_name = %s) AS s
    WHERE number %% 2 = 0
"""
_CANCEL = """
    SELECT pg_cancel_backend(pid) FROM pg_stat_activity
    WHERE application_name = %s AND state = 'active' AND query LIKE '%%pg_sleep%%'
    ORDER BY md5(pid::text || %s) LIMIT 1
"""


class Salvo(NamedTuple):
    """Half of the connections, terminated at once."""

    in_flight: int
    terminated: int


class Trouble:
    """An administrator with a session of his own, who does not know what he does."""

    def __init__(self, dsn: str, application: str, callers: Callers, seed: int) -> None:
        self.salvos: list[Salvo] = []
        self.cancelled = 0
        self._application = application
        self._callers = callers
        self._chance = random.Random(seed)
        self._session = psycopg2.connect(dsn, application_name=f"{application} trouble")
        self._session.autocommit = True
        self._greenlets = Group()

    def start(self) -> None:
        """Begin."""
        self._greenlets.spawn(self._run)

    def stop(self) -> None:
        """End, wherever it is."""
        self._greenlets.kill()
        self._session.close()

    def _run(self) -> None:
        # The salvos come at even distances on the way from the first answer to the last.
        marks = [self._callers.count * (number + 1) // (SALVOS + 1) for number in range(SALVOS)]
        for mark in marks:
            while len(self._callers.told) < mark:
                gevent.sleep(_CANCEL_INTERVAL)
                self.cancelled += len(self._ask(_CANCEL, self._application, str(self._chance.random())))
            while self._callers.in_flight < IN_FLIGHT:
                gevent.sleep(_AIM_INTERVAL)
            in_flight = self._callers.in_flight
            [(terminated,)] = self._ask(_TERMINATE, self._application)
            self.salvos.append(Salvo(in_flight, terminated))

    def _ask(self, statement: str, *values: str) -> list[tuple[int, ...]]:
        with self._session.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()
