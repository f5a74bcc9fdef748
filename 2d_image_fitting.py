"""Fit images with six networks (section 5 of the paper, Kodak).

    python 2d_image_fitting.py                      Kodak 05, six networks, 10,000 steps each: for a GPU
    python 2d_image_fitting.py --quick              the astronaut at 64 × 64 pixels, 100 steps; nothing to download
    python 2d_image_fitting.py --batch 8192         as many pixels a step: 40 minutes a network on a CPU core
    python 2d_image_fitting.py --image 1 2 8        other Kodak images; `all` for the 24, or the path of an image file
    python 2d_image_fitting.py --modes sin sin,lr=3e-4 sin+fr       side by side, a network at two learning rates

Each network maps a pixel's position to its color. A step takes all pixels, or --batch of them. The script writes

    results/2d/<image>/<options>/<network>-seed<k>.json     PSNR at the end, at some steps and the best of all, SSIM
    results/2d/<image>/<options>/<network>-seed<k>.npz      the reconstruction and the PSNR at every step
    results/2d/<image>/<options>/<network>-seed<k>.png      the reconstruction
    figures/2d/<image>/<options>/close_ups.png              ground truth and reconstructions, enlarged
    figures/2d/<image>/<options>/psnr.png                   PSNR over the steps
    figures/2d/<image>/<options>/spectrum.png               the error's radially averaged power spectrum

<options> are what differs from the defaults, as quick or batch=8192. Where nothing does, there is no such folder. Each
figure is also written as .pdf.
"""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import skimage.transform
import torch
from torch.optim.lr_scheduler import MultiStepLR

from data.errors import UserError
from data.images import as_rgb, describe, pixel_grid, read_image
from harness import cli, figures, metrics, training
from harness.device import Stopwatch
from harness.labels import labels, title
from harness.records import Run, digest, planned_runs
from harness.results import print_results
from harness.sweep import Job, in_ranks, sweep
from models import MODES, build_inr, fold

PAPER: dict = {
    "steps": 10_000,        # released code
    "batch": None,          # pixels a step: all (released code)
    "lr": 1e-4,             # released code; Adam
    "decay_at": 3_000,      # released code: the learning rate × 0.1 once
    "downscale": 1,
}
MLP = {
    "in_features": 2,
    "out_features": 3,
    "hidden_features": 256,  # released code
    "hidden_layers": 3,      # released code
}
FR = {
    "low_freq_num": 128,    # released code
    "high_freq_num": 128,   # released code
    "phase_num": 32,        # released code
}
PE = {"pe_frequencies": 6}                           # released code
SINE = {"first_omega": 30.0, "hidden_omega": 30.0}   # released code
NETWORKS = {                                         # α: released code
    "relu":       {**MLP},
    "relu+fr":    {**MLP, **FR, "alpha": 0.05},
    "relu+pe":    {**MLP, **PE},
    "relu+pe+fr": {**MLP, **PE, **FR, "alpha": 0.05},
    "sin":        {**MLP, **SINE},
    "sin+fr":     {**MLP, **SINE, **FR, "alpha": 0.01},
}
SETTINGS = {mode: {"network": network, **PAPER} for mode, network in NETWORKS.items()}
# A smaller image and fewer steps at the first learning rate; the same networks.
QUICK: dict = {"steps": 100, "decay_at": 100, "downscale": 8}
EVALUATIONS = 20      # of the whole image during a training


def train(run: Run, image: np.ndarray, args: argparse.Namespace,
          build: Callable[..., torch.nn.Sequential] = build_inr,
          optimizer_class: Callable[..., torch.optim.Optimizer] = torch.optim.Adam) -> str:
    """Train the network that `build` makes on one image, write its record and reconstruction, return a line on it."""
    config = run.config
    device, autocast = training.prepare(args, run.seed)
    model = build(run.mode, **config["network"]).to(device)
    optimizer = optimizer_class(training.parameter_groups(model, config["lr"], config["hidden_lr"]), fused=True)
    scheduler = MultiStepLR(optimizer, [config["decay_at"]], gamma=0.1)
    x, target = pixel_grid(image, device)  # (N, 2), (N, 3)
    every_pixel = torch.arange(len(x), device=device)
    batches = training.Batches(len(x), config["batch"] or len(x), run.seed, device)
    chunk = training.chunk_size(args.chunk, device)

    evaluate_every = max(1, config["steps"] // EVALUATIONS)
    psnrs = torch.zeros(config["steps"] // evaluate_every, dtype=torch.float64)
    losses, clock = torch.zeros(config["steps"], device=device), Stopwatch(device)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "psnrs": psnrs}
    for step in training.steps(run, args, losses, clock, state, lambda loss: f"{metrics.psnr(loss):.2f} dB"):
        optimizer.zero_grad()
        pixels = batches[step] if config["batch"] else every_pixel
        with training.composed_once(model):
            for part in pixels.split(chunk):  # the gradients add up to those of the whole batch
                with autocast:
                    output = model(x[part])
                loss = (output.float() - target[part]).square().sum() / (3 * len(pixels))
                loss.backward()
                losses[step] += loss.detach()
        optimizer.step()
        scheduler.step()
        if (step + 1) % evaluate_every == 0:
            with clock.paused():
                psnrs[step // evaluate_every] = metrics.image_psnr(reconstruct(model, x, chunk, autocast, image), image)

    reconstruction, curve = reconstruct(fold(model), x, chunk, autocast, image), metrics.psnr(losses.cpu().numpy())
    clamped, final = reconstruction.clip(0, 1), metrics.image_psnr(reconstruction, image)
    figures.write_picture(np.rint(255 * clamped).astype(np.uint8), run.path(".png"))
    of_image = psnrs.tolist()
    run.finish(metrics={"psnr": final, "psnr_best": max(final, *(of_image if config["batch"] else curve.tolist())),
                        "ssim": metrics.ssim(clamped, image),
                        "psnr_at": {str((i + 1) * evaluate_every): value for i, value in enumerate(of_image)}},
               arrays={"reconstruction": reconstruction, "psnr": curve}, seconds=clock.seconds, steps=len(losses))
    return f"{final:.2f} dB in {clock.seconds:.1f} s, {len(losses) / clock.seconds:.1f} steps a second"


def reconstruct(model: torch.nn.Module, x: torch.Tensor, chunk: int, autocast, image: np.ndarray) -> np.ndarray:
    """The network's image, float32 of the shape of `image`."""
    with torch.no_grad(), autocast:
        return torch.cat([model(part).float() for part in x.split(chunk)]).cpu().numpy().reshape(image.shape)


def load(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """The images that the options ask for, made smaller where asked for, by their names; prints what was read."""
    sources = args.image or (["astronaut"] if args.size else ["5"])
    if sources == ["all"]:
        sources = list(map(str, range(1, 25)))
    downscale = args.downscale or (QUICK if args.size else PAPER)["downscale"]
    images: dict[str, np.ndarray] = {}
    for source in dict.fromkeys(sources):
        case, pixels = read_image(source, args.data)
        image = as_rgb(pixels)
        if case in images:
            raise UserError(f"--image gives two images of the name {case}; rename one")
        if min(image.shape[:2]) < metrics.SSIM_WINDOW:
            raise UserError(f"{source} is {image.shape[1]} × {image.shape[0]} pixels; the SSIM needs "
                            f"{metrics.SSIM_WINDOW} a side")
        if downscale > 1:
            shape = [max(metrics.SSIM_WINDOW, round(side / downscale)) for side in image.shape[:2]]
            image = skimage.transform.resize(image, shape, anti_aliasing=True).astype(np.float32)
        smaller = f"; made smaller, to {image.shape[1]} × {image.shape[0]}" if downscale > 1 else ""
        print(f"{describe(case, pixels)}{smaller}")
        if args.batch and args.batch > (count := image.shape[0] * image.shape[1]):
            raise UserError(f"--batch {args.batch:,} is more than the {count:,} pixels of {case}")
        images[case] = image
    return images


def draw_close_ups(image: np.ndarray, runs: list[Run], args: argparse.Namespace) -> None:
    """The part of the image with the most detail: ground truth, and FR under its baseline."""
    window = figures.busiest_window(image)
    shown = [(label, f"{run.metric('psnr'):.2f} dB",
              run.arrays(reconstruction=image.shape)["reconstruction"].clip(0, 1)[window])
             for run, label in zip(runs, labels(map(vars, runs)))]
    figure = figures.close_ups(image, window, image[window], shown)
    figure.suptitle(f"{title(runs[0])}; PSNR of the whole image")
    figures.save(figure, args.figures / runs[0].folder / "close_ups.png")


def draw_curves(runs: list[Run], args: argparse.Namespace) -> None:
    """PSNR of each step's pixels, smoothed, FR solid and its baseline dashed."""
    figure, axis = figures.curves("step", "PSNR (dB)")
    steps = runs[0].config["steps"]
    width = max(1, steps // 200)
    for run, label in zip(runs, labels(map(vars, runs))):
        curve = figures.smoothed(run.arrays(psnr=(steps,))["psnr"], width)
        axis.plot(np.arange(1, steps + 1), curve, **figures.line_style(run.mode, run.own),
                  label=f"{label}: {run.metric('psnr'):.2f} dB")
    if (decay_at := runs[0].config["decay_at"]) < steps:
        axis.axvline(decay_at, color="0.6", linewidth=0.8, zorder=0)
        axis.text(decay_at, 1, " learning rate × 0.1", fontsize=8, color="0.4", va="top",
                  transform=axis.get_xaxis_transform())
    axis.set_xlim(0, steps)
    axis.xaxis.set_major_formatter(figures.THOUSANDS)
    averaged = f", averaged over {width} steps" * (width > 1)
    figures.save_curves(figure, f"PSNR of each step's pixels{averaged}; in the legend of the whole image\n"
                        f"{title(runs[0])}", args.figures / runs[0].folder / "psnr.png")


def draw_spectra(image: np.ndarray, runs: list[Run], args: argparse.Namespace) -> None:
    """The power of the error at each spatial frequency, beside that of the image itself."""
    figure, axis = figures.curves("frequency (cycles per pixel)", "power")
    axis.loglog(*metrics.radial_spectrum(image), color="0.75", linewidth=4, label="the image")
    for run, label in zip(runs, labels(map(vars, runs))):
        frequency, power = metrics.radial_spectrum(run.arrays(reconstruction=image.shape)["reconstruction"] - image)
        axis.loglog(frequency, figures.smoothed(power, 3), **figures.line_style(run.mode, run.own), label=label)
    ticks = [2.0**-i for i in range(1, 11) if 2.0**-i >= frequency[0]]
    axis.set_xticks(ticks, [f"1/{1 / tick:.0f}" for tick in ticks])
    axis.xaxis.set_minor_locator(figures.ticker.NullLocator())
    figures.plain_log_labels(axis.yaxis)
    figures.save_curves(figure, f"radially averaged spectrum of the error\n{title(runs[0])}",
                        args.figures / runs[0].folder / "spectrum.png")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of `argv`."""
    parser = cli.options(__doc__, modes=MODES, default_modes=MODES, steps=PAPER["steps"], checkpoint_every=1_000)
    parser.add_argument("--image", nargs="+", metavar="I", type=os.path.expanduser,
                        help="Kodak numbers, all, a bundled picture's name, or paths (default: 5; --quick astronaut)")
    parser.add_setting("--downscale", type=cli.whole(1, 64), metavar="D",
                       help="make the images smaller by this factor (default: 1; --quick 8)")
    parser.add_setting("--batch", type=cli.whole(1), metavar="N",
                       help="pixels a step, each epoch all in another order (default: all at once, as published)")
    parser.add_argument("--chunk", type=cli.whole(1), metavar="N",
                        help="pixels in memory at once; the step stays that of the whole batch (default: what is fast)")
    return cli.parse(parser, argv)


def plan(args: argparse.Namespace, images: dict[str, np.ndarray]) -> list[Run]:
    """The runs that the options ask for."""
    return [run for case, image in images.items() for run in planned_runs(
        args, "2d", case, SETTINGS, QUICK if args.size else {}, {"shape": list(image.shape), "pixels": digest(image)})]


def main() -> None:
    args = parse()
    images = load(args)
    runs = plan(args, images)
    training.say_how_long(runs, args, lambda config: training.fitting_operations(
        config["network"], config["steps"] * (config["batch"] or math.prod(config["shape"][:2]))))
    sweep([Job(run, partial(train, run, images[run.case], args)) for run in runs], args=args, parallel=bool(args.size))
    drawings = []
    for case, image in images.items():
        first = [run for run in runs if run.case == case and run.seed == args.seeds[0]]
        drawings += [partial(draw_close_ups, image, first, args), partial(draw_curves, first, args),
                     partial(draw_spectra, image, first, args)]
    figures.draw_each(*drawings, partial(print_results, runs, "psnr", 2))


if __name__ == "__main__":
    cli.run(in_ranks(main))
