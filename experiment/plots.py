"""How all figures look, and how they are written."""

import io
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import StrMethodFormatter

from experiment.files import write_atomically

plt.switch_backend("Agg")  # figures are files; no display is needed

LABELS = {"relu": "ReLU", "relu+fr": "ReLU + FR", "relu+pe": "ReLU + PE", "relu+pe+fr": "ReLU + PE + FR",
          "sin": "Sin", "sin+fr": "Sin + FR"}
THOUSANDS = StrMethodFormatter("{x:,.0f}")
# Of the color-blind safe palette of Okabe and Ito: one color a backbone.
COLORS = {"relu": "#0072B2", "relu+pe": "#009E73", "sin": "#D55E00"}

plt.rcParams.update({
    "font.size": 10, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "figure.constrained_layout.use": True, "savefig.dpi": 160, "lines.linewidth": 1.5,
})


def baseline(mode: str) -> str:
    """The mode without its `+fr`."""
    return mode.removesuffix("+fr")


def line_style(mode: str) -> dict[str, Any]:
    """How the line of a mode is drawn: in the color of its backbone, FR solid and its baseline dashed."""
    return {"color": COLORS[baseline(mode)], "linestyle": "-" if mode.endswith("+fr") else "--"}


def grid_by_backbone(modes: list[str], width: float, height: float) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each mode: a row a backbone, FR right of its baseline; `width` × `height` inches each."""
    rows = list(dict.fromkeys(map(baseline, modes)))
    columns = sorted({mode.endswith("+fr") for mode in modes})
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(width * len(columns), height * len(rows) + 1),
                                squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    panels = {mode: axes[rows.index(baseline(mode)), columns.index(mode.endswith("+fr"))] for mode in modes}
    for axis in panels.values():
        axis.set_axis_on()
    return figure, panels


def busiest_window(image: np.ndarray) -> tuple[slice, slice]:
    """The quarter-size window with the most detail: where neighboring pixels differ most."""
    detail = sum(np.abs(np.diff(image, axis=axis, append=0 * image.take([0], axis))).sum(axis=2) for axis in (0, 1))
    height, width = (max(2, side // 4) for side in detail.shape)
    total = np.pad(detail, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return slice(top, top + height), slice(left, left + width)


def show_with_crop(whole: Axes, crop: Axes, picture: np.ndarray, window: tuple[slice, slice], title: str, value: str,
                   close: np.ndarray | None = None, **style: Any) -> AxesImage:
    """A picture with a box around a window of it, and in the panel below that window enlarged, `value` under it.

    Args:
        picture: shape (rows, columns, 3) or (rows, columns).
        close: what the window shows, where it is known in more detail than `picture` has.
        style: of `imshow`, for both.
    """
    rows, columns = window
    whole.imshow(picture, **style)
    whole.add_patch(plt.Rectangle((columns.start - 0.5, rows.start - 0.5), columns.stop - columns.start,
                                  rows.stop - rows.start, fill=False, edgecolor="red", linewidth=1, clip_on=False))
    whole.set_title(title, fontsize=13)
    shown = crop.imshow(picture[window] if close is None else close, interpolation="nearest", **style)
    crop.set_title(value, fontsize=13, fontweight="bold", y=0, pad=-18)  # below the panel
    whole.set_axis_off()
    crop.set_axis_off()
    return shown


def curves(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """An empty figure of curves over the training; `save_curves` writes it."""
    figure, axis = plt.subplots(figsize=(7.5, 4.5))
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    return figure, axis


def save_curves(figure: Figure, title: str, path: Path) -> None:
    """Write a figure of `curves`, its legend beside it."""
    figure.axes[0].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title)
    save(figure, path)


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write a uint8 image as PNG, whole or not at all."""
    packed = io.BytesIO()
    iio.imwrite(packed, picture, extension=".png")
    write_atomically(path, packed.getvalue())


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, close it, and say where it lies."""
    packed = io.BytesIO()
    figure.savefig(packed, format="png")
    plt.close(figure)
    write_atomically(path, packed.getvalue())
    print(f"wrote {path}")


def title_suffix(seeds: list[int], quick: bool, config: dict[str, Any], paper: dict[str, Any]) -> str:
    """What a figure's title says of the runs it shows: the seeds, and in what they differ from the paper."""
    shown = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of seeds {', '.join(map(str, seeds))}"
    changed = [f"{name} {config[name]:,g}" if isinstance(value, (int, float)) else f"{name} {config[name]}"
               for name, value in paper.items() if config[name] != value]
    return f" ({', '.join([shown, *(['quick'] if quick else changed)])})"
