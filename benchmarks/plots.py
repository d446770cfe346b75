"""The pictures of the docs: `python -m benchmarks.plots [--only PICTURE] [--output DIR]`.

Invariant: a picture is drawn from what was measured a moment before, in the same process.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import matplotlib as mpl  # noqa: E402

mpl.use("agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from benchmarks import machine  # noqa: E402
from benchmarks.pictures import bursting, callers, look, waiting  # noqa: E402

PICTURES: dict[str, Callable[[], Figure]] = {
    "throughput-by-callers": callers.draw,
    "wait-by-priority": waiting.draw,
    "burst-timeline": bursting.draw,
}


def main() -> int:
    """Draw the pictures and say where they are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description="the pictures of the docs")
    parser.add_argument("--only", action="append", choices=list(PICTURES), help="this picture alone; may be repeated")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results"), help="directory (default: %(default)s)"
    )
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="file format (default: %(default)s)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update(look.STYLE)
    surroundings = machine.describe()
    for name in options.only or PICTURES:
        figure = PICTURES[name]()
        look.sign(figure, surroundings)
        path = options.output / f"{name}.{options.format}"
        figure.savefig(path, metadata={"Date": None} if options.format == "svg" else None)
        print(path, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
