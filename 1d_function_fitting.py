"""Fit a 1D function with and without Fourier reparameterization (section 4 of the paper).

    python 1d_function_fitting.py                               relu, relu+fr, sin, sin+fr, 10,000 steps each
    python 1d_function_fitting.py --quick                       the same for 2,000 steps
    python 1d_function_fitting.py --modes sin+fr sin+fr,alpha=0.01      networks side by side that differ in a setting

The target is f(x) = 2·round((sin 3πx + sin 5πx + sin 7πx + sin 9πx) / 2) at 300 points, all of them in each step. A
network's output is kept at every step, its empirical neural tangent kernel (NTK) ten times. The script writes

    results/1d/function/<network>-seed<k>.json  loss, relative error at four frequencies, shares of the NTK's spectrum
    results/1d/function/<network>-seed<k>.npz   the outputs (steps × 300), the NTK's eigenvalues, one layer's Λ
    figures/1d/function/fit.png                 the fits over the target at several steps
    figures/1d/function/ntk.png                 the shares of the NTK's four largest eigenvalues over training
    figures/1d/function/layer.png               rows of the basis B, and the spectrum of a trained W = Λ B

Each figure is also written as .pdf. On two CPU cores it takes about two minutes, with --quick half of one.
`1d_relative_error_in_frequency.py` draws the errors in frequency from the same records.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from data.errors import UserError
from data.signals import FREQUENCIES, POINTS, square_like_wave
from harness import cli, figures, metrics, training
from harness.device import Stopwatch
from harness.labels import labels
from harness.records import Run, planned_runs
from harness.results import print_results
from harness.sweep import Job, in_ranks, sweep
from models import MODES, FourierReparamLinear, build_inr, empirical_ntk

PAPER: dict = {
    "steps": 10_000,        # paper, section 4
    "lr": 1e-6,             # released code; Adam, full batch
}
MLP = {
    "in_features": 1,
    "out_features": 1,
    "hidden_features": 128,  # released code
    "hidden_layers": 3,      # released code
}
FR = {
    "low_freq_num": 64,     # released code
    "high_freq_num": 64,    # released code
    "phase_num": 16,        # released code
    "alpha": 0.05,          # released code for ReLU; for SIREN its heat map, although a comment there says 0.01
}
PE = {"pe_frequencies": int(math.log2(POINTS / 4))}  # released code
SINE = {"first_omega": 5.0, "hidden_omega": 5.0}     # released code
NETWORKS = {
    "relu":       {**MLP},
    "relu+fr":    {**MLP, **FR},
    "relu+pe":    {**MLP, **PE},
    "relu+pe+fr": {**MLP, **PE, **FR},
    "sin":        {**MLP, **SINE},
    "sin+fr":     {**MLP, **SINE, **FR},
}
SETTINGS = {mode: {"network": network, **PAPER} for mode, network in NETWORKS.items()}
QUICK: dict = {"steps": 2_000}
DEFAULT_MODES = ("relu", "relu+fr", "sin", "sin+fr")

EIGENVALUES = 4  # the number of the NTK's largest that are reported one by one


def train(run: Run, args: argparse.Namespace, build: Callable[..., torch.nn.Sequential] = build_inr,
          optimizer_class: Callable[..., torch.optim.Optimizer] = torch.optim.Adam) -> str:
    """Train the network that `build` makes, write its record, return the line that sums it up."""
    config = run.config
    device, autocast = training.prepare(args, run.seed)
    model = build(run.mode, **config["network"]).to(device)
    optimizer = optimizer_class(training.parameter_groups(model, config["lr"], config["hidden_lr"]), fused=True)
    x, target = (values.to(device) for values in square_like_wave())  # (300, 1) each

    ntk_every = max(1, config["steps"] // 10)
    outputs = torch.zeros(config["steps"], POINTS, device=device)
    eigenvalues = torch.zeros(config["steps"] // ntk_every + 1, POINTS, dtype=torch.float64)
    losses, clock = torch.zeros(config["steps"], device=device), Stopwatch(device)
    state = {"model": model, "optimizer": optimizer, "outputs": outputs, "eigenvalues": eigenvalues}
    for step in training.steps(run, args, losses, clock, state, "loss {:.4f}".format):
        if step % ntk_every == 0:
            with clock.paused():
                eigenvalues[step // ntk_every] = ntk_spectrum(model, x)
        with autocast:
            output = model(x)
        loss = F.mse_loss(output.float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step] = loss.detach()
        outputs[step] = output.detach()[:, 0]
    if config["steps"] % ntk_every == 0:
        eigenvalues[-1] = ntk_spectrum(model, x)

    arrays = {"outputs": outputs.cpu().numpy(), "ntk_eigenvalues": eigenvalues.cpu().numpy()}
    hidden = [layer for layer in model if isinstance(layer, FourierReparamLinear)]
    if hidden:
        arrays["coefficients"] = hidden[len(hidden) // 2].coefficients.detach().cpu().numpy()
    measured = {"loss": losses[-1].item(),
                **measure(arrays["outputs"], arrays["ntk_eigenvalues"], target.cpu().numpy()[:, 0], ntk_every)}
    run.finish(metrics=measured, arrays=arrays, seconds=clock.seconds, steps=config["steps"])
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
    shares = (eigenvalues / eigenvalues.sum(axis=1, keepdims=True))[:, :EIGENVALUES].tolist()
    return {"relative_error": dict(zip(FREQUENCIES, error[-1].tolist())),
            "relative_error_at": {str(at): dict(zip(FREQUENCIES, error[at].tolist()))
                                  for at in (1000, 5000) if at < len(outputs)},
            "ntk_eigenvalue_shares": {str(i * ntk_every): [*four, 1 - sum(four)] for i, four in enumerate(shares)}}


def draw_fits(runs: list[Run], args: argparse.Namespace) -> None:
    """A row a network, a column a step: the output over the target, at one of its pulses."""
    x, target = (values.numpy()[:, 0] for values in square_like_wave())
    shown = slice(POINTS // 2 - 3, POINTS // 2 + 30)  # the first of x > 0; the others are like it
    steps = runs[0].config["steps"]
    columns = sorted({steps // 100, steps // 10, steps // 2, steps})
    figure, axes = figures.subplots(len(runs), len(columns), 2.9 * len(columns), 1.9 * len(runs) + 0.5,
                                    sharex=True, sharey=True)
    for run, label, line in zip(runs, labels(map(vars, runs)), axes):
        outputs = run.arrays(outputs=(steps, POINTS))["outputs"]
        for step, axis in zip(columns, line):
            axis.plot(x[shown], target[shown], color="0.7", linewidth=1.2)
            axis.plot(x[shown], outputs[step - 1, shown], color=figures.line_style(run.mode)["color"])
            axis.text(0.98, 0.98, f"loss {np.square(outputs[step - 1] - target).mean():.3f}", fontsize=9, va="top",
                      ha="right", transform=axis.transAxes)
            if run is runs[0]:
                axis.set_title(f"after {step:,} steps")
        line[0].set_ylabel(label, fontsize=11, fontweight="bold")
    for axis in axes[-1]:
        axis.set_xlabel("x")
    figure.suptitle(f"One pulse of the target in gray, the network's output in color; seed {runs[0].seed}")
    figures.save(figure, args.figures / runs[0].folder / "fit.png")


def draw_spectra(runs: list[Run], args: argparse.Namespace) -> None:
    """The share of the NTK's sum that its largest eigenvalues hold, over training; the mean of the seeds."""
    first = [run for run in runs if run.seed == args.seeds[0]]
    figure, panels = figures.grid_by_backbone(first, width=3.8, height=2.3, sharex=True, sharey=True)
    shades, legend = figures.shades(EIGENVALUES), ("the largest", "+ second", "+ third", "+ fourth")
    for run, axis, label in zip(first, panels, labels(map(vars, first))):
        of_network = [other.metric("ntk_eigenvalue_shares") for other in runs if other.network == run.network]
        steps = [int(step) for step in of_network[0]]
        held = 100 * np.mean([list(shares.values()) for shares in of_network], axis=0)[:, :EIGENVALUES].cumsum(axis=1)
        for count in range(EIGENVALUES):
            axis.plot(steps, held[:, count], color=shades[count], label=legend[count])
        axis.set_ylim(0, 100)
        axis.set_title(f"{label}: the four hold {held[-1, -1]:.0f} % at the end")
        axis.xaxis.set_major_formatter(figures.THOUSANDS)
        axis.set_xlabel("step")
        axis.label_outer()
    figure.supylabel("share of the spectrum's sum (%)", fontsize=10)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=EIGENVALUES)
    figure.suptitle(f"Eigenvalues of the empirical NTK; {figures.seeds(args.seeds)}")
    figures.save(figure, args.figures / runs[0].folder / "ntk.png")


def draw_layer(run: Run, args: argparse.Namespace) -> None:
    """Rows of the basis B, and the power spectrum of the middle hidden layer's W = Λ B before and after training."""
    network = run.config["network"]
    torch.manual_seed(run.seed)
    hidden = [layer for layer in build_inr(run.mode, **network) if isinstance(layer, FourierReparamLinear)]
    layer, width = hidden[len(hidden) // 2], network["hidden_features"]
    basis, before = layer.basis.numpy(), layer.weight.detach().numpy()
    after = run.arrays(coefficients=(width, len(basis)))["coefficients"] @ basis
    figure, axes = figures.subplots(1, 2, 9.5, 3.4)
    rows, spectrum = axes[0]
    low, phases = network["low_freq_num"], network["phase_num"]
    for place, frequency in enumerate((1, 2, 4, 8, low)):  # counted as in B
        rows.plot(basis[(frequency - 1) * phases] / network["alpha"] / 2.6 - place, color="0.25", linewidth=1)
        rows.text(width + 3, -place, f"f = {frequency}/{low}", va="center", fontsize=9)
    rows.set_title(f"five of the {len(basis):,} rows of B, cos(f x)")
    rows.set_axis_off()
    of_mode = figures.line_style(run.mode)["color"]
    for weight, label, color in ((before, "at the start", "0.6"), (after, "trained", of_mode)):
        power = np.square(np.abs(np.fft.rfft(weight, axis=1))).mean(axis=0) / width
        spectrum.semilogy(np.fft.rfftfreq(width), power, color=color, label=label)
    spectrum.set_title("power spectrum of the rows of W = Λ B")
    spectrum.set_xlabel("frequency (cycles per input)")
    figures.plain_log_labels(spectrum.yaxis)
    spectrum.legend()
    figure.suptitle(f"The middle hidden layer of {labels([vars(run)])[0]}, seed {run.seed}")
    figures.save(figure, args.figures / run.folder / "layer.png")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of `argv`."""
    parser = cli.options(__doc__, modes=MODES, default_modes=DEFAULT_MODES, steps=PAPER["steps"],
                         checkpoint_every=2_500)
    return cli.parse(parser, argv)


def plan(args: argparse.Namespace) -> list[Run]:
    """The runs that the options ask for."""
    return planned_runs(args, "1d", "function", SETTINGS, QUICK if args.size else {}, data={})


def main() -> None:
    args = parse()
    runs = plan(args)
    sweep([Job(run, partial(train, run, args)) for run in runs], args=args, parallel=True)
    first = [run for run in runs if run.seed == args.seeds[0]]
    figures.draw_each(partial(draw_fits, first, args), partial(draw_spectra, runs, args),
                      *[partial(draw_layer, run, args) for run in first if "+fr" in run.mode][:1],
                      partial(print_results, runs, "loss", 4))


if __name__ == "__main__":
    cli.run(in_ranks(main))
