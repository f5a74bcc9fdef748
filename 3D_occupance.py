"""Fit occupancy volumes with six networks (section 5 of the paper, Thai statue and dragon).

    python 3D_occupance.py                          both volumes, six networks, 200 epochs each: for a GPU
    python 3D_occupance.py --quick                  a hollow sphere with holes, 24 voxels a side, computed here
    python 3D_occupance.py --shape dragon --scale 0.125 --chunk 20000 --epochs 25 --results results/reduced
    python 3D_occupance.py --shape path/to/mesh.ply --resolution 256      or a .mat or .npy volume

Each network maps a voxel's position to whether it is full, and is trained on all voxels in random order. Writes

    results/3d/<case>/<mode>-seed<k>.json   IoU on the whole grid, Chamfer distance and F-score of the surface
    results/3d/<case>/<mode>-seed<k>.npz    the predicted voxels, one bit each, and the IoU after every epoch
    results/3d/<case>/<mode>-seed<k>.ply    the predicted surface; ground-truth.ply the volume's own
    figures/3d_<case>.png                   shaded surfaces, with a close-up
    figures/3d_<case>_iou.png               IoU over the epochs
    figures/3d_<case>_errors.png            where each network is wrong

On two CPU cores --quick takes about a minute, and the paper's size weeks; the script says how long before it starts.
"""

import argparse
import functools
import math
from pathlib import Path
from typing import cast

import matplotlib.pyplot as plt
import numpy as np
import torch
import trimesh
from matplotlib.colors import to_rgb
from torch import Tensor, nn
from torch.nn import functional as F

from data.volumes import SHA256, load_volume, shorten
from experiment import cli, plots, report
from experiment.errors import UserError
from experiment.files import write_atomically
from experiment.meshes import extract_mesh, look_at, render, surface_distance
from experiment.metrics import iou
from experiment.ranks import rank_0_first
from experiment.records import Run, digest
from experiment.runtime import (
    Stopwatch,
    begin,
    check_finite,
    choose_device,
    environment,
    next_stop,
    random_order,
    set_precision,
    training_hours,
)
from experiment.sweep import progress, slow_runs, sweep
from models import MODES, build_inr, fold

# Section 5. The release gives one learning rate, sin+fr's. At it sin ends in an empty volume (IoU 0); the 5e-4 of sin
# and the 2e-3 of relu and relu+pe are those of a later work of the same authors. relu+fr and relu+pe+fr, for which no
# rate is known, have their baseline's.
PAPER = {mode: {"alpha": alpha, "lr": lr, "hidden_features": 256, "hidden_layers": 2, "low_freq_num": 256,
                "high_freq_num": 256, "phase_num": 8, "first_omega": 30.0, "hidden_omega": 30.0, "pe_frequencies": 10,
                "epochs": 200, "chunk": 500_000}
         for mode, alpha, lr in (("relu", 0.01, 2e-3), ("relu+fr", 0.01, 2e-3), ("relu+pe", 0.01, 2e-3),
                                 ("relu+pe+fr", 0.01, 2e-3), ("sin", 0.001, 5e-4), ("sin+fr", 0.001, 5e-3))}
DECAY = 0.2  # of the learning rate over all epochs
QUICK = {"epochs": 18, "chunk": 1_024}
QUICK_SIDE = 28  # voxels of the longest side
VIEWS = {"thai_statue": (120, 15, 1), "dragon": (120, 15, 0)}  # azimuth and elevation in degrees, the axis upward
VIEW = (-60, 25, 2)
PERFECT = 1e-6  # of 1 − IoU, where a logarithmic axis has an IoU of 1


def coordinates(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The positions of voxels in [−1, 1]³, both ends in: along axis 1, then 0, then 2 (the release's order).

    Args:
        index: the voxels' places in the flattened volume, shape (N,).
        shape: the volume's.
    """
    places = (index // shape[2] % shape[1], index // (shape[1] * shape[2]), index % shape[2])
    # Filled on the device: for the copy of a tensor of numbers the host would wait.
    last = [index.new_full((), side - 1) for side in (shape[1], shape[0], shape[2])]
    return torch.stack([2 * place / end - 1 for place, end in zip(places, last)], dim=-1)


def predict(model: nn.Module, voxels: Tensor, shape: tuple[int, ...], chunk: int) -> Tensor:
    """Whether each of the voxels, given by its place in the flattened volume, is full: output ≥ 0.5."""
    with torch.no_grad():
        return torch.cat([model(coordinates(index, shape))[:, 0] >= 0.5 for index in voxels.split(chunk)])


def train(run: Run, args: argparse.Namespace) -> str:
    """Train one network on one volume, write its record, return the line that sums it up."""
    device, autocast = begin(args, run.seed, one_thread=args.quick)
    volume = volumes_of(args)[run.case]
    settings = {key: value for key, value in run.config.items() if key not in ("voxels", "shape")}
    lr, epochs, chunk = (settings.pop(key) for key in ("lr", "epochs", "chunk"))
    model = build_inr(run.mode, in_features=3, out_features=1, **settings).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)

    full = torch.from_numpy(volume).flatten().to(device)
    steps_per_epoch = math.ceil(len(full) / chunk)
    steps = epochs * steps_per_epoch
    # What the curve is measured on: two chunks of voxels, always the same.
    sample = random_order(len(full), run.seed, -1, device)[:2 * chunk]
    curve = torch.zeros(epochs)
    clock = Stopwatch(device)
    state = {"model": model, "optimizer": optimizer, "clock": clock, "curve": curve}
    step = run.restore(**state)
    with progress(steps, step, f"{run.case} {run.mode} seed {run.seed}") as bar:
        while step < steps:
            epoch = step // steps_per_epoch
            for group in optimizer.param_groups:
                group["lr"] = lr * DECAY ** (epoch / epochs)
            order = random_order(len(full), run.seed, epoch, device).split(chunk)
            stop = next_stop(step, steps, steps_per_epoch, args.checkpoint_every)
            with clock:
                for index in order[step % steps_per_epoch:][:stop - step]:
                    optimizer.zero_grad()
                    with autocast:
                        output = model(coordinates(index, volume.shape))
                    loss = F.mse_loss(output.float()[:, 0], full[index].float())
                    loss.backward()
                    optimizer.step()
                    bar.update()
            step = stop
            check_finite(loss.item(), step)
            if step % steps_per_epoch == 0:
                with autocast:
                    found = predict(model, sample, volume.shape, chunk)
                curve[epoch] = iou(found.cpu().numpy(), full[sample].cpu().numpy())
                bar.set_postfix_str(f"IoU {curve[epoch]:.4f}")
            if step % args.checkpoint_every == 0 and step < steps:
                run.checkpoint(step, **state)

    with autocast:
        found = predict(fold(model), torch.arange(len(full), device=device), volume.shape, chunk)
    predicted = found.cpu().numpy().reshape(volume.shape)
    final = iou(predicted, volume)
    chamfer, f_score = surface_distance(extract_mesh(predicted), extract_mesh(volume)) or (None, None)
    run.finish(metrics={"iou": final, "chamfer": chamfer, "f_score": f_score}, seconds=clock.seconds, steps=steps,
               environment=environment(device, run.precision),
               arrays={"predicted": np.packbits(predicted), "iou": curve.numpy()})
    return (f"IoU {final:.4f}{'' if predicted.any() else ', an empty volume'} in {clock.seconds:.1f} s, "
            f"{epochs * len(full) / clock.seconds:,.0f} points a second")


@functools.cache
def volume_of(source: str, args: tuple) -> tuple[str, np.ndarray]:
    """A case and its volume, shortened where asked for; loaded once in a process, however many runs it has."""
    folder, resolution, scale, quick = args
    case, volume = load_volume(source, folder, resolution or (QUICK_SIDE if quick else 256))
    if scale is None:
        scale = min(1, QUICK_SIDE / max(volume.shape)) if quick else 1
    return case, shorten(volume, scale, source)


def volumes_of(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """The volumes that the options ask for, by case."""
    volumes: dict[str, np.ndarray] = {}
    for source in dict.fromkeys(args.shape or (["holed_sphere"] if args.quick else SHA256)):
        case, volume = volume_of(source, (args.data, args.resolution, args.scale, args.quick))
        if case in volumes:
            raise UserError(f"--shape gives two volumes of the name {case}; rename one")
        volumes[case] = volume
    return volumes


def planned_runs(args: argparse.Namespace, volumes: dict[str, np.ndarray], device: torch.device) -> list[Run]:
    """The runs that the options ask for, volume by volume."""
    runs = []
    for case, volume in volumes.items():
        for seed in args.seeds:
            for mode in args.modes:
                config = {**PAPER[mode], **(QUICK if args.quick else {}), **cli.overrides(args, "epochs", "lr", "chunk"),
                          "shape": list(volume.shape), "voxels": digest(np.packbits(volume))}
                runs.append(Run(args.results, "3d", case, mode, seed, config, args.precision, device.type))
    return runs


def predicted_of(run: Run) -> np.ndarray:
    """The voxels that a finished run predicts to be full."""
    shape = run.config["shape"]
    return unpacked(run.arrays(predicted=(math.ceil(math.prod(shape) / 8),))["predicted"], shape)


def unpacked(bits: np.ndarray, shape: list[int]) -> np.ndarray:
    """A bool volume from the bits that its run's arrays keep."""
    return np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(bool)


def write_mesh(mesh: trimesh.Trimesh, path: Path) -> None:
    """Write a surface as binary .ply, whole or not at all; an empty one has no file."""
    if len(mesh.faces):
        write_atomically(path, cast(bytes, mesh.export(file_type="ply")))
    else:
        path.unlink(missing_ok=True)


def title_suffix(run: Run, args: argparse.Namespace) -> str:
    """What a figure's title says of the runs it shows, beside the number of epochs and each network's own rate."""
    own = ("epochs",) if args.lr else ("epochs", "lr")
    return plots.title_suffix([run.seed], args.quick, run.config, {**PAPER[run.mode], **{key: run.config[key] for key in own}})


def draw_surfaces(volume: np.ndarray, runs: list[Run], args: argparse.Namespace) -> None:
    """Ground truth and the networks' surfaces from one camera, baseline left of FR, and a close-up under each."""
    case = runs[0].case
    truth = extract_mesh(volume, args.smooth)
    write_mesh(truth, runs[0].path(".ply").with_name("ground-truth.ply"))
    shown = [("ground truth", "", truth)]
    for run in runs:
        mesh = extract_mesh(predicted_of(run), args.smooth)
        write_mesh(mesh, run.path(".ply"))
        shown.append((plots.LABELS[run.mode], f"IoU {run.metric('iou'):.4f}", mesh))

    camera = look_at(*VIEWS.get(case, VIEW))
    seen = truth.vertices @ camera.T
    center = camera.T @ ((seen.max(axis=0) + seen.min(axis=0)) / 2)
    width, height = 1.06 * np.ptp(seen[:, :2], axis=0)
    pixels_per_voxel = 384 / width
    pictures = [render(mesh, camera, center, width, height, pixels_per_voxel) for _, _, mesh in shown]
    rows, columns = plots.busiest_window(pictures[0])
    # From the middle of the picture to that of the window, in voxels along the camera's axes.
    right, down = ((window.start + window.stop - side) / 2 / pixels_per_voxel
                   for window, side in zip((columns, rows), (pictures[0].shape[1], pictures[0].shape[0])))
    near = center + right * camera[0] - down * camera[1]
    crops = [render(mesh, camera, near, width / 4, height / 4, 4 * pixels_per_voxel) for _, _, mesh in shown]

    panel = 2.4
    figure, axes = plt.subplots(2, len(shown), figsize=(panel * len(shown), 2 * panel * height / width + 1.1))
    for (name, value, _), picture, close, (whole, crop) in zip(shown, pictures, crops, axes.T):
        plots.show_with_crop(whole, crop, picture, (rows, columns), name, value, close)
    figure.suptitle(f"{case}, {' × '.join(map(str, volume.shape))} voxels, {runs[0].config['epochs']:,} epochs"
                    f"{title_suffix(runs[0], args)}", fontsize=13)
    plots.save(figure, args.figures / f"3d_{case}.png")


def draw_curves(runs: list[Run], args: argparse.Namespace) -> None:
    """IoU over the epochs, FR solid and its baseline dashed; the axis is that of 1 − IoU, logarithmic."""
    figure, axis = plots.curves("epoch", "IoU")
    for run in runs:
        curve = run.arrays(iou=(run.config["epochs"],))["iou"]
        axis.plot(np.arange(1, len(curve) + 1), (1 - curve).clip(PERFECT), **plots.line_style(run.mode),
                  label=f"{plots.LABELS[run.mode]}: {run.metric('iou'):.4f}")
    axis.set_yscale("log")
    axis.invert_yaxis()
    ticks = [error for error in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 5e-4, 2e-4, 1e-4, 1e-5)
             if min(axis.get_ylim()) <= error <= max(axis.get_ylim())]
    axis.set_yticks([*ticks, PERFECT], [*(f"{1 - error:g}" for error in ticks), "1"])
    axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    axis.yaxis.set_minor_locator(plt.NullLocator())
    plots.save_curves(figure, f"{runs[0].case}: IoU over training{title_suffix(runs[0], args)}",
                      args.figures / f"3d_{runs[0].case}_iou.png")


def draw_errors(volume: np.ndarray, runs: list[Run], args: argparse.Namespace) -> None:
    """The voxels that each network got wrong, counted along the line of sight, over the volume's silhouette."""
    up = VIEWS.get(runs[0].case, VIEW)[2]
    across, along = (axis for axis in range(3) if axis != up)

    def seen(voxels: np.ndarray) -> np.ndarray:
        counts = voxels.sum(axis=along)
        return np.flip(counts.T if across < up else counts, axis=0)

    wrong = {run.mode: (predicted := predicted_of(run), seen(volume & ~predicted), seen(predicted & ~volume))[1:]
             for run in runs}
    most = max(1, np.quantile([missed + added for missed, added in wrong.values()], 0.99))
    silhouette = 0.12 * (seen(volume) > 0)[..., None]
    panel = 2.6
    figure, panels = plots.grid_by_backbone([run.mode for run in runs], panel,
                                            panel * silhouette.shape[0] / silhouette.shape[1] + 0.6)
    colors = [np.array(to_rgb(plots.COLORS[mode])) for mode in ("relu", "sin")]  # blue and orange
    for mode, (missed, added) in wrong.items():
        ink = sum((counts / most).clip(0, 1)[..., None] * (1 - color) for counts, color in zip((missed, added), colors))
        panels[mode].imshow((1 - silhouette - ink).clip(0, 1), interpolation="nearest")
        panels[mode].set_title(f"{plots.LABELS[mode]}\n{missed.sum():,} missed, {added.sum():,} added", fontsize=10)
        panels[mode].set_axis_off()
    figure.suptitle(f"{runs[0].case}: wrong voxels, of {volume.sum():,} full\nmissed blue, added orange"
                    f"{title_suffix(runs[0], args)}", fontsize=11)
    plots.save(figure, args.figures / f"3d_{runs[0].case}_errors.png")


def scale(text: str) -> float:
    """An argparse type: a number above 0 and up to 1."""
    value = cli.positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text!r}")
    return value


@rank_0_first
def main() -> None:
    parser = cli.options(__doc__, modes=MODES, default_modes=MODES, epochs=200, checkpoint_every=1_000)
    parser.add_argument("--shape", nargs="+", metavar="V",
                        help="thai_statue, dragon, gyroid, torus_knot, holed_sphere, or paths of .mat, .npy or mesh "
                             "files (default: the first two; with --quick holed_sphere)")
    parser.add_argument("--resolution", type=cli.whole(8, 1024), metavar="N",
                        help="voxels along the longest side of a solid or mesh (default: 256)")
    parser.add_argument("--scale", type=scale, metavar="S", help="shorten the volume's sides by this factor, up to 1")
    parser.add_argument("--chunk", type=cli.whole(1), metavar="N", help="points a step (the paper: 500,000)")
    parser.add_argument("--smooth", type=cli.positive, default=0.0, metavar="SIGMA",
                        help="smooth the drawn and written surfaces by a Gaussian of so many voxels (default: not)")
    args = cli.parse(parser)
    device = choose_device(args.device)
    set_precision(args.precision, device)
    volumes = volumes_of(args)
    runs = planned_runs(args, volumes, device)
    if to_train := slow_runs(runs, args):
        hours = training_hours([(run.config, math.prod(run.config["shape"]) * run.config["epochs"])
                                for run in to_train], device)
        if hours > 0.1:
            print(f"training on the CPU takes at least {hours:.1f} hours here; --quick takes about a minute")
    sweep(train, [runs], args, parallel=args.quick)
    for case, volume in volumes.items():
        first = [run for run in runs if run.case == case and run.seed == args.seeds[0]]
        draw_surfaces(volume, first, args)
        draw_curves(first, args)
        draw_errors(volume, first, args)
        for run in (run for run in runs if run.case == case and run not in first):
            write_mesh(extract_mesh(predicted_of(run), args.smooth), run.path(".ply"))
    report.show("volumes", runs)
    print("Chamfer distance in voxels; F-score at one voxel")


if __name__ == "__main__":
    cli.run(main)
