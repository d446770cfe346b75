"""Exceptions on their way between processes: as a dictionary there, as an exception of the same class here.

Invariant: nothing but JSON travels. Only a class that is an `Exception` is ever called with what came.
"""

from __future__ import annotations

import importlib
import traceback
from typing import Any

from gtasker.distributed._json import check_json
from gtasker.distributed.errors import NotJSONError, RemoteTaskError
from gtasker.errors import MaxRetriesExceededError

_LINES = 60  # of a traceback's frames
_CHARACTERS = 20_000  # of a text; what a driver puts into a message may be long


def describe(error: BaseException, attempts: int | None = None) -> dict[str, Any]:
    """The JSON form of `error`; with `attempts`, of a MaxRetriesExceededError whose cause it is. Never switches."""
    kind = type(error)
    args = list(error.args)
    try:
        check_json(args, "args")
    except NotJSONError:
        args = [_text(error)]
    told = "".join(traceback.format_exception(kind, error, error.__traceback__, limit=_LINES))
    return {
        "module": kind.__module__,
        "type": kind.__qualname__,
        "args": args,
        "message": _text(error)[:_CHARACTERS],
        "traceback": told[-_CHARACTERS:],
        "attempts": attempts,
    }


def rebuild(told: dict[str, Any]) -> Exception:
    """The exception that `describe` was given, as far as it can be had here. Never switches."""
    origin = RemoteTaskError(f"{told['module']}.{told['type']}", told["message"], told["traceback"])
    error = _same_class(told, origin)
    if told.get("attempts") is None:
        return error
    spent = MaxRetriesExceededError(f"{told['attempts']} attempts failed; the last: {error}", told["attempts"])
    spent.__cause__ = error
    return spent


def _text(error: BaseException) -> str:
    """What it says; an error that cannot say it must be told all the same, for somebody waits for it."""
    try:
        return str(error)
    except Exception as silent:
        return f"(its text cannot be had: {type(silent).__name__})"


def _same_class(told: dict[str, Any], origin: RemoteTaskError) -> Exception:
    try:
        found: Any = importlib.import_module(told["module"])
        for name in told["type"].split("."):  # "<locals>" is no attribute
            found = getattr(found, name)
        if not issubclass(found, Exception):
            return origin
        error = found(*told["args"])
        is_same = type(error) is found and (not told["message"] or str(error)[:_CHARACTERS] == told["message"])
    # The class is not here, or wants something else than its args; its module may be a program, and end itself.
    except (Exception, SystemExit):
        return origin
    if not is_same:
        return origin
    error.__cause__ = origin
    return error  # type: ignore[no-any-return]
