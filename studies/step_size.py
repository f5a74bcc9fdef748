"""How much of FR's gain is step size: both networks over many learning rates of their hidden weights.

    python -m studies.step_size                     all experiments; hours on two CPU cores
    python -m studies.step_size --only 1d dvgo      some of them
    python -m studies.step_size --quick             shorter trainings, of one seed

Under Adam a step moves the hidden W of an FR network κ times as far as a plain one's (`step_scale`). Here each network
is trained at the same steps of W, from far below the paper's to beyond the best: a plain one with its hidden learning
rate × s, one with FR with its × s / κ, all else as in the paper. What has a record in reference/step_size is not
trained again. Writes

    results/step_size/<s>/<experiment>/…      a record a run, as the experiment's script makes it with --hidden-lr
    figures/step_size.png                     the measure over the step of W, a panel an experiment and backbone

and prints the gains of FR at the paper's rates, at equal steps and at each one's best rate.
"""

import argparse
import dataclasses
import math
import os
import shlex
import shutil
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from experiment import cli, figures
from experiment.errors import UserError
from experiment.labels import LABELS
from experiment.metrics import mean_and_spread
from experiment.records import Run, read_record
from experiment.sweep import sweep
from models import FourierReparamLinear
from models.step_scale import step_scale


class Experiment(NamedTuple):
    """Which runs of which script, and what is looked at."""

    title: str
    script: str
    options: list[str]
    backbones: list[str]
    metric: str
    label: str
    better: int  # 1 where more is better, −1 where less is
    seeds: tuple[int, ...]  # as many as the time is there for
    chosen: bool = True  # whether a best rate may be chosen by the metric: it is that of the fit itself


# At sizes at which all of it takes some hours on two cores. 2D has more values than the plain network has weights.
EXPERIMENTS = {
    "1d": Experiment("1D", "1d_function_fitting", [], ["relu", "sin"], "loss", "loss", -1, (0, 1, 2)),
    "2d": Experiment("2D", "2d_image_fitting",
                     ["--downscale", "2", "--batch", "4096", "--steps", "300", "--image", "5"],
                     ["relu", "relu+pe", "sin"], "psnr", "PSNR (dB)", 1, (0, 1)),
    "3d": Experiment("3D", "3D_occupance",
                     ["--shape", "dragon", "--scale", "0.125", "--epochs", "25", "--chunk", "20000"],
                     ["relu", "relu+pe", "sin"], "iou", "IoU", 1, (0, 1, 2)),
    **{f"{name} {scene}": Experiment(f"{title}, {scene}", script, ["--quick", "--frames", "0", *of_scene], ["relu"],
                                     "psnr", "PSNR (dB)", 1, (0, 1, 2), chosen=False)
       for name, title, script in (("dvgo", "DVGO", "dvgo"), ("ngp", "Instant-NGP", "InstantNGP"))
       for scene, of_scene in (("lego", []), ("toy", ["--scene", "toy"]))},
}
QUICK = {"1d": ["--steps", "200"], "2d": ["--steps", "20"], "3d": ["--epochs", "3"]}
# Steps of W in units of FR's at the paper's rate; the baseline's own is trained, too.
MULTIPLES = (1 / 64, 1 / 16, 1 / 4, 1, 4, 16)


def kappa_of(network: dict[str, Any]) -> float:
    """κ of the FR layers of a network with the given settings."""
    basis = {name: network[name] for name in ("low_freq_num", "high_freq_num", "phase_num", "alpha")}
    return step_scale(FourierReparamLinear(network["hidden_features"], network["hidden_features"], **basis))


class Pair(NamedTuple):
    """A backbone and the same with FR: their runs by step of W, in units of the baseline's learning rate."""

    name: str
    backbone: str
    lr: float  # of the baseline
    paper: float  # FR's step at the paper's rate; the baseline's is 1
    runs: dict[tuple[bool, float], list[Run]]  # by whether with FR, and step; of each seed


def seeds_of(name: str, args: argparse.Namespace) -> list[int]:
    """The seeds of an experiment: those that are asked for, or its own."""
    return args.seeds or list(EXPERIMENTS[name].seeds[:1 if args.quick else None])


def plan(name: str, args: argparse.Namespace) -> tuple[argparse.Namespace, list[Pair]]:
    """The options of an experiment's script, and what is to be trained with them."""
    experiment, script = EXPERIMENTS[name], import_module(EXPERIMENTS[name].script)
    options = [*experiment.options, *(QUICK.get(name, []) if args.quick else [])]
    modes = [mode for backbone in experiment.backbones for mode in (backbone, f"{backbone}+fr")]
    ours = script.parse([*options, "--modes", *modes, "--seeds", *map(str, seeds_of(name, args)),
                         "--data", str(args.data), "--device", args.device])
    ours.results, ours.figures = args.results, args.figures
    planned: dict[str, list[Run]] = {}
    for run in script.plan(ours):
        planned.setdefault(run.mode, []).append(run)
    pairs = []
    for backbone in experiment.backbones:
        plain, fr = planned[backbone], planned[f"{backbone}+fr"]
        lr = plain[0].config["lr"]
        paper = kappa_of(fr[0].config["network"]) * fr[0].config["lr"] / lr
        runs = {}
        for step in sorted({1.0, *(paper * multiple for multiple in MULTIPLES)}):
            for with_fr, of_mode, at_one in ((False, plain, 1.0), (True, fr, paper)):
                runs[with_fr, step] = [with_hidden_lr(run, step, step / at_one, [script.__name__, *options])
                                       for run in of_mode]
        pairs.append(Pair(name, backbone, lr, paper, runs))
    return ours, pairs


def with_hidden_lr(run: Run, step: float, factor: float, script: list[str]) -> Run:
    """The run with its hidden learning rate × `factor`, in a folder named by its step of W, and its command."""
    factor = float(f"{factor:.4g}")
    folder = run.results / f"{step:.4g}"
    command = shlex.join(["python", f"{script[0]}.py", *script[1:], "--modes", run.mode, "--seeds", str(run.seed),
                          "--hidden-lr", f"{factor:g}", "--results", str(folder)])
    config = run.config if factor == 1 else {**run.config, "hidden_lr": factor}
    return dataclasses.replace(run, results=folder, config=config, command=command)


def path_of(run: Run, args: argparse.Namespace) -> Path | None:
    """Where the record of a run lies: below results, or published."""
    ours = run.path(".json")
    published = args.reference / ours.relative_to(args.results)
    return next((path for path in (ours, published) if path.exists()), None)


def train_all(pairs: list[Pair], ours: argparse.Namespace, args: argparse.Namespace) -> None:
    """Train what has no record yet, through the script's own training function."""
    script = import_module(EXPERIMENTS[pairs[0].name].script)
    left = [run for pair in pairs for runs in pair.runs.values() for run in runs if not path_of(run, args)]
    if not left:
        return
    if hasattr(script, "coarse_run"):  # DVGO's is the same at every step of W: trained once a seed, and copied
        folder = args.results / "coarse"
        coarse = {run.seed: dataclasses.replace(script.coarse_run(run), results=folder) for run in left}
        sweep(script.train, [list(coarse.values())], ours, parallel=True)
        for run in left:
            for suffix in (".npz", ".json"):
                target = script.coarse_run(run).path(suffix)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(coarse[run.seed].path(suffix), target)
    sweep(script.train, [left], ours, parallel=True)


def measured(pair: Pair, args: argparse.Namespace) -> dict[tuple[bool, float], np.ndarray]:
    """The metric of each seed, by whether with FR and step, of what has been trained."""
    metric = EXPERIMENTS[pair.name].metric
    values = {}
    for key, runs in pair.runs.items():
        paths = [path for run in runs if (path := path_of(run, args))]
        if len(paths) == len(runs):
            values[key] = np.array([read_record(path)["metrics"][metric] for path in paths])
    return values


def digits_of(metric: str) -> int:
    """How many digits a table has of a metric."""
    return 2 if metric == "psnr" else 4


def gains(pair: Pair, args: argparse.Namespace) -> list[str]:
    """A row of the table: what FR adds at the paper's rates, at equal steps, and at each one's best rate."""
    experiment, values = EXPERIMENTS[pair.name], measured(pair, args)
    digits = digits_of(experiment.metric)

    def gain(fr: float | None, plain: float | None) -> str:
        if fr is None or plain is None or (True, fr) not in values or (False, plain) not in values:
            return "–"
        found = mean_and_spread(list(experiment.better * (values[True, fr] - values[False, plain])), digits)
        return found.replace("-", "−")

    def best(with_fr: bool) -> float | None:
        steps = [step for of_fr, step in values if of_fr == with_fr]
        return max(steps, key=lambda step: experiment.better * values[with_fr, step].mean(), default=None)

    at_best, (fr, plain) = "not chosen", (best(True), best(False))
    if experiment.chosen:
        where = f" (× {fr / pair.paper:.3g} and × {plain:.3g})" if fr and plain else ""
        at_best = gain(fr, plain) + where
    return [experiment.title, LABELS[pair.backbone], f"{pair.paper:.3g}", gain(pair.paper, 1.0), gain(1.0, 1.0),
            gain(pair.paper, pair.paper), at_best]


COLUMNS = ["experiment", "backbone", "FR's step / plain's", "gain at the paper's rates", "at the plain one's step",
           "at FR's step", "at each one's best (hidden rate of FR, of plain)"]


def draw(pairs: list[Pair], args: argparse.Namespace) -> None:
    """A panel a pair: the metric over the step of W, baseline dashed, FR solid, the spread of the seeds as a band."""
    shown = [(pair, values) for pair in pairs if (values := measured(pair, args))]
    if not shown:
        raise UserError(f"no record of all its seeds below {args.results} or {args.reference}; without --draw it is "
                        "trained")
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = figures.subplots(rows, columns, 3.4 * columns, 2.9 * rows + 0.8)
    axis: Axes
    for axis in axes.flat[len(shown):]:
        axis.set_axis_off()
    for (pair, values), axis in zip(shown, axes.flat):
        experiment = EXPERIMENTS[pair.name]
        for with_fr, paper in ((False, 1.0), (True, pair.paper)):
            style = figures.line_style(pair.backbone + "+fr" * with_fr)
            steps = [step for of_fr, step in values if of_fr == with_fr]
            x, y = pair.lr * np.array(steps), np.array([values[with_fr, step] for step in steps])  # (steps, seeds)
            axis.fill_between(x, y.min(axis=1), y.max(axis=1), color=style["color"], alpha=0.2, linewidth=0)
            axis.plot(x, y.mean(axis=1), **style, marker=".", label="FR" if with_fr else "plain")
            if (with_fr, paper) in values:
                axis.plot(pair.lr * paper, values[with_fr, paper].mean(), "o" if with_fr else "s", color=style["color"],
                          markersize=9, fillstyle="none", label=f"{'FR' if with_fr else 'plain'} at the script's rate")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(power_of_ten))
        if experiment.metric == "loss":
            axis.set_yscale("log")
            figures.plain_log_labels(axis.yaxis)
        seeds = len(next(iter(values.values())))
        axis.set_title(f"{experiment.title}: {LABELS[pair.backbone]} ({seeds} seed{'s' * (seeds > 1)})")
        axis.set_ylabel(experiment.label)
        axis.set_xlabel("step of W per update")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, 2 * columns))
    figure.suptitle(f"FR and its baseline at the same steps of W{', quick' * args.quick}")
    figures.save(figure, args.figures / "step_size.png")


def power_of_ten(value: float, _: int) -> str:
    """A tick of a logarithmic axis, 10⁻⁵, without math text."""
    return "10" + f"{math.log10(value):.0f}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def parse(description: str | None, experiments: Sequence[str], seeds: str) -> argparse.Namespace:
    """The options of this study, or of its controls, by their experiments and their default seeds in words."""
    parser = cli.Parser(description)
    add = parser.add_argument
    add("--only", nargs="+", choices=experiments, default=experiments, metavar="E",
        help=f"which experiments, of {', '.join(experiments)}")
    add("--seeds", nargs="+", type=cli.whole(0), metavar="S", help=f"default: {seeds}")
    add("--draw", action="store_true", help="train nothing; draw and print what is there")
    add("--quick", action="store_true", help="a tenth of the steps, one seed")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    for name, default in (("data", "data"), ("results", "results/step_size"), ("reference", "reference/step_size"),
                          ("figures", "figures")):
        add(f"--{name}", type=Path, default=Path(default), metavar="DIR", help=f"default: {default}")
    args = parser.parse_args()
    if args.quick:
        args.results, args.figures, args.reference = (folder / "quick" for folder in (
            args.results, args.figures, args.reference))
    return args


def one_thread_each() -> None:
    """As many runs at a time as there are cores, each on one."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read where a process first imports torch
    torch.set_num_threads(1)


def main() -> None:
    args = parse(__doc__, list(EXPERIMENTS), "0 1 2; in 2D 0 1; with --quick 0")
    one_thread_each()
    pairs = []
    for name in args.only:
        ours, of_name = plan(name, args)
        pairs += of_name
        if not args.draw:
            train_all(of_name, ours, args)
    figures.draw_each(partial(draw, pairs, args))
    for cells in [COLUMNS, ["---"] * len(COLUMNS), *(gains(pair, args) for pair in pairs)]:
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    cli.run(main)
