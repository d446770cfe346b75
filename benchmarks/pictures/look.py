"""How the pictures look: colours and letters that are read on white paper and on a dark page alike.

Invariant: nothing is drawn behind a picture, and what is written has much the same contrast to white and to black.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

INK = "#7a7a7a"
BLUE, ORANGE, GREEN, PINK = "#1a80c4", "#d55e00", "#009e73", "#c0699c"

STYLE: dict[Any, Any] = {
    "figure.figsize": (8.0, 4.5),
    "figure.constrained_layout.use": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 12,
    "font.family": "sans-serif",
    "font.size": 11,
    "grid.alpha": 0.3,
    "grid.color": INK,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "gtasker",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def sign(figure: Figure, machine: Mapping[str, str]) -> None:
    """Write below the picture what it was measured on."""
    words = (machine["processor"], machine["python"], f"gevent {machine['gevent']}")
    figure.supxlabel(", ".join(words), x=0.99, ha="right", fontsize=8, color=INK)
