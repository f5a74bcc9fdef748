"""Draw the relative error in frequency over training, the heat maps of section 4 of the paper as curves.

    python 1d_relative_error_in_frequency.py            of the records of 1d_function_fitting.py
    python 1d_relative_error_in_frequency.py --quick    of those with --quick

Networks that have no record are trained first, by that script, on the CPU. F is the DFT over the 300 samples. The
error at a frequency k is ||F_output(k)| − |F_target(k)|| / |F_target(k)|. The target's energy lies at 1.5, 2.5, 3.5 and
4.5 cycles a unit of x. The script reads the outputs at every step, results/1d/function/<options>/<network>-seed<k>.npz,
and writes

    figures/1d/function/<options>/relative_error.png    a panel a network, FR right of its baseline, a curve a frequency

The options say which runs to draw; --options names their folder, as steps=500.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from data.signals import FREQUENCIES, square_like_wave
from harness import cli, figures
from harness.labels import LABELS, labels
from harness.metrics import relative_spectral_error
from harness.records import Run, read_record

DEFAULT_MODES = ("relu", "relu+fr", "sin", "sin+fr")


def recorded_runs(args: argparse.Namespace) -> list[Run]:
    """The finished runs that the options name. Those that are not there are trained first, by the other script."""
    options = {"size": args.options} if args.options else {}
    runs = [Run(args.results, "1d", "function", mode, seed, {}, options, own)
            for mode, own in args.modes for seed in args.seeds]
    if not all(run.path(suffix).exists() for run in runs for suffix in (".json", ".npz")):
        script = str(Path(__file__).with_name("1d_function_fitting.py"))
        given = ["--device=cpu", *(f"--{option}" for option in args.options.split(",") if option)]
        networks = dict.fromkeys(run.network for run in runs)
        done = subprocess.run([sys.executable, script, *given, "--modes", *networks, "--seeds", *map(str, args.seeds),
                               "--results", str(args.results), "--figures", str(args.figures)], check=False)
        if done.returncode:
            raise SystemExit(done.returncode)  # it has said why
    return [replace(run, config=read_record(run.path(".json"))["config"]) for run in runs]


def relative_error(run: Run) -> np.ndarray:
    """The error at each frequency after each step, shape (steps, frequencies)."""
    target = square_like_wave()[1].numpy()[:, 0]
    outputs = run.arrays(outputs=(run.config["steps"], len(target)))["outputs"]
    return relative_spectral_error(outputs, target, list(FREQUENCIES.values()))


def draw(runs: list[Run], seeds: list[int], path: Path) -> None:
    """A panel a network: the error at each frequency after each step, the mean of the seeds."""
    first = [run for run in runs if run.seed == seeds[0]]
    figure, panels = figures.grid_by_backbone(first, width=4.4, height=2.4, sharex=True, sharey=True)
    steps = first[0].config["steps"]
    for run, axis, label in zip(first, panels, labels(map(vars, first))):
        errors = np.mean([relative_error(other) for other in runs if other.network == run.network],
                         axis=0)
        for frequency, error, shade in zip(FREQUENCIES, errors.T, figures.shades(len(FREQUENCIES))[::-1]):
            axis.semilogy(np.arange(1, steps + 1), error, color=shade, label=f"frequency {frequency}")
        axis.set_title(label)
        axis.set_ylim(0.01, 1.2)
        axis.xaxis.set_major_formatter(figures.THOUSANDS)
        figures.plain_log_labels(axis.yaxis)
        axis.set_xlabel("step")
        axis.label_outer()
    figure.supylabel("relative error", fontsize=10)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(FREQUENCIES))
    figure.suptitle(f"Relative error in frequency over training, {figures.seeds(seeds)}")
    figures.save(figure, path)


def print_errors(runs: list[Run]) -> None:
    """Print the errors after the last step, of each run."""
    print(f"\n{'network':<22}{'seed':<6}error at {' / '.join(FREQUENCIES)}")
    for run, label in zip(runs, labels(map(vars, runs))):
        print(f"{label:<22}{run.seed:<6}{' '.join(f'{error:.3f}' for error in run.metric('relative_error').values())}")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of `argv`."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--modes", nargs="+", type=cli.network(LABELS), default=[cli.Network(mode, {}) for mode in DEFAULT_MODES],
        metavar="M", help=f"which networks (default: {' '.join(DEFAULT_MODES)})")
    add("--seeds", nargs="+", type=cli.whole(0), default=[0], metavar="S", help="default 0")
    add("--options", default="", metavar="O", help="the folder below 1d/function that the runs are in")
    add("--quick", action="store_const", const="quick", dest="options", help="the same as --options quick")
    parser.add_folders("results", "figures")
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    runs = recorded_runs(args)
    figures.draw_each(partial(draw, runs, args.seeds, args.figures / runs[0].folder / "relative_error.png"),
                      partial(print_errors, runs))


if __name__ == "__main__":
    cli.run(main)
