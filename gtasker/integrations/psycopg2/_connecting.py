"""Making a connection without stopping the hub: names are looked up by gevent, and the whole is bounded.

Invariant: libpq never looks a name up (its look-up blocks in C), and keeps the names for checking certificates and
passwords; its own ``connect_timeout``, which it ignores under a wait callback, is kept by us.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import gevent
import psycopg2
from gevent import socket as gevent_socket
from psycopg2 import extensions

from gtasker.integrations._postgres import KEEPALIVES
from gtasker.integrations.psycopg2._connection import GreenConnection
from gtasker.integrations.psycopg2._cursors import derived

_DEFAULT_TIMEOUT = 10.0  # seconds
_DEFAULT_PORT = "5432"


def connector(
    dsn: str, timeout: float | None, factories: Mapping[str, Any], options: Mapping[str, Any]
) -> Callable[[], GreenConnection]:
    """Return what makes one connection. ``timeout``: seconds; None: the DSN's connect_timeout, else 10.

    ``factories`` are psycopg2's, ``options`` libpq's; None stands for what was not given.

    Raises psycopg2.ProgrammingError for a DSN that libpq does not understand.
    """
    given = {**extensions.parse_dsn(dsn), **{name: str(value) for name, value in options.items() if value is not None}}
    parameters: dict[str, Any] = {**KEEPALIVES, "fallback_application_name": "gtasker", **given}
    bound = timeout if timeout is not None else _libpq_timeout(parameters.pop("connect_timeout", None))
    parameters["cursor_factory"] = factories["cursor_factory"]
    parameters["connection_factory"] = derived(
        factories["connection_factory"] or extensions.connection, GreenConnection
    )

    def connect() -> GreenConnection:
        limit = gevent.Timeout(bound)
        try:
            with limit:
                connection: GreenConnection = psycopg2.connect(**{**parameters, **_looked_up(parameters)})
                return connection
        except gevent.Timeout as expired:
            if expired is not limit:
                raise
            raise psycopg2.OperationalError(f"no connection within connect_timeout={bound:g} seconds") from None

    return connect


def _libpq_timeout(seconds: str | None) -> float:
    """Return the bound in seconds that libpq's ``connect_timeout`` asks for; 0 and less asks for none."""
    return float(seconds) if seconds and float(seconds) > 0 else _DEFAULT_TIMEOUT


def _looked_up(parameters: dict[str, Any]) -> dict[str, str]:
    """Return host, hostaddr and port with every name's addresses in the order of the look-up. Switches."""
    names = parameters.get("host") or os.environ.get("PGHOST")
    if not names or parameters.get("hostaddr") or os.environ.get("PGHOSTADDR"):
        return {}
    hosts = names.split(",")
    ports = (parameters.get("port") or os.environ.get("PGPORT") or _DEFAULT_PORT).split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if not any(_is_name(host) for host in hosts) or len(ports) != len(hosts):
        return {}  # nothing to look up, or a mismatch that libpq explains better
    found = [(host, address, port) for host, port in zip(hosts, ports, strict=True) for address in _addresses(host)]
    if not found:
        raise psycopg2.OperationalError(f"could not look up the address of {names}")
    found_hosts, addresses, found_ports = (",".join(column) for column in zip(*found, strict=True))
    return {"host": found_hosts, "hostaddr": addresses, "port": found_ports}


def _is_name(host: str) -> bool:
    """True for what libpq would look up: no socket's path, no number, not the empty default."""
    if not host or host[0] in "/@":
        return False
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    return False


def _addresses(host: str) -> list[str]:
    if not _is_name(host):
        # An address stands for itself; a socket's path has none, which libpq reads from an empty entry.
        return ["" if not host or host[0] in "/@" else host]
    try:
        found = gevent_socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
