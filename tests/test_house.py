"""The rules of the house that a program can see: floors, circles, sizes, docstrings, and what is not done here.

Invariant: each rule looks at the files that are there, so a new room is under all of them from its first line.
"""

from __future__ import annotations

import ast
import inspect
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import pytest

import gtasker
from tests.conftest import MakeRunner
from tests.ledger import LedgerResource

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gtasker"

FLOORS = {
    room: floor
    for floor, rooms in {
        6: "__init__",
        5: "_closing _core _mapping _observed _rooms _runner _submitting _upkeep _views",
        4: "_admission _asking _crew _deadlock _joining _lending _limits _outcomes _returning _watch _worker",
        3: "_backlog _calls _gathering _door _judging _site _stock",
        2: "_alarm _config _errands _extras _line _loan _scaling _task _timeouts _turn",
        1: "errors events _checks _events _forks _histogram _lifecycle _metrics _snapshots",
    }.items()
    for room in rooms.split()
}
"""On which floor a room is. It imports from below, or from beside it as long as no circle comes of it."""

STRANGERS = [{"_crew", "_worker"}]
"""Rooms of one floor that must not import each other."""

OUTSIDE = {"__main__", "cli", "distributed", "integrations", "testing"}
"""What stands outside the house: it sees the face, and what else is outside, alone."""

FACE = {"gtasker", "gtasker.errors", "gtasker.events"}
NO_INVARIANT = {"events", "__init__"}
"""Rooms that hold nothing: they pass on the names of others."""

FILE_LINES, FILE_MEDIAN = 300, 150
FUNCTION_LINES, FUNCTION_MEDIAN = 30, 6
HOT = {"_runner": "queue_task", "_worker": "_run"}
"""The two ways that a task runs through: each step in a function of its own would cost as much as the step."""
HOT_LINES = 70
OUTSIDE_FUNCTION_LINES = 45
"""What stands outside passes on many options by name, one a line."""
FACE_LINES = 60
WALK_ROOMS = 6
WRONG_CLOCKS = {"time.time", "time.time_ns", "datetime"}
BLOCKING = {"asyncio", "concurrent", "multiprocessing", "queue", "select.select", "selectors", "socket", "time.sleep"}
THREADS = {"threading", "_thread"}
THREADS_ALLOWED = {f"threading.{name}" for name in ("current_thread", "get_ident", "main_thread")}


class Room(NamedTuple):
    """A module of the package: its dotted name below `gtasker`, and its source."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    def __repr__(self) -> str:
        return f"<Room {self.name}>"

    @property
    def outside(self) -> bool:
        return self.name.partition(".")[0] in OUTSIDE


def read(path: Path, base: Path) -> Room:
    parts = path.relative_to(base).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
    text = path.read_text()
    return Room(name, path, text, ast.parse(text))


ROOMS = [read(path, PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
CORE = [room for room in ROOMS if not room.outside]
FACE_ROOMS = [room for room in ROOMS if room.name == "__init__"]


def imports(tree: ast.AST) -> Iterator[str]:
    """Each dotted name that is imported anywhere: at the top, within a function, or for the type checker alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def imported_rooms(tree: ast.AST) -> set[str]:
    """The modules of the package that are imported, as dotted names: `gtasker` for its face."""
    found = set()
    for name in imports(tree):
        if name.partition(".")[0] == "gtasker":
            *parents, last = name.split(".")
            is_module = PACKAGE.parent.joinpath(*parents, last).with_suffix(".py").exists()
            is_package = PACKAGE.parent.joinpath(*parents, last).is_dir()
            found.add(name if is_module or is_package else ".".join(parents))
    return found


def arrows(room: Room) -> set[str]:
    """The rooms of the house that `room` imports."""
    return {name.removeprefix("gtasker.") if name != "gtasker" else "__init__" for name in imported_rooms(room.tree)}


def names_used(tree: ast.AST) -> set[str]:
    """Each module attribute in use, under its full name whatever it was imported as: `gevent.spawn`, `time.time`."""
    full = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full.update({alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            full.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    used = set(full.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in full:
            used.add(f"{full[node.value.id]}.{node.attr}")
    return used


def plain_names(tree: ast.AST) -> set[str]:
    """Each bare name that is read."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def within(name: str, names: set[str]) -> bool:
    """Whether a dotted name is one of `names`, or inside a module that is."""
    return any(name == one or name.startswith(one + ".") for one in names)


def functions(room: Room) -> Iterator[tuple[str, int]]:
    """Each function with its length: lines from `def` to the end, without decorators and docstring.

    What is only a signature (an overload, a method of a protocol) has no body to be measured.
    """
    for node in ast.walk(room.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = node.body[0] if ast.get_docstring(node) is not None else None
            body = node.body[1:] if docstring else node.body
            if all(isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in body):
                continue
            told = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
            yield f"{room.name}:{node.lineno} {node.name}", (node.end_lineno or 0) - node.lineno + 1 - told


def undocumented(room: Room) -> Iterator[str]:
    """Each public name without a docstring: the module, its classes and functions, their public methods."""
    if not ast.get_docstring(room.tree):
        yield room.name
    pending: list[tuple[str, ast.AST]] = [(room.name, room.tree)]
    while pending:
        place, parent = pending.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.If):
                pending.append((place, node))
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
                continue
            name = f"{place}.{node.name}"
            if not ast.get_docstring(node) and not {"overload", "setter"} & decorators(node):
                yield name
            if isinstance(node, ast.ClassDef):
                pending.append((name, node))


def decorators(node: ast.ClassDef | ast.FunctionDef) -> set[str]:
    """The last part of each decorator's name."""
    return {re.split(r"[.(]", ast.unparse(one).partition("(")[0])[-1] for one in node.decorator_list}


def run_python(code: str) -> str:
    """What `code` prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_room_has_a_floor() -> None:
    homeless = {room.name for room in CORE} - FLOORS.keys()

    assert not homeless, "put them into the table of floors"


def test_arrows_go_down() -> None:
    known = [room for room in CORE if room.name in FLOORS]
    up = [
        f"{room.name} (floor {FLOORS[room.name]}) imports {name} (floor {FLOORS.get(name)})"
        for room in known
        for name in sorted(arrows(room))
        if FLOORS.get(name, 99) > FLOORS[room.name]
    ]

    assert not up


def test_strangers_do_not_know_each_other() -> None:
    assert not [
        f"{room.name} imports {name}" for room in CORE for name in arrows(room) if {room.name, name} in STRANGERS
    ]


def test_there_are_no_import_circles() -> None:
    pointing = {room.name: arrows(room) - {room.name} for room in ROOMS}

    # Take away, again and again, who imports only what is taken away already; a circle is what remains.
    gone: set[str] = set()
    while free := {name for name, to in pointing.items() if name not in gone and to & pointing.keys() <= gone}:
        gone |= free

    stuck = sorted(pointing.keys() - gone)
    assert not stuck, "in a circle, or above one"


def test_imports_are_written_where_the_other_rules_see_them() -> None:
    relative = [f"{room.name}: {name}" for room in ROOMS for name in imports(room.tree) if name.startswith(".")]
    dynamic = [
        f"{room.name}: {name}"
        for room in CORE
        for name in names_used(room.tree) | plain_names(room.tree)
        if name == "__import__" or name.partition(".")[0] == "importlib"
    ]

    assert not relative
    assert not dynamic


def test_outside_rooms_see_the_face_alone() -> None:
    folders = [ROOT / name for name in ("examples", "benchmarks")]
    users = [read(path, ROOT) for folder in folders for path in sorted(folder.rglob("*.py"))]
    beside = {f"gtasker.{name}" for name in OUTSIDE}

    inside = [
        f"{room.name} imports {name}"
        for room in [*users, *(room for room in ROOMS if room.outside)]
        for name in sorted(imported_rooms(room.tree) - FACE)
        if not within(name, beside)
    ]

    assert not inside


def test_files_are_short() -> None:
    assert not [f"{room.name}: {room.lines} lines" for room in ROOMS if room.lines > FILE_LINES]
    assert statistics.median(room.lines for room in ROOMS) <= FILE_MEDIAN


def test_functions_are_short() -> None:
    lengths = [(place, lines) for room in ROOMS for place, lines in functions(room)]

    def most(place: str) -> int:
        room, _, name = place.partition(":")
        if HOT.get(room) == name.split()[-1]:
            return HOT_LINES
        return OUTSIDE_FUNCTION_LINES if room.partition(".")[0] in OUTSIDE else FUNCTION_LINES

    assert not [f"{place}: {lines} lines" for place, lines in lengths if lines > most(place)]
    assert statistics.median(lines for _, lines in lengths) <= FUNCTION_MEDIAN


def test_the_face_is_short_and_has_no_code() -> None:
    [face] = FACE_ROOMS
    code = [
        ast.unparse(node)
        for node in face.tree.body
        if not isinstance(node, ast.ImportFrom) and not ast.unparse(node).startswith(("__all__ =", "__version__ ="))
    ][1:]

    assert face.lines <= FACE_LINES
    assert not code


def test_the_face_is_sorted_and_complete() -> None:
    [face] = FACE_ROOMS
    imported = {name.rpartition(".")[2] for name in imports(face.tree)} - {"annotations"}

    names = gtasker.__all__

    assert list(names) == sorted(names)
    assert set(names) == imported | {"__version__"}


def test_every_module_and_public_name_has_a_docstring() -> None:
    assert not [name for room in ROOMS for name in undocumented(room)]


def test_every_room_says_what_it_is_and_its_invariant() -> None:
    told = {room.name: ast.get_docstring(room.tree) or "" for room in CORE}

    assert not [name for name, text in told.items() if not text.partition("\n")[0].endswith((".", "?", ":"))]
    assert not [name for name, text in told.items() if name not in NO_INVARIANT and "\nInvariant: " not in text]


@pytest.mark.parametrize("name", ["Runner", "Task"])
def test_every_public_call_says_whether_it_switches(name: str) -> None:
    calls = [call for call in inspect.getmembers(getattr(gtasker, name), inspect.isfunction) if call[0][0] != "_"]

    silent = [called for called, fn in calls if not re.search(r"\b[Ss]witches\b", inspect.getdoc(fn) or "")]

    assert calls
    assert not silent


def test_a_task_that_meets_an_idle_worker_walks_through_few_rooms(make_runner: MakeRunner) -> None:
    runner = make_runner(worker_count=1).start()
    entered = set()

    def note(frame: FrameType | None, event: str = "call", arg: object = None) -> None:
        if frame is not None and event == "call":
            entered.add(frame.f_globals["__name__"])

    def task(resource: LedgerResource) -> str:
        frame: FrameType | None = inspect.currentframe()
        while frame is not None:  # the worker's rooms, which were entered before anybody looked
            note(frame)
            frame = frame.f_back
        return "value"

    sys.setprofile(note)
    try:
        value = runner.queue_task(task)
    finally:
        sys.setprofile(None)

    walked = {name for name in entered if name.startswith("gtasker.")}
    assert value == "value"
    assert {"gtasker._runner", "gtasker._worker"} <= walked
    assert len(walked) <= WALK_ROOMS, walked


def test_every_greenlet_has_an_owner() -> None:
    spawning = re.compile(r"gevent\.(\w+\.)?(Greenlet\.)?spawn\w*")

    assert not [f"{room.name}: {name}" for room in ROOMS for name in names_used(room.tree) if spawning.fullmatch(name)]


def test_moments_are_on_the_monotonic_clock() -> None:
    assert not [
        f"{room.name}: {name}" for room in ROOMS for name in names_used(room.tree) if within(name, WRONG_CLOCKS)
    ]


def test_the_core_uses_nothing_that_blocks_the_hub() -> None:
    used = [(room.name, name) for room in CORE for name in names_used(room.tree)]

    assert not [f"{room}: {name}" for room, name in used if within(name, BLOCKING)]
    assert not [f"{room}: {name}" for room, name in used if within(name, THREADS) and not within(name, THREADS_ALLOWED)]


def test_no_room_patches() -> None:
    assert not [f"{room.name}: {name}" for room in ROOMS for name in names_used(room.tree) if ".patch_" in name]


def test_importing_patches_nothing_and_starts_nothing() -> None:
    out = run_python(
        "import gc, threading, greenlet, gevent.monkey\n"
        "import gtasker\n"
        "greenlets = [one for one in gc.get_objects() if isinstance(one, greenlet.greenlet)]\n"
        "print(gevent.monkey.saved, greenlets, threading.active_count())"
    )

    assert out.split() == ["{}", "[]", "1"]


def test_importing_needs_only_gevent_and_greenlet() -> None:
    # zope is what gevent itself brings, and its compiled parts make modules that come from nowhere (no __spec__).
    # What is there before the import (by .pth files) is not of our doing.
    out = run_python(
        "import sys\n"
        "before = {*sys.modules}\n"
        "import gtasker\n"
        "found = {name for name, module in sys.modules.items() if getattr(module, '__spec__', None)}\n"
        "roots = {name.partition('.')[0] for name in found - before}\n"
        "print(*sorted(roots - sys.stdlib_module_names - {'gtasker', 'gevent', 'greenlet', 'zope'}))"
    )

    assert out.split() == []
