"""The checks a setting must pass, one function a kind.

Invariant: a check returns in silence (or the value in its settled form) or raises a `ConfigError` that names the field,
the value and the bound. Of an object or a long string only the type is told: it might show a secret.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from gtasker.errors import ConfigError

# A word put in the wrong place is shorter than a connection string.
_LONGEST_TOLD = 16


def refuse(field: str, value: object, bound: str, error: type[ConfigError] = ConfigError) -> NoReturn:
    """Raise `error` for a `field` whose `value` is not what the `bound` says."""
    raise error(f"{field} must be {bound}, not {_told(value)}")


def _told(value: object) -> str:
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_told, value))})"
    if isinstance(value, str) and len(value) <= _LONGEST_TOLD:
        return f"{value!r}, a str"
    return f"an object of type {type(value).__qualname__}"


def optional(check: Callable[..., object], field: str, value: object, **bounds: Any) -> None:
    """Let None pass, and put anything else to the `check`."""
    if value is not None:
        check(field, value, **bounds)


def function(field: str, value: object, error: type[ConfigError] = ConfigError) -> None:
    """Something that can be called."""
    if not callable(value):
        refuse(field, value, "a callable", error)


def boolean(field: str, value: object) -> None:
    """True or False; other truths are more likely a slip."""
    if not isinstance(value, bool):
        refuse(field, value, "True or False")


def integer(
    field: str,
    value: object,
    *,
    least: int | None,
    because: str = "",
    error: type[ConfigError] = ConfigError,
) -> None:
    """An int that is no bool, and at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(field, value, "an int", error)
    if least is not None and value < least:
        refuse(field, value, f"at least {least}" + (f" ({because})" if because else ""), error)


def seconds(field: str, value: object, *, zero: bool = True) -> None:
    """A finite number that is no bool, and above 0 (or 0, if that is allowed)."""
    bound = "finite seconds, 0 or more" if zero else "finite seconds above 0"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse(field, value, bound)
    # The chain is false for NaN, too.
    if not 0 <= value <= sys.float_info.max or (value == 0 and not zero):
        refuse(field, value, bound)


def backoff(field: str, value: object) -> tuple[float, float]:
    """A pair (base, cap) of seconds with 0 <= base <= cap."""
    bound = "a pair (base, cap) of finite seconds with 0 <= base <= cap"
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        refuse(field, value, bound)
    try:
        for part in value:
            seconds(field, part)
    except ConfigError:
        refuse(field, value, bound)
    base, cap = value
    if base > cap:
        refuse(field, value, bound)
    return float(base), float(cap)


def label(field: str, value: object) -> None:
    """A word for logs and metrics: on one line, and not empty."""
    if not isinstance(value, str):
        refuse(field, value, "a str")
    if not value or not value.isprintable():
        raise ConfigError(f"{field} must be printable and not empty, not {value!r}")


def methods(field: str, value: object, *, names: tuple[str, ...], words: tuple[str, ...] = ()) -> None:
    """One of the `words`, or an object (not its class) that has all the methods."""
    if isinstance(value, str) and value in words:
        return
    if isinstance(value, type) or not all(callable(getattr(value, name, None)) for name in names):
        bound = " or ".join((*map(repr, words), f"an object with {', '.join(names)}"))
        told = repr(value) if words and isinstance(value, str) else _told(value)
        raise ConfigError(f"{field} must be {bound}, not {told}")
