"""`gtasker doctor`: looks at what the runners of this process stand on, and says what is amiss.

Invariant: it looks, and changes nothing; a driver that is not loaded is not loaded for it.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TextIO

from gevent import config as gevent_config
from gevent import monkey
from gevent.hub import get_hub

import gtasker
from gtasker import Runner


class Verdict(Enum):
    """How a finding is to be taken; its value stands before it."""

    FINE = "ok  "
    ADVICE = "hint"
    AMISS = "BAD "


class Finding(NamedTuple):
    """One line of the doctor's."""

    verdict: Verdict
    text: str
    advice: str = ""


Findings = Iterator[Finding]

PATCHED = ("socket", "ssl", "select", "selectors", "threading", "time", "queue", "subprocess", "os", "signal")
LEAST = {"gevent": (25, 9, 1), "greenlet": (3, 2, 2)}
# Drivers whose waiting is in C, where gevent cannot reach: while one greenlet waits, all do.
BLOCKING = {
    "MySQLdb": "mysqlclient waits in C; PyMySQL does not",
    "pymssql": "pymssql waits in C unless told otherwise: pymssql.set_wait_callback",
    "oracledb": "oracledb's thick mode waits in C; its thin mode does not",
    "confluent_kafka": "librdkafka waits in C: poll with timeout 0, or from gevent's thread pool",
    "grpc": "grpc waits in C until grpc.experimental.gevent.init_gevent() is called",
    "pyodbc": "pyodbc waits in C: use it from gevent's thread pool",
}
# Descriptors that a process needs besides its resources: the loop, logs, listening sockets, clients.
SPARE_DESCRIPTORS = 256
LEAST_TOKEN = 16


def run(module: str | None, out: TextIO) -> int:
    """Import `module`, look, and write what was found; return the exit status."""
    if module is not None and (complaint := _import(module)):
        sys.stderr.write(f"gtasker doctor: {complaint}\n")
        return 2
    findings = list(examine(sys.modules.get(module) if module is not None else None))
    for finding in findings:
        out.write(f"{finding.verdict.value} {finding.text}\n")
        if finding.advice:
            out.write(f"       {finding.advice}\n")
    amiss = sum(finding.verdict is Verdict.AMISS for finding in findings)
    out.write(f"\n{amiss} amiss\n" if amiss else "\nnothing amiss\n")
    return 1 if amiss else 0


def _import(module: str) -> str:
    """Import it; return what is wrong with the call, or nothing."""
    if not all(part.isidentifier() for part in module.split(".")):
        return f"{module!r} is no module's name; one is like myapp.wsgi"
    sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and lacks something
        return f"there is no module {error.name}"
    except SystemExit:  # its status would be taken for the doctor's
        return f"{module} is a program of its own, which ended: name the module that makes your application"
    return ""


def examine(module: ModuleType | None = None) -> Findings:
    """All findings; `module` is searched for runners."""
    looks: tuple[Callable[[], Findings], ...] = (
        _versions,
        _loop,
        _patches,
        _psycopg2,
        _psycopg,
        _drivers,
        _environment,
    )
    for look in looks:
        yield from look()
    runners = _runners(module)
    yield from _limits(runners)
    if not gevent_config.monitor_thread and all(runner.config.hub_blocked_after is None for runner in runners):
        text = "a task that keeps the hub to itself would go unnoticed"
        yield Finding(Verdict.ADVICE, text, "set hub_blocked_after=0.1 to be told, or GEVENT_MONITOR_THREAD_ENABLE=1")


def _versions() -> Findings:
    yield Finding(Verdict.FINE, f"gtasker {gtasker.__version__}, Python {sys.version.split()[0]} on {sys.platform}")
    for name, least in LEAST.items():
        found = version(name)
        numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
        wanted = ".".join(map(str, least))
        if numbers < least:
            yield Finding(Verdict.AMISS, f"{name} {found}", f"gtasker needs {wanted} or later")
        else:
            yield Finding(Verdict.FINE, f"{name} {found}")


def _loop() -> Findings:
    loop: Any = get_hub().loop
    yield Finding(Verdict.FINE, f"event loop {type(loop).__module__}, waiting by {loop.backend}")
    if loop.backend == "select":
        yield Finding(Verdict.ADVICE, "select sees no descriptor above 1023", "unset GEVENT_BACKEND or LIBEV_FLAGS")


def _patches() -> Findings:
    patched = [name for name in PATCHED if monkey.is_module_patched(name)]
    missing = [name for name in PATCHED if name not in patched]
    if not patched:
        advice = "gevent.monkey.patch_all() first of all, or drivers that know gevent; see `gtasker doctor --help`"
        yield Finding(
            Verdict.ADVICE, "nothing is patched: what waits in Python's own sockets stops every greenlet", advice
        )
    elif missing:
        text = f"patched: {', '.join(patched)}; not patched: {', '.join(missing)}"
        yield Finding(Verdict.ADVICE, text, "gevent.monkey.patch_all() patches all that belongs together")
    else:
        yield Finding(Verdict.FINE, f"patched: {', '.join(patched)}")


def _psycopg2() -> Findings:
    if "psycopg2" not in sys.modules:
        return
    callback = sys.modules["psycopg2.extensions"].get_wait_callback()
    name = f"{getattr(callback, '__module__', '?')}.{getattr(callback, '__qualname__', callback)}"
    if callback is None:
        advice = "call gtasker.integrations.psycopg2.make_cooperative() where the application begins"
        yield Finding(Verdict.AMISS, "psycopg2 has no wait callback: each query stops every greenlet", advice)
    elif name.startswith("gtasker."):
        yield Finding(Verdict.FINE, f"psycopg2 {_version('psycopg2-binary', 'psycopg2')} waits by {name}")
    else:
        advice = "an interrupted statement runs on on the server; make_cooperative(replace=True) cancels it"
        yield Finding(Verdict.ADVICE, f"psycopg2 waits by {name}", advice)


def _psycopg() -> Findings:
    waiting = sys.modules.get("psycopg.waiting")
    if waiting is None:
        return
    if waiting.wait.__module__ == "psycopg.waiting":
        yield Finding(Verdict.FINE, f"psycopg {_version('psycopg')} waits by {waiting.wait.__qualname__}")
    else:
        advice = "import psycopg after gevent.monkey.patch_all(), or set PSYCOPG_WAIT_FUNC=wait_selector"
        yield Finding(Verdict.AMISS, "psycopg waits in C: each query stops every greenlet", advice)


def _drivers() -> Findings:
    for name, advice in BLOCKING.items():
        if name in sys.modules:
            yield Finding(Verdict.ADVICE, f"{name} is loaded", advice)


def _environment() -> Findings:
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder is not None and not os.access(folder, os.W_OK | os.X_OK):
        yield Finding(Verdict.AMISS, f"PROMETHEUS_MULTIPROC_DIR is {folder}, where this user cannot write")
    elif folder is not None and any(Path(folder).glob("*.db")):
        yield Finding(
            Verdict.ADVICE, f"{folder} has files in it", "empty it before the application starts, not while it runs"
        )
    token = os.environ.get("GTASKER_DASHBOARD_TOKEN")
    if token is not None and len(token) < LEAST_TOKEN:
        yield Finding(Verdict.AMISS, f"GTASKER_DASHBOARD_TOKEN is shorter than {LEAST_TOKEN} characters")


def _limits(runners: list[Runner[Any]]) -> Findings:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    total = 0
    for runner in runners:
        config = runner.config
        total += config.max_resources or 0
        workers = f"{config.worker_count} to {config.max_worker_count} workers"
        yield Finding(Verdict.FINE, f"runner {config.name!r}: {workers}, at most {config.max_resources} resources")
    if soft != resource.RLIM_INFINITY and total + SPARE_DESCRIPTORS > soft:
        text = f"{soft} descriptors allowed, {total} resources and {SPARE_DESCRIPTORS} others wanted"
        yield Finding(Verdict.AMISS, text, "raise it: ulimit -n, LimitNOFILE= of systemd")
    else:
        yield Finding(
            Verdict.FINE, f"descriptors: {'no limit' if soft == resource.RLIM_INFINITY else f'{soft} allowed'}"
        )
    if total:
        yield Finding(
            Verdict.ADVICE,
            f"each process may open {total} resources",
            "times the number of processes, twice during a reload: the server's limit must be above that",
        )


def _runners(module: ModuleType | None) -> list[Runner[Any]]:
    named = [value for value in vars(module).values() if isinstance(value, Runner)] if module is not None else []
    return list(dict.fromkeys([*named, *gtasker.runners()]))


def _version(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            pass
    return "of unknown version"
