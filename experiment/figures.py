"""How all figures look, and how they are written. Nothing here touches pyplot, its backend or its figures."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from scipy.ndimage import uniform_filter

from experiment.errors import UserError, describe
from experiment.files import write_atomically
from experiment.labels import LABELS as LABELS
from experiment.labels import baseline, step_settings

THOUSANDS = StrMethodFormatter("{x:,.0f}")
# From the color-blind safe palette of Okabe and Ito: one color a backbone.
COLORS = {"relu": "#0072B2", "relu+pe": "#009E73", "sin": "#D55E00"}
STYLE: Any = {
    "font.size": 10, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "figure.constrained_layout.use": True, "savefig.dpi": 160, "lines.linewidth": 1.5,
    "text.parse_math": False,  # a $ in the name of a file is a $
}


def draw_each(*drawings: Callable[[], None]) -> None:
    """Call each of the functions, which draw figures or print tables; an error of one costs no other.

    Raises:
        UserError: what went wrong, in all of them.
    """
    failures = []
    for draw in drawings:
        try:
            with matplotlib.rc_context(STYLE), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph .* missing from")  # it is drawn as a box
                draw()
        except Exception as error:  # noqa: BLE001 - whatever it is, hours of training have gone before it
            failures.append(f"{getattr(draw, 'func', draw).__name__}: {describe(error)}")
            cause = error
    if failures:
        raise UserError(f"the records are complete, but not all figures: {'; '.join(failures)}") from cause


def subplots(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of `width` × `height` inches and its axes, (rows, columns)."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def plain_log_labels(*axes: Axis) -> None:
    """Label logarithmic x or y axes with plain numbers: matplotlib's own labels are math text, which is off here."""
    for axis in axes:
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def line_style(mode: str) -> dict[str, Any]:
    """How the line of a mode is drawn: in the color of its backbone, FR solid and its baseline dashed."""
    return {"color": COLORS[baseline(mode)], "linestyle": "-" if mode.endswith("+fr") else "--"}


def grid_by_backbone(modes: list[str], width: float, height: float) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each mode: a row a backbone, FR right of its baseline; `width` × `height` inches each."""
    rows = list(dict.fromkeys(map(baseline, modes)))
    columns = sorted({mode.endswith("+fr") for mode in modes})
    figure, axes = subplots(len(rows), len(columns), width * len(columns), height * len(rows) + 1)
    for axis in axes.flat:
        axis.set_axis_off()
    panels = {mode: axes[rows.index(baseline(mode)), columns.index(mode.endswith("+fr"))] for mode in modes}
    for axis in panels.values():
        axis.set_axis_on()
    return figure, panels


def heat_map(axis: Axes, error: np.ndarray, frequencies: list[str]) -> AxesImage:
    """Relative errors in frequency (steps, frequencies): steps to the right, the error as color from 0 to 1."""
    image = axis.imshow(error.T, origin="lower", aspect="auto", interpolation="nearest", cmap="magma_r", vmin=0,
                        vmax=1, extent=(0, len(error), -0.5, len(frequencies) - 0.5))
    axis.set_yticks(range(len(frequencies)), [f"{hertz} Hz" for hertz in frequencies])
    axis.set_xlabel("step")
    axis.xaxis.set_major_formatter(THOUSANDS)
    axis.spines[["top", "right"]].set_visible(True)
    return image


def busiest_window(image: np.ndarray) -> tuple[slice, slice]:
    """The quarter-size window with the most detail: where neighboring pixels differ most."""
    detail = sum(np.abs(np.diff(image, axis=axis, append=image.take([-1], axis))).sum(axis=2) for axis in (0, 1))
    size = [max(2, side // 4) for side in detail.shape]
    # The mean around each pixel; of a window that begins at `top`, the one in its middle is at top + size // 2.
    means = uniform_filter(detail.astype(np.float64), size)
    inner = tuple(slice(part // 2, part // 2 + side - part + 1) for part, side in zip(size, detail.shape))
    corner = np.unravel_index(means[inner].argmax(), means[inner].shape)
    top, left = (slice(int(start), int(start) + part) for start, part in zip(corner, size))
    return top, left


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
    whole.add_patch(Rectangle((columns.start - 0.5, rows.start - 0.5), columns.stop - columns.start,
                              rows.stop - rows.start, fill=False, edgecolor="red", linewidth=1, clip_on=False))
    whole.set_title(title, fontsize=13)
    shown = crop.imshow(picture[window] if close is None else close, interpolation="bicubic", **style)
    crop.set_title(value, fontsize=13, fontweight="bold", y=0, pad=-18)  # below the panel
    whole.set_axis_off()
    crop.set_axis_off()
    return shown


def curves(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """An empty figure of curves over the training; `save_curves` writes it."""
    figure, axes = subplots(1, 1, 7.5, 4.5)
    axes[0, 0].set_xlabel(x_label)
    axes[0, 0].set_ylabel(y_label)
    return figure, axes[0, 0]


def save_curves(figure: Figure, title: str, path: Path) -> None:
    """Write a figure of `curves`, its legend beside it."""
    figure.axes[0].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title)
    save(figure, path)


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write a uint8 image as PNG, atomically."""
    packed = io.BytesIO()
    iio.imwrite(packed, picture, extension=".png")
    write_atomically(path, packed.getvalue())


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, and say where it lies. A title wider than the figure is broken."""
    for text in figure.texts:
        text.set_wrap(True)
    packed = io.BytesIO()
    figure.savefig(packed, format="png")
    write_atomically(path, packed.getvalue())
    print(f"wrote {path}")


def title_suffix(seeds: list[int], quick: bool, config: dict[str, Any], paper: dict[str, Any]) -> str:
    """What a figure's title says of the runs it shows: the seeds, and in what they differ from the paper."""
    shown = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of seeds {', '.join(map(str, seeds))}"
    changed = [f"{name} {config[name]:,g}" if isinstance(value, (int, float)) else f"{name} {config[name]}"
               for name, value in paper.items() if name != "network" and config[name] != value]
    changed += step_settings(config, paper.get("network", {}).get("alpha"))
    return f" ({', '.join([shown, *(['quick'] if quick else changed)])})"
