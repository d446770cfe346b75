"""One scenario with one pool: `python -m benchmarks.robustness.child POOL SCENARIO SEED` prints its findings as JSON.

Invariant: the process ends when the findings are out, whatever the pool has left running.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from dataclasses import asdict  # noqa: E402

from benchmarks.robustness.pools import load  # noqa: E402
from benchmarks.robustness.scenarios import SCENARIOS  # noqa: E402


def main() -> None:
    """Run the scenario named on the command line. Switches."""
    pool, scenario, seed = sys.argv[1:]
    logging.disable(logging.CRITICAL)  # the pools tell at length of what is done to them
    findings = SCENARIOS[scenario](load(pool), int(seed))
    print(json.dumps(asdict(findings)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
