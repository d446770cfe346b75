"""Drawing a dashboard's view with rich.

Invariant: what comes over the wire is text, never rich's markup, so that a task's name cannot style the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

SPARK = "▁▂▃▄▅▆▇█"
MOST_CELLS = 400
ROWS = 8
_STATES = {
    "used": ("■", "blue", "in use"),
    "idle": ("□", "green", "idle"),
    "cared": ("◧", "green", "checked or reset"),
    "creating": ("◌", "magenta", "being made"),
    "failing": ("▨", "red", "backing off"),
    "destroying": ("×", "yellow", "being destroyed"),
    "free": ("·", "bright_black", "room"),
}
_LEVELS = {"good": "green", "warn": "yellow", "bad": "red"}


def screen(view: dict[str, Any], runner: dict[str, Any], history: Sequence[dict[str, Any]]) -> RenderableType:
    """All of it."""
    parts = [_headline(view, runner), _figures(view, runner), _cells(runner), _lines(history), _uses(runner)]
    return Group(*parts, _events(view, runner), _processes(view))


def span(seconds: float) -> str:
    """Seconds as people say them."""
    for size, unit in ((1e-6, "µs"), (1e-3, "ms")):
        if 0 < seconds < size * 999.5:
            return f"{seconds / size:.3g} {unit}"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def spark(values: Iterable[float]) -> str:
    """The values as bars, from nought to the greatest."""
    found = list(values)
    most = max(found, default=0.0)
    return "".join(SPARK[round(value / most * (len(SPARK) - 1)) if most else 0] for value in found)


def missing(runner: dict[str, Any]) -> int:
    """How many resources are wanted and not there."""
    bounds, stats = runner["bounds"], runner["stats"]
    wanted = bounds["base_workers"] + stats["burst_workers"] + bounds["reserve"]
    return max(0, int(wanted - stats["live_resources"]))


def _headline(view: dict[str, Any], runner: dict[str, Any]) -> RenderableType:
    backend = runner["backend"]
    others = [one["name"] for one in view["runners"] if one is not runner]
    text = Text.assemble((view["title"], "bold"), "  ", (runner["name"], "bold blue"), "  ")
    if backend["failing_for"] > 0:
        why = ": ".join(filter(None, (backend["last_error"], backend.get("last_message"))))
        text.append(f"no resource could be made for {span(backend['failing_for'])} ({why})", "bold red")
    elif missing(runner):
        text.append(f"healing, {missing(runner)} resources are missing", "bold yellow")
    else:
        text.append(runner["state"], "green" if runner["state"] == "running" else "yellow")
    if others:
        text.append(f"   also: {', '.join(others)}", "bright_black")
    return text


def _figures(view: dict[str, Any], runner: dict[str, Any]) -> RenderableType:
    stats, totals = runner["stats"], runner["totals"]
    table = Table.grid(padding=(0, 4))
    figures = (
        ("workers busy", f"{stats['busy_workers']} / {stats['active_workers']}"),
        ("waiting", f"{runner['waiting']}, oldest {span(runner['oldest'])}"),
        ("done", f"{totals['task_completion_rate']:.1f}/s"),
        ("arriving", f"{totals['task_arrival_rate']:.1f}/s"),
        ("failed", f"{totals['total_tasks_failed']}"),
        ("loop lag", span(max((one["lag"] for one in view["processes"]), default=0.0))),
    )
    table.add_row(*(Text(name, "bright_black") for name, _ in figures))
    table.add_row(*(Text(value, "bold") for _, value in figures))
    return Panel(table, border_style="bright_black")


def _cells(runner: dict[str, Any]) -> RenderableType:
    states = [resource["state"] for resource in runner["resources"]]
    free = max(0, int(runner["bounds"]["max_resources"]) - len(states))
    failing = min(missing(runner), free) if runner["backend"]["failing_for"] > 0 else 0
    states += ["failing"] * failing + ["free"] * (free - failing)
    line = Text()
    for state in states[:MOST_CELLS]:
        mark, colour, _ = _STATES[state]
        line.append(f"{mark} ", colour)
    legend = Text()
    for state, (mark, colour, words) in _STATES.items():
        if state in states:
            legend.append(f"{mark} {words} {states.count(state)}   ", colour)
    title = f"resources: {runner['stats']['live_resources']} of at most {runner['bounds']['max_resources']}"
    return Panel(Group(line, legend), title=title, title_align="left", border_style="bright_black")


def _lines(history: Sequence[dict[str, Any]]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    last = history[-60:]
    numbers: list[tuple[str, list[float | None], Callable[[float], str]]] = [
        ("completed a second", [one["completed"] for one in last], "{:.1f}".format),
        ("waiting", [one["waiting"] for one in last], "{:.0f}".format),
        ("wait p95", [_p95(one, "wait") for one in last], span),
        ("run p95", [_p95(one, "run") for one in last], span),
    ]
    for name, values, say in numbers:
        now = "–" if not values or values[-1] is None else say(values[-1])
        bars = spark(value or 0.0 for value in values)
        table.add_row(Text(name, "bright_black"), Text(bars, "blue"), Text(now, "bold"))
    return Panel(table, title="last two minutes", title_align="left", border_style="bright_black")


def _p95(point: dict[str, Any], name: str) -> float | None:
    percentiles = point[name]
    return float(percentiles[1]) if percentiles else None


def _uses(runner: dict[str, Any]) -> RenderableType:
    table = Table(box=None, header_style="bright_black", expand=True)
    for name in ("for", "task", "by", "process"):
        table.add_column(name, ratio=3 if name == "by" else 2)
    for use in runner["uses"][:ROWS]:
        cells = (span(use["age"]), use["task"] or "a lease", f"{use['kind']}, {use['holder']}", str(use["pid"]))
        table.add_row(*(Text(cell) for cell in cells))
    return Panel(table, title="in use, longest first", title_align="left", border_style="bright_black")


def _events(view: dict[str, Any], runner: dict[str, Any]) -> RenderableType:
    table = Table(box=None, header_style="bright_black", expand=True)
    for name in ("ago", "event"):
        table.add_column(name, ratio=6 if name == "event" else 1)
    events = [event for event in view["events"] if event["runner"] == runner["name"]]
    for event in events[:ROWS]:
        times = f" ×{event['count']}" if event["count"] > 1 else ""
        text = Text(event["text"] + times, _LEVELS.get(event["level"], ""))
        table.add_row(Text(span(max(0, round(view["now"] - event["at"])))), text)
    return Panel(table, title="events", title_align="left", border_style="bright_black")


def _processes(view: dict[str, Any]) -> RenderableType:
    table = Table(box=None, header_style="bright_black", expand=True)
    for name in ("process", "up", "resources", "busy", "waiting", "lag"):
        table.add_column(name)
    for one in view["processes"]:
        if one["silent"]:
            table.add_row(Text(str(one["pid"])), Text(f"silent for {span(one['silent'])}", "red"))
        else:
            counts = (
                f"{one['resources']} / {one['max_resources']}",
                f"{one['busy']} / {one['workers']}",
                one["waiting"],
            )
            table.add_row(*(Text(str(cell)) for cell in (one["pid"], span(one["uptime"]), *counts, span(one["lag"]))))
    return Panel(table, title="processes", title_align="left", border_style="bright_black")
