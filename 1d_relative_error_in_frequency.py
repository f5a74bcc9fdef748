"""Draw the relative error in frequency over training, the heat maps of section 4 of the paper.

    python 1d_function_fitting.py                 first: trains the networks
    python 1d_relative_error_in_frequency.py      then: draws, in seconds

With |F| the magnitude of the DFT over the 300 samples, the error at a frequency k is ||F_output(k)| − |F_target(k)|| /
|F_target(k)|; the target's energy lies at 1.5, 2.5, 3.5 and 4.5 Hz. Reads results/1d/function/<mode>-seed<k>.npz, the
output at every step, and writes

    figures/1d_relative_error.png           the heat maps of all modes, FR right of its baseline, one color scale
    figures/1d_relative_error_<mode>.png    each alone, on the same scale

The options are those of `1d_function_fitting.py`: they say which runs to draw. Those about training only go into the
command that is named where a run is missing.
"""

import argparse
import shlex
import sys
from importlib import import_module

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from data.signals import POINTS, square_like_wave
from experiment import cli, plots, report
from experiment.errors import UserError
from experiment.metrics import relative_spectral_error
from experiment.records import Run

fitting = import_module("1d_function_fitting")


def relative_error(run: Run) -> np.ndarray:
    """The error at each frequency after each step, shape (steps, frequencies)."""
    target = square_like_wave()[1].numpy()[:, 0]
    outputs = run.arrays(outputs=(run.config["steps"], POINTS))["outputs"]
    return relative_spectral_error(outputs, target, list(fitting.BINS.values()))


def heat_map(axis: Axes, error: np.ndarray, mode: str) -> AxesImage:
    """One panel: steps to the right, frequencies upwards, the error as color from 0 to 1."""
    image = axis.imshow(error.T, origin="lower", aspect="auto", interpolation="nearest", cmap="magma_r", vmin=0,
                        vmax=1, extent=(0, len(error), -0.5, len(fitting.BINS) - 0.5))
    axis.set_yticks(range(len(fitting.BINS)), [f"{hertz} Hz" for hertz in fitting.BINS])
    axis.set_title(plots.LABELS[mode])
    axis.set_xlabel("step")
    axis.xaxis.set_major_formatter(plots.THOUSANDS)
    axis.spines[["top", "right"]].set_visible(True)
    return image


def draw(errors: dict[str, np.ndarray], note: str, args: argparse.Namespace) -> None:
    """All modes in one figure with one color scale, and each alone."""
    figure, axes = plots.grid_by_backbone(list(errors), width=5.0, height=2.1)
    for mode, axis in axes.items():
        image = heat_map(axis, errors[mode], mode)
    figure.colorbar(image, ax=list(axes.values()), label="relative error", extend="max", shrink=0.8)
    figure.suptitle(f"Relative error in frequency over training{note}")
    plots.save(figure, args.figures / "1d_relative_error.png")
    for mode, error in errors.items():
        figure, axis = plt.subplots(figsize=(6, 2.6))
        figure.colorbar(heat_map(axis, error, mode), label="relative error", extend="max")
        axis.set_title(f"Relative error in frequency, {plots.LABELS[mode]}{note}")
        plots.save(figure, args.figures / f"1d_relative_error_{mode}.png")


def main() -> None:
    args = cli.parse(fitting.parser(__doc__))
    runs = fitting.planned_runs(args)
    unfinished = [path for run in runs if (path := run.missing())]
    if unfinished:
        what = ", ".join(f"{path} is {'not finished' if path.suffix == '.ckpt' else 'missing'}" for path in unfinished)
        raise UserError(f"train first: {shlex.join(['python', '1d_function_fitting.py', *sys.argv[1:]])} ({what})")
    errors = {mode: np.mean([relative_error(run) for run in runs if run.mode == mode], axis=0) for mode in args.modes}
    draw(errors, plots.title_suffix(args.seeds, args.quick, runs[0].config, fitting.PAPER), args)
    report.show("relative error", runs)


if __name__ == "__main__":
    cli.run(main)
