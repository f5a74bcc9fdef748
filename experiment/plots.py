"""How all figures look, and how they are written."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures are files; no display is needed

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from experiment.records import write_atomically  # noqa: E402

LABELS = {"relu": "ReLU", "relu+fr": "ReLU + FR", "relu+pe": "ReLU + PE", "relu+pe+fr": "ReLU + PE + FR",
          "sin": "Sin", "sin+fr": "Sin + FR"}
# Of the colour-blind safe palette of Okabe and Ito: one colour a backbone.
COLORS = {"relu": "#0072B2", "relu+pe": "#009E73", "sin": "#D55E00"}

plt.rcParams.update({
    "font.size": 10, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "figure.constrained_layout.use": True, "savefig.dpi": 160, "lines.linewidth": 1.5,
})


def baseline(mode: str) -> str:
    """The mode without its `+fr`."""
    return mode.removesuffix("+fr")


def color(mode: str) -> str:
    """The colour of a mode's backbone."""
    return COLORS[baseline(mode)]


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, close it, and say where it lies."""
    packed = io.BytesIO()
    figure.savefig(packed, format="png")
    plt.close(figure)
    write_atomically(path, packed.getvalue())
    print(f"wrote {path}")


def seed_note(seed: int, quick: bool) -> str:
    """What a figure's title says of the runs it shows."""
    return f" (seed {seed}{', quick' * quick})"
