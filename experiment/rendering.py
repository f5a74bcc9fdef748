"""What the two renderers' scripts share beside the method: options, evaluation on views, pictures, figures, table."""

import argparse
import dataclasses
import io
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import matplotlib.pyplot as plt
import numpy as np
import torch

from experiment import cli, plots, report
from experiment.errors import UserError
from experiment.files import write_atomically
from experiment.metrics import SSIM_WINDOW, psnr, ssim
from experiment.records import Run, digest, read_arrays, read_record

# A camera (3, 4), its focal length in pixels, the height and the width to colors (H, W, 3) and depths (H, W).
Render = Callable[[np.ndarray, float, int, int], tuple[np.ndarray, np.ndarray]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of both scripts beside the common ones."""
    parser.add_argument("--scene", default="lego", metavar="S",
                        help="a Blender scene's name or folder, or toy, which needs no download (default: lego)")
    parser.add_argument("--downscale", type=cli.whole(1, 64), metavar="D",
                        help="make the images smaller by this factor (default: 1; with --quick 8, toy 2)")
    parser.add_argument("--background", choices=("white", "black"), default="white",
                        help="what transparent pixels are put on (default: white)")
    parser.add_argument("--frames", type=cli.whole(0, 1000), metavar="N",
                        help="pictures in the turntable (default: 60; with --quick 12)")
    parser.add_argument("--render-only", action="store_true",
                        help="train nothing; render the test views and the turntable of fields trained before")


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options as given, with the defaults that depend on others, and with the grey level `bg_color`."""
    args = cli.parse(parser)
    if args.downscale is None:
        args.downscale = (2 if args.scene == "toy" else 8) if args.quick else 1
    if args.frames is None:
        args.frames = 12 if args.quick else 60
    args.bg_color = float(args.background == "white")
    return args


def scene_config(train_images: np.ndarray, train_poses: np.ndarray, test_images: np.ndarray, background: str) -> dict:
    """What a run's config says of its data: the sizes of the splits, a digest of the training views, the background."""
    if min(test_images.shape[1:3]) < SSIM_WINDOW:
        raise UserError(f"the test views are {test_images.shape[2]} × {test_images.shape[1]} pixels; at least "
                            f"{SSIM_WINDOW} a side are needed: a smaller --downscale?")
    return {"scene": {"train": list(train_images.shape), "test": list(test_images.shape),
                      "digest": digest(train_images, train_poses)}, "background": background}


def render_views(run: Run, render: Render, autocast: AbstractContextManager, poses: np.ndarray, focal: float,
                 truth: np.ndarray, names: list[str], frames: int) -> tuple[dict, np.ndarray]:
    """Render and measure the test views, write each and its depth as PNG, and a turntable.

    PSNR is taken of each view, of the colors as they are, and then averaged; `psnr_8bit` likewise of the PNGs.

    Args:
        autocast: the precision to render in.
        poses: (V, 3, 4).
        truth: (V, H, W, 3), in [0, 1].
        names: of the views.
        frames: of the turntable.

    Returns:
        The metrics of a record, and the images as uint8 (V, H, W, 3).
    """
    metrics: dict[str, list[float]] = {"psnr": [], "psnr_8bit": [], "ssim": []}
    images = []
    for pose, wanted, name in zip(poses, truth, names, strict=True):
        with autocast:
            color, depth = render(pose, focal, *wanted.shape[:2])
        image = np.rint(255 * color.clip(0, 1)).astype(np.uint8)
        metrics["psnr"].append(_psnr(color, wanted))
        metrics["psnr_8bit"].append(_psnr(image / 255, wanted))
        metrics["ssim"].append(ssim(color.clip(0, 1), wanted))
        images.append(image)
        plots.write_picture(image, rendering_folder(run) / f"{name}.png")
        # From 0, where there is nothing, to the farthest: near is dark.
        plots.write_picture(np.rint(255 * depth / max(depth.max(), 1e-6)).astype(np.uint8),
                            rendering_folder(run) / f"{name}-depth.png")
    with autocast:
        write_turntable(run, render, poses, focal, truth.shape[1], truth.shape[2], frames)
    means = {name: float(np.mean(values)) for name, values in metrics.items()}
    return {**means, "views": names, "psnr_views": metrics["psnr"], "ssim_views": metrics["ssim"]}, np.stack(images)


def _psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return float(psnr(np.square(image.astype(np.float64) - truth).mean()))


def rendering_folder(run: Run) -> Path:
    """The folder of a run's renderings."""
    return run.path("")


def orbit(frames: int, radius: float, elevation: float = 30.0) -> np.ndarray:
    """Cameras on a circle around the z axis that look at the origin, (frames, 3, 4), OpenGL axes.

    Args:
        radius: their distance from the origin.
        elevation: above the plane z = 0, in degrees.
    """
    poses = []
    for azimuth in np.linspace(0, 2 * math.pi, frames, endpoint=False):
        high = math.radians(elevation)
        back = np.array([math.cos(high) * math.cos(azimuth), math.cos(high) * math.sin(azimuth), math.sin(high)])
        right = np.cross([0, 0, 1], back)
        right /= np.linalg.norm(right)
        poses.append(np.stack([right, np.cross(back, right), back, radius * back], axis=1))
    return np.array(poses, dtype=np.float32).reshape(-1, 3, 4)


def write_turntable(run: Run, render: Render, poses: np.ndarray, focal: float, height: int, width: int,
                    frames: int) -> None:
    """Render an orbit at the mean distance of the cameras `poses`, and write it as an animated GIF.

    At the size of the views, or the half or less of it that has no more than 400 pixels a side.
    """
    if not frames:
        return
    shrink = math.ceil(max(height, width) / 400)
    images = [render(pose, focal / shrink, height // shrink, width // shrink)[0]
              for pose in orbit(frames, float(np.linalg.norm(poses[:, :, 3], axis=1).mean()))]
    packed = io.BytesIO()
    iio.imwrite(packed, np.rint(255 * np.stack(images).clip(0, 1)).astype(np.uint8), extension=".gif", loop=0,
                duration=4000 / frames)
    write_atomically(rendering_folder(run) / "turntable.gif", packed.getvalue())


def save_field(run: Run, **content: Any) -> None:
    """Write a trained field beside its record: state dicts, tensors and plain values."""
    packed = io.BytesIO()
    torch.save({"config": run.config, **content}, packed)
    write_atomically(run.path(".pt"), packed.getvalue())


def load_field(run: Run) -> dict[str, Any]:
    """What `save_field` wrote, on the CPU. UserError if it is not there, damaged, or of other settings."""
    path = run.path(".pt")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        config = saved["config"]
    except FileNotFoundError as error:
        raise UserError(f"there is no trained field at {path}; run without --render-only first") from error
    except Exception as error:  # a damaged zip or pickle raises nearly anything
        raise UserError(f"{path} is damaged; train the run again with --force") from error
    if config != run.config:
        raise UserError(f"{path} was made with other settings; give the options it was trained with")
    return saved


def render_again(runs: list[Run], render_views: Callable[[Run], dict]) -> None:
    """What --render-only does: `render_views` of each run, which returns the metrics, and a line that sums them up."""
    for run in runs:
        metrics = render_views(run)
        print(f"{run}: {metrics['psnr']:.2f} dB on {len(metrics['views'])} test views, written to {rendering_folder(run)}")


def draw_and_print(name: str, runs: list[Run], args: argparse.Namespace, paper: dict[str, dict], truth: np.ndarray,
                   names: list[str]) -> None:
    """The figures of the first seed and the table of all runs of one scene.

    Args:
        name: the method's.
        paper: the published settings, by mode.
        truth, names: the test views.
    """
    first = [run for run in runs if run.seed == args.seeds[0]]
    note = plots.title_suffix([args.seeds[0]], args.quick, first[0].config, paper[first[0].mode])
    stem = f"{first[0].experiment}_{first[0].case}"
    draw_views(first, truth, names, f"{name}, {first[0].case}, {truth.shape[2]} × {truth.shape[1]} pixels{note}",
               args.figures / f"{stem}.png")
    draw_curves(first, f"{name}, {first[0].case}: PSNR over training{note}", args.figures / f"{stem}_psnr.png")
    report.show("renderings", runs)


def draw_views(runs: list[Run], truth: np.ndarray, names: list[str], title: str, path: Path) -> None:
    """Two test views: ground truth, each run and each run's error, the same crop enlarged under each."""
    chosen = [0] if len(names) == 1 else [0, len(names) // 2]
    shape = (len(names), *truth.shape[1:])
    images = [run.arrays(images=shape)["images"] / 255 for run in runs]
    errors = [np.abs(image - truth).mean(axis=-1) for image in images]
    largest = max(0.02, float(np.quantile(np.stack([error[chosen] for error in errors]), 0.995)))
    columns = 1 + 2 * len(runs)
    panel, ratio = 2.5, truth.shape[1] / truth.shape[2]
    figure, axes = plt.subplots(2 * len(chosen), columns, squeeze=False,
                                figsize=(panel * columns + 0.6, (panel * ratio + 0.25) * 2 * len(chosen) + 0.6))
    for place, view in enumerate(chosen):
        window = plots.busiest_window(truth[view])
        shown: list[tuple[str, str, np.ndarray, dict]] = [("ground truth", names[view], truth[view], {})]
        for run, image in zip(runs, images):
            shown.append((plots.LABELS[run.mode], f"{run.metric('psnr_views')[view]:.2f} dB", image[view], {}))
        for run, error in zip(runs, errors):
            shown.append((f"{plots.LABELS[run.mode]}: error", "", error[view], {"cmap": "magma", "vmax": largest}))
        for (name, value, picture, style), (whole, crop) in zip(shown, axes[2 * place:2 * place + 2].T):
            last = plots.show_with_crop(whole, crop, picture, window, "" if place else name, value, vmin=0, **style)
    figure.colorbar(last, ax=axes[:, -1], shrink=0.6, label="mean absolute error")
    figure.suptitle(title, fontsize=13)
    plots.save(figure, path)


def draw_curves(runs: list[Run], title: str, path: Path) -> None:
    """PSNR of the training rays over the iterations, averaged over hundredths of the training."""
    figure, axis = plots.curves("iteration", "PSNR of the training rays (dB)")
    for run in runs:
        mse = run.arrays()["mse"]
        width = max(1, len(mse) // 100)
        means = mse[:len(mse) // width * width].reshape(-1, width).mean(axis=1)
        axis.plot(width * (np.arange(len(means)) + 0.5), psnr(means), **plots.line_style(run.mode),
                  label=f"{plots.LABELS[run.mode]}\ntest views: {run.metric('psnr'):.2f} dB")
    axis.xaxis.set_major_formatter(plots.THOUSANDS)
    plots.save_curves(figure, title, path)


def draw_renderers(runs: list[Run], args: argparse.Namespace, truth: np.ndarray, names: list[str]) -> None:
    """Both renderers and both modes on the busiest part of one test view, where the records of both are there.

    Args:
        runs: Instant-NGP's; of the other renderer the records of the same scene, bg_color, modes and seed are taken.
        truth, names: the test views.
    """
    shown: list[tuple[str, str, np.ndarray]] = []
    for experiment, name in (("dvgo", "DVGO"), ("ngp", "Instant-NGP")):
        for run in (run for run in runs if run.seed == args.seeds[0]):
            of = dataclasses.replace(run, results=args.results, experiment=experiment)
            try:
                record, images = read_record(of.path(".json")), read_arrays(of.path(".npz"))["images"]
            except (OSError, UserError, KeyError):  # not there, or damaged, which its own script says
                continue
            if all(record["config"].get(key) == run.config[key] for key in ("scene", "background")):
                shown.append((f"{name}\n{plots.LABELS[run.mode]}", f"{record['metrics']['psnr']:.2f} dB", images / 255))
    if len({name.split("\n")[0] for name, _, _ in shown}) < 2:
        return
    view = len(names) // 2
    window = plots.busiest_window(truth[view])
    figure, axes = plt.subplots(2, 1 + len(shown), figsize=(2.5 * (1 + len(shown)), 6.2))
    for (name, value, images), (whole, crop) in zip([("ground truth\n", "", truth), *shown], axes.T):
        plots.show_with_crop(whole, crop, images[view], window, name, value)
    figure.suptitle(f"{runs[0].case}, view {names[view]}; PSNR over all {len(names)} test views"
                    f"{', quick' * args.quick}", fontsize=13)
    plots.save(figure, args.figures / f"renderers_{runs[0].case}.png")
