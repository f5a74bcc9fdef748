"""What in FR makes the difference at equal steps of W: its start, its path, or the two ranks that W = Λ B lacks.

    python -m studies.controls --draw               the table of what has a record; trains nothing, needs no data
    python -m studies.controls                      first trains what has none; a seed takes 10 minutes

Trains networks that lie between a plain one and one with FR at two steps of W, the plain one's and FR's at the script's
learning rate, with the options of `studies.step_size`:

    fr-start       a plain network that starts with the W and biases of the one with FR
    plain-start    one with FR that starts with the W of the plain one, as far as W = Λ B can be it, and its biases
    projected      a plain network whose every hidden W is projected onto the row space of B

A record lies beside those of the script's own networks, with `control=` in its name.
"""

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UserError
from harness import cli
from harness.labels import LABELS
from harness.sweep import Job, sweep
from models import FourierReparamLinear, build_inr, fold, reparameterize
from studies import step_size
from studies.step_size import EXPERIMENTS, METRICS, Experiment, Network

COMPARED = {"1d": ("relu", "sin"), "2d": ("relu", "relu+pe")}  # backbones by experiment


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


def plain_with_fr_start(mode: str, **network: Any) -> nn.Sequential:
    """The network without FR, with the W and biases that the one with FR starts with."""
    return fold(build_inr(f"{mode}+fr", **network))


def fr_with_plain_start(mode: str, **network: Any) -> nn.Sequential:
    """The network with FR, with the biases of the one without and the Λ of least squares to its W."""
    plain = build_inr(mode.removesuffix("+fr"), **network)
    return reparameterize(plain, **step_size.basis_of(network))


def projected(mode: str, **network: Any) -> nn.Sequential:
    """The network without FR, with a projection onto the row space of B in front of each hidden-to-hidden layer."""
    plain, with_fr = build_inr(mode, **network), build_inr(f"{mode}+fr", **network)
    modules: list[nn.Module] = []
    for ours, theirs in zip(plain, with_fr):
        modules += [Project(theirs.basis), ours] if isinstance(theirs, FourierReparamLinear) else [ours]
    return nn.Sequential(*modules)


class Control(NamedTuple):
    """A network between the two: what the table calls it, whether its hidden layers are FR layers, what builds it."""

    label: str
    with_fr: bool
    build: Callable[..., nn.Sequential]


CONTROLS = {"fr-start": Control("plain, FR's start", False, plain_with_fr_start),
            "plain-start": Control("FR, plain's start", True, fr_with_plain_start),
            "projected": Control("plain, W projected", False, projected)}


def controls_at(experiment: Experiment, backbone: str, step: float) -> list[Network]:
    """The control networks at a step of W."""
    pair = step_size.at_step(experiment, backbone, step)
    return [(pair[control.with_fr][0], {"control": name, **pair[control.with_fr][1]})
            for name, control in CONTROLS.items()]


def compared_steps(experiment: Experiment) -> list[tuple[str, float, str]]:
    """The backbones and the steps of W that a row of the table is about; the last in words."""
    return [(backbone, step, where) for backbone in experiment.backbones
            for step, where in ((1.0, "plain's"), (step_size.fr_step(experiment, backbone), "FR's"))]


def train(experiment: Experiment, args: argparse.Namespace) -> None:
    """Train the controls that have no record through the training function of their experiment's script."""
    rows = compared_steps(experiment)
    left = step_size.missing(experiment, [network for backbone, step, _ in rows
                                          for network in controls_at(experiment, backbone, step)], args)
    if not left:
        return
    script = import_module(experiment.script)
    ours, data, planned = step_size.plan(experiment, [network for backbone, step, _ in rows for network in
                                                      step_size.at_step(experiment, backbone, step).values()], args)
    with_basis = {run.mode.removesuffix("+fr"): run.config["network"] for run in planned if "+fr" in run.mode}
    jobs = []
    for run in planned:
        for name, control in CONTROLS.items():
            if control.with_fr != ("+fr" in run.mode):
                continue
            of_control = dataclasses.replace(
                run, own={"control": name, **run.own},
                config={**run.config, "network": with_basis[run.mode.removesuffix("+fr")]},
                command=f"python -m studies.controls --only {run.experiment} --seeds {run.seed} --records none")
            if step_size.key_of(of_control) in left:
                jobs.append(Job(of_control, partial(script.train, of_control, *step_size.data_of(run, data), ours,
                                                    build=control.build)))
    sweep(jobs, args=ours, parallel=True)


def row(experiment: Experiment, backbone: str, step: float, where: str, args: argparse.Namespace) -> list[str]:
    """A row of the table: the metric of the plain network, of the controls and of FR at a step of W.

    Each is the mean of the seeds that all of them have.
    """
    found, digits = step_size.records(experiment, args), METRICS[experiment.metric][2]
    pair = step_size.at_step(experiment, backbone, step)
    networks = [pair[False], *controls_at(experiment, backbone, step), pair[True]]
    values = [[found[key]["metrics"][experiment.metric] for network in networks
               if (key := step_size.key(*network, seed)) in found] for seed in args.seeds or experiment.seeds]
    of_all = [of_seed for of_seed in values if len(of_seed) == len(networks)]
    cells = [f"{mean:.{digits}f}" for mean in np.mean(of_all, axis=0)] if of_all else ["–"] * len(networks)
    return [experiment.title, LABELS[backbone], where, *cells]


def main() -> None:
    args = step_size.parse(__doc__, list(COMPARED))
    rows = [["experiment", "backbone", "step of W", "plain", *(control.label for control in CONTROLS.values()), "FR"]]
    for name in args.only:
        experiment = EXPERIMENTS[name]._replace(backbones=COMPARED[name])
        if not args.draw:
            train(experiment, args)
        rows += [row(experiment, *compared, args) for compared in compared_steps(experiment)]
    if all(set(cells[4:-1]) == {"–"} for cells in rows[1:]):
        raise UserError(f"no record of a control below {args.results} or {args.records}; without --draw they are "
                        "trained")
    step_size.print_table(rows)


if __name__ == "__main__":
    cli.run(main)
