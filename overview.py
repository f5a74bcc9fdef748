"""One figure of all experiments, FR under its baseline: the first picture of the README.

    python overview.py

Draws from the records and arrays of the other scripts: for each experiment those at the paper's size where they are
there, otherwise those of a smaller one (results/reduced, results/quick). The arrays are not part of the repository, so
train first: 1d_function_fitting.py, and 2d_image_fitting.py, 3D_occupance.py and InstantNGP.py at least with --quick.
Writes figures/overview.png.
"""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from data.signals import square_like_wave
from experiment import cli, plots
from experiment.errors import UserError
from experiment.meshes import extract_mesh, look_at, render
from experiment.metrics import relative_spectral_error
from experiment.records import read_arrays, read_record

fitting = import_module("1d_function_fitting")
heat_maps = import_module("1d_relative_error_in_frequency")
occupancy = import_module("3D_occupance")

SCRIPTS = {"1d": "1d_function_fitting.py", "2d": "2d_image_fitting.py --quick", "3d": "3D_occupance.py --quick",
           "ngp": "InstantNGP.py --scene toy --quick"}  # the least that will do
SETS = ("", "reduced", "quick")  # the folders below results, the largest experiment first


class Finished(NamedTuple):
    """A finished run: its record and its arrays."""

    record: dict
    arrays: dict[str, np.ndarray]


def pair(results: Path, experiment: str, cases: tuple[str, ...], mode: str) -> tuple[Finished, Finished]:
    """The runs of a mode and of the same with FR, seed 0; of the first set and case in which both are there."""
    for folder in (results / some / experiment / case for some in SETS for case in cases):
        stems = [folder / f"{name}-seed0" for name in (mode, f"{mode}+fr")]
        if all(Path(f"{stem}{suffix}").exists() for stem in stems for suffix in (".json", ".npz")):
            plain, fr = (Finished(read_record(Path(f"{stem}.json")), read_arrays(Path(f"{stem}.npz")))
                         for stem in stems)
            return plain, fr
    raise UserError(f"no record with its arrays of {experiment} {' or '.join(cases)}, {mode} and {mode}+fr, "
                        f"seed 0, below {results}; train first: python {SCRIPTS[experiment]}")


def seen(volumes: list[np.ndarray], view: tuple[float, float, int]) -> list[np.ndarray]:
    """Close-ups of surfaces of volumes of one shape, from one camera, of the part with the most detail in the last."""
    camera, center = look_at(*view), np.array(volumes[0].shape) / 2 - 0.5
    corners = np.array(np.meshgrid(*[(0, side) for side in volumes[0].shape])).reshape(3, -1).T @ camera.T
    width, height = np.ptp(corners[:, :2], axis=0)
    meshes, scale = [extract_mesh(volume) for volume in volumes], 350 / width
    whole = render(meshes[-1], camera, center, width, height, scale)
    rows, columns = plots.busiest_window(whole)
    # From the middle of the picture to that of the window, in voxels, but no further than half the picture goes.
    right = np.clip((columns.start + columns.stop - whole.shape[1]) / 2 / scale, -width / 4, width / 4)
    down = np.clip((rows.start + rows.stop - whole.shape[0]) / 2 / scale, -height / 4, height / 4)
    near = center + right * camera[0] - down * camera[1]
    return [render(mesh, camera, near, width / 2, height / 2, 4 * scale) for mesh in meshes]


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--figures", type=Path, default=Path("figures"), metavar="DIR", help="default: figures")
    args = parser.parse_args()

    waves = pair(args.results, "1d", ("function",), "relu")
    images = pair(args.results, "2d", ("kodim05",), "relu+pe")
    volumes = pair(args.results, "3d", ("thai_statue", "dragon", "holed_sphere"), "relu+pe")
    views = pair(args.results, "ngp", ("lego", "toy"), "relu")

    figure, axes = plt.subplots(2, 4, figsize=(14, 6.6), width_ratios=[1.35, 1, 1, 1])
    target = square_like_wave()[1].numpy()[:, 0]
    for run, axis in zip(waves, axes[:, 0]):
        error = relative_spectral_error(run.arrays["outputs"], target, list(fitting.BINS.values()))
        heat = heat_maps.heat_map(axis, error, run.record["mode"])
    figure.colorbar(heat, ax=axes[:, 0], location="left", label="relative error in frequency", shrink=0.7)

    whole = slice(None), slice(None)
    large = max(images[1].arrays["reconstruction"].shape) > 200
    window = plots.busiest_window(images[1].arrays["reconstruction"]) if large else whole
    for run, axis in zip(images, axes[:, 1]):
        axis.imshow(run.arrays["reconstruction"][window].clip(0, 1), interpolation="nearest")
    case = volumes[0].record["case"]
    solids = [occupancy.unpacked(run.arrays["predicted"], run.record["config"]["shape"]) for run in volumes]
    for picture, axis in zip(seen(solids, occupancy.VIEWS.get(case, occupancy.VIEW)), axes[:, 2]):
        axis.imshow(picture)
    for run, axis in zip(views, axes[:, 3]):
        axis.imshow(run.arrays["images"][len(run.arrays["images"]) // 2])

    sizes = ["Kodak 05, {1} × {0} pixels".format(*images[0].record["config"]["shape"]),
             f"{case}, {' × '.join(map(str, volumes[0].record['config']['shape']))} voxels",
             "Instant-NGP, {0}, {2} × {1} pixels".format(views[0].record["case"],
                                                         *views[0].record["config"]["scene"]["test"][1:3])]
    for runs, size, metric, column in zip((images, volumes, views), sizes, ("psnr", "iou", "psnr"), axes[:, 1:].T):
        for run, axis, above in zip(runs, column, (f"{size}\n", "")):
            value = run.record["metrics"][metric]
            axis.set_title(f"{above}{plots.LABELS[run.record['mode']]}: "
                           + (f"IoU {value:.4f}" if metric == "iou" else f"{value:.2f} dB"))
    axes[0, 0].set_title("a 1D function, 10,000 steps\nReLU")
    for axis in axes[:, 1:].flat:
        axis.set_axis_off()
        axis.set_anchor("N")
    plots.save(figure, args.figures / "overview.png")


if __name__ == "__main__":
    cli.run(main)
