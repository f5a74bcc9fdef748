"""One figure of three experiments, FR under its baseline and the truth above both: the first picture of the README.

    python -m report.overview

Draws from the records and arrays below results/ that the commands of reproduce.sh leave, and from the data. Writes
figures/overview.png.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from data.errors import UserError
from data.images import load_image
from data.signals import FREQUENCIES, square_like_wave
from data.volumes import downscaled, load_volume
from harness import cli, figures, meshes
from harness.labels import LABELS, baseline, length, size
from harness.metrics import relative_spectral_error
from harness.records import read_arrays, read_record

IMAGE = "2d/kodim05/batch=8192"
VOLUME = "3d/thai_statue/epochs=4,downscale=2,batch=10000"
COLUMNS = [(IMAGE, "sin-seed0", "sin+fr-seed0"), (VOLUME, "sin-seed0", "sin+fr,lr=0.0005-seed0")]
FUNCTION = "1d/function"
HIGHEST_FREQUENCY = "4.5"  # of the target's frequencies
ASPECT = 2 / 3  # height of a picture over its width


def finished(results: Path, folder: str, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """The record and the arrays of a run. UserError if they are not there."""
    stem = str(results / folder / name)
    try:
        return read_record(Path(f"{stem}.json")), read_arrays(Path(f"{stem}.npz"))
    except FileNotFoundError:
        raise UserError(f"{stem}.json or .npz is not there; reproduce.sh has its command") from None


def pictures(folder: str, runs: list[tuple[dict, dict[str, np.ndarray]]], data: Path) -> list[np.ndarray]:
    """The same part of the truth and of what each of some networks learned."""
    config = runs[0][0]["config"]
    if folder == IMAGE:
        _, truth = load_image("5", data)
        window = figures.busiest_window(truth)
        return [picture.clip(0, 1)[window] for picture in (truth, *(arrays["reconstruction"] for _, arrays in runs))]
    _, truth = load_volume(runs[0][0]["case"], data)
    volumes = [downscaled(truth, config["downscale"], "the volume"),
               *(meshes.from_levels(arrays["output"]) for _, arrays in runs)]
    surfaces = [meshes.extract_mesh(volume, meshes.SMOOTHING) for volume in volumes]
    return meshes.render_with_close_up(surfaces, meshes.VIEWS[runs[0][0]["case"]], pixels=512)[2]


def draw_errors(axis: Axes, results: Path) -> None:
    """The error at the highest frequency of the 1D function over the training of four networks, the mean of seeds."""
    target = square_like_wave()[1].numpy()[:, 0]
    for mode in ("relu", "relu+fr", "sin", "sin+fr"):
        names = sorted(path.stem for path in (results / FUNCTION).glob(f"{mode}-seed*.json"))
        runs = [finished(results, FUNCTION, name) for name in names or [f"{mode}-seed0"]]
        errors = np.mean([relative_spectral_error(arrays["outputs"], target, [FREQUENCIES[HIGHEST_FREQUENCY]])[:, 0]
                          for _, arrays in runs], axis=0)
        axis.semilogy(errors, **figures.line_style(mode), label=LABELS[mode])
    axis.set_title(f"1D function: relative error at\nfrequency {HIGHEST_FREQUENCY}, mean of {len(runs)} seeds")
    axis.set_ylim(0.02, 1.2)
    axis.set_xlabel("step")
    axis.xaxis.set_major_formatter(figures.THOUSANDS)
    axis.set_xticks([0, 5_000, 10_000])
    figures.plain_log_labels(axis.yaxis)
    axis.legend(loc="lower left", fontsize=9)


def draw(results: Path, data: Path, path: Path) -> None:
    """Curves on the left, and a column an experiment and backbone: the truth, the baseline, FR."""
    figure = figures.Figure(figsize=(11, 6.6))
    curves, grid = cast(Sequence[SubFigure], figure.subfigures(1, 2, width_ratios=[1, 2.6]))
    draw_errors(curves.subplots(), results)
    for axes, (folder, *names) in zip(grid.subplots(3, len(COLUMNS)).T, COLUMNS):
        runs = [finished(results, folder, name) for name in names]
        record = runs[0][0]
        metric, digits, unit = ("psnr", 2, " dB") if record["experiment"] == "2d" else ("iou", 3, " IoU")
        of_record = record["experiment"], record["config"]
        axes[0].set_title(f"{record['case']}, {LABELS[baseline(record['mode'])]}\n{size(*of_record)}\n"
                          f"{length(*of_record)}", fontsize=9)
        texts = ["ground truth", *(f"{'FR' if '+fr' in run['mode'] else 'plain'}: {run['metrics'][metric]:.{digits}f}"
                                   f"{unit}, lr {run['config']['lr']:g}" for run, _ in runs)]
        for axis, picture, text in zip(axes, pictures(folder, runs, data), texts):
            rows = min(len(picture), round(ASPECT * picture.shape[1]))  # all of one shape: the middle of a tall one
            above = (len(picture) - rows) // 2
            axis.imshow(picture[above:above + rows], interpolation="bicubic")
            axis.text(0.02, 0.03, text, transform=axis.transAxes, fontweight="bold", fontsize=9,
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2})
            axis.set_axis_off()
    figures.save(figure, path)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_folders("data", "results", "figures")
    args = parser.parse_args()
    figures.draw_each(partial(draw, args.results, args.data, args.figures / "overview.png"))


if __name__ == "__main__":
    cli.run(main)
