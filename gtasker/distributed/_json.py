"""JSON: whether a value comes out of it as it went in.

Invariant: what passes is equal to, and of the same types as, what `json.loads(json.dumps(...))` makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gtasker.distributed.errors import NotJSONError

_SIMPLE = frozenset({type(None), bool, int, str})
_DEPTH = 200
"""Levels; the encoder's and the decoder's own bounds are higher, and depend on the stack they are called in."""


def check_json(value: Any, path: str) -> None:
    """Raise NotJSONError, with the path of the culprit, unless `value` survives a journey. Never switches.

    A tuple would arrive as a list, an enum as its value, the key 1 as "1": they are refused as a date is.
    """
    pending: list[tuple[str, Any, int]] = [(path, value, 0)]
    while pending:
        place, part, depth = pending.pop()
        kind = type(part)
        if kind in _SIMPLE or (kind is float and math.isfinite(part)):
            continue
        if kind is not list and kind is not dict:
            raise NotJSONError(f"{place} is not JSON: {_describe(part)}", place)
        if depth == _DEPTH:
            raise NotJSONError(f"{place[:80]}... is nested deeper than {_DEPTH} levels, or in a circle", place)
        pending.extend((there, inner, depth + 1) for there, inner in _parts(part, place))


def _parts(container: Any, place: str) -> Iterator[tuple[str, Any]]:
    if type(container) is list:
        yield from ((f"{place}[{index}]", part) for index, part in enumerate(container))
        return
    for key, part in container.items():
        if type(key) is not str:
            there = f"{place}[{key!r}]"
            raise NotJSONError(f"{there} is not JSON: the key is {_describe(key)}, not a str", there)
        yield f"{place}[{key!r}]", part


def _describe(part: Any) -> str:
    if type(part) is float:
        return repr(part)
    kind = type(part)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name} (make it a list)" if isinstance(part, (tuple, set, frozenset)) else name
