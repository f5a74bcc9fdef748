"""How all figures look, and how they are written. Nothing here touches pyplot, its backend or its figures."""

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.ndimage import uniform_filter, uniform_filter1d

from data.errors import UserError, describe
from harness.files import write_atomically
from harness.labels import baseline
from harness.records import Run

THOUSANDS = ticker.StrMethodFormatter("{x:,.0f}")
# From the color-blind safe palette of Okabe and Ito: one color a backbone.
COLORS = {"relu": "#0072B2", "relu+pe": "#009E73", "sin": "#D55E00"}
STYLE: Any = {
    **matplotlib.rcParamsDefault,  # whatever a matplotlibrc says
    "font.size": 10, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "figure.constrained_layout.use": True, "figure.dpi": 160, "lines.linewidth": 1.5,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "text.parse_math": False,  # a $ in the name of a file is a $
}
del STYLE["backend"]


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
        axis.set_major_formatter(lambda value, _: np.format_float_positional(value, precision=12, trim="-"))
        axis.set_minor_formatter(ticker.NullFormatter())


def line_style(mode: str, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How the line of a network is drawn: in the color of its backbone, FR solid and its baseline dashed.

    One with settings of its own is dotted, with FR in dashes and dots.
    """
    styles = ("-.", ":") if own else ("-", "--")
    return {"color": COLORS[baseline(mode)], "linestyle": styles[not mode.endswith("+fr")]}


def shades(count: int) -> list:
    """`count` blues, from dark to light."""
    return list(matplotlib.colormaps["Blues"](np.linspace(0.95, 0.4, count)))


def seeds(numbers: Sequence[int]) -> str:
    """Which seeds a figure shows, in words."""
    return f"seed {numbers[0]}" if len(numbers) == 1 else f"mean of seeds {', '.join(map(str, numbers))}"


def grid_by_backbone(runs: Sequence[Run], width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A panel for each run, in their order: a row a backbone, FR right of its baseline; `width` × `height` inches."""
    ordered = sorted(runs, key=lambda run: run.mode.endswith("+fr"))
    rows = {name: [run for run in ordered if baseline(run.mode) == name] for name in map(baseline, [
        run.mode for run in runs])}
    columns = max(map(len, rows.values()))
    figure, axes = subplots(len(rows), columns, width * columns, height * len(rows) + 1, **options)
    panels = {run.path(""): axis for of_row, line in zip(rows.values(), axes) for run, axis in zip(of_row, line)}
    for axis in set(axes.flat) - set(panels.values()):
        axis.set_axis_off()
    return figure, [panels[run.path("")] for run in runs]


def smoothed(curve: np.ndarray, width: int) -> np.ndarray:
    """The moving average of a curve over `width` steps."""
    return uniform_filter1d(np.asarray(curve, np.float64), max(1, width), mode="nearest")


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


def look_at(azimuth: float, elevation: float, up: int = 2) -> np.ndarray:
    """The axes of a camera at an azimuth and an elevation in degrees, (3, 3): right, up, toward it; axis `up` is up."""
    azimuth, elevation = math.radians(azimuth), math.radians(elevation)
    toward = np.roll([math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth),
                      math.sin(elevation)], up - 2)
    right = np.cross(np.eye(3)[up], toward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(toward, right), toward])


def close_ups(whole: np.ndarray, window: tuple[slice, slice], truth: np.ndarray,
              shown: Sequence[tuple[str, str, np.ndarray]]) -> Figure:
    """Draw the truth, its part in a window, and that part of some pictures: up to three in a row, more in two.

    Two rows are filled column by column, so that the second of a pair is under the first.

    Args:
        whole: the truth, (rows, columns, 3), with a box drawn around the window.
        truth: the truth in the window, of the shape of the pictures or larger.
        shown: of each network its label, its figure of merit, and its picture of the window.
    """
    rows = 1 if len(shown) <= 3 else 2
    columns = -(-(2 + len(shown)) // rows)
    ratio = whole.shape[0] / whole.shape[1]
    width = min(3.3, 4 / ratio)
    figure, axes = subplots(rows, columns, width * columns, rows * (width * ratio + 0.3) + 0.6)
    of_whole, of_window, *others = axes.T.flat
    of_whole.imshow(whole)
    down, across = window
    of_whole.add_patch(Rectangle((across.start - 0.5, down.start - 0.5), across.stop - across.start,
                                 down.stop - down.start, fill=False, edgecolor="red", linewidth=1.5, clip_on=False))
    of_whole.set_title("ground truth")
    of_window.imshow(truth, interpolation="bicubic")
    of_window.set_title("ground truth, enlarged")
    for axis, (label, value, picture) in zip(others, shown):
        axis.imshow(picture, interpolation="bicubic")
        axis.set_title(label)
        axis.text(0.02, 0.03, value, transform=axis.transAxes, fontweight="bold",
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2})
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


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
    """Write a figure as PNG and as PDF, atomically, and say where it lies. A title wider than the figure is broken."""
    for text in figure.texts:
        # Not set_wrap: it measures a $ as the begin of math text, whatever parse_math says.
        fitting = int(figure.get_figwidth() * 72 / (0.55 * float(text.get_fontsize())))
        text.set_text("\n".join(textwrap.fill(line, fitting) for line in text.get_text().split("\n")))
    canvas, packed = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()
    write_picture(np.asarray(canvas.buffer_rgba())[..., :3], path)  # savefig's has an alpha, and is a seventh larger
    figure.set_layout_engine("none")  # it is laid out
    figure.savefig(packed, format="pdf")
    write_atomically(path.with_suffix(".pdf"), packed.getvalue())
    print(f"wrote {path}")
