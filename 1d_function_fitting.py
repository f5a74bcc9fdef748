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

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional as F

from data.signals import POINTS, square_like_wave
from experiment import cli, plots, report
from experiment.errors import UserError
from experiment.metrics import relative_spectral_error
from experiment.ranks import rank_0_first
from experiment.records import Run
from experiment.runtime import (
    CUDAGraphStep,
    Stopwatch,
    begin,
    check_finite,
    choose_device,
    environment,
    next_stop,
    set_precision,
)
from experiment.sweep import progress, slow_runs, sweep
from models import MODES, FourierReparamLinear, build_inr, empirical_ntk

# Section 4: the same for every mode. α and the learning rate belong together (see FourierReparamLinear).
PAPER = {"hidden_features": 128, "hidden_layers": 3, "low_freq_num": 64, "high_freq_num": 64, "phase_num": 16,
         "alpha": 0.05, "first_omega": 5.0, "hidden_omega": 5.0, "pe_frequencies": int(math.log2(POINTS / 4)),
         "lr": 1e-6, "steps": 10_000}
QUICK = {"steps": 2_000}
COMPARED = ("relu", "relu+fr", "sin", "sin+fr")

BINS = {"1.5": 3, "2.5": 5, "3.5": 7, "4.5": 9}  # Hz → cycles over the interval of length 2
LARGEST = 4  # of the NTK's eigenvalues, whose shares are reported one by one


def train(run: Run, args: argparse.Namespace) -> str:
    """Train one network, write its record, return the line that sums it up."""
    # A second thread gains a network of this size next to nothing, a second run beside it nearly all.
    device, autocast = begin(args, run.seed, one_thread=True)
    settings = dict(run.config)
    lr, steps = settings.pop("lr"), settings.pop("steps")
    model = build_inr(run.mode, in_features=1, out_features=1, **settings).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True, capturable=device.type == "cuda")
    x, target = (values.to(device) for values in square_like_wave())

    ntk_every = max(1, steps // 10)
    outputs = torch.zeros(steps, POINTS, device=device)
    eigenvalues = torch.zeros(steps // ntk_every + 1, POINTS, dtype=torch.float64)
    clock = Stopwatch(device)
    state = {"model": model, "optimizer": optimizer, "clock": clock, "outputs": outputs, "eigenvalues": eigenvalues}
    step = run.restore(**state)
    row = torch.tensor([step], device=device)

    def training_step() -> None:
        optimizer.zero_grad()
        with autocast:
            output = model(x)
        F.mse_loss(output.float(), target).backward()
        optimizer.step()
        outputs.index_copy_(0, row, output.detach().float().T)
        row.add_(1)

    advance = CUDAGraphStep(training_step, device)
    with progress(steps, step, f"{run.mode} seed {run.seed}") as bar:
        while step < steps:
            if step % ntk_every == 0:
                eigenvalues[step // ntk_every] = spectrum(model, x)
            stop = next_stop(step, steps, ntk_every, args.checkpoint_every)
            with clock:
                advance(stop - step)
            bar.update(stop - step)
            step = stop
            loss = (outputs[step - 1] - target[:, 0]).square().mean().item()
            bar.set_postfix_str(f"loss {loss:.4f}")
            check_finite(loss, step)
            if step % args.checkpoint_every == 0 and step < steps:
                run.checkpoint(step, **state)
    if steps % ntk_every == 0:
        eigenvalues[-1] = spectrum(model, x)

    kept = outputs.cpu().numpy()
    error = relative_spectral_error(kept, target.cpu().numpy()[:, 0], list(BINS.values()))
    shares = eigenvalues[:, :LARGEST] / eigenvalues.sum(dim=1, keepdim=True)
    metrics = {
        "loss": loss,
        "relative_error": dict(zip(BINS, error[-1].tolist())),
        "relative_error_at": {str(at): dict(zip(BINS, error[at].tolist())) for at in (1000, 5000) if at < steps},
        "ntk_eigenvalue_shares": {str(i * ntk_every): [*four, 1 - sum(four)] for i, four in enumerate(shares.tolist())},
    }
    arrays = {"outputs": kept, "ntk_eigenvalues": eigenvalues.numpy()}
    reparameterized = [layer for layer in model if isinstance(layer, FourierReparamLinear)]
    if reparameterized:
        arrays["coefficients"] = reparameterized[len(reparameterized) // 2].coefficients.detach().cpu().numpy()
    run.finish(metrics=metrics, seconds=clock.seconds, steps=steps, environment=environment(device, run.precision),
               arrays=arrays)
    return f"loss {loss:.4f} in {clock.seconds:.1f} s"


def spectrum(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The eigenvalues of the empirical NTK, largest first, float64 on the CPU."""
    kernel = empirical_ntk(model, x).double().cpu()
    if not kernel.isfinite().all():
        raise UserError("the training has diverged, the NTK is not finite; a smaller --lr may help")
    return torch.linalg.eigvalsh(kernel).flip(0)


def planned_runs(args: argparse.Namespace) -> list[Run]:
    """The runs that the options ask for."""
    config = {**PAPER, **(QUICK if args.quick else {}), **cli.overrides(args, "steps", "lr")}
    device = choose_device(args.device).type
    return [Run(args.results, "1d", "function", mode, seed, config, args.precision, device)
            for seed in args.seeds for mode in args.modes]


def draw_fits(runs: list[Run], args: argparse.Namespace) -> None:
    """A row a mode, a column a step: the output over the target."""
    x, target = (values.numpy()[:, 0] for values in square_like_wave())
    steps = runs[0].config["steps"]
    columns = sorted({steps // 100, steps // 10, steps // 2, steps - 1})
    figure, axes = plt.subplots(len(runs), len(columns), figsize=(2.9 * len(columns), 1.9 * len(runs) + 0.5),
                                sharex=True, sharey=True, squeeze=False)
    for run, line in zip(runs, axes):
        outputs = run.arrays(outputs=(steps, POINTS))["outputs"]
        for step, axis in zip(columns, line):
            axis.plot(x, target, color="0.7", linewidth=1.2)
            axis.plot(x, outputs[step], color=plots.line_style(run.mode)["color"])
            axis.set_ylim(-4.9, 4.9)
            axis.text(0.02, 0.98, f"loss {np.square(outputs[step] - target).mean():.3f}", fontsize=9, va="top",
                      transform=axis.transAxes)
            if run is runs[0]:
                axis.set_title(f"step {step:,}")
        line[0].set_ylabel(plots.LABELS[run.mode], fontsize=11, fontweight="bold")
    for axis in axes[-1]:
        axis.set_xlabel("x")
    figure.suptitle("1D function fitting: the network's output in color, the target in grey"
                    + plots.title_suffix([runs[0].seed], args.quick, runs[0].config, PAPER))
    plots.save(figure, args.figures / "1d_function_fitting.png")


def draw_spectra(runs: list[Run], args: argparse.Namespace) -> None:
    """Stacked shares of the NTK's eigenvalues over training; a row a backbone, FR right of its baseline."""
    figure, axes = plots.grid_by_backbone([run.mode for run in runs], width=4.7, height=2.5)
    shades = [*plt.get_cmap("Blues")(np.linspace(0.95, 0.4, LARGEST)), "0.88"]
    names = [f"$\\lambda_{i + 1}$" for i in range(LARGEST)] + [f"the other {POINTS - LARGEST}"]
    for run in runs:
        axis, shares = axes[run.mode], run.metric("ntk_eigenvalue_shares")
        steps = np.array([int(step) for step in shares])
        heights = 100 * np.array(list(shares.values()))  # (times, LARGEST + 1)
        bottoms = np.cumsum(heights, axis=1) - heights
        for i, name in enumerate(names):
            axis.bar(steps, heights[:, i], bottom=bottoms[:, i], width=0.8 * (steps[1] - steps[0]), color=shades[i],
                     label=name)
        axis.set_title(f"{plots.LABELS[run.mode]}: the four hold {heights[-1, :LARGEST].sum():.0f} % at the end")
        axis.set_ylabel("share of the sum (%)")
        axis.xaxis.set_major_formatter(plots.THOUSANDS)
        axis.set_xlabel("step")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    figure.suptitle("Eigenvalues of the empirical NTK"
                    + plots.title_suffix([run.seed], args.quick, run.config, PAPER))
    plots.save(figure, args.figures / "1d_ntk_eigenvalues.png")


def draw_layer(run: Run, args: argparse.Namespace) -> None:
    """Λ of the middle hidden layer after training, the basis B, and the weight W = Λ B that they make."""
    width = run.config["hidden_features"]
    basis = FourierReparamLinear(width, width, **{key: run.config[key] for key in (
        "low_freq_num", "high_freq_num", "phase_num", "alpha")}).basis.numpy()
    coefficients = run.arrays(coefficients=(width, len(basis)))["coefficients"]
    figure = plt.figure(figsize=(11, 4.6))
    widths = [1, 0.15, 2.2, 0.15, 0.8, 1.2]
    grid = figure.add_gridspec(1, 6, width_ratios=widths)
    phases, low = run.config["phase_num"], run.config["low_freq_num"]
    panels = {0: (coefficients @ basis, f"W: composed\n{width} × {width}"),
              2: (coefficients, f"Λ: learned\n{width} × {len(basis)}"),
              4: (basis[::phases], f"B: fixed, {len(basis)} × {width}\n(rows of phase 0)")}
    for column, (matrix, title) in panels.items():
        axis = figure.add_subplot(grid[column])
        scale = np.quantile(np.abs(matrix), 0.995)
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
        curve = basis[(frequency - 1) * phases] / run.config["alpha"]
        rows.plot(curve / 2.6 - i, color="0.25", linewidth=1)
        label = f"f = {frequency}/{low}" if frequency <= low else "f = 1, near\nhalf the sam-\npling rate"
        rows.text(width + 3, -i, label, va="center", fontsize=9)
    rows.set_title("some of these, cos(f x)")
    rows.set_axis_off()
    figure.suptitle(f"W = Λ B: the middle hidden layer of {plots.LABELS[run.mode]}, trained"
                    + plots.title_suffix([run.seed], args.quick, run.config, PAPER))
    plots.save(figure, args.figures / "1d_fr_layer.png")


def parser(description: str) -> argparse.ArgumentParser:
    """The options, here and in the script that draws the heat maps."""
    return cli.options(description, modes=MODES, default_modes=COMPARED, steps=10_000, checkpoint_every=2_500)


@rank_0_first
def main() -> None:
    args = cli.parse(parser(__doc__))
    set_precision(args.precision, choose_device(args.device))
    runs = planned_runs(args)
    if slow_runs(runs, args):
        print("training on the CPU: about two minutes for four networks on two cores; --quick, half a minute")
    sweep(train, [runs], args, parallel=True)
    first = [run for run in runs if run.seed == args.seeds[0]]
    draw_fits(first, args)
    draw_spectra(first, args)
    for run in [run for run in first if run.mode.endswith("+fr")][:1]:
        draw_layer(run, args)
    report.show("loss", runs)


if __name__ == "__main__":
    cli.run(main)
