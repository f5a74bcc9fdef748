"""What in FR makes the difference at equal steps of W: its start, its path, or the two ranks that W = Λ B lacks.

    python -m studies.controls                      1D and 2D; about 10 minutes on two CPU cores
    python -m studies.controls --only 1d            one of them
    python -m studies.controls --draw               train nothing; print the table of what is there

Trains three networks that lie between a plain one and one with FR, at two steps of W, the plain one's and FR's at the
paper's rate, with the options of `studies.step_size`:

    fr-start       a plain network that starts with the W and biases of the one with FR
    plain-start    one with FR that starts with the W of the plain one, as far as W = Λ B can be it, and its biases
    projected      a plain network whose every hidden W is projected onto the row space of B

What has a record in reference/step_size/controls is not trained again; `--reference none` trains all. Writes a record a
run into results/step_size/controls/<control>/<s>/<experiment>/… and prints the metric beside that of the networks of
`studies.step_size`.
"""

import argparse
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from experiment import cli
from experiment.errors import UserError
from experiment.labels import LABELS
from experiment.records import Run, read_record
from experiment.sweep import sweep
from models import FourierReparamLinear, build_inr, fold
from studies import step_size
from studies.step_size import EXPERIMENTS, Pair

COMPARED = ("1d", "2d")


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
    plain, with_fr = build_inr(mode.removesuffix("+fr"), **network), build_inr(mode, **network)
    with torch.no_grad():
        for theirs, ours in zip(plain, with_fr):
            if isinstance(ours, FourierReparamLinear) and isinstance(theirs, nn.Linear):
                ours.bias.copy_(theirs.bias)
                ours.coefficients.copy_(least_squares(theirs.weight, ours.basis))
            else:
                ours.load_state_dict(theirs.state_dict())
    return with_fr


def least_squares(weight: Tensor, basis: Tensor) -> Tensor:
    """The smallest Λ of shape (d_out, M) whose Λ B is nearest to a weight of shape (d_out, d_in): W (Bᵀ B)⁺ Bᵀ."""
    wide = basis.double()
    return weight.double() @ torch.linalg.pinv(wide.T @ wide, rtol=1e-6, hermitian=True) @ wide.T


def projected(mode: str, **network: Any) -> nn.Sequential:
    """The network without FR, with a projection onto the row space of B in front of each hidden-to-hidden layer."""
    plain, with_fr = build_inr(mode, **network), build_inr(f"{mode}+fr", **network)
    modules: list[nn.Module] = []
    for ours, theirs in zip(plain, with_fr):
        modules += [Project(theirs.basis), ours] if isinstance(theirs, FourierReparamLinear) else [ours]
    return type(plain)(*modules)


CONTROLS = {"fr-start": plain_with_fr_start, "plain-start": fr_with_plain_start, "projected": projected}
NAMES = {"fr-start": "plain, FR's start", "plain-start": "FR, the plain one's start", "projected": "plain, W projected"}


class ControlRun(Run):
    """A run that is told from those of the other controls wherever it is named."""

    def __str__(self) -> str:
        return f"{self.config['control']}, {super().__str__()}"


def train(run: Run, args: argparse.Namespace) -> str:
    """Train a control network through the training function of its experiment's script."""
    script = import_module(EXPERIMENTS[run.experiment].script)
    return script.train(run, args, build=CONTROLS[run.config["control"]])


def controls_of(pair: Pair, step: float, args: argparse.Namespace) -> list[Run]:
    """The runs of the three control networks at a step of W, of each seed."""
    runs: list[Run] = []
    for control in CONTROLS:
        # The basis is FR's, which the plain network's settings do not have.
        for run, with_fr in zip(pair.runs[control == "plain-start", step], pair.runs[True, step]):
            config = {**run.config, "network": with_fr.config["network"], "control": control}
            folder = args.results / "controls" / control / run.results.name
            command = f"python -m studies.controls --only {pair.name} --seeds {run.seed} --reference none"
            settings = {**vars(run), "results": folder, "config": config, "command": command}
            runs.append(ControlRun(**settings))
    return runs


def row(pair: Pair, step: float, where: str, args: argparse.Namespace) -> list[str]:
    """A row of the table: the metric of the plain network, of the controls and of FR at a step of W."""
    controls: dict[str, list[Run]] = {name: [] for name in CONTROLS}
    for run in controls_of(pair, step, args):
        controls[run.config["control"]].append(run)
    return [EXPERIMENTS[pair.name].title, LABELS[pair.backbone], where,
            *(values_of(runs, args) for runs in (pair.runs[False, step], *controls.values(), pair.runs[True, step]))]


def values_of(runs: list[Run], args: argparse.Namespace) -> str:
    """The metric of the runs that have a record, of one seed after the other."""
    metric = EXPERIMENTS[runs[0].experiment].metric
    paths = [path for run in runs if (path := step_size.path_of(run, args))]
    return ", ".join(f"{read_record(path)['metrics'][metric]:.{step_size.digits_of(metric)}f}" for path in paths) or "–"


def main() -> None:
    args = step_size.parse(__doc__, COMPARED, "0")
    args.seeds = args.seeds or [0]
    step_size.one_thread_each()
    rows = []
    for name in args.only:
        ours, pairs = step_size.plan(name, args)
        # FR's step first: there plain and FR differ the most.
        stages = [[run for pair in pairs for run in controls_of(pair, pair.paper if fr else 1.0, args)
                   if not step_size.path_of(run, args)] for fr in (True, False)]
        if not args.draw and any(stages):
            sweep(train, [stage for stage in stages if stage], ours, parallel=True)
        rows += [row(pair, step, where, args) for pair in pairs
                 for step, where in ((1.0, "the plain one's"), (pair.paper, "FR's"))]
    rows = [cells for cells in rows if set(cells[4:-1]) != {"–"}]
    if not rows:
        raise UserError(f"no record of a control below {args.results} or {args.reference}; without --draw they are "
                        "trained")
    columns = ["experiment", "backbone", "step", "plain", *NAMES.values(), "FR"]
    for cells in [columns, ["---"] * len(columns), *rows]:
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    cli.run(main)
