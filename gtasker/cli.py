"""The command line: `gtasker top` shows a dashboard in a terminal, `gtasker doctor` says what is amiss.

Invariant: exit status 0 if all is well, 1 if something is amiss, 2 for a call that makes no sense.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import gtasker
from gtasker.integrations.cli import doctor


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments` (default: those of the process); return the exit status."""
    parser = argparse.ArgumentParser(
        prog="gtasker", description="Look at gtasker's runners, and at what they stand on."
    )
    parser.add_argument("--version", action="version", version=f"gtasker {gtasker.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    top = commands.add_parser("top", help="show a dashboard in this terminal", description=_TOP)
    top.add_argument("url", help="the dashboard's address, as http://127.0.0.1:8484/")
    top.add_argument("--runner", metavar="NAME", help="show this one; by default the one with the most resources")
    top.add_argument("--once", action="store_true", help="print it once and end")
    top.set_defaults(run=_top)

    check = commands.add_parser("doctor", help="say what is amiss in this environment", description=_DOCTOR)
    check.add_argument("module", nargs="?", help="import this module first, as myapp.wsgi")
    check.set_defaults(run=_doctor)

    options = parser.parse_args(arguments)
    status: int = options.run(options)
    return status


_TOP = (
    "The token is taken from GTASKER_DASHBOARD_TOKEN, or asked for. It is sent over TLS or to this machine alone. "
    "Keys: Ctrl-C ends."
)
_DOCTOR = (
    "Give the module that makes your application, for what matters is what it patched and which drivers it loaded. "
    "For an application that its server patches: python -m gevent.monkey --module gtasker doctor MODULE."
)


def _top(options: argparse.Namespace) -> int:
    try:
        from gtasker.integrations.cli.top import run  # noqa: PLC0415  # needs rich, which `doctor` does not
    except ImportError:
        sys.stderr.write("gtasker top needs rich: pip install 'gtasker[cli]'\n")
        return 2
    return run(options.url, runner=options.runner, once=options.once)


def _doctor(options: argparse.Namespace) -> int:
    return doctor.run(options.module, sys.stdout)
