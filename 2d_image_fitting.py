"""Fit images with six networks (section 5 of the paper, Kodak).

    python 2d_image_fitting.py                      Kodak 05, six networks, 10,000 steps each: for a GPU
    python 2d_image_fitting.py --quick              the same image at 72 × 48 pixels, 100 steps
    python 2d_image_fitting.py --image 1 2 8        other Kodak images; `all` for the 24
    python 2d_image_fitting.py --image astronaut    a picture that needs no download; or the path of an image file

Each network maps a pixel's position to its color and is trained on all pixels at once. Writes

    results/2d/<case>/<mode>-seed<k>.json   PSNR after the last step, at some steps and the best of all, SSIM
    results/2d/<case>/<mode>-seed<k>.npz    the reconstruction and the PSNR at every step
    results/2d/<case>/<mode>-seed<k>.png    the reconstruction
    figures/2d_<case>_images.png            ground truth and reconstructions, with a crop enlarged
    figures/2d_<case>_psnr.png              PSNR over the steps
    figures/2d_<case>_spectrum.png          the error's radially averaged power spectrum

On two CPU cores --quick takes about a minute and the paper's size days; the script says how long before it starts.
"""

import argparse
import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import skimage.transform
import torch
from matplotlib.ticker import NullLocator

from data.images import describe, load_image, read_image
from experiment import cli, figures, metrics, tables, training
from experiment.device import memory_bytes
from experiment.errors import UserError
from experiment.records import Run, digest, planned_runs
from experiment.sweep import say_how_long, sweep
from models import MODES, build_inr, fold, parameter_groups

# Section 5. `network` is what build_inr takes; all pixels in one batch; the learning rate × 0.1 once, as
# torch.optim.lr_scheduler.MultiStepLR has it.
MLP = {"in_features": 2, "out_features": 3, "hidden_features": 256, "hidden_layers": 3}
FR = {"low_freq_num": 128, "high_freq_num": 128, "phase_num": 32}
PE = {"pe_frequencies": 6}
SINE = {"first_omega": 30.0, "hidden_omega": 30.0}
TRAINING: dict = {"lr": 1e-4, "steps": 10_000, "decay_at": 3_000}
PAPER = {"relu":       {"network": {**MLP}, **TRAINING},
         "relu+fr":    {"network": {**MLP, **FR, "alpha": 0.05}, **TRAINING},
         "relu+pe":    {"network": {**MLP, **PE}, **TRAINING},
         "relu+pe+fr": {"network": {**MLP, **PE, **FR, "alpha": 0.05}, **TRAINING},
         "sin":        {"network": {**MLP, **SINE}, **TRAINING},
         "sin+fr":     {"network": {**MLP, **SINE, **FR, "alpha": 0.01}, **TRAINING}}
DECAY = 0.1
# A smaller image and fewer steps at the first learning rate; the same networks.
QUICK = {"steps": 100, "decay_at": 100}
QUICK_SIDE = 72  # pixels of the longer side
LOOKS = 20  # at the whole image in a training
IN_CACHE = 8_192  # pixels


def train(run: Run, args: argparse.Namespace, build: Callable[..., torch.nn.Sequential] = build_inr) -> str:
    """Train the network that `build` makes on one image, write its record and reconstruction, return a line on it."""
    device, autocast = training.prepare(args, run.seed, one_thread=args.quick)
    image, config = load_images(args)[run.case], run.config
    model = build(run.mode, **config["network"]).to(device)
    groups = parameter_groups(model, config["lr"], config.get("hidden_lr", 1.0))
    for group in groups:
        group["lr"] = torch.tensor(group["lr"], device=device)  # a tensor, so that a captured step sees it change
    optimizer = torch.optim.Adam(groups, fused=True, capturable=device.type == "cuda")
    x, target = pixel_grid(image, device)
    batches = PixelBatches(len(x), config.get("batch"), run.seed, device)
    chunk = args.chunk or fitting_chunk(batches.size, config["network"], device)
    mse = torch.zeros(config["steps"], device=device)
    row = torch.zeros(1, dtype=torch.long, device=device)  # the step, where a captured graph can count it

    def training_step() -> None:
        optimizer.zero_grad()
        for pixels in batches.next().split(chunk):  # the gradients add up to those of the whole batch
            with autocast:
                output = model(x.index_select(0, pixels))
            loss = (output.float() - target.index_select(0, pixels)).square().sum() / (3 * batches.size)
            loss.backward()
            mse.index_add_(0, row, loss.detach()[None])
        optimizer.step()
        row.add_(1)

    advance, clock = training.CUDAGraphStep(training_step, device), training.Stopwatch(device)
    look_every = max(1, len(mse) // LOOKS)
    whole = torch.zeros(len(mse) // look_every, dtype=torch.float64)
    state = {"model": model, "optimizer": optimizer, "whole": whole}
    for block in training.blocks(run, args, clock, mse, state, lambda loss: f"{metrics.psnr(loss):.2f} dB",
                                 stop_every=[config["decay_at"], look_every]):
        for group in optimizer.param_groups:
            group["lr"].fill_(group["initial_lr"] * (1 if block.start < config["decay_at"] else DECAY))
        row.fill_(block.start)
        batches.draw(block)
        with clock:
            advance(len(block))
        if block.stop % look_every == 0:
            whole[block.stop // look_every - 1] = image_psnr(reconstruct(model, x, chunk, autocast, image), image)

    reconstruction, curve = reconstruct(fold(model), x, chunk, autocast, image), metrics.psnr(mse.cpu().numpy())
    clamped, final, looks = reconstruction.clip(0, 1), image_psnr(reconstruction, image), whole.tolist()
    figures.write_picture(np.rint(255 * clamped).astype(np.uint8), run.path(".png"))
    run.finish(metrics={"psnr": final, "psnr_best": max(final, *(looks if "batch" in config else curve.tolist())),
                        "ssim": metrics.ssim(clamped, image),
                        "psnr_at": {str(look * look_every): value for look, value in enumerate(looks, start=1)}},
               arrays={"reconstruction": reconstruction, "psnr": curve}, seconds=clock.seconds, steps=len(mse))
    chunks = f", in {math.ceil(batches.size / chunk)} chunks a step" if chunk < batches.size else ""
    return f"{final:.2f} dB in {clock.seconds:.1f} s, {len(mse) / clock.seconds:.1f} steps a second{chunks}"


class PixelBatches:
    """The pixels of each step: all, in their order, or `batch` of them, drawn in each epoch without replacement.

    What an epoch's last batch lacks is left out. The order follows from seed and epoch, so that a resumed training
    draws the same; it lies on the device for a block of steps at a time, where a captured graph finds it.
    """

    def __init__(self, pixels: int, batch: int | None, seed: int, device: torch.device):
        self.pixels, self.size, self.seed = pixels, batch or pixels, seed
        self.drawn = batch is not None
        self.order = torch.arange(pixels, device=device).expand(1, -1) if batch is None else torch.zeros(
            training.LONGEST_BLOCK, batch, dtype=torch.long, device=device)
        self.place = torch.zeros(1, dtype=torch.long, device=device)

    def draw(self, block: range) -> None:
        """Draw the pixels of a block of steps."""
        per_epoch = self.pixels // self.size
        self.place.zero_()
        for step in block if self.drawn else ():
            epoch, place = divmod(step, per_epoch)
            if place == 0 or step == block.start:
                order = training.random_order(self.pixels, self.seed, epoch, self.order.device)
            self.order[step - block.start] = order[place * self.size:(place + 1) * self.size]

    def next(self) -> torch.Tensor:
        """The pixels (size,) of the next step of the block."""
        pixels = self.order.index_select(0, self.place)[0]
        if self.drawn:
            self.place.add_(1)
        return pixels


def reconstruct(model: torch.nn.Module, x: torch.Tensor, chunk: int, autocast, image: np.ndarray) -> np.ndarray:
    """The network's image, float32 of the shape of `image`."""
    with torch.no_grad(), autocast:
        return torch.cat([model(part).float() for part in x.split(chunk)]).cpu().numpy().reshape(image.shape)


def image_psnr(reconstruction: np.ndarray, image: np.ndarray) -> float:
    """PSNR in dB, as a float64 mean over all pixels and channels."""
    return float(metrics.psnr(np.square(reconstruction.astype(np.float64) - image).mean()))


def pixel_grid(image: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The pixels' positions in [−1, 1]², both ends in, down and then right, (N, 2), and their values, (N, 3)."""
    rows, columns, _ = image.shape
    grid = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    return torch.stack(grid, dim=-1).reshape(-1, 2).to(device), torch.from_numpy(image).reshape(-1, 3).to(device)


def fitting_chunk(pixels: int, network: dict, device: torch.device) -> int:
    """The number of pixels whose activations fit at once into half of the device's memory."""
    # A layer keeps its output, the activation's output and, on the way back, the gradient of one of them.
    bytes_per_pixel = 3 * 4 * network["hidden_features"] * (network["hidden_layers"] + 1)
    parts = math.ceil(2 * pixels * bytes_per_pixel / memory_bytes(device))
    # On a CPU no more than stay in its cache: there the whole image at once takes more than twice as long.
    return math.ceil(pixels / parts) if device.type == "cuda" else min(math.ceil(pixels / parts), IN_CACHE)


@functools.cache
def load_once(source: str, folder: Path, downscale: float | None, quick: bool) -> tuple[str, np.ndarray]:
    """A case and its image, made smaller where asked for; loaded once in a process, however many runs it has."""
    case, image = load_image(source, folder)
    if min(image.shape[:2]) < metrics.SSIM_WINDOW:
        raise UserError(f"{source} is {image.shape[1]} × {image.shape[0]} pixels; the SSIM needs "
                        f"{metrics.SSIM_WINDOW} a side")
    if downscale is None:
        downscale = max(1, max(image.shape) / QUICK_SIDE) if quick else 1
    if downscale > 1:
        shape = [max(metrics.SSIM_WINDOW, round(side / downscale)) for side in image.shape[:2]]
        image = skimage.transform.resize(image, shape, anti_aliasing=True).astype(np.float32)
    return case, image


def sources(args: argparse.Namespace) -> list[str]:
    """What --image names, each once."""
    return list(map(str, range(1, 25))) if args.image == ["all"] else list(dict.fromkeys(args.image))


def load_images(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """The images that the options ask for, by case."""
    images: dict[str, np.ndarray] = {}
    for source in sources(args):
        case, image = load_once(source, args.data, args.downscale, args.quick)
        if case in images:
            raise UserError(f"--image gives two images of the name {case}; rename one")
        if args.batch and args.batch > (pixels := image.shape[0] * image.shape[1]):
            raise UserError(f"--batch {args.batch:,} is more than the {pixels:,} pixels of {case}")
        images[case] = image
    return images


def title(run: Run, args: argparse.Namespace) -> str:
    """What a figure's title says of the runs it shows."""
    suffix = figures.title_suffix([run.seed], args.quick, run.config, {**PAPER[run.mode], "steps": run.config["steps"]})
    return f"{run.case}, {tables.image_size(run.config)}{suffix}"


def draw_images(image: np.ndarray, runs: list[Run], args: argparse.Namespace) -> None:
    """Ground truth and the reconstructions, baseline left of FR, and the same crop enlarged under each."""
    window = figures.busiest_window(image)
    shown = [("ground truth", "", image)]
    for run in runs:
        shown.append((figures.LABELS[run.mode], f"{run.metric('psnr'):.2f} dB",
                      run.arrays(reconstruction=image.shape)["reconstruction"].clip(0, 1)))
    width = 2.4
    height = width * image.shape[0] / image.shape[1]
    figure, axes = figures.subplots(2, len(shown), width * len(shown), 2 * height + 1.1)
    for (name, value, pixels), (whole, crop) in zip(shown, axes.T):
        figures.show_with_crop(whole, crop, pixels, window, name, value)
    figure.suptitle(title(runs[0], args), fontsize=13)
    figures.save(figure, args.figures / f"2d_{runs[0].case}_images.png")


def draw_curves(runs: list[Run], args: argparse.Namespace) -> None:
    """PSNR over the steps, FR solid and its baseline dashed: of each step's pixels pale, of the whole image at some."""
    figure, axis = figures.curves("step", "PSNR (dB)")
    lowest = []
    for run in runs:
        style, looks = figures.line_style(run.mode), run.metric("psnr_at")
        axis.plot(run.arrays(psnr=(run.config["steps"],))["psnr"], color=style["color"], alpha=0.35, linewidth=0.5)
        axis.plot(list(map(int, looks)), list(looks.values()), marker="o", markersize=3, **style,
                  label=f"{figures.LABELS[run.mode]}: {run.metric('psnr'):.2f} dB")
        lowest.append(min(looks.values()))
    axis.set_ylim(bottom=min(lowest) - 1)
    axis.set_xlim(0, None)
    axis.xaxis.set_major_formatter(figures.THOUSANDS)
    figures.save_curves(figure, f"PSNR over training\n{title(runs[0], args)}",
                        args.figures / f"2d_{runs[0].case}_psnr.png")


def draw_spectra(image: np.ndarray, runs: list[Run], args: argparse.Namespace) -> None:
    """The power of the error at each spatial frequency, beside that of the image itself."""
    figure, axis = figures.curves("frequency (cycles per pixel)", "power of the error")
    axis.loglog(*metrics.radial_spectrum(image), color="0.75", linewidth=4, label="the image")
    for run in runs:
        frequency, power = metrics.radial_spectrum(run.arrays(reconstruction=image.shape)["reconstruction"] - image)
        axis.loglog(frequency, power, **figures.line_style(run.mode), label=figures.LABELS[run.mode])
    ticks = [2.0**-i for i in range(1, 11) if 2.0**-i >= frequency[0]]
    axis.set_xticks(ticks, [f"1/{1 / tick:.0f}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    figures.plain_log_labels(axis.yaxis)
    figures.save_curves(figure, f"radially averaged spectrum of the error\n{title(runs[0], args)}",
                        args.figures / f"2d_{runs[0].case}_spectrum.png")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of `argv`."""
    parser = cli.options(__doc__, modes=MODES, default_modes=MODES, steps=TRAINING["steps"], checkpoint_every=1_000)
    parser.add_argument("--image", nargs="+", default=["5"], metavar="I",
                        help="Kodak numbers, all, a bundled picture's name, or paths (default: 5)")
    parser.add_argument("--downscale", type=cli.whole(1, 64), metavar="D",
                        help="make the images smaller by this factor (default: 1)")
    parser.add_argument("--batch", type=cli.whole(1), metavar="N",
                        help="pixels a step, drawn afresh without replacement (default: all, as published)")
    parser.add_argument("--chunk", type=cli.whole(1), metavar="N",
                        help="pixels at a time; the step stays the full-batch step (default: what fits in memory)")
    return cli.parse(parser, argv)


def plan(args: argparse.Namespace) -> list[Run]:
    """The runs that the options ask for."""
    images = load_images(args)
    return planned_runs(args, "2d", {
        case: {mode: {**cli.settings(PAPER[mode], QUICK, args, "steps", "lr", "batch"), "shape": list(image.shape),
                      "pixels": digest(image)} for mode in args.modes} for case, image in images.items()})


def main() -> None:
    args = parse()
    images = load_images(args)
    for source in sources(args):
        print(describe(*read_image(source, args.data)))
    runs = plan(args)
    say_how_long(runs, args, lambda config: config.get("batch", math.prod(config["shape"][:2])) * config["steps"])
    sweep(train, [runs], args, parallel=args.quick)
    drawings = []
    for case, image in images.items():
        first = [run for run in runs if run.case == case and run.seed == args.seeds[0]]
        drawings += [partial(draw_images, image, first, args), partial(draw_curves, first, args),
                     partial(draw_spectra, image, first, args)]
    figures.draw_each(*drawings, partial(tables.print_table, "images", runs))


if __name__ == "__main__":
    training.run(main)
