"""Rounds in a companion process where nothing is patched, interleaved with ours: for rivals that live on real threads.

Invariant: the companion works only while a round is asked of it, and ends with the pipe that asks.
"""

from __future__ import annotations

import gc
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmarks.measure import Round


@contextmanager
def elsewhere(function: str, **arguments: Any) -> Iterator[Round]:
    """Yield the round that `function` ("module:name" in this package, a context manager) yields in the companion."""
    command = [sys.executable, "-m", "benchmarks.elsewhere", function, json.dumps(arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as companion:
        assert companion.stdin is not None
        assert companion.stdout is not None
        asked, told = companion.stdin, companion.stdout

        def ask(operations: int) -> float:
            print(operations, file=asked, flush=True)
            return float(told.readline())

        yield ask


def main() -> None:
    """Answer each number of operations on stdin with the seconds that one took."""
    function, arguments = sys.argv[1], json.loads(sys.argv[2])
    module, name = function.split(":")
    context: Callable[..., AbstractContextManager[Round]] = getattr(
        importlib.import_module(f"benchmarks.{module}"), name
    )
    with context(**arguments) as round_:
        for line in sys.stdin:
            gc.collect()
            print(repr(round_(int(line))), flush=True)


if __name__ == "__main__":
    main()
