"""What the scripts of the two radiance fields share beside the method: options, data, evaluation on views, figures."""

import argparse
import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import imageio.v3 as iio
import numpy as np
import torch

from experiment import cli, figures
from experiment.errors import UserError
from experiment.files import write_atomically
from experiment.labels import LABELS
from experiment.metrics import SSIM_WINDOW, psnr, ssim
from experiment.records import Run, digest, read_arrays, read_record
from experiment.sweep import slow_runs
from experiment.tables import training_length

WAITING = 4  # views that may wait to be measured
# A camera (3, 4), its fx, fy, cx, cy in pixels, the height and the width to colors (H, W, 3) and depths (H, W).
Render = Callable[[np.ndarray, np.ndarray, int, int], tuple[np.ndarray, np.ndarray]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of both scripts beside the common ones."""
    parser.add_argument("--scene", default="lego", metavar="S",
                        help="a Blender scene's name or folder, or toy, which needs no download (default: lego)")
    parser.add_argument("--downscale", type=cli.whole(1, 64), metavar="D",
                        help="make the images smaller by this factor (default: 1; --medium 2; --quick 8, toy 2)")
    parser.add_argument("--rays", type=cli.whole(1), metavar="N", help="rays a step; in DVGO of the fine stage")
    parser.add_argument("--background", choices=("white", "black"), default="white",
                        help="what transparent pixels are put on (default: white)")
    parser.add_argument("--frames", type=cli.whole(0, 1000), metavar="N",
                        help="pictures in the turntable (default: 60; with --quick 12)")
    parser.add_argument("--medium", action="store_true",
                        help="a version between --quick and the paper's: half an hour to an hour a network on a CPU; "
                             "writes below results/medium")
    parser.add_argument("--render-only", action="store_true",
                        help="train nothing; render the test views and the turntable of fields trained before")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options as given, with the defaults that depend on others, and with the gray level `bg_color`."""
    args = cli.parse(parser, argv)
    if args.medium and args.quick:
        parser.error("--medium and --quick are two sizes; give one")
    if args.medium:
        args.results, args.figures = args.results / "medium", args.figures / "medium"
    if args.downscale is None:
        args.downscale = (2 if args.scene == "toy" else 8) if args.quick else 2 if args.medium else 1
    if args.frames is None:
        args.frames = 12 if args.quick else 60
    args.bg_color = float(args.background == "white")
    return args


def of_size(paper: dict[str, dict], medium: dict, args: argparse.Namespace) -> dict[str, dict]:
    """The paper's settings by mode, with --medium those of `medium` in the place of what they change."""
    return {mode: {**settings, **(medium if args.medium else {})} for mode, settings in paper.items()}


class Views(Protocol):
    """What is needed here of data.scenes.Views, which has the shapes."""

    @property
    def images(self) -> np.ndarray: ...
    @property
    def poses(self) -> np.ndarray: ...
    @property
    def intrinsics(self) -> np.ndarray: ...
    @property
    def names(self) -> list[str]: ...
    def colors(self, views: int | list[int], bg_color: float) -> np.ndarray: ...


def scene_config(train: Views, test: Views, args: argparse.Namespace) -> dict[str, Any]:
    """What a run's config says of its data: the sizes of the splits, a digest of the training views, the background.

    Raises:
        UserError: the test views are too small for the SSIM.
    """
    height, width = test.images.shape[1:3]
    if min(height, width) < SSIM_WINDOW:
        raise UserError(f"the test views are {width} × {height} pixels; at least {SSIM_WINDOW} a side are needed: "
                        "a smaller --downscale?")
    return {"scene": {"train": list(train.images.shape), "test": list(test.images.shape),
                      "digest": digest(train.images, train.poses, train.intrinsics)}, "background": args.background}


def decibels(mse: float) -> str:
    """The PSNR of the training rays, for the progress bar."""
    return f"{psnr(mse):.2f} dB"


def evaluate(run: Run, render: Render, autocast: AbstractContextManager, views: Views, center: np.ndarray,
             args: argparse.Namespace) -> tuple[dict[str, Any], np.ndarray]:
    """Render and measure test views, write each and its depth as PNG, and a turntable.

    PSNR is taken of each view, of the colors as they are, and then averaged; `psnr_8bit` likewise of the PNGs. A view
    is measured and written on a thread while the next is rendered.

    Args:
        autocast: the precision to render in.
        center: of the scene, (3,).

    Returns:
        The metrics of a record, and the images as uint8 (V, H, W, 3).
    """
    def finish(view: int, color: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, float, float, float]:
        truth, name = views.colors(view, args.bg_color), views.names[view]
        image = np.rint(255 * color.clip(0, 1)).astype(np.uint8)
        figures.write_picture(image, rendering_folder(run) / "views" / f"{name}.png")
        # From 0, where there is nothing, to the farthest: near is dark.
        figures.write_picture(np.rint(255 * depth / max(depth.max(), 1e-6)).astype(np.uint8),
                              rendering_folder(run) / "depths" / f"{name}.png")
        return image, _psnr(color, truth), _psnr(image / 255, truth), ssim(color.clip(0, 1), truth)

    finished: list[Future] = []
    with ThreadPoolExecutor(1) as thread, autocast:
        for view, (pose, camera) in enumerate(zip(views.poses, views.intrinsics, strict=True)):
            finished.append(thread.submit(finish, view, *render(pose, camera, *views.images.shape[1:3])))
            if view >= WAITING:
                finished[view - WAITING].result()  # lest pictures pile up in memory
        write_turntable(run, render, views, center, args.frames)
    images, psnrs, psnrs_8bit, ssims = zip(*(of_view.result() for of_view in finished))
    return ({"psnr": float(np.mean(psnrs)), "psnr_8bit": float(np.mean(psnrs_8bit)), "ssim": float(np.mean(ssims)),
             "views": list(views.names), "psnr_views": list(psnrs), "ssim_views": list(ssims)}, np.stack(images))


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


def write_turntable(run: Run, render: Render, views: Views, center: np.ndarray, frames: int) -> None:
    """Render an orbit about `center` at the mean distance of the cameras of `views`, and write it as an animated GIF.

    At the size of the views, or the half or less of it that has no more than 400 pixels a side.
    """
    if not frames:
        return
    height, width = views.images.shape[1:3]
    shrink = math.ceil(max(height, width) / 400)
    height, width = height // shrink, width // shrink
    focal = float(np.median(views.intrinsics[:, 0])) / shrink
    camera = np.array([focal, focal, width / 2, height / 2])
    poses = orbit(frames, float(np.linalg.norm(views.poses[:, :, 3] - center, axis=1).mean()))
    poses[:, :, 3] += center.astype(np.float32)
    images = [render(pose, camera, height, width)[0] for pose in poses]
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


def render_only(runs: list[Run], render_again: Callable[[Run], dict]) -> None:
    """What --render-only does: `render_again` of each run, which returns the metrics, and a line that sums them up."""
    for run in runs:
        metrics = render_again(run)
        print(f"{run}: {metrics['psnr']:.2f} dB on {len(metrics['views'])} test views, written to "
              f"{rendering_folder(run)}")


def say_how_long(runs: list[Run], args: argparse.Namespace) -> None:
    """Before a sweep on a CPU that is not --quick, say how long it takes."""
    if slow_runs(runs, args):
        print("at this size the training takes half an hour to an hour a network on a CPU" if args.medium else
              "at this size the training takes days on a CPU; --medium up to an hour a network, --quick a minute")


def drawings(method: str, runs: list[Run], views: Views, args: argparse.Namespace,
             paper: dict[str, dict]) -> list[Callable[[], None]]:
    """What draws the figures of the first seed of one scene.

    Args:
        views: the test views.
        paper: the published settings, by mode, or those of --medium.
    """
    first = [run for run in runs if run.seed == args.seeds[0]]
    suffix = figures.title_suffix([args.seeds[0]], args.quick, first[0].config, paper[first[0].mode])
    stem, (_, height, width, _) = f"{first[0].experiment}_{first[0].case}", views.images.shape
    title = f"{method}, {first[0].case}, {width} × {height} pixels, {training_length(first[0].config)}{suffix}"
    return [partial(draw_views, first, views, args, title, args.figures / f"{stem}_views.png"),
            partial(draw_curves, first, f"PSNR over training\n{title}", args.figures / f"{stem}_psnr.png")]


def draw_views(runs: list[Run], views: Views, args: argparse.Namespace, title: str, path: Path) -> None:
    """Two test views: ground truth, each run and each run's error, the same crop enlarged under each."""
    chosen = [0] if len(views.names) == 1 else [0, len(views.names) // 2]
    truth = views.colors(chosen, args.bg_color)
    shape = (*views.images.shape[:3], 3)
    images = [run.arrays(images=shape)["images"][chosen] / 255 for run in runs]
    errors = [np.abs(image - truth).mean(axis=-1) for image in images]
    largest = max(0.02, float(np.quantile(np.stack(errors), 0.995)))
    columns = 1 + 2 * len(runs)
    panel, ratio = 2.5, shape[1] / shape[2]
    figure, axes = figures.subplots(2 * len(chosen), columns, panel * columns + 0.6,
                                    (panel * ratio + 0.25) * 2 * len(chosen) + 0.6)
    for place, view in enumerate(chosen):
        window = figures.busiest_window(truth[place])
        shown: list[tuple[str, str, np.ndarray, dict]] = [("ground truth", views.names[view], truth[place], {})]
        for run, image in zip(runs, images):
            shown.append((LABELS[run.mode], f"{run.metric('psnr_views')[view]:.2f} dB", image[place], {}))
        for run, error in zip(runs, errors):
            shown.append((f"{LABELS[run.mode]}: error", "", error[place], {"cmap": "magma", "vmax": largest}))
        for (name, value, picture, style), (whole, crop) in zip(shown, axes[2 * place:2 * place + 2].T):
            last = figures.show_with_crop(whole, crop, picture, window, "" if place else name, value, vmin=0, **style)
    figure.colorbar(last, ax=axes[:, -1], shrink=0.6, label="mean absolute error")
    figure.suptitle(title, fontsize=13)
    figures.save(figure, path)


def draw_curves(runs: list[Run], title: str, path: Path) -> None:
    """PSNR of the training rays over the iterations, averaged over hundredths of the training."""
    figure, axis = figures.curves("iteration", "PSNR of the training rays (dB)")
    for run in runs:
        mse = run.arrays()["mse"]
        width = max(1, len(mse) // 100)
        means = mse[:len(mse) // width * width].reshape(-1, width).mean(axis=1)
        axis.plot(width * (np.arange(len(means)) + 0.5), psnr(means), **figures.line_style(run.mode),
                  label=f"{LABELS[run.mode]}\ntest views: {run.metric('psnr'):.2f} dB")
    axis.xaxis.set_major_formatter(figures.THOUSANDS)
    figures.save_curves(figure, title, path)


def draw_comparison(runs: list[Run], views: Views, args: argparse.Namespace) -> None:
    """Both radiance fields and both modes on the busiest part of one test view, where the records of both are there.

    Args:
        runs: Instant-NGP's; of the other the records of the same scene, background, modes and seed are taken.
        views: the test views.
    """
    shown: list[tuple[str, str, np.ndarray]] = []
    view = len(views.names) // 2
    for experiment, name in (("dvgo", "DVGO"), ("ngp", "Instant-NGP")):
        for run in (run for run in runs if run.seed == args.seeds[0]):
            of = dataclasses.replace(run, results=args.results, experiment=experiment)
            try:
                record, images = read_record(of.path(".json")), read_arrays(of.path(".npz"))["images"]
            except (OSError, UserError, KeyError):  # not there, or damaged, which its own script says
                continue
            if all(record["config"].get(key) == run.config[key] for key in ("scene", "background")):
                shown.append((f"{name}\n{LABELS[run.mode]}", f"{record['metrics']['psnr']:.2f} dB",
                              images[view] / 255))
    if len({name.split("\n")[0] for name, _, _ in shown}) < 2:
        return
    truth = views.colors(view, args.bg_color)
    window = figures.busiest_window(truth)
    figure, axes = figures.subplots(2, 1 + len(shown), 2.5 * (1 + len(shown)), 6.2)
    for (name, value, image), (whole, crop) in zip([("ground truth\n", "", truth), *shown], axes.T):
        figures.show_with_crop(whole, crop, image, window, name, value)
    height, width, _ = truth.shape
    figure.suptitle(f"{runs[0].case}, {width} × {height} pixels, view {views.names[view]}; "
                    f"PSNR over all {len(views.names)} test views, seed {args.seeds[0]}"
                    f"{', quick' * args.quick}{', medium' * args.medium}", fontsize=13)
    figures.save(figure, args.figures / f"radiance_fields_{runs[0].case}.png")
