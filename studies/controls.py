"""What in FR makes the difference at equal steps of W: its start, its path, the missing ranks, or the Fourier basis.

    python -m studies.controls --draw               figure and table of the records; trains nothing, needs no data
    python -m studies.controls                      first trains what has none: about two hours of a core a seed

Trains networks that lie between a plain one and one with FR, with the options of `studies.step_size`, at equal steps of
W (root mean square over its elements):

    fr-start       a plain network that starts with the W and biases of the one with FR
    plain-start    one with FR that starts with the W of the plain one, as far as W = Λ B can be it, and its biases
    projected      a plain network whose every hidden W is projected onto the row space of B
    projected-fr-start   the same, with FR's start
    random         W = Λ R, where the rows of R have random directions and the norms of B's (RepTRFD, CVPR 2026)
    random-in-b    likewise, with R's rows in the row space of B, so that W lacks the same two ranks
    muon           a plain network whose hidden W are trained by Muon, with steps of at most the same root mean square

The first three are trained at the steps of the plain network and of FR at the script's learning rate, the others at all
of `studies.step_size`. A record lies beside those of the script's own networks, with `control=` in its name. Writes
figures/controls.png, and prints the table.
"""

import argparse
import dataclasses
import functools
import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UserError
from harness import cli, figures
from harness.labels import LABELS
from harness.sweep import Job, sweep
from models import FourierReparamLinear, build_inr, fold, reparameterize
from models.fourier_reparam import SETTINGS
from studies import step_size
from studies.step_size import EXPERIMENTS, METRICS, Experiment

CONTROL_EXPERIMENTS = {name: EXPERIMENTS[name]._replace(backbones=backbones)
                       for name, backbones in (("1d", ("relu", "sin")), ("2d", ("relu", "relu+pe")))}


class Project(nn.Module):
    """x P with P = B⁺ B, the projection onto the row space of B. A linear layer behind it has the weight W P."""

    projection: Tensor

    def __init__(self, basis: Tensor):
        super().__init__()
        self.register_buffer("projection", projection_onto(basis).to(basis.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.projection


def projection_onto(basis: Tensor) -> Tensor:
    """P = B⁺ B, (d_in, d_in) in float64, of a basis B of shape (M, d_in)."""
    wide = basis.double()
    # Of Bᵀ B, which is small; its eigenvalues of rounding are 1e-10 of the others, which lie within a factor of two.
    values, vectors = torch.linalg.eigh(wide.T @ wide)
    kept = vectors[:, values > 1e-6 * values[-1]]
    return kept @ kept.T


class RandomBasisLinear(FourierReparamLinear):
    """W = Λ R with random rows of B's norms, shape (M, d_in), drawn from torch's global generator.

    Args:
        in_row_space: each row lies in the row space of B.
        settings: those of `FourierReparamLinear`.
    """

    random_basis: Tensor

    def __init__(self, in_features: int, out_features: int, *, in_row_space: bool, **settings: Any):
        super().__init__(in_features, out_features, **settings)
        self.register_buffer("random_basis", random_like(super().basis, in_row_space))

    def _compose(self) -> Tensor:
        return self.coefficients @ self.random_basis

    @property
    def basis(self) -> Tensor:
        return self.random_basis


def random_like(basis: Tensor, in_row_space: bool) -> Tensor:
    """A matrix of the shape and row norms of a basis, with rows of random directions, in its row space if asked for."""
    rows = torch.randn(basis.shape, dtype=torch.float64)
    if in_row_space:
        rows = rows @ projection_onto(basis)
    return (rows * (basis.double().norm(dim=1) / rows.norm(dim=1))[:, None]).to(basis.dtype)


def step_scale_of(basis: Tensor) -> float:
    """κ of W = Λ B with any basis of shape (M, d_in), see `models.step_scale`."""
    wide = basis.double()
    norms, trace = wide.norm(dim=1), 0.0
    for rows, norm in zip(wide.split(1024), norms.split(1024)):
        products = rows @ wide.T
        trace += 2 / math.pi * ((products / (norm[:, None] * norms)).clamp(-1, 1).asin() * products).sum().item()
    return math.sqrt(trace / basis.shape[1])


class MuonForHidden(torch.optim.Adam):
    """Adam for the first of two parameter groups, `torch.optim.Muon` without weight decay for the second.

    Muon moves W by an orthogonal matrix times its learning rate, by lr / sqrt(d) in the root mean square; by less where
    the gradient lacks ranks.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any):
        others, hidden = groups
        super().__init__([others], **options)
        self.muon = torch.optim.Muon(hidden["params"], lr=hidden["lr"], weight_decay=0)

    def step(self, closure=None):
        super().step(closure)
        self.muon.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.muon.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"adam": super().state_dict(), "muon": self.muon.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict["adam"])
        self.muon.load_state_dict(state_dict["muon"])


def plain_with_fr_start(mode: str, **network: Any) -> nn.Sequential:
    """The network without FR, with the W and biases that the one with FR starts with."""
    return fold(build_inr(f"{mode}+fr", **network))


def fr_with_plain_start(mode: str, **network: Any) -> nn.Sequential:
    """The network with FR, with the biases of the one without and the Λ of least squares to its W."""
    plain = build_inr(mode.removesuffix("+fr"), **network)
    return reparameterize(plain, **step_size.basis_of(network))


def projected(mode: str, *, start: Callable[..., nn.Sequential] = build_inr, **network: Any) -> nn.Sequential:
    """The network without FR, with a projection onto the row space of B in front of each hidden-to-hidden layer."""
    plain, with_fr = start(mode, **network), build_inr(f"{mode}+fr", **network)
    modules: list[nn.Module] = []
    for ours, theirs in zip(plain, with_fr):
        modules += [Project(theirs.basis), ours] if isinstance(theirs, FourierReparamLinear) else [ours]
    return nn.Sequential(*modules)


def with_random_basis(mode: str, *, in_row_space: bool, **network: Any) -> nn.Sequential:
    """The network with FR, with a random basis in each layer."""
    return nn.Sequential(*(RandomBasisLinear(out_features=layer.out_features, in_row_space=in_row_space,
                                             **{name: getattr(layer, name) for name in SETTINGS})
                           if isinstance(layer, FourierReparamLinear) else layer
                           for layer in build_inr(mode, **network)))


class Control(NamedTuple):
    """A network between the two.

    Attributes:
        label: what table and figure call it.
        with_fr: whether it is built in place of the network with FR.
        build: makes it from a mode and a network's settings.
        own_step: of an experiment and a backbone, its step of W at the script's learning rate; 1 for the plain network.
        all_steps: whether it is trained at all steps of W that are compared.
    """

    label: str
    with_fr: bool
    build: Callable[..., nn.Sequential]
    own_step: Callable[[Experiment, str], float]
    all_steps: bool
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam


def plain_step(experiment: Experiment, backbone: str) -> float:
    """Adam moves an ordinary W by its learning rate, which is the plain network's."""
    return 1.0


def muon_step(experiment: Experiment, backbone: str) -> float:
    """Muon moves a square W by its learning rate over the square root of its width."""
    return step_size.network_of(experiment, f"{backbone}+fr")["hidden_features"] ** -0.5


def random_step(experiment: Experiment, backbone: str, in_row_space: bool) -> float:
    """κ of a random basis."""
    return random_kappa(in_row_space, **step_size.layer_settings(experiment, backbone))


@functools.cache  # in 2D it takes seconds
def random_kappa(in_row_space: bool, **settings: Any) -> float:
    """κ of one random basis, as others differ by parts in a thousand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return step_scale_of(RandomBasisLinear(in_row_space=in_row_space, **settings).basis)


CONTROLS = {
    "fr-start": Control("plain, FR's start", False, plain_with_fr_start, plain_step, False),
    "plain-start": Control("FR, plain's start", True, fr_with_plain_start, step_size.fr_step, False),
    "projected": Control("plain, W projected", False, projected, plain_step, False),
    "projected-fr-start": Control("plain, W projected, FR's start", False,
                                  partial(projected, start=plain_with_fr_start), plain_step, True),
    "random": Control("random basis", True, partial(with_random_basis, in_row_space=False),
                      partial(random_step, in_row_space=False), True),
    "random-in-b": Control("random basis, B's ranks", True, partial(with_random_basis, in_row_space=True),
                           partial(random_step, in_row_space=True), True),
    "muon": Control("plain, Muon", False, build_inr, muon_step, True, MuonForHidden),
}
# What table and figure show, by name, and what they call it.
ROW_LABELS = {"plain": "plain", **{name: control.label for name, control in CONTROLS.items()}, "FR": "FR"}


def networks(experiment: Experiment, backbone: str) -> dict[str, dict[float, str]]:
    """What is compared, by name of `ROW_LABELS` and by step of W: the networks, as their records are called."""
    every_step = step_size.steps(experiment, backbone)
    of_rates = [1.0, step_size.fr_step(experiment, backbone)]  # the plain network's own step, and FR's
    plain, fr = zip(*(step_size.at_step(experiment, backbone, step) for step in every_step))
    between = {name: {step: step_size.with_step(f"{backbone}{'+fr' * control.with_fr},control={name}", step,
                                                control.own_step(experiment, backbone))
                      for step in (every_step if control.all_steps else of_rates)}
               for name, control in CONTROLS.items()}
    return {"plain": dict(zip(every_step, plain)), **between, "FR": dict(zip(every_step, fr))}


def train(experiment: Experiment, args: argparse.Namespace) -> None:
    """Train the controls that have no record through the training function of their experiment's script."""
    wanted = {network: (backbone, name) for backbone in experiment.backbones
              for name, of_name in networks(experiment, backbone).items() if name in CONTROLS
              for network in of_name.values()}
    left = step_size.missing(experiment, wanted, args)
    if not left:
        return
    script = import_module(experiment.script)
    base = {network: network.replace(f",control={name}", "") for network, (_, name) in wanted.items()}
    ours, data, planned = step_size.plan(experiment, base.values(), args)
    jobs = []
    for network, seed in left:
        backbone, name = wanted[network]
        run = planned[f"{base[network]}-seed{seed}"]
        run = dataclasses.replace(
            run, own={"control": name, **run.own},
            config={**run.config, "network": step_size.network_of(experiment, f"{backbone}+fr")},
            command=f"python -m studies.controls --only {run.experiment} --seeds {seed} --records none")
        jobs.append(Job(run, partial(script.train, run, *step_size.data_of(run, data), ours,
                                     build=CONTROLS[name].build, optimizer_class=CONTROLS[name].optimizer)))
    sweep(jobs, args=ours, parallel=True)


def measured(experiment: Experiment, backbone: str, args: argparse.Namespace) -> dict[str, dict[float, np.ndarray]]:
    """The metric of what is compared, a number a seed; empty where a record is missing."""
    found = {name: {step: step_size.recorded(experiment, network, args) for step, network in of_name.items()}
             for name, of_name in networks(experiment, backbone).items()}
    if any(len(records) < len(experiment.seeds) for of_name in found.values() for records in of_name.values()):
        return {}
    return {name: {step: np.array([record["metrics"][experiment.metric] for record in records.values()])
                   for step, records in of_name.items()} for name, of_name in found.items()}


def cell(experiment: Experiment, backbone: str, values: dict[float, np.ndarray]) -> str:
    """The mean of the seeds at the plain network's step, at FR's, and at the best, where all were tried."""
    _, better, digits = METRICS[experiment.metric]
    shown = [values[1.0], values[step_size.fr_step(experiment, backbone)]]
    if len(values) > 2:
        shown.append(max(values.values(), key=lambda of_seeds: better * of_seeds.mean()))
    return "/".join([f"{of_seeds.mean():.{digits}f}" for of_seeds in shown] + ["–"] * (3 - len(shown)))


def draw(found: dict[tuple[Experiment, str], dict[str, dict[float, np.ndarray]]], args: argparse.Namespace) -> None:
    """A panel a backbone: the metric over the step of W of what was trained at all of them; the mean of the seeds."""
    figure, axes = figures.subplots(1, len(found), 3.4 * len(found), 3.6)
    styles = {"plain": {"color": "0.6", "linestyle": "--"}, "FR": {"color": "black"},
              "random": {"color": "tab:orange"}, "random-in-b": {"color": "tab:red"},
              "projected-fr-start": {"color": "tab:blue", "linestyle": "--"},
              "muon": {"color": "tab:green", "linestyle": "--"}}
    for ((experiment, backbone), of_names), axis in zip(found.items(), axes.flat):
        metric, better, _ = METRICS[experiment.metric]
        for name, style in styles.items():
            means = {step: values.mean() for step, values in of_names[name].items()}
            axis.plot(list(means), list(means.values()), **style, marker=".", label=ROW_LABELS[name])
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        if better < 0:
            axis.set_yscale("log")
            figures.plain_log_labels(axis.yaxis)
        seeds = len(of_names["FR"][1.0])
        axis.set_title(f"{experiment.title}: {LABELS[backbone]}, {seeds} seed{'s' * (seeds > 1)}", fontsize=9)
        axis.set_ylabel(metric)
        axis.set_xlabel("step of W (plain's = 1)")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(styles))
    figure.suptitle("What in FR does it: the same steps of W with other bases, starts and optimizers")
    figures.save(figure, args.figures / "controls.png")


def main() -> None:
    args = step_size.parse(__doc__, CONTROL_EXPERIMENTS)
    for experiment in args.experiments:
        if not args.draw:
            train(experiment, args)
    found = {(experiment, backbone): values for experiment in args.experiments for backbone in experiment.backbones
             if (values := measured(experiment, backbone, args))}
    if not found:
        raise UserError(f"not all controls have records below {args.results} or {args.records}; without --draw they "
                        "are trained")
    figures.draw_each(partial(draw, found, args))
    step_size.print_table([["network", *(f"{experiment.title}, {LABELS[backbone]}" for experiment, backbone in found)],
                           *([label, *(cell(*pair, of_names[name]) for pair, of_names in found.items())]
                             for name, label in ROW_LABELS.items())])


if __name__ == "__main__":
    cli.run(main)
