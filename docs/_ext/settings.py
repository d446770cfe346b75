"""Sphinx: the directive `setting`, which tells a field of `gtasker.Config` with what the code says of it.

Invariant: unit, default and bound are asked of `Config` when the page is built, so that they cannot go stale; and a
build in which a field is told twice, or not at all, has a warning.

    ```{setting} acquire_timeout
    What it is for, and what happens when it is exceeded.
    ```
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import gtasker

FIELDS = {field.name: field for field in dataclasses.fields(gtasker.Config)}
_log = logging.getLogger(__name__)

_LEAST: dict[str, Any] = {
    "on_create": object,
    "on_destroy": lambda resource: None,
    "worker_count": 5,
    "resource_pool_size": 2,
    "check_resource": bool,  # without one there may be no `keepalive`
}
"""A config to which one wrong value at a time is put; its numbers can be told from each other."""
_REQUIRED = ("on_create", "on_destroy", "worker_count")
_ABSENT = object()
"""Nothing that any field takes."""


class Told(NamedTuple):
    """What the code says of a field."""

    unit: str
    """"seconds", "count", "function" and so on."""
    default: str
    bound: str

    @property
    def line(self) -> str:
        """All of it, as Markdown."""
        return f"{self.unit} · default {self.default} · {self.bound}"


def ask(name: str) -> Told:
    """Ask `Config` what it takes for a field, and what it has when the field is left out."""
    kind = _refusal(name, _ABSENT)
    assert kind is not None, f"{name} takes anything"
    unit, bound = _in_words(name, kind)
    if name not in _REQUIRED and _refusal(name, None) is None:
        first, semicolon, rest = bound.partition(";")
        bound = f"{first}, or None{semicolon}{rest}"
    return Told(unit, _default(name), bound)


def _refusal(name: str, value: object) -> str | None:
    """What a field has to be, as the error says that `value` raises; None if it is taken."""
    try:
        gtasker.Config(**{**_LEAST, name: value})
    except gtasker.ConfigError as error:
        return str(error).removeprefix(f"{name} must be ").rpartition(", not ")[0]
    return None


def _in_words(name: str, kind: str) -> tuple[str, str]:
    if kind == "an int":
        return "count", _least(name)
    if kind.startswith("finite seconds"):
        return "seconds", "above 0" if "above 0" in kind else "0 or more"
    if kind.startswith("a pair (base, cap)"):
        return "seconds, a pair (base, cap)", "0 <= base <= cap"
    if kind == "a callable":
        return "function", "anything callable"
    if kind == "True or False":
        return "yes or no", "True or False"
    if kind == "a str":
        return "text", "printable and not empty"
    kind = re.sub(r"'(\w+)'", r'`"\1"`', kind)
    return "object", re.sub(r"\b(an object with )(.*)", lambda with_: with_[1] + _as_code(with_[2]), kind)


def _least(name: str) -> str:
    """The bound of an int, which may follow from another field; what counts as None is told, too."""
    refused = {value: bound for value in (-1, 0, 1) if (bound := _refusal(name, value)) is not None}
    if not refused:
        return "any; 0 and less count as None"
    bound = re.sub(r"at least \d+ \((.*)\)", r"at least `\1`", refused[max(refused)])
    return bound if -1 in refused else f"{bound}; 0 and less count as None"


def _as_code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _default(name: str) -> str:
    if name in _REQUIRED:
        return "none: required"
    default = FIELDS[name].default
    if name == "logger":
        return '`logging.getLogger("gtasker")`'
    return f"`None`{_resolved(name)}" if default is None else f"`{default!r}`"


_HOW: dict[str, Callable[[gtasker.Config[Any]], int]] = {
    "burst_worker_count": lambda config: 2,
    "max_worker_count": lambda config: config.worker_count + config.burst_worker_count,
    "resource_pool_size": lambda config: config.worker_count,
    "max_resources": lambda config: config.max_worker_count + config.resource_pool_size,
}
_HOW_IN_WORDS = {
    "burst_worker_count": "`2`",
    "max_worker_count": "`worker_count + burst_worker_count`",
    "resource_pool_size": "`worker_count`",
    "max_resources": "`max_worker_count + resource_pool_size`",
    "name": '`"runner-N"`',
}


def _resolved(name: str) -> str:
    """What None stands for, where it stands for a value; the code has to agree."""
    if name not in _HOW_IN_WORDS:
        return ""
    config: gtasker.Config[Any] = gtasker.Config(**{key: value for key, value in _LEAST.items() if key != name})
    if name in _HOW:
        assert getattr(config, name) == _HOW[name](config), f"{name} is not what the documentation says"
    else:
        assert re.fullmatch(r"runner-\d+", config.name)
    return f", which means {_HOW_IN_WORDS[name]}"


class Setting(SphinxDirective):
    """One field: its name, what the code says of it, and the text of the page."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Make a definition of it, to which `#name` leads."""
        name = self.arguments[0]
        if name not in FIELDS:
            raise self.error(f"Config has no field {name!r}")
        page = self.env.metadata[self.env.docname]
        page["settings"] = f"{page.get('settings', '')} {name}"
        term = nodes.term("", "", nodes.literal("", name), ids=[name], names=[name])
        self.state.document.note_explicit_target(term)
        body = nodes.definition()
        facts, _ = self.parse_inline(ask(name).line)
        body += nodes.paragraph("", "", nodes.emphasis("", "", *facts))
        body += self.parse_content_to_nodes()
        return [nodes.definition_list("", nodes.definition_list_item("", term, body), classes=["setting"])]


def _check(app: Sphinx, env: BuildEnvironment) -> None:
    told = [name for page in env.metadata.values() for name in page.get("settings", "").split()]
    for name in FIELDS:
        if told.count(name) != 1:
            _log.warning("the field %r of Config is told %d times", name, told.count(name))


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("setting", Setting)
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
