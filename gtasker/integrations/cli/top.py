"""`gtasker top`: a dashboard in a terminal, asked once a second.

Invariant: the terminal is as it was when it ends, however it ends.
"""

from __future__ import annotations

import getpass
import os
import sys
import time
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from gtasker.integrations.cli._asking import AskingError, Dashboard, RefusedError
from gtasker.integrations.cli._drawing import screen

INTERVAL = 1.0
"""Seconds between two questions."""
POINTS = 150
"""Points of history that are kept."""


class Top:
    """What was heard from one dashboard so far. `wanted`: the runner to show; None: the one with the most resources."""

    def __init__(self, dashboard: Dashboard, wanted: str | None) -> None:
        self._dashboard = dashboard
        self._wanted = wanted
        self._after = 0
        self._history: dict[str, list[dict[str, Any]]] = {}

    def ask(self) -> RenderableType:
        """Ask once, and draw the answer. Raises AskingError; RefusedError if there is no such runner."""
        view = self._dashboard.ask(self._after)
        for runner in view["runners"]:
            points = [*self._history.get(runner["name"], []), *runner["points"]]
            self._history[runner["name"]] = points[-POINTS:]
            self._after = max([self._after, *(point["slot"] for point in points)])
        runner = self._choose(view["runners"])
        if runner is None:
            return Text("no runner is at work yet")
        return screen(view, runner, self._history[runner["name"]])

    def _choose(self, runners: list[dict[str, Any]]) -> dict[str, Any] | None:
        if self._wanted is None:
            return max(runners, key=lambda one: one["bounds"]["max_resources"], default=None)
        named = [one for one in runners if one["name"] == self._wanted]
        if runners and not named:
            raise RefusedError(f"no runner {self._wanted!r}; there are: {', '.join(one['name'] for one in runners)}")
        return named[0] if named else None


def run(url: str, *, runner: str | None = None, once: bool = False, console: Console | None = None) -> int:
    """Show the dashboard at `url` until Ctrl-C, or `once`; return the exit status."""
    console = console if console is not None else Console()
    try:
        token = os.environ.get("GTASKER_DASHBOARD_TOKEN") or getpass.getpass("Token: ")
        top = Top(Dashboard(url, token), runner)
        if once:
            console.print(top.ask())
        else:
            _watch(top, console)
    except KeyboardInterrupt:
        pass
    except EOFError:
        sys.stderr.write("gtasker top: nobody is there to be asked for the token: set GTASKER_DASHBOARD_TOKEN\n")
        return 2
    except AskingError as error:
        sys.stderr.write(f"gtasker top: {error}\n")
        return 1
    return 0


def _watch(top: Top, console: Console) -> None:
    with Live(Text("connecting"), console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                live.update(top.ask(), refresh=True)
            except RefusedError:
                raise
            except AskingError as error:
                live.update(Text(str(error), "red"), refresh=True)
            time.sleep(INTERVAL)
