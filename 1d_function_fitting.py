"""Fit a 1D function with and without Fourier reparameterization (section 4 of the paper).

    python 1d_function_fitting.py            relu, relu+fr, sin, sin+fr, 10,000 steps each
    python 1d_function_fitting.py --quick    the same for 2,000 steps

Trains each network on f(x) = 2·round((sin 3πx + sin 5πx + sin 7πx + sin 9πx) / 2) with the full batch of 300 points,
keeps its output at every step, and computes the empirical neural tangent kernel (NTK) every 1,000 steps. Writes

    results/1d/function/<mode>-seed<k>.json     loss, relative error at four frequencies, shares of the NTK's spectrum
    results/1d/function/<mode>-seed<k>.npz      the outputs (steps × 300), the NTK's eigenvalues, one layer's Λ
    figures/1d_function_fitting.png             the fits over the target at several steps
    figures/1d_ntk_eigenvalues.png              the shares of the NTK's four largest eigenvalues over training
    figures/1d_fr_layer.png                     W = Λ B in a trained FR network

On two CPU cores it takes about two minutes, with --quick half of one. `1d_relative_error_in_frequency.py` draws the
frequency heat maps from the same records.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from data.signals import FREQUENCIES, POINTS, square_like_wave
from experiment import cli, figures, metrics, tables, training
from experiment.errors import UserError
from experiment.records import Run, planned_runs
from experiment.sweep import slow_runs, sweep
from models import (
    MODES,
    FourierReparamLinear,
    build_inr,
    empirical_ntk,
    parameter_groups,
)

# Section 4. `network` is what build_inr takes. α and the learning rate belong together (see FourierReparamLinear).
MLP = {"in_features": 1, "out_features": 1, "hidden_features": 128, "hidden_layers": 3}
FR = {"low_freq_num": 64, "high_freq_num": 64, "phase_num": 16, "alpha": 0.05}
PE = {"pe_frequencies": int(math.log2(POINTS / 4))}
SINE = {"first_omega": 5.0, "hidden_omega": 5.0}
TRAINING: dict = {"lr": 1e-6, "steps": 10_000}
PAPER = {"relu":       {"network": {**MLP}, **TRAINING},
         "relu+fr":    {"network": {**MLP, **FR}, **TRAINING},
         "relu+pe":    {"network": {**MLP, **PE}, **TRAINING},
         "relu+pe+fr": {"network": {**MLP, **PE, **FR}, **TRAINING},
         "sin":        {"network": {**MLP, **SINE}, **TRAINING},
         "sin+fr":     {"network": {**MLP, **SINE, **FR}, **TRAINING}}
QUICK = {"steps": 2_000}
COMPARED = ("relu", "relu+fr", "sin", "sin+fr")

LARGEST = 4  # of the NTK's eigenvalues, whose shares are reported one by one


def train(run: Run, args: argparse.Namespace, build: Callable[..., torch.nn.Sequential] = build_inr) -> str:
    """Train the network that `build` makes, write its record, return the line that sums it up."""
    # A second thread gains a network of this size next to nothing, a second run beside it nearly all.
    device, autocast = training.prepare(args, run.seed, one_thread=True)
    model = build(run.mode, **run.config["network"]).to(device)
    groups = parameter_groups(model, run.config["lr"], run.config.get("hidden_lr", 1.0))
    optimizer = torch.optim.Adam(groups, fused=True, capturable=device.type == "cuda")
    x, target = (values.to(device) for values in square_like_wave())  # (300, 1) each

    steps = run.config["steps"]
    ntk_every = max(1, steps // 10)
    outputs, losses = torch.zeros(steps, POINTS, device=device), torch.zeros(steps, device=device)
    eigenvalues = torch.zeros(steps // ntk_every + 1, POINTS, dtype=torch.float64)
    row = torch.zeros(1, dtype=torch.long, device=device)  # the step, where a captured graph can count it

    def training_step() -> None:
        optimizer.zero_grad()
        with autocast:
            output = model(x)
        F.mse_loss(output.float(), target).backward()
        optimizer.step()
        outputs.index_copy_(0, row, output.detach().float().T)
        row.add_(1)

    advance, clock = training.CUDAGraphStep(training_step, device), training.Stopwatch(device)
    state = {"model": model, "optimizer": optimizer, "outputs": outputs, "eigenvalues": eigenvalues}
    for block in training.blocks(run, args, clock, losses, state, "loss {:.4f}".format, stop_every=[ntk_every]):
        if block.start % ntk_every == 0:
            eigenvalues[block.start // ntk_every] = ntk_spectrum(model, x)
        row.fill_(block.start)
        with clock:
            advance(len(block))
        losses[block.start:block.stop] = (outputs[block.start:block.stop] - target.T).square().mean(1)
    if steps % ntk_every == 0:
        eigenvalues[-1] = ntk_spectrum(model, x)

    arrays = {"outputs": outputs.cpu().numpy(), "ntk_eigenvalues": eigenvalues.cpu().numpy()}
    hidden = [layer for layer in model if isinstance(layer, FourierReparamLinear)]
    if hidden:
        arrays["coefficients"] = hidden[len(hidden) // 2].coefficients.detach().cpu().numpy()
    measured = {"loss": losses[-1].item(),
                **measure(arrays["outputs"], arrays["ntk_eigenvalues"], target.cpu().numpy()[:, 0], ntk_every)}
    run.finish(metrics=measured, arrays=arrays, seconds=clock.seconds, steps=steps)
    return f"loss {measured['loss']:.4f} in {clock.seconds:.1f} s"


def ntk_spectrum(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The eigenvalues of the empirical NTK, largest first, float64 on the CPU."""
    kernel = empirical_ntk(model, x).double().cpu()
    if not kernel.isfinite().all():
        raise UserError("the training has diverged, the NTK is not finite; a smaller --lr may help")
    return torch.linalg.eigvalsh(kernel).flip(0)


def measure(outputs: np.ndarray, eigenvalues: np.ndarray, target: np.ndarray, ntk_every: int) -> dict:
    """The other metrics of a record, from the outputs (steps, 300) and the NTK's eigenvalues (times, 300)."""
    error = metrics.relative_spectral_error(outputs, target, list(FREQUENCIES.values()))
    shares = (eigenvalues / eigenvalues.sum(axis=1, keepdims=True))[:, :LARGEST].tolist()
    return {"relative_error": dict(zip(FREQUENCIES, error[-1].tolist())),
            "relative_error_at": {str(at): dict(zip(FREQUENCIES, error[at].tolist()))
                                  for at in (1000, 5000) if at < len(outputs)},
            "ntk_eigenvalue_shares": {str(i * ntk_every): [*four, 1 - sum(four)] for i, four in enumerate(shares)}}


def draw_fits(runs: list[Run], args: argparse.Namespace) -> None:
    """A row a mode, a column a step: the output over the target."""
    x, target = (values.numpy()[:, 0] for values in square_like_wave())
    steps = runs[0].config["steps"]
    columns = sorted({steps // 100, steps // 10, steps // 2, steps - 1})
    figure, axes = figures.subplots(len(runs), len(columns), 2.9 * len(columns), 1.9 * len(runs) + 0.5,
                                    sharex=True, sharey=True)
    for run, line in zip(runs, axes):
        outputs = run.arrays(outputs=(steps, POINTS))["outputs"]
        for step, axis in zip(columns, line):
            axis.plot(x, target, color="0.7", linewidth=1.2)
            axis.plot(x, outputs[step], color=figures.line_style(run.mode)["color"])
            axis.set_ylim(-4.9, 4.9)
            axis.text(0.02, 0.98, f"loss {np.square(outputs[step] - target).mean():.3f}", fontsize=9, va="top",
                      transform=axis.transAxes)
            if run is runs[0]:
                axis.set_title(f"step {step:,}")
        line[0].set_ylabel(figures.LABELS[run.mode], fontsize=11, fontweight="bold")
    for axis in axes[-1]:
        axis.set_xlabel("x")
    figure.suptitle("1D function fitting: the network's output in color, the target in gray"
                    + figures.title_suffix([runs[0].seed], args.quick, runs[0].config, PAPER[runs[0].mode]))
    figures.save(figure, args.figures / "1d_function_fitting.png")


def draw_spectra(runs: list[Run], args: argparse.Namespace) -> None:
    """Stacked shares of the NTK's eigenvalues over training; a row a backbone, FR right of its baseline."""
    figure, axes = figures.grid_by_backbone([run.mode for run in runs], width=4.7, height=2.5)
    shades = [*matplotlib.colormaps["Blues"](np.linspace(0.95, 0.4, LARGEST)), "0.88"]
    names = [f"λ{'₁₂₃₄'[i]}" for i in range(LARGEST)] + [f"the other {POINTS - LARGEST}"]
    for run in runs:
        axis, shares = axes[run.mode], run.metric("ntk_eigenvalue_shares")
        steps = np.array([int(step) for step in shares])
        heights = 100 * np.array(list(shares.values()))  # (times, LARGEST + 1)
        bottoms = np.cumsum(heights, axis=1) - heights
        for i, name in enumerate(names):
            axis.bar(steps, heights[:, i], bottom=bottoms[:, i], width=0.8 * (steps[1] - steps[0]), color=shades[i],
                     label=name)
        axis.set_title(f"{figures.LABELS[run.mode]}: the four hold {heights[-1, :LARGEST].sum():.0f} % at the end")
        axis.set_ylabel("share of the sum (%)")
        axis.xaxis.set_major_formatter(figures.THOUSANDS)
        axis.set_xlabel("step")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    figure.suptitle("Eigenvalues of the empirical NTK"
                    + figures.title_suffix([run.seed], args.quick, run.config, PAPER[run.mode]))
    figures.save(figure, args.figures / "1d_ntk_eigenvalues.png")


def draw_layer(run: Run, args: argparse.Namespace) -> None:
    """Λ of the middle hidden layer after training, the basis B, and the weight W = Λ B that they make."""
    network = run.config["network"]
    width, phases, low = (network[name] for name in ("hidden_features", "phase_num", "low_freq_num"))
    basis = FourierReparamLinear(width, width, **{name: network[name] for name in FR}).basis.numpy()
    coefficients = run.arrays(coefficients=(width, len(basis)))["coefficients"]
    figure = Figure(figsize=(11, 4.6))
    widths = [1, 0.15, 2.2, 0.15, 0.8, 1.2]
    grid = figure.add_gridspec(1, 6, width_ratios=widths)
    panels = {0: (coefficients @ basis, f"W: composed\n{width} × {width}"),
              2: (coefficients, f"Λ: learned\n{width} × {len(basis)}"),
              4: (basis[::phases], f"B: fixed, {len(basis)} × {width}\n(rows of phase 0)")}
    for column, (matrix, title) in panels.items():
        axis = figure.add_subplot(grid[column])
        scale = np.quantile(np.abs(matrix), 0.995)  # a few large coefficients would make all others pale
        # W and Λ equally high, as the rows of a product; B as high as there is room for.
        axis.imshow(matrix, cmap="RdBu_r", vmin=-scale, vmax=scale, aspect="auto" if column == 4 else float(
            matrix.shape[1] / matrix.shape[0] / widths[column]))
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(True)
    axis.set_yticks([len(matrix) // 4, 3 * len(matrix) // 4], ["low\nfrequencies", "high\nfrequencies"], rotation=90,
                    va="center", fontsize=9)
    for column, sign in ((1, "="), (3, "·")):
        axis = figure.add_subplot(grid[column])
        axis.text(0.5, 0.5, sign, fontsize=22, ha="center", va="center")
        axis.set_axis_off()
    rows = figure.add_subplot(grid[5])
    for i, frequency in enumerate((1, 2, 4, low + 1)):  # counted as in B; the last is the first of the high ones
        curve = basis[(frequency - 1) * phases] / network["alpha"]
        rows.plot(curve / 2.6 - i, color="0.25", linewidth=1)
        label = f"f = {frequency}/{low}" if frequency <= low else "f = 1, near\nhalf the sam-\npling rate"
        rows.text(width + 3, -i, label, va="center", fontsize=9)
    rows.set_title("some of these, cos(f x)")
    rows.set_axis_off()
    figure.suptitle(f"W = Λ B: the middle hidden layer of {figures.LABELS[run.mode]}, trained"
                    + figures.title_suffix([run.seed], args.quick, run.config, PAPER[run.mode]))
    figures.save(figure, args.figures / "1d_fr_layer.png")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of `argv`."""
    parser = cli.options(__doc__, modes=MODES, default_modes=COMPARED, steps=TRAINING["steps"], checkpoint_every=2_500)
    return cli.parse(parser, argv)


def plan(args: argparse.Namespace) -> list[Run]:
    """The runs that the options ask for."""
    return planned_runs(args, "1d", {"function": {mode: cli.settings(PAPER[mode], QUICK, args, "steps", "lr")
                                                  for mode in args.modes}})


def main() -> None:
    args = parse()
    runs = plan(args)
    if slow_runs(runs, args):
        print("training on the CPU: 10,000 steps of four networks take two minutes on two cores, --quick half of one")
    sweep(train, [runs], args, parallel=True)
    first = [run for run in runs if run.seed == args.seeds[0]]
    figures.draw_each(partial(draw_fits, first, args), partial(draw_spectra, first, args),
                      *[partial(draw_layer, run, args) for run in first if run.mode.endswith("+fr")][:1],
                      partial(tables.print_table, "loss", runs))


if __name__ == "__main__":
    training.run(main)
