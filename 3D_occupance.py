"""Fit occupancy volumes with six networks (section 5 of the paper, Thai statue and dragon).

    python 3D_occupance.py                          both volumes, six networks, 200 epochs each: for a GPU
    python 3D_occupance.py --quick                  a hollow sphere with holes, 24 voxels a side, computed here
    python 3D_occupance.py --shape dragon --scale 0.125 --chunk 20000 --epochs 25 --results results/eighth
    python 3D_occupance.py --shape path/to/mesh.ply --resolution 256      or a .mat or .npy volume

Each network maps a voxel's position to whether it is full, and is trained on all voxels in random order. Writes

    results/3d/<case>/<mode>-seed<k>.json   IoU on the whole grid, Chamfer distance and F-score of the surface
    results/3d/<case>/<mode>-seed<k>.npz    the predicted voxels, one bit each, and the IoU after every epoch
    results/3d/<case>/<mode>-seed<k>.ply    the predicted surface; ground-truth.ply the volume's own
    figures/3d_<case>_surfaces.png          shaded surfaces, with a close-up
    figures/3d_<case>_iou.png               IoU over the epochs
    figures/3d_<case>_errors.png            where each network is wrong

On two CPU cores --quick takes about a minute, and the paper's size weeks; the script says how long before it starts.
"""

import argparse
import functools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from torch import Tensor, nn
from torch.nn import functional as F

from data.volumes import SHA256, load_volume, shorten, summary
from experiment import cli, figures, meshes, metrics, tables, training
from experiment.errors import UserError
from experiment.records import Run, digest, planned_runs
from experiment.sweep import say_how_long, sweep
from models import MODES, build_inr, fold, parameter_groups
from models.encodings import voxel_coordinates

# Section 5. `network` is what build_inr takes. The release gives one learning rate, 5e-3 for sin+fr. At it sin ends in
# an empty volume (IoU 0); its 5e-4 and the 2e-3 of the ReLU networks are those of a later work of the same authors.
MLP = {"in_features": 3, "out_features": 1, "hidden_features": 256, "hidden_layers": 2}
FR = {"low_freq_num": 256, "high_freq_num": 256, "phase_num": 8}
PE = {"pe_frequencies": 10}
SINE = {"first_omega": 30.0, "hidden_omega": 30.0}
TRAINING: dict = {"epochs": 200, "chunk": 500_000}
PAPER = {"relu":       {"network": {**MLP}, "lr": 2e-3, **TRAINING},
         "relu+fr":    {"network": {**MLP, **FR, "alpha": 0.01}, "lr": 2e-3, **TRAINING},
         "relu+pe":    {"network": {**MLP, **PE}, "lr": 2e-3, **TRAINING},
         "relu+pe+fr": {"network": {**MLP, **PE, **FR, "alpha": 0.01}, "lr": 2e-3, **TRAINING},
         "sin":        {"network": {**MLP, **SINE}, "lr": 5e-4, **TRAINING},
         "sin+fr":     {"network": {**MLP, **SINE, **FR, "alpha": 0.001}, "lr": 5e-3, **TRAINING}}
DECAY = 0.2  # of the learning rate over all epochs, epoch by epoch: torch.optim.lr_scheduler.ExponentialLR
QUICK = {"epochs": 18, "chunk": 1_024}
QUICK_SIDE = 28  # voxels of the longest side
PERFECT = 1e-6  # of 1 − IoU, where a logarithmic axis has an IoU of 1


def predict(model: nn.Module, voxels: Tensor, shape: tuple[int, ...], chunk: int) -> Tensor:
    """Whether each of the voxels, given by its place in the flattened volume, is full: output ≥ 0.5."""
    # Into memory of its own: small results among large activations keep the freed ones from being used again.
    full = torch.empty(len(voxels), dtype=torch.bool, device=voxels.device)
    with torch.no_grad():
        for part, index in zip(full.split(chunk), voxels.split(chunk)):
            torch.ge(model(voxel_coordinates(index, shape))[:, 0], 0.5, out=part)
    return full


def train(run: Run, args: argparse.Namespace) -> str:
    """Train one network on one volume, write its record, return the line that sums it up."""
    device, autocast = training.prepare(args, run.seed, one_thread=args.quick)
    volume, config = load_volumes(args)[run.case], run.config
    model = build_inr(run.mode, **config["network"]).to(device)
    optimizer = torch.optim.Adam(parameter_groups(model, config["lr"], config.get("hidden_lr", 1.0)), fused=True)

    full = torch.from_numpy(volume).flatten().to(device)
    epochs, chunk = config["epochs"], config["chunk"]
    steps_per_epoch = math.ceil(len(full) / chunk)
    mse = torch.zeros(epochs * steps_per_epoch, device=device)
    # What the curve is measured on: two chunks of voxels, always the same.
    sample = training.random_order(len(full), run.seed, -1, device)[:2 * chunk]
    curve = torch.zeros(epochs)
    clock = training.Stopwatch(device)
    state = {"model": model, "optimizer": optimizer, "curve": curve}
    for block in training.blocks(run, args, clock, mse, state, lambda _: f"best IoU {curve.max():.4f}",
                                 stop_every=[steps_per_epoch]):
        epoch, place = divmod(block.start, steps_per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * DECAY ** (epoch / epochs)
        batches = training.random_order(len(full), run.seed, epoch, device).split(chunk)[place:]
        with clock:
            for step, index in zip(block, batches):
                optimizer.zero_grad()
                with autocast:
                    output = model(voxel_coordinates(index, volume.shape))
                loss = F.mse_loss(output.float()[:, 0], full[index].float())
                loss.backward()
                optimizer.step()
                mse[step] = loss.detach()
        if block.stop % steps_per_epoch == 0:
            with autocast:
                found = predict(model, sample, volume.shape, chunk)
            curve[epoch] = metrics.iou(found.cpu().numpy(), full[sample].cpu().numpy())

    with autocast:
        found = predict(fold(model), torch.arange(len(full), device=device), volume.shape, chunk)
    predicted = found.cpu().numpy().reshape(volume.shape)
    final = metrics.iou(predicted, volume)
    distances = meshes.surface_distance(meshes.extract_mesh(predicted), meshes.extract_mesh(volume))
    chamfer, f_score = distances or (None, None)
    run.finish(metrics={"iou": final, "chamfer": chamfer, "f_score": f_score},
               arrays={"predicted": np.packbits(predicted), "iou": curve.numpy()}, seconds=clock.seconds,
               steps=len(mse))
    return (f"IoU {final:.4f}{'' if predicted.any() else ', an empty volume'} in {clock.seconds:.1f} s, "
            f"{epochs * len(full) / clock.seconds:,.0f} points a second")


@functools.cache
def load_once(source: str, folder: Path, resolution: int | None, scale: float | None,
              quick: bool) -> tuple[str, np.ndarray]:
    """A case and its volume, shortened where asked for; loaded once in a process, however many runs it has."""
    case, volume = load_volume(source, folder, resolution or (QUICK_SIDE if quick else 256))
    if scale is None:
        scale = min(1, QUICK_SIDE / max(volume.shape)) if quick else 1
    return case, shorten(volume, scale, source)


def load_volumes(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """The volumes that the options ask for, by case."""
    volumes: dict[str, np.ndarray] = {}
    for source in dict.fromkeys(args.shape or (["holed_sphere"] if args.quick else SHA256)):
        case, volume = load_once(source, args.data, args.resolution, args.scale, args.quick)
        if case in volumes:
            raise UserError(f"--shape gives two volumes of the name {case}; rename one")
        volumes[case] = volume
    return volumes


def predicted_voxels(run: Run) -> np.ndarray:
    """The voxels that a finished run predicts to be full."""
    shape = run.config["shape"]
    return meshes.unpack_voxels(run.arrays(predicted=(math.ceil(math.prod(shape) / 8),))["predicted"], shape)


def write_surface(run: Run, smooth: float) -> None:
    """Write the surface that a run predicts."""
    meshes.write_mesh(meshes.extract_mesh(predicted_voxels(run), smooth), run.path(".ply"))


def title(run: Run, args: argparse.Namespace) -> str:
    """What a figure's title says of the runs it shows."""
    paper = {**PAPER[run.mode], **{key: run.config[key] for key in ("epochs", "chunk", "lr")}}
    return (f"{run.case}, {tables.volume_size(run.config)}"
            f"{figures.title_suffix([run.seed], args.quick, run.config, paper)}")


def label(run: Run) -> str:
    """A network and its learning rate, which is not that of all networks."""
    return f"{figures.LABELS[run.mode]}, lr {run.config['lr']:g}"


def draw_surfaces(volume: np.ndarray, runs: list[Run], args: argparse.Namespace) -> None:
    """Ground truth and the networks' surfaces from one camera, baseline left of FR, and a close-up under each."""
    case = runs[0].case
    truth = meshes.extract_mesh(volume, args.smooth)
    meshes.write_mesh(truth, runs[0].path(".ply").with_name("ground-truth.ply"))
    shown = [("ground truth", "", truth)]
    for run in runs:
        mesh = meshes.extract_mesh(predicted_voxels(run), args.smooth)
        meshes.write_mesh(mesh, run.path(".ply"))
        shown.append((label(run), f"IoU {run.metric('iou'):.4f}", mesh))

    surfaces = [mesh for _, _, mesh in shown]
    pictures, window, crops = meshes.render_with_close_up(surfaces, meshes.VIEWS.get(case, meshes.VIEW), pixels=384)
    panel = 2.4
    height = panel * pictures[0].shape[0] / pictures[0].shape[1]
    figure, axes = figures.subplots(2, len(shown), panel * len(shown), 2 * height + 1.1)
    for (name, value, _), picture, close, (whole, crop) in zip(shown, pictures, crops, axes.T):
        figures.show_with_crop(whole, crop, picture, window, name, value, close)
    figure.suptitle(title(runs[0], args), fontsize=13)
    figures.save(figure, args.figures / f"3d_{case}_surfaces.png")


def draw_curves(runs: list[Run], args: argparse.Namespace) -> None:
    """IoU over the epochs, FR solid and its baseline dashed; the axis is that of 1 − IoU, logarithmic."""
    figure, axis = figures.curves("epoch", "IoU")
    for run in runs:
        curve = run.arrays(iou=(run.config["epochs"],))["iou"]
        axis.plot(np.arange(1, len(curve) + 1), (1 - curve).clip(PERFECT), **figures.line_style(run.mode),
                  label=f"{label(run)}: {run.metric('iou'):.4f}")
    axis.set_yscale("log")
    axis.invert_yaxis()
    low, high = sorted(axis.get_ylim())
    per_decade = range(1, 10) if high < 30 * low else (1, 2, 5) if high < 1e4 * low else (1,)
    axis.yaxis.set_major_locator(LogLocator(subs=per_decade))
    axis.yaxis.set_major_formatter(lambda error, _: "1" if error < 2 * PERFECT else f"{1 - error:g}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_minor_locator(NullLocator())
    figures.save_curves(figure, f"IoU over training\n{title(runs[0], args)}",
                        args.figures / f"3d_{runs[0].case}_iou.png")


def draw_errors(volume: np.ndarray, runs: list[Run], args: argparse.Namespace) -> None:
    """The voxels that each network got wrong, counted along the line of sight, over the volume's silhouette."""
    up = meshes.VIEWS.get(runs[0].case, meshes.VIEW)[2]
    across, along = (axis for axis in range(3) if axis != up)

    def seen(voxels: np.ndarray) -> np.ndarray:
        counts = voxels.sum(axis=along)
        return np.flip(counts.T if across < up else counts, axis=0)

    wrong = {run.mode: (predicted := predicted_voxels(run), seen(volume & ~predicted), seen(predicted & ~volume))[1:]
             for run in runs}
    most = max(1, np.quantile([missed + added for missed, added in wrong.values()], 0.99))
    silhouette = 0.12 * (seen(volume) > 0)[..., None]
    panel = 2.6
    figure, panels = figures.grid_by_backbone([run.mode for run in runs], panel,
                                              panel * silhouette.shape[0] / silhouette.shape[1] + 0.6)
    colors = [np.array(to_rgb(figures.COLORS[mode])) for mode in ("relu", "sin")]  # blue and orange
    for mode, (missed, added) in wrong.items():
        ink = sum((counts / most).clip(0, 1)[..., None] * (1 - color) for counts, color in zip((missed, added), colors))
        panels[mode].imshow((1 - silhouette - ink).clip(0, 1), interpolation="nearest")
        panels[mode].set_title(f"{figures.LABELS[mode]}\n{missed.sum():,} missed, {added.sum():,} added", fontsize=10)
        panels[mode].set_axis_off()
    figure.suptitle(f"{title(runs[0], args)}\nwrong voxels, of {volume.sum():,} full: missed blue, added orange",
                    fontsize=9.5)
    figures.save(figure, args.figures / f"3d_{runs[0].case}_errors.png")


def scale(text: str) -> float:
    """An argparse type: a number above 0 and up to 1."""
    value = cli.positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text!r}")
    return value


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of `argv`."""
    parser = cli.options(__doc__, modes=MODES, default_modes=MODES, epochs=TRAINING["epochs"], checkpoint_every=1_000)
    parser.add_argument("--shape", nargs="+", metavar="V",
                        help="thai_statue, dragon, gyroid, holed_sphere, or paths of .mat, .npy or mesh "
                             "files (default: the first two; with --quick holed_sphere)")
    parser.add_argument("--resolution", type=cli.whole(8, 1024), metavar="N",
                        help="voxels along the longest side of a solid or mesh (default: 256)")
    parser.add_argument("--scale", type=scale, metavar="S", help="shorten the volume's sides by this factor, up to 1")
    parser.add_argument("--chunk", type=cli.whole(1), metavar="N", help="points a step (the paper: 500,000)")
    parser.add_argument("--smooth", type=cli.positive, default=0.0, metavar="SIGMA",
                        help="smooth the drawn and written surfaces by a Gaussian of so many voxels (default: not)")
    return cli.parse(parser, argv)


def plan(args: argparse.Namespace) -> list[Run]:
    """The runs that the options ask for."""
    volumes = load_volumes(args)
    return planned_runs(args, "3d", {
        case: {mode: {**cli.settings(PAPER[mode], QUICK, args, "epochs", "lr", "chunk"), "shape": list(volume.shape),
                      "voxels": digest(np.packbits(volume))} for mode in args.modes}
        for case, volume in volumes.items()})


def main() -> None:
    args = parse()
    volumes = load_volumes(args)
    for case, volume in volumes.items():
        print(summary(case, volume))
    runs = plan(args)
    say_how_long(runs, args, lambda config: math.prod(config["shape"]) * config["epochs"])
    sweep(train, [runs], args, parallel=args.quick)
    drawings = []
    for case, volume in volumes.items():
        of_case = [run for run in runs if run.case == case]
        first = [run for run in of_case if run.seed == args.seeds[0]]
        drawings += [partial(draw_surfaces, volume, first, args), partial(draw_curves, first, args),
                     partial(draw_errors, volume, first, args)]
        drawings += [partial(write_surface, run, args.smooth) for run in of_case if run not in first]
    figures.draw_each(*drawings, partial(tables.print_table, "volumes", runs))
    print("Chamfer distance in voxels; F-score at one voxel")


if __name__ == "__main__":
    training.run(main)
