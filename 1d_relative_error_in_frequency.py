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

import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np

from data.signals import FREQUENCIES, square_like_wave
from experiment import cli, figures, published
from experiment.labels import LABELS
from experiment.metrics import relative_spectral_error
from experiment.records import Run, recorded_run
from experiment.tables import print_table


def relative_error(run: Run) -> np.ndarray:
    """The error at each frequency after each step, shape (steps, frequencies)."""
    target = square_like_wave()[1].numpy()[:, 0]
    outputs = run.arrays(outputs=(run.config["steps"], len(target)))["outputs"]
    return relative_spectral_error(outputs, target, list(FREQUENCIES.values()))


def draw_together(errors: dict[str, np.ndarray], suffix: str, path: Path) -> None:
    """The heat maps of all modes with one color scale."""
    figure, axes = figures.grid_by_backbone(list(errors), width=5.0, height=2.1)
    for mode, axis in axes.items():
        image = figures.heat_map(axis, errors[mode], list(FREQUENCIES))
        axis.set_title(LABELS[mode])
    figure.colorbar(image, ax=list(axes.values()), label="relative error", extend="max", shrink=0.8)
    figure.suptitle(f"Relative error in frequency over training{suffix}")
    figures.save(figure, path)


def draw_alone(error: np.ndarray, title: str, path: Path) -> None:
    """The heat map of one mode."""
    figure, axes = figures.subplots(1, 1, 6, 2.6)
    image = figures.heat_map(axes[0, 0], error, list(FREQUENCIES))
    figure.colorbar(image, ax=axes[0, 0], label="relative error", extend="max")
    axes[0, 0].set_title(title)
    figures.save(figure, path)


def main() -> None:
    args = cli.parse(cli.options(__doc__, modes=LABELS, default_modes=published.LOSS_1D,
                                 steps=published.CONFIG_1D["steps"],
                                 checkpoint_every=2_500))
    train_first = f"train first: {shlex.join(['python', '1d_function_fitting.py', *sys.argv[1:]])}"
    runs = {mode: [recorded_run(args.results, "1d", "function", mode, seed, train_first) for seed in args.seeds]
            for mode in args.modes}
    errors = {mode: np.mean([relative_error(run) for run in of_mode], axis=0) for mode, of_mode in runs.items()}
    suffix = figures.title_suffix(args.seeds, args.quick, runs[args.modes[0]][0].config, published.CONFIG_1D)
    figures.draw_each(
        partial(draw_together, errors, suffix, args.figures / "1d_relative_error.png"),
        *[partial(draw_alone, error, f"Relative error in frequency, {LABELS[mode]}{suffix}",
                  args.figures / f"1d_relative_error_{mode}.png") for mode, error in errors.items()],
        partial(print_table, "relative error", [run for of_mode in runs.values() for run in of_mode]))


if __name__ == "__main__":
    cli.run(main)
