"""Fit images with six networks (section 5 of the paper, Kodak).

    python 2d_image_fitting.py                      Kodak 05, six networks, 10,000 steps each: for a GPU
    python 2d_image_fitting.py --quick              the same image at 72 × 48 pixels, 100 steps
    python 2d_image_fitting.py --image 1 2 8        other Kodak images; `all` for the 24
    python 2d_image_fitting.py --image astronaut    a picture that needs no download; or the path of an image file

Each network maps a pixel's position to its color and is trained on all pixels at once. Writes

    results/2d/<case>/<mode>-seed<k>.json   PSNR after the last step and the best of all, SSIM
    results/2d/<case>/<mode>-seed<k>.npz    the reconstruction and the PSNR at every step
    results/2d/<case>/<mode>-seed<k>.png    the reconstruction
    figures/2d_<case>.png                   ground truth and reconstructions, with a crop enlarged
    figures/2d_<case>_psnr.png              PSNR over the steps
    figures/2d_<case>_spectrum.png          the error's radially averaged power spectrum

On two CPU cores --quick takes about a minute and the paper's size days; the script says how long before it starts.
"""

import argparse
import functools
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import skimage.transform
import torch

from data.images import load_image
from experiment import cli, plots, report
from experiment.errors import UserError
from experiment.metrics import SSIM_WINDOW, psnr, radial_spectrum, ssim
from experiment.ranks import rank_0_first
from experiment.records import Run, digest
from experiment.runtime import (
    CUDAGraphStep,
    Stopwatch,
    begin,
    check_finite,
    choose_device,
    environment,
    memory_bytes,
    next_stop,
    set_precision,
    training_hours,
)
from experiment.sweep import progress, slow_runs, sweep
from models import MODES, build_inr, fold

# Section 5. Every mode: 256 wide, all pixels in one batch, the learning rate × 0.1 once. α only matters with FR.
PAPER = {mode: {"alpha": alpha, "lr": 1e-4, "hidden_features": 256, "hidden_layers": 3, "low_freq_num": 128,
                "high_freq_num": 128, "phase_num": 32, "first_omega": 30.0, "hidden_omega": 30.0, "pe_frequencies": 6,
                "steps": 10_000, "decay_at": 3_000}
         for mode, alpha in {"relu": 0.05, "relu+fr": 0.05, "relu+pe": 0.05, "relu+pe+fr": 0.05,
                             "sin": 0.01, "sin+fr": 0.01}.items()}
DECAY = 0.1
# A smaller image and fewer steps at the first learning rate; the same networks.
QUICK = {"steps": 100, "decay_at": 100}
QUICK_SIDE = 72  # pixels of the longer side

Images = dict[str, np.ndarray]


def train(run: Run, args: argparse.Namespace) -> str:
    """Train one network on one image, write its record and reconstruction, return the line that sums it up."""
    device, autocast = begin(args, run.seed, one_thread=args.quick)
    image = images_of(args)[run.case]
    settings = {key: value for key, value in run.config.items() if key not in ("pixels", "shape")}
    lr, steps, decay_at = (settings.pop(key) for key in ("lr", "steps", "decay_at"))
    model = build_inr(run.mode, in_features=2, out_features=3, **settings).to(device)
    rate = torch.tensor(lr, device=device)  # a tensor, so that a captured step sees it change
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True, capturable=device.type == "cuda")

    rows, columns, _ = image.shape
    grid = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    x = torch.stack(grid, dim=-1).reshape(-1, 2).to(device)  # (pixels, 2): down, then right
    target = torch.from_numpy(image).reshape(-1, 3).to(device)
    chunk = args.chunk or fitting_chunk(len(x), run.config, device)
    chunks = list(zip(x.split(chunk), target.split(chunk)))
    mse = torch.zeros(steps, device=device)
    clock = Stopwatch(device)
    state = {"model": model, "optimizer": optimizer, "clock": clock, "mse": mse}
    step = run.restore(**state)
    for group in optimizer.param_groups:
        group["lr"] = rate  # the one that is changed below, not the checkpoint's copy
    row = torch.tensor([step], device=device)

    def training_step() -> None:
        optimizer.zero_grad()
        for x_chunk, target_chunk in chunks:  # the gradients add up to those of the whole batch
            with autocast:
                output = model(x_chunk)
            loss = (output.float() - target_chunk).square().sum() / target.numel()
            loss.backward()
            mse.index_add_(0, row, loss.detach()[None])
        optimizer.step()
        row.add_(1)

    advance = CUDAGraphStep(training_step, device)
    report_every = min(100, max(1, steps // 100))
    with progress(steps, step, f"{run.case} {run.mode} seed {run.seed}") as bar:
        while step < steps:
            rate.fill_(lr if step < decay_at else lr * DECAY)
            last_at_rate = min(decay_at, steps) if step < decay_at else steps
            stop = next_stop(step, last_at_rate, report_every, args.checkpoint_every)
            with clock:
                advance(stop - step)
            bar.update(stop - step)
            step = stop
            last = mse[step - 1].item()
            check_finite(last, step)
            bar.set_postfix_str(f"{psnr(last):.2f} dB")
            if step % args.checkpoint_every == 0 and step < steps:
                run.checkpoint(step, **state)

    plain = fold(model)
    with torch.no_grad(), autocast:
        output = torch.cat([plain(x_chunk).float() for x_chunk, _ in chunks])
    reconstruction = output.reshape(rows, columns, 3).cpu().numpy()
    curve = psnr(mse.cpu().numpy())
    final = float(psnr(np.square(reconstruction.astype(np.float64) - image).mean()))
    clamped = reconstruction.clip(0, 1)
    metrics = {"psnr": final, "psnr_best": max(final, float(curve.max())), "ssim": ssim(clamped, image)}
    plots.write_picture(np.rint(255 * clamped).astype(np.uint8), run.path(".png"))
    run.finish(metrics=metrics, seconds=clock.seconds, steps=steps, environment=environment(device, run.precision),
               arrays={"reconstruction": reconstruction, "psnr": curve})
    chunked = f", in {len(chunks)} chunks a step" if len(chunks) > 1 else ""
    return f"{final:.2f} dB in {clock.seconds:.1f} s, {steps / clock.seconds:.1f} steps a second{chunked}"


def fitting_chunk(pixels: int, config: dict, device: torch.device) -> int:
    """The number of pixels whose activations fit at once into half of the device's memory."""
    # A layer keeps its output, the activation's output and, on the way back, the gradient of one of them.
    bytes_per_pixel = 3 * 4 * config["hidden_features"] * (config["hidden_layers"] + 1)
    parts = math.ceil(2 * pixels * bytes_per_pixel / memory_bytes(device))
    return math.ceil(pixels / parts)


@functools.cache
def image_of(source: str, folder: Path, downscale: float | None, quick: bool) -> tuple[str, np.ndarray]:
    """A case and its image, made smaller where asked for; loaded once in a process, however many runs it has."""
    case, image = load_image(source, folder)
    if downscale is None:
        downscale = max(1, max(image.shape) / QUICK_SIDE) if quick else 1
    if downscale > 1:
        shape = [max(SSIM_WINDOW, round(side / downscale)) for side in image.shape[:2]]
        image = skimage.transform.resize(image, shape, anti_aliasing=True).astype(np.float32)
    return case, image


def images_of(args: argparse.Namespace) -> Images:
    """The images that the options ask for, by case."""
    sources = list(map(str, range(1, 25))) if args.image == ["all"] else args.image
    images = {}
    for source in dict.fromkeys(sources):
        case, image = image_of(source, args.data, args.downscale, args.quick)
        if case in images:
            raise UserError(f"--image gives two images of the name {case}; rename one")
        images[case] = image
    return images


def planned_runs(args: argparse.Namespace, images: Images, device: torch.device) -> list[Run]:
    """The runs that the options ask for, image by image."""
    runs = []
    for case, image in images.items():
        for seed in args.seeds:
            for mode in args.modes:
                config = {**PAPER[mode], **(QUICK if args.quick else {}), **cli.overrides(args, "steps", "lr"),
                          "shape": list(image.shape), "pixels": digest(image)}
                runs.append(Run(args.results, "2d", case, mode, seed, config, args.precision, device.type))
    return runs


def title_suffix(run: Run, args: argparse.Namespace) -> str:
    """What a figure's title says of the runs it shows, beside the number of steps."""
    return plots.title_suffix([run.seed], args.quick, run.config, {**PAPER[run.mode], "steps": run.config["steps"]})


def draw_images(image: np.ndarray, runs: list[Run], args: argparse.Namespace) -> None:
    """Ground truth and the reconstructions, baseline left of FR, and the same crop enlarged under each."""
    window = plots.busiest_window(image)
    shown = [("ground truth", "", image)]
    for run in runs:
        shown.append((plots.LABELS[run.mode], f"{run.metric('psnr'):.2f} dB",
                      run.arrays(reconstruction=image.shape)["reconstruction"].clip(0, 1)))
    width = 2.4
    height = width * image.shape[0] / image.shape[1]
    figure, axes = plt.subplots(2, len(shown), figsize=(width * len(shown), 2 * height + 1.1))
    for (name, value, pixels), (whole, crop) in zip(shown, axes.T):
        plots.show_with_crop(whole, crop, pixels, window, name, value)
    figure.suptitle(f"{runs[0].case}, {image.shape[1]} × {image.shape[0]} pixels, "
                    f"{runs[0].config['steps']:,} steps{title_suffix(runs[0], args)}", fontsize=13)
    plots.save(figure, args.figures / f"2d_{runs[0].case}.png")


def draw_curves(runs: list[Run], args: argparse.Namespace) -> None:
    """PSNR over the steps, FR solid and its baseline dashed."""
    figure, axis = plots.curves("step", "PSNR (dB)")
    for run in runs:
        curve = run.arrays(psnr=(run.config["steps"],))["psnr"]
        axis.plot(np.arange(len(curve)), curve, **plots.line_style(run.mode),
                  label=f"{plots.LABELS[run.mode]}: {run.metric('psnr'):.2f} dB")
    axis.set_xlim(0, None)
    axis.xaxis.set_major_formatter(plots.THOUSANDS)
    plots.save_curves(figure, f"{runs[0].case}: PSNR over training{title_suffix(runs[0], args)}",
                      args.figures / f"2d_{runs[0].case}_psnr.png")


def draw_spectra(image: np.ndarray, runs: list[Run], args: argparse.Namespace) -> None:
    """The power of the error at each spatial frequency, beside that of the image itself."""
    figure, axis = plots.curves("frequency (cycles per pixel)", "power of the error")
    axis.loglog(*radial_spectrum(image), color="0.75", linewidth=4, label="the image")
    for run in runs:
        frequency, power = radial_spectrum(run.arrays(reconstruction=image.shape)["reconstruction"] - image)
        axis.loglog(frequency, power, **plots.line_style(run.mode), label=plots.LABELS[run.mode])
    ticks = [2.0**-i for i in range(1, 11) if 2.0**-i >= frequency[0]]
    axis.set_xticks(ticks, [f"1/{1 / tick:.0f}" for tick in ticks])
    axis.xaxis.set_minor_locator(plt.NullLocator())
    plots.save_curves(figure, f"{runs[0].case}: radially averaged spectrum of the error{title_suffix(runs[0], args)}",
                      args.figures / f"2d_{runs[0].case}_spectrum.png")


@rank_0_first
def main() -> None:
    parser = cli.options(__doc__, modes=MODES, default_modes=MODES, steps=10_000, checkpoint_every=1_000)
    parser.add_argument("--image", nargs="+", default=["5"], metavar="I",
                        help="Kodak numbers, all, a bundled picture's name, or paths (default: 5)")
    parser.add_argument("--downscale", type=cli.whole(1, 64), metavar="D",
                        help="make the images smaller by this factor (default: 1)")
    parser.add_argument("--chunk", type=cli.whole(1), metavar="N",
                        help="pixels at a time; the step stays the full-batch step (default: what fits in memory)")
    args = cli.parse(parser)
    device = choose_device(args.device)
    set_precision(args.precision, device)
    images = images_of(args)
    runs = planned_runs(args, images, device)
    if to_train := slow_runs(runs, args):
        hours = training_hours([(run.config, math.prod(run.config["shape"][:2]) * run.config["steps"])
                                for run in to_train], device)
        print(f"training on the CPU takes at least {hours:.1f} hours here; --quick takes about a minute")
    sweep(train, [runs], args, parallel=args.quick)
    for case, image in images.items():
        first = [run for run in runs if run.case == case and run.seed == args.seeds[0]]
        draw_images(image, first, args)
        draw_curves(first, args)
        draw_spectra(image, first, args)
    report.show("images", runs)


if __name__ == "__main__":
    cli.run(main)
