"""Fit occupancy volumes with six networks (section 5 of the paper, Thai statue and dragon).

    python 3D_occupance.py                          both volumes, six networks, 200 epochs each: for a GPU
    python 3D_occupance.py --quick                  a hollow sphere with holes, 24 voxels a side, computed here
    python 3D_occupance.py --shape thai_statue --epochs 4 --batch 10000     an hour a network on a CPU core
    python 3D_occupance.py --modes sin sin+fr sin+fr,lr=5e-4                one network at two learning rates
    python 3D_occupance.py --shape path/to/mesh.ply --resolution 256        or a .mat or .npy volume

Each network maps a voxel's position to whether it is full. It is trained on all voxels in random order. The script
writes

    results/3d/<volume>/<options>/<network>-seed<k>.json    IoU on the whole grid, Chamfer distance and F-score
    results/3d/<volume>/<options>/<network>-seed<k>.npz     the network's output in 256 levels, the IoU after each epoch
    results/3d/<volume>/<options>/<network>-seed<k>.ply     the surface; ground-truth.ply the volume's own
    figures/3d/<volume>/<options>/close_ups.png             shaded surfaces
    figures/3d/<volume>/<options>/iou.png                   IoU over the epochs
    figures/3d/<volume>/<options>/errors.png                where each network is wrong

<options> are what differs from the defaults, as quick or epochs=4,batch=10000. Each figure is also written as .pdf.
"""

import argparse
import math
import os
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ExponentialLR

from data.errors import UserError
from data.volumes import SHA256, SOLIDS, downscaled, load_volume, summary, voxel_coordinates
from harness import cli, figures, meshes, metrics, training
from harness.device import Stopwatch
from harness.labels import labels, title
from harness.records import Run, digest, planned_runs
from harness.results import print_results
from harness.sweep import Job, in_ranks, sweep
from models import MODES, build_inr, fold

PAPER: dict = {
    "epochs": 200,          # released code
    "batch": 500_000,       # voxels a step (released code, chunk)
    "downscale": 1,
}
MLP = {
    "in_features": 3,
    "out_features": 1,
    "hidden_features": 256,  # released code
    "hidden_layers": 2,      # released code
}
FR = {
    "low_freq_num": 256,    # released code
    "high_freq_num": 256,   # released code
    "phase_num": 8,         # released code
}
PE = {"pe_frequencies": 10}                          # released code
SINE = {"first_omega": 30.0, "hidden_omega": 30.0}   # released code
# Of the paper's learning rates only that of sin+fr is known. With 5e-3 sin ends in an empty volume (IoU 0).
# IGA is a later work of the authors (Shi et al., ICML 2025); its code has 5e-4 for sin+fr, too.
NETWORKS = {
    "relu":       {"lr": 2e-3, "network": {**MLP}},                              # lr: IGA's code
    "relu+fr":    {"lr": 2e-3, "network": {**MLP, **FR, "alpha": 0.01}},         # lr: IGA's code
    "relu+pe":    {"lr": 2e-3, "network": {**MLP, **PE}},                        # lr: IGA's code
    "relu+pe+fr": {"lr": 2e-3, "network": {**MLP, **PE, **FR, "alpha": 0.01}},   # lr: IGA's code
    "sin":        {"lr": 5e-4, "network": {**MLP, **SINE}},                      # lr: IGA's code
    "sin+fr":     {"lr": 5e-3, "network": {**MLP, **SINE, **FR, "alpha": 0.001}},  # lr: released code
}
SETTINGS = {mode: {**PAPER, **network} for mode, network in NETWORKS.items()}
DECAY = 0.2  # what all epochs together multiply the learning rate by (released code)
QUICK: dict = {"epochs": 18, "batch": 1_024, "downscale": 18}  # the paper's volumes then have 28 voxels
RESOLUTION, QUICK_RESOLUTION = 256, 28  # voxels along the longest side of a solid or mesh


def predict(model: nn.Module, voxels: Tensor, shape: tuple[int, ...], chunk: int) -> Tensor:
    """The outputs at voxels, given by their places in the flattened volume: uint8, floor(256 · output).

    What lies beyond 0 and 1 is cut off. 128 and more are outputs of 1/2 and more: full.
    """
    # The results have memory of their own. Among large activations they would keep the freed ones from being reused.
    levels = torch.empty(len(voxels), dtype=torch.uint8, device=voxels.device)
    with torch.no_grad():
        for part, index in zip(levels.split(chunk), voxels.split(chunk)):
            output = model(voxel_coordinates(index, shape))[:, 0].float()
            part.copy_((meshes.LEVELS * output).clamp(0, meshes.LEVELS - 1))
    return levels


def train(run: Run, volume: np.ndarray, args: argparse.Namespace) -> str:
    """Train one network on one volume, write its record and surface, return the line that sums it up."""
    config = run.config
    device, autocast = training.prepare(args, run.seed)
    model = build_inr(run.mode, **config["network"]).to(device)
    optimizer = torch.optim.Adam(training.parameter_groups(model, config["lr"], config["hidden_lr"]), fused=True)
    scheduler = ExponentialLR(optimizer, DECAY ** (1 / config["epochs"]))  # epoch by epoch
    full = torch.from_numpy(volume).flatten().to(device)
    batches = training.Batches(len(full), config["batch"], run.seed, device, drop_last=False)
    chunk = training.chunk_size(args.chunk, device)

    # The curve is measured on two batches of voxels, always the same.
    sample = training.random_order(len(full), run.seed, -1, device)[:2 * batches.size]
    curve = torch.zeros(config["epochs"])
    losses, clock = torch.zeros(config["epochs"] * batches.per_epoch, device=device), Stopwatch(device)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "curve": curve}
    for step in training.steps(run, args, losses, clock, state, lambda _: f"best IoU {curve.max():.4f}"):
        optimizer.zero_grad()
        voxels = batches[step]
        with training.composed_once(model):
            for part in voxels.split(chunk):  # the gradients add up to those of the whole batch
                with autocast:
                    output = model(voxel_coordinates(part, volume.shape))
                loss = F.mse_loss(output.float()[:, 0], full[part].float()) * (len(part) / len(voxels))
                loss.backward()
                losses[step] += loss.detach()
        optimizer.step()
        if (step + 1) % batches.per_epoch == 0:
            scheduler.step()
            with clock.paused(), autocast:
                found = predict(model, sample, volume.shape, chunk) >= meshes.LEVELS // 2
                curve[step // batches.per_epoch] = metrics.iou(found.cpu().numpy(), full[sample].cpu().numpy())

    with autocast:
        levels = predict(fold(model), torch.arange(len(full), device=device), volume.shape, chunk)
    output = levels.cpu().numpy().reshape(volume.shape)
    predicted = output >= meshes.LEVELS // 2
    final = metrics.iou(predicted, volume)
    distances = meshes.surface_distance(meshes.extract_mesh(predicted), meshes.extract_mesh(volume))
    chamfer, f_score = distances or (None, None)
    meshes.write_mesh(meshes.extract_mesh(meshes.from_levels(output), meshes.SMOOTHING), run.path(".ply"))
    run.finish(metrics={"iou": final, "chamfer": chamfer, "f_score": f_score},
               arrays={"output": output, "iou": curve.numpy()}, seconds=clock.seconds, steps=len(losses))
    return (f"IoU {final:.4f}{'' if predicted.any() else ', an empty volume'} in {clock.seconds:.1f} s, "
            f"{config['epochs'] * len(full) / clock.seconds:,.0f} points a second")


def load(args: argparse.Namespace) -> dict[str, tuple[np.ndarray, dict]]:
    """The volumes that the options ask for, by their names, and what --quick changes in the settings of each."""
    volumes: dict[str, tuple[np.ndarray, dict]] = {}
    for source in dict.fromkeys(args.shape or (["holed_sphere"] if args.size else SHA256)):
        stored = source in SHA256 or source.lower().endswith((".mat", ".npy"))
        if args.resolution and stored:
            raise UserError(f"--resolution is for solids and meshes; {source} has its own, which --downscale divides")
        size = QUICK if args.size else {}
        resolution = args.resolution or RESOLUTION
        if not stored:
            default = QUICK_RESOLUTION if args.size else RESOLUTION
            size, resolution = {**size, "downscale": 1, "resolution": default}, args.resolution or default
        case, volume = load_volume(source, args.data, resolution)
        if case in volumes:
            raise UserError(f"--shape gives two volumes of the name {case}; rename one")
        downscale = args.downscale or {**PAPER, **size}["downscale"]
        volumes[case] = downscaled(volume, downscale, source), size
    return volumes


def output_of(run: Run) -> np.ndarray:
    """What a finished network gives at each voxel, in [0, 1], float32."""
    return meshes.from_levels(run.arrays(output=tuple(run.config["shape"]))["output"])


def draw_close_ups(volume: np.ndarray, runs: list[Run], args: argparse.Namespace) -> None:
    """The surfaces where the truth has the most detail, from one camera: ground truth, and FR under its baseline."""
    surfaces = [meshes.extract_mesh(shown, meshes.SMOOTHING) for shown in (volume, *map(output_of, runs))]
    meshes.write_mesh(surfaces[0], runs[0].path("").with_name("ground-truth.ply"))
    view = meshes.VIEWS.get(runs[0].case, meshes.VIEW)
    picture, window, close = meshes.render_with_close_up(surfaces, view, pixels=384)
    shown = [(label, f"IoU {run.metric('iou'):.4f}", picture)
             for run, label, picture in zip(runs, labels(map(vars, runs)), close[1:])]
    figure = figures.close_ups(picture, window, close[0], shown)
    figure.suptitle(f"{title(runs[0])}; surfaces of the output at 1/2, all smoothed by σ = {meshes.SMOOTHING:g} "
                    "voxels")
    figures.save(figure, args.figures / runs[0].folder / "close_ups.png")


def draw_curves(runs: list[Run], args: argparse.Namespace) -> None:
    """IoU over the epochs, FR solid and its baseline dashed; the axis is that of 1 − IoU, logarithmic."""
    figure, axis = figures.curves("epoch", "IoU")
    voxels = min(2 * runs[0].config["batch"], math.prod(runs[0].config["shape"]))
    axis_end = 0.5 / voxels  # where the axis has an IoU of 1: half a voxel is wrong
    for run, label in zip(runs, labels(map(vars, runs))):
        curve = run.arrays(iou=(run.config["epochs"],))["iou"]
        axis.plot(np.arange(1, len(curve) + 1), (1 - curve).clip(axis_end), **figures.line_style(run.mode, run.own),
                  marker="o" if len(curve) < 20 else "", label=f"{label}: {run.metric('iou'):.4f}")
    axis.set_yscale("log")
    axis.invert_yaxis()
    ticks = iou_ticks(*axis.get_ylim(), axis_end)
    axis.set_yticks(list(ticks), list(ticks.values()))
    axis.xaxis.set_major_locator(figures.ticker.MaxNLocator(integer=True))
    axis.yaxis.set_minor_locator(figures.ticker.NullLocator())
    figures.save_curves(figure, f"IoU over training, on {voxels:,} voxels; in the legend on all\n"
                        f"{title(runs[0])}", args.figures / runs[0].folder / "iou.png")


def iou_ticks(worst: float, best: float, axis_end: float) -> dict[float, str]:
    """The ticks of an axis of 1 − IoU, and their labels, which are the IoU; `axis_end` stands for an IoU of 1."""
    digits = (1, 1.5, 2, 3, 5, 7) if worst < 100 * best else (1, 3)  # or labels would lie on each other
    errors = [0.1**decade * digit for decade in range(7) for digit in digits]
    shown = [error for error in errors if max(best, 2 * axis_end) < error <= min(worst, 1)]
    if len(shown) < 2:  # all lies between two of them
        shown = [1 - iou for iou in figures.ticker.MaxNLocator(4).tick_values(1 - worst, 1 - best)
                 if best <= 1 - iou <= worst]
    return {error: f"{1 - error:.7g}" for error in shown} | ({axis_end: "1"} if best <= axis_end else {})


def draw_errors(volume: np.ndarray, runs: list[Run], args: argparse.Namespace) -> None:
    """The voxels that each network got wrong, counted along the line of sight, over the volume's silhouette."""
    up = meshes.VIEWS.get(runs[0].case, meshes.VIEW)[2]
    across, along = (axis for axis in range(3) if axis != up)

    def seen(voxels: np.ndarray) -> np.ndarray:
        counts = voxels.sum(axis=along)
        return np.flip(counts.T if across < up else counts, axis=0)

    silhouette = 0.12 * (seen(volume) > 0)[..., None]
    panel = 2.8
    figure, panels = figures.grid_by_backbone(runs, panel, panel * silhouette.shape[0] / silhouette.shape[1] + 0.6)
    colors = [1 - np.array(figures.matplotlib.colors.to_rgb(figures.COLORS[mode])) for mode in ("relu", "sin")]
    for run, axis, label in zip(runs, panels, labels(map(vars, runs))):
        predicted = output_of(run) > 0.5
        counts = seen(volume & ~predicted), seen(predicted & ~volume)
        # Each panel has its own scale, which its title says. One for all would leave the better networks white.
        most = max(1, np.quantile(np.maximum(*counts)[np.maximum(*counts) > 0], 0.99)) if np.any(counts) else 1
        ink = sum((of_kind / most).clip(0, 0.75)[..., None] * color for of_kind, color in zip(counts, colors))
        axis.imshow((1 - silhouette - ink).clip(0, 1), interpolation="nearest")
        axis.set_title(f"{label}\n{counts[0].sum():,} missed, {counts[1].sum():,} added\nfull color: {most:.0f} voxels",
                       fontsize=9)
        axis.set_axis_off()
    figure.suptitle(f"{title(runs[0])}\nwrong voxels, of {volume.sum():,} full: missed blue, added orange", fontsize=10)
    figures.save(figure, args.figures / runs[0].folder / "errors.png")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of `argv`."""
    parser = cli.options(__doc__, modes=MODES, default_modes=MODES, epochs=PAPER["epochs"], checkpoint_every=1_000)
    parser.add_argument("--shape", nargs="+", metavar="V", type=os.path.expanduser,
                        help=f"{', '.join((*SHA256, *SOLIDS))}, or paths of .mat, .npy or mesh files (default: the "
                             "first two; --quick holed_sphere)")
    parser.add_setting("--resolution", type=cli.whole(8, 1024), metavar="N",
                       help=f"voxels along the longest side of a solid or mesh (default: {RESOLUTION})")
    parser.add_setting("--downscale", type=cli.whole(1, 64), metavar="D",
                       help="divide the volume's sides by this (default: 1)")
    parser.add_setting("--batch", type=cli.whole(1), metavar="N", help=f"voxels a step (default: {PAPER['batch']:,})")
    parser.add_argument("--chunk", type=cli.whole(1), metavar="N",
                        help="voxels in memory at once; the step stays that of the whole batch (default: what is fast)")
    return cli.parse(parser, argv)


def plan(args: argparse.Namespace, volumes: dict[str, tuple[np.ndarray, dict]]) -> list[Run]:
    """The runs that the options ask for."""
    return [run for case, (volume, size) in volumes.items() for run in planned_runs(
        args, "3d", case, SETTINGS, size, {"shape": list(volume.shape), "voxels": digest(np.packbits(volume))})]


def main() -> None:
    args = parse()
    volumes = load(args)
    for case, (volume, _) in volumes.items():
        print(summary(case, volume))
    runs = plan(args, volumes)
    training.say_how_long(runs, args, lambda config: training.fitting_operations(
        config["network"], config["epochs"] * math.prod(config["shape"])))
    sweep([Job(run, partial(train, run, volumes[run.case][0], args)) for run in runs], args=args,
          parallel=bool(args.size))
    drawings = []
    for case, (volume, _) in volumes.items():
        first = [run for run in runs if run.case == case and run.seed == args.seeds[0]]
        drawings += [partial(draw_close_ups, volume, first, args), partial(draw_curves, first, args),
                     partial(draw_errors, volume, first, args)]
    figures.draw_each(*drawings, partial(print_results, runs, "iou", 4))


if __name__ == "__main__":
    cli.run(in_ranks(main))
