"""The package builds, holds what it should and nothing else, and is of use where nothing else is installed.

Invariant: what is looked at was built from a copy of this checkout, by the backend that pyproject.toml names.
"""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import gtasker
from scripts.check_extras import IMPORTED_WITH, check_all
from tests.packaging.conftest import ROOT, Built

PACKAGES = ("gtasker", "gtasker_pytest")
TESTED_WITH = ("benchmarks", "docs", "examples", "grafana", "scripts", "tests")
"""The folders that the suite looks into."""
FOR_DEVELOPERS = {"around", "bench", "cluster", "demo", "dev", "docs", "test"}
"""Extras that are no integration."""
TYPED_USER = Path(__file__).with_name("typed_user.py")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def files_of(folder: str) -> set[str]:
    """The files of a folder that are source, from the root of the checkout."""
    found = (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file())
    return {
        path.as_posix()
        for path in found
        if not any(part == "__pycache__" or part.startswith((".", "_build", "_generated")) for part in path.parts)
    }


def told(wheel: Path) -> email.message.Message:
    """The wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def extras_of(wheel: Path) -> set[str]:
    """The extras that a user may name."""
    return set(told(wheel).get_all("Provides-Extra") or ())


def output_of(*command: str | Path, folder: Path | None = None) -> str:
    """What it prints, called in a `folder`. Raises with that when it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MYPY"))},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    source = set().union(*map(files_of, PACKAGES))

    with zipfile.ZipFile(built.wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert held == source


def test_the_source_distribution_holds_all_that_its_tests_look_into(built: Built) -> None:
    source = set().union(*map(files_of, (*PACKAGES, *TESTED_WITH)))
    source |= {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "pyproject.toml", "setup.cfg"}

    with tarfile.open(built.sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}

    assert sorted(source - held) == []


def test_it_says_what_it_is(built: Built) -> None:
    metadata = told(built.wheel)

    assert metadata["Version"] == gtasker.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    readme = metadata.get_payload(decode=True)
    assert isinstance(readme, bytes)
    assert readme.decode() == (ROOT / "README.md").read_text()
    required = [line for line in metadata.get_all("Requires-Dist") or () if "extra ==" not in line]
    assert sorted(re.split(r"[<>=]", line)[0] for line in required) == ["gevent", "greenlet"]


def test_a_bare_environment_has_the_package_its_command_and_its_fixtures(bare_python: Path) -> None:
    program = "import gtasker.cli, importlib.metadata as m; print(gtasker.__file__, m.version('gtasker'))"

    place, version = output_of(bare_python, "-I", "-c", program).split()
    said = output_of(bare_python.with_name("gtasker"), "--version")
    plugins = output_of(
        bare_python, "-I", "-c", "import importlib.metadata as m; print(*m.entry_points(group='pytest11').names)"
    )

    assert Path(place).is_relative_to(bare_python.parents[1])
    assert version == gtasker.__version__
    assert said == f"gtasker {gtasker.__version__}\n"
    assert plugins.split() == ["gtasker"]


def test_a_bare_environment_runs_the_first_example_of_the_documentation(bare_python: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "index.md").read_text()
    [(code, output)] = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "first.py").write_text(code)

    assert output_of(bare_python, "-I", "-W", "error", tmp_path / "first.py") == output


def test_a_strict_user_of_types_gets_them_from_the_installed_package(bare_python: Path, tmp_path: Path) -> None:
    program = tmp_path / "typed_user.py"
    program.write_text(TYPED_USER.read_text())
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nstrict = true\nwarn_unreachable = true\n")

    said = output_of(
        *(sys.executable, "-m", "mypy", "--config-file", config, "--python-executable", bare_python),
        *("--cache-dir", tmp_path / "cache", program),
        folder=tmp_path,  # in the checkout mypy would look there first
    )

    assert said == "Success: no issues found in 1 source file\n"


def test_each_public_module_is_imported_with_an_extra_or_with_none() -> None:
    public = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in files_of("gtasker")
        if name.endswith(".py")
        and not any(part.startswith("_") for part in name.removesuffix("/__init__.py").split("/"))
    }

    named = [module for modules in IMPORTED_WITH.values() for module in modules]

    assert sorted(named) == sorted(public)


def test_each_extra_is_for_something_and_is_told(built: Built) -> None:
    page = (ROOT / "docs" / "reference" / "extras.md").read_text()
    rows = {name for cell in re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}

    extras = extras_of(built.wheel) - FOR_DEVELOPERS

    assert extras == set(IMPORTED_WITH) - {""}
    assert rows == extras


def test_each_extra_suffices_for_what_it_is_for(built: Built) -> None:
    faults = check_all(built.wheel, list(IMPORTED_WITH))

    assert json.dumps({extra: fault for extra, fault in faults.items() if fault}, indent=1) == "{}"
