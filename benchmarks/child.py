"""One row in a process of its own: `python -m benchmarks.child ROW [--quick]` prints its result as JSON.

Invariant: everything is patched before anything else is imported, as in an application that uses gevent.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402
import importlib  # noqa: E402
import logging  # noqa: E402
from collections.abc import Callable  # noqa: E402

from benchmarks import catalogue, report  # noqa: E402
from benchmarks.measure import Effort, Result  # noqa: E402


def run(row: catalogue.Row, effort: Effort) -> Result:
    """Run the row here. Switches."""
    module, function = row.function.split(":")
    measure: Callable[[Effort], Result] = getattr(importlib.import_module(f"benchmarks.rows.{module}"), function)
    return measure(effort)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", choices=[row.name for row in catalogue.ROWS])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    print(report.encode(run(catalogue.named(options.row), Effort.of(quick=options.quick))), flush=True)


if __name__ == "__main__":
    main()
