"""What the pages tell is what the code says: settings, errors, rooms, extras, names of the rivals' table.

Invariant: each test takes one side from a page and the other from the code.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import pytest

import gtasker
import gtasker.errors
import gtasker.integrations
from tests.docs._pages import DOCS, ROOT, pages
from tests.test_house import FLOORS, OUTSIDE

SETTINGS = (DOCS / "reference" / "settings.md").read_text()
TROUBLE = (DOCS / "when-things-go-wrong.md").read_text()
HOUSE = (DOCS / "how-it-works.md").read_text()
CALLS = (DOCS / "reference" / "calls.md").read_text()
EVERY_PAGE = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]


def errors_of(package: str) -> Iterator[str]:
    """The public errors of ours that are defined in a package."""
    module = importlib.import_module(package)
    for name, value in inspect.getmembers(module, inspect.isclass):
        if issubclass(value, gtasker.GTaskerError) and value.__module__.startswith(package) and name[0] != "_":
            yield name


def sections(page: str) -> dict[str, str]:
    """The text below each heading of the third level."""
    parts = re.split(r"^### (.+)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_setting_is_told_once() -> None:
    told = re.findall(r"^```\{setting\} (\w+)$", SETTINGS, re.MULTILINE)

    assert sorted(told) == sorted(gtasker.Config.__dataclass_fields__)


def test_each_error_has_a_section_that_says_what_to_do() -> None:
    told = sections(TROUBLE)

    missing = set(gtasker.errors.__all__) - {"GTaskerError"} - set(told)
    assert not missing
    for error in gtasker.errors.__all__:
        if error != "GTaskerError":
            assert "**Do:**" in told[error], error


def test_each_section_of_an_error_is_about_one_that_exists() -> None:
    named = {name for name in sections(TROUBLE) if name.endswith("Error")}
    integrations = [
        f"gtasker.integrations.{module.name}"
        for module in pkgutil.iter_modules(gtasker.integrations.__path__)
        if not module.name.startswith("_")
    ]
    of_integrations = {name for package in integrations for name in errors_of(package)}

    assert named == set(gtasker.errors.__all__) - {"GTaskerError"} | of_integrations


def test_the_tree_of_errors_is_the_codes() -> None:
    [tree] = re.findall(r"^```text\n(GTaskerError\n.*?)^```", TROUBLE, re.MULTILINE | re.DOTALL)
    above: list[str] = []
    for line in tree.splitlines():
        name, *others = re.findall(r"\w+Error", line)
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        del above[depth:]
        kind = getattr(gtasker.errors, name)
        bases = {base.__name__ for base in kind.__bases__}
        expected = {above[-1], *others} if above else {"Exception"}
        assert bases == expected, line
        above.append(name)

    drawn = re.findall(r"^[│├└─ ]*(\w+)", tree, re.MULTILINE)
    assert sorted(drawn) == gtasker.errors.__all__


def test_the_house_is_drawn_as_it_stands() -> None:
    [drawing] = re.findall(r"^```text\n outside(.*?)^```", HOUSE, re.MULTILINE | re.DOTALL)
    drawn: dict[str, int] = {}
    floor = 0
    for line in drawing.splitlines()[1:]:
        if named := re.match(r" floor (\d)", line):
            floor = int(named[1])
        words = line[9:53].split()
        drawn.update(dict.fromkeys(words, floor))
    drawn["__init__"] = drawn.pop("gtasker")

    assert drawn == FLOORS
    outside = set(re.findall(r"\w+", drawing.splitlines()[0][:45]))
    assert outside == OUTSIDE - {"__main__"}


def test_each_room_that_is_named_is_there() -> None:
    named = set(re.findall(r"(?<![\w.])_[a-z]+\b", HOUSE))

    assert named <= set(FLOORS)


def test_each_public_call_of_a_runner_is_told() -> None:
    public = {name for name, value in inspect.getmembers(gtasker.Runner, callable) if not name.startswith("_")}

    assert {name for name in public if not re.search(rf"^### .*\b{name}\b|\b{name}\(", CALLS, re.MULTILINE)} == set()


def test_each_name_of_the_face_is_in_the_reference() -> None:
    reference = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    reference += "".join(gtasker.errors.__all__)

    assert not [name for name in gtasker.__all__ if name != "__version__" and name not in reference]


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_each_command_that_is_named_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    for module in re.findall(r"python -m ((?:benchmarks|examples|gtasker)[\w.]*)", text):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module
    for script in re.findall(r"python ((?:scripts|examples|benchmarks)/[\w/]+\.py)", text):
        assert (ROOT / script).exists(), script


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_each_file_of_the_repository_that_is_named_is_there(page: str) -> None:
    text = (ROOT / page).read_text()

    for name in re.findall(r"`((?:examples|benchmarks|tests|scripts|gtasker|grafana|docs)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
