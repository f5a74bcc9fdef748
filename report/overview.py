"""One figure of all experiments, FR under its baseline: the first picture of the README.

    python -m studies.overview

Draws from the records and arrays of the scripts: for each experiment of those below results/ the largest that is there
(results/quick has those of --quick). The arrays are not part of the repository, so train first: 1d_function_fitting.py,
and 2d_image_fitting.py, 3D_occupance.py and InstantNGP.py at least with --quick. Writes figures/overview.png.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from data.signals import FREQUENCIES, square_like_wave
from experiment import cli, figures
from experiment.errors import UserError
from experiment.labels import LABELS
from experiment.meshes import (
    VIEW,
    VIEWS,
    extract_mesh,
    render_with_close_up,
    unpack_voxels,
)
from experiment.metrics import relative_spectral_error
from experiment.records import read_arrays, read_record
from experiment.tables import image_size, run_size, volume_size

COMMANDS = {"1d": "1d_function_fitting.py", "2d": "2d_image_fitting.py --quick", "3d": "3D_occupance.py --quick",
            "ngp": "InstantNGP.py --scene toy --quick"}  # the least that will do


class Finished(NamedTuple):
    """A finished run: its record and its arrays."""

    record: dict
    arrays: dict[str, np.ndarray]


def largest_pair(results: Path, experiment: str, mode: str) -> tuple[Finished, Finished]:
    """The seed-0 runs of a mode and of the same with FR at the paper's rates, the largest that are there."""
    found = []
    for path in results.rglob(f"{experiment}/*/{mode}-seed0.json"):
        stems = [path.with_name(f"{name}-seed0") for name in (mode, f"{mode}+fr")]
        if all(stem.with_name(stem.name + suffix).exists() for stem in stems for suffix in (".json", ".npz")):
            records = [read_record(stem.with_name(stem.name + ".json")) for stem in stems]
            if not any("hidden_lr" in record["config"] for record in records):
                found.append((records, stems))
    if not found:
        raise UserError(f"no record with its arrays of {experiment}, {mode} and {mode}+fr, seed 0, below {results}; "
                        f"train first: python {COMMANDS[experiment]}")
    records, stems = max(found, key=lambda pair: run_size(pair[0][0]))
    plain, fr = (Finished(record, read_arrays(stem.with_name(stem.name + ".npz")))
                 for record, stem in zip(records, stems))
    return plain, fr


def show(pictures: list[np.ndarray], runs: tuple[Finished, Finished], what: str, metric: str, axes: np.ndarray) -> None:
    """A column: the baseline's picture over FR's, what they show above both and each one's value."""
    for picture, run, axis, above in zip(pictures, runs, axes, (f"{what}\n", "")):
        value = run.record["metrics"][metric]
        axis.imshow(picture, interpolation="nearest" if len(picture) < 100 else None)
        axis.set_title(f"{above}{LABELS[run.record['mode']]}: "
                       + (f"IoU {value:.4f}" if metric == "iou" else f"{value:.2f} dB"))
        axis.set_axis_off()
        axis.set_anchor("N")


def show_errors(runs: tuple[Finished, Finished], axes: np.ndarray) -> None:
    """A column: the heat maps of the 1D experiment."""
    target = square_like_wave()[1].numpy()[:, 0]
    axis: Axes
    for run, axis in zip(runs, axes):
        error = relative_spectral_error(run.arrays["outputs"], target, list(FREQUENCIES.values()))
        heat = figures.heat_map(axis, error, list(FREQUENCIES))
        axis.set_title(LABELS[run.record["mode"]])
    axes[0].set_title(f"a 1D function, {len(error):,} steps\n{axes[0].get_title()}")
    axes[0].figure.colorbar(heat, ax=list(axes), location="left", label="relative error in frequency", shrink=0.7)


def draw(results: Path, path: Path) -> None:
    """The figure, from the records and arrays below `results`."""
    waves = largest_pair(results, "1d", "relu")
    images = largest_pair(results, "2d", "relu+pe")
    volumes = largest_pair(results, "3d", "relu+pe")
    scenes = largest_pair(results, "ngp", "relu")
    figure, axes = figures.subplots(2, 4, 14, 6.6, width_ratios=[1.35, 1, 1, 1])
    show_errors(waves, axes[:, 0])

    pixels = [run.arrays["reconstruction"].clip(0, 1) for run in images]
    window = figures.busiest_window(pixels[1]) if max(pixels[0].shape) > 200 else (slice(None), slice(None))
    size = image_size(images[0].record["config"]).replace(", ", "\n")
    show([image[window] for image in pixels], images, f"{images[0].record['case']}, {size}", "psnr", axes[:, 1])

    case, shape = volumes[0].record["case"], volumes[0].record["config"]["shape"]
    meshes = [extract_mesh(unpack_voxels(run.arrays["predicted"], shape)) for run in volumes]
    _, _, close = render_with_close_up(meshes[::-1], VIEWS.get(case, VIEW), pixels=400)
    size = volume_size(volumes[0].record["config"]).replace(", ", "\n", 1)
    show(close[::-1], volumes, f"{case}, {size}", "iou", axes[:, 2])

    views = [run.arrays["images"] for run in scenes]
    show([view[len(view) // 2] for view in views], scenes, "Instant-NGP, {0}\n{3} × {2} pixels".format(
        scenes[0].record["case"], *views[0].shape), "psnr", axes[:, 3])
    figures.save(figure, path)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--figures", type=Path, default=Path("figures"), metavar="DIR", help="default: figures")
    args = parser.parse_args()
    figures.draw_each(partial(draw, args.results, args.figures / "overview.png"))


if __name__ == "__main__":
    cli.run(main)
