"""How much of FR's gain is step size: a network with FR and one without at the same steps of W.

    python -m studies.step_size --draw              figure and table of the records; trains nothing, needs no data
    python -m studies.step_size                     first trains what has no record
    python -m studies.step_size --only 1d --records none --results mine     trains all of 1D again: an hour of a core

Under Adam a step moves the hidden W of an FR network κ times as far as a plain one's (models/step_scale.py). Here both
are trained at the same steps of W, from far below those of the scripts' learning rates to beyond the best. Only the
learning rate of the hidden-to-hidden weights is scaled. Each training is one of the experiment's script, as in

    python 1d_function_fitting.py --modes relu,hidden-lr=5.884 --seeds 0 1 2

Writes figures/step_size.png, with a panel for each experiment and backbone. Prints what FR gains at equal learning
rates, at equal steps of W, and at each network's best step.
"""

import argparse
import functools
import math
import shlex
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from data.errors import UserError
from harness import cli, figures, labels
from harness.labels import LABELS
from harness.records import Run, read_record
from harness.results import mean_and_spread
from harness.sweep import Job, sweep
from models import FourierReparamLinear
from models.step_scale import step_scale


class Experiment(NamedTuple):
    """Some trainings of one script.

    Attributes:
        folder: the place of their records, below results/ and records/.
        metric: the metric of a record that is compared.
        held_out: whether that is of test views. The best step is then chosen by other trainings, on views held out.
    """

    title: str
    script: str
    options: str
    folder: str
    backbones: tuple[str, ...]
    metric: str
    seeds: tuple[int, ...]
    held_out: bool = False


BACKBONES = ("relu", "relu+pe", "sin")
# At sizes at which all of it takes some hours on two cores. 2D has more values than the plain network has weights.
EXPERIMENTS = {
    "1d": Experiment("1D", "1d_function_fitting", "", "1d/function", ("relu", "sin"), "loss", (0, 1, 2)),
    "2d": Experiment("2D", "2d_image_fitting", "--image 5 --downscale 2 --steps 300 --batch 4096",
                     "2d/kodim05/steps=300,downscale=2,batch=4096", BACKBONES, "psnr", (0, 1)),
    "3d": Experiment("3D", "3D_occupance", "--shape dragon --downscale 8 --epochs 25 --batch 20000",
                     "3d/dragon/epochs=25,downscale=8,batch=20000", BACKBONES, "iou", (0, 1, 2)),
    **{f"{name} {scene}": Experiment(f"{title}, {scene}", script, f"--quick --scene {scene} --frames 0",
                                     f"{name}/{scene}/quick", ("relu",), "psnr", (0, 1, 2),
                                     held_out=True)
       for name, title, script in (("dvgo", "DVGO", "dvgo"), ("ngp", "Instant-NGP", "InstantNGP"))
       for scene in ("lego", "toy")},
}
METRICS = {"loss": ("loss", -1, 4), "psnr": ("PSNR (dB)", 1, 2), "iou": ("IoU", 1, 4)}  # name, sign of better, digits
# Steps of W in units of FR's at the script's rate; the plain network's own is there, too.
MULTIPLES = (1 / 64, 1 / 16, 1 / 4, 1, 4, 16)


def choosing(experiment: Experiment) -> Experiment:
    """The experiment whose metric chooses the best step; where views are held out, of the first seed."""
    if not experiment.held_out:
        return experiment
    return experiment._replace(options=f"{experiment.options} --hold-out 10", folder=f"{experiment.folder},hold_out=10",
                               seeds=experiment.seeds[:1], held_out=False)


def network_of(experiment: Experiment, mode: str) -> dict[str, Any]:
    """The settings of a network, or of a radiance field's color network, in the experiment's script."""
    return import_module(experiment.script).SETTINGS[mode]["network"]


def basis_of(network: dict[str, Any]) -> dict[str, Any]:
    """What of a network's settings makes the basis of its FR layers."""
    return {name: network[name] for name in ("low_freq_num", "high_freq_num", "phase_num", "alpha")}


def layer_settings(experiment: Experiment, backbone: str) -> dict[str, Any]:
    """The settings of a backbone's square FR layers."""
    network = network_of(experiment, f"{backbone}+fr")
    width = network["hidden_features"]
    return {"in_features": width, "out_features": width, **basis_of(network)}


@functools.cache  # in 3D it takes seconds
def fr_step(experiment: Experiment, backbone: str) -> float:
    """FR's step of W at the script's learning rate, in units of the plain network's: κ times the ratio of the rates."""
    kappa = step_scale(FourierReparamLinear(**layer_settings(experiment, backbone), device="meta"))
    return kappa * rate_ratio(experiment, backbone)


def rate_ratio(experiment: Experiment, backbone: str) -> float:
    """The learning rate of FR over that of the plain network, in the experiment's script."""
    plain, fr = (import_module(experiment.script).SETTINGS[mode]["lr"] for mode in (backbone, f"{backbone}+fr"))
    return fr / plain


def steps(experiment: Experiment, backbone: str) -> list[float]:
    """The steps of W that are compared, in units of the plain network's at the script's rate."""
    return sorted({1.0, *(fr_step(experiment, backbone) * multiple for multiple in MULTIPLES)})


def with_step(network: str, step: float, own_step: float) -> str:
    """A network of --modes with the setting that makes its step of W `step`, where that is `own_step` without it."""
    factor = float(f"{step / own_step:.4g}")
    return network if factor == 1 else f"{network},hidden_lr={factor}"


def at_step(experiment: Experiment, backbone: str, step: float) -> tuple[str, str]:
    """The plain network and that with FR at a step of W, as --modes has them."""
    return with_step(backbone, step, 1.0), with_step(f"{backbone}+fr", step, fr_step(experiment, backbone))


def recorded(experiment: Experiment, network: str, args: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """The records of a network, by seed: from records/, else from results/."""
    found = {}
    for seed in experiment.seeds:
        for top in (args.results, args.records):
            with suppress(FileNotFoundError):
                found[seed] = read_record(top / experiment.folder / f"{network}-seed{seed}.json")
    return found


def missing(experiment: Experiment, networks: Iterable[str], args: argparse.Namespace) -> list[tuple[str, int]]:
    """The networks and seeds that have no record."""
    found = {network: recorded(experiment, network, args) for network in networks}
    return [(network, seed) for network in found for seed in experiment.seeds if seed not in found[network]]


def plan(experiment: Experiment, networks: Iterable[str],
         args: argparse.Namespace) -> tuple[argparse.Namespace, list[Any], dict[str, Run]]:
    """The options of the experiment's script for some networks, the data for them, and its runs by name."""
    script = import_module(experiment.script)
    options = [*experiment.options.split(), "--modes", *networks, "--seeds", *map(str, experiment.seeds)]
    ours = script.parse([*options, "--device", "cpu", "--data", str(args.data), "--results", str(args.results)])
    ours.command = shlex.join(["python", f"{experiment.script}.py", *options])
    data = [script.load(ours)] if hasattr(script, "load") else []  # 1D has nothing to load
    return ours, data, {run.path("").name: run for run in script.plan(ours, *data)}


def data_of(run: Run, data: list[Any]) -> list[Any]:
    """What the script's training function takes between the run and the options."""
    if run.experiment == "2d":
        return [data[0][run.case]]
    return [data[0][run.case][0]] if run.experiment == "3d" else data


def train(experiment: Experiment, args: argparse.Namespace) -> None:
    """Train what has no record through the script's own function, on one thread each."""
    networks = [network for backbone in experiment.backbones for step in steps(experiment, backbone)
                for network in at_step(experiment, backbone, step)]
    left = missing(experiment, networks, args)
    if not left:
        return
    script = import_module(experiment.script)
    ours, data, planned = plan(experiment, networks, args)
    runs = [planned[f"{network}-seed{seed}"] for network, seed in left]
    jobs = [Job(run, partial(getattr(script, "train_fine", None) or script.train, run, *data_of(run, data), ours))
            for run in runs]
    coarse = {run.seed: script.coarse_run(run) for run in runs if experiment.script == "dvgo"}
    sweep([Job(run, partial(script.train_coarse, run, *data, ours)) for run in coarse.values()], jobs, args=ours,
          parallel=True)


Values = dict[tuple[bool, float], np.ndarray]  # a metric of each seed, by whether with FR, and step of W


class Pair(NamedTuple):
    """A backbone without and with FR, and what was measured of both, as far as there are records of all seeds.

    Attributes:
        fr_step: FR's step of W at the script's learning rate; the plain network's is 1.
        values: the metric.
        choosing: that by which the best step is chosen.
        config: of one of the plain runs; empty where there is none.
    """

    experiment: Experiment
    backbone: str
    fr_step: float
    values: Values
    choosing: Values
    config: dict[str, Any]


def measured(experiment: Experiment, backbone: str, args: argparse.Namespace) -> Pair:
    """The pair of a backbone."""
    values, config = of_steps(experiment, backbone, args)
    chooses = of_steps(choosing(experiment), backbone, args)[0] if experiment.held_out else values
    return Pair(experiment, backbone, fr_step(experiment, backbone), values, chooses, config)


def of_steps(experiment: Experiment, backbone: str, args: argparse.Namespace) -> tuple[Values, dict[str, Any]]:
    """The metric of plain networks and of those with FR, and the config of one of the plain ones."""
    values: Values = {}
    config: dict[str, Any] = {}
    for step in steps(experiment, backbone):
        for with_fr, network in zip((False, True), at_step(experiment, backbone, step)):
            of_seeds = list(recorded(experiment, network, args).values())
            if len(of_seeds) == len(experiment.seeds):
                values[with_fr, step] = np.array([record["metrics"][experiment.metric] for record in of_seeds])
                config = config if with_fr else of_seeds[0]["config"]
    return values, config


COLUMNS = ["experiment", "backbone", "FR's step", "equal learning rate", "equal step: plain's", "equal step: FR's",
           "best steps (hidden rates of FR, of plain)"]


def gains(pair: Pair) -> list[str]:
    """A row of the table: what FR adds at equal learning rates, at equal steps of W, and at each one's best step."""
    _, better, digits = METRICS[pair.experiment.metric]

    def gain(fr: float, plain: float) -> str:
        if (True, fr) not in pair.values or (False, plain) not in pair.values:
            return "–"
        difference = better * (pair.values[True, fr] - pair.values[False, plain])
        return mean_and_spread(list(difference), digits).replace("-", "−")

    fr, plain = (max((step for of_fr, step in pair.choosing if of_fr == with_fr), default=math.nan,
                     key=lambda step: better * pair.choosing[with_fr, step].mean()) for with_fr in (True, False))
    at_best = f"{gain(fr, plain)} (× {fr / pair.fr_step:.3g}, × {plain:.3g})" if pair.choosing else "not chosen"
    rates = rate_ratio(pair.experiment, pair.backbone)
    not_equal = f" (FR's is × {rates:g})" if rates != 1 else ""
    return [pair.experiment.title, LABELS[pair.backbone], f"{pair.fr_step:.3g}", gain(pair.fr_step, 1.0) + not_equal,
            gain(1.0, 1.0), gain(pair.fr_step, pair.fr_step), at_best]


def draw(pairs: list[Pair], args: argparse.Namespace) -> None:
    """A panel a pair: the metric over the step of W, plain dashed, FR solid, the range of the seeds as a band."""
    columns = min(4, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, axes = figures.subplots(rows, columns, 3.4 * columns, 3.1 * rows + 0.8)
    axis: Axes
    for axis in axes.flat[len(pairs):]:
        axis.set_axis_off()
    for pair, axis in zip(pairs, axes.flat):
        draw_pair(pair, axis)
    legend = [Line2D([], [], color="black", **style, label=label) for label, style in (
        ("FR", {"marker": "."}), ("plain", {"marker": ".", "linestyle": "--"}),
        ("FR at the script's rate", {"marker": "o", "linestyle": "", "fillstyle": "none", "markersize": 9}),
        ("plain at the script's rate", {"marker": "s", "linestyle": "", "fillstyle": "none", "markersize": 9}),
        ("FR beyond the axis, and its value", {"marker": "v", "linestyle": ""}),
        ("plain likewise", {"marker": "v", "linestyle": "", "fillstyle": "none"}))]
    figure.legend(handles=legend, loc="outside lower center", ncols=min(6, 2 * columns))
    figure.suptitle("FR and its baseline at the same steps of W: mean of the seeds, and their range")
    figures.save(figure, args.figures / "step_size.png")


def draw_pair(pair: Pair, axis: Axes) -> None:
    """One panel. Its axis holds all up to FR's own step; what is worse beyond is an arrow at its end and the value."""
    metric, better, digits = METRICS[pair.experiment.metric]
    top = max(values.max() for values in pair.values.values())
    known = [values.mean() for (_, step), values in pair.values.items() if step <= pair.fr_step] or [top]
    bottom = min(known) - 0.1 * (top - min(known)) if better > 0 else 0.0
    for with_fr in (False, True):
        style, own_step = figures.line_style(pair.backbone + "+fr" * with_fr), pair.fr_step if with_fr else 1.0
        found = {step: values for (of_fr, step), values in pair.values.items() if of_fr == with_fr}
        axis.fill_between(list(found), [values.min() for values in found.values()],
                          [values.max() for values in found.values()], color=style["color"], alpha=0.2, linewidth=0)
        axis.plot(list(found), [values.mean() for values in found.values()], **style, marker=".",
                  label="FR" if with_fr else "plain")
        marker: dict[str, Any] = {"color": style["color"], "linestyle": "", "fillstyle": "full" if with_fr else "none"}
        if own_step in found:
            axis.plot(own_step, found[own_step].mean(), **{**marker, "fillstyle": "none"}, markersize=9,
                      marker="o" if with_fr else "s")
        for step, values in found.items():
            if values.mean() < bottom:
                axis.plot(step, bottom, **marker, marker="v", clip_on=False, zorder=5)
                value = f"{'FR ' * with_fr}{values.mean():.{min(digits, 2)}f}"
                axis.annotate(value, (step, bottom), (0, 14 if with_fr else 5),
                              textcoords="offset points", ha="center", fontsize=7, color=style["color"],
                              bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    if metric == "loss":
        axis.set_yscale("log")
        figures.plain_log_labels(axis.yaxis)
    else:
        axis.set_ylim(bottom, top + 0.05 * (top - bottom))
    axis.set_title(f"{pair.experiment.title}: {LABELS[pair.backbone]}\n{size(pair)}", fontsize=9)
    axis.set_ylabel(metric)
    axis.set_xlabel("step of W (plain's = 1)")


def size(pair: Pair) -> str:
    """What a pair was trained on, and how long, in words."""
    name = pair.experiment.folder.split("/")[0]
    of_data = ("300 points" if name == "1d" else
               f"{labels.size(name, pair.config)} {'voxels' if name == '3d' else 'pixels'}")
    seeds = len(pair.experiment.seeds)
    return f"{of_data}, {seeds} seed{'s' * (seeds > 1)}\n{labels.length(name, pair.config)}"


def parse(description: str | None, experiments: dict[str, Experiment]) -> argparse.Namespace:
    """The options of this study, or of its controls; in `experiments` those that were chosen, with their seeds."""
    parser = cli.Parser(description)
    add = parser.add_argument
    add("--only", nargs="+", choices=experiments, default=list(experiments), metavar="E",
        help=f"which experiments, of {', '.join(experiments)}")
    add("--seeds", nargs="+", type=cli.whole(0), metavar="S", help="default: those of the published table")
    add("--draw", action="store_true", help="train nothing; draw and print what is there")
    parser.add_folders("data", "results", "records", "figures")
    args = parser.parse_args()
    args.experiments = [experiments[name]._replace(seeds=tuple(args.seeds or experiments[name].seeds))
                        for name in args.only]
    return args


def print_table(rows: list[list[str]]) -> None:
    """Print rows of cells, the first the columns' names, as a table of Markdown."""
    for cells in [rows[0], ["---"] * len(rows[0]), *rows[1:]]:
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    args = parse(__doc__, EXPERIMENTS)
    for experiment in args.experiments:
        for trained in dict.fromkeys([experiment, choosing(experiment)] if not args.draw else []):
            train(trained, args)
    pairs = [measured(experiment, backbone, args) for experiment in args.experiments
             for backbone in experiment.backbones]
    shown = [pair for pair in pairs if pair.config]
    if not shown:
        raise UserError(f"no record of all its seeds below {args.results} or {args.records}; without --draw it is "
                        "trained")
    figures.draw_each(partial(draw, shown, args))
    print_table([COLUMNS, *map(gains, pairs)])


if __name__ == "__main__":
    cli.run(main)
