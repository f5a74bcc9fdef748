"""What the scripts of the two radiance fields share beside the method: options, evaluation on views, figures."""

import argparse
import io
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UserError
from data.scenes import Scene, Views, load_scene
from harness import cli, figures, labels, training
from harness.device import Stopwatch, peak_memory
from harness.files import write_atomically
from harness.metrics import SSIM_WINDOW, image_psnr, psnr, ssim
from harness.records import Run
from models import fold
from models.nerf.volume_rendering import render_image

MAX_QUEUED_VIEWS = 4  # that are rendered and not yet measured, so that pictures do not pile up in memory
# A camera (3, 4), its fx, fy, cx, cy in pixels, the height and the width to colors (H, W, 3) and depths (H, W).
Render = Callable[[np.ndarray, np.ndarray, int, int], tuple[np.ndarray, np.ndarray]]


def add_options(parser: cli.Parser) -> None:
    """The options of both scripts beside the common ones."""
    parser.add_argument("--scene", metavar="S", type=os.path.expanduser,
                        help="a Blender scene's name or folder, or toy, which needs no download (default: lego; "
                             "--quick toy)")
    parser.add_setting("--downscale", type=cli.whole(1, 64), metavar="D",
                       help="make the images smaller by this factor (default: 1; --medium 2; --quick 8, toy 2)")
    parser.add_setting("--batch", type=cli.whole(1), metavar="N", help="rays a step; in DVGO of the fine stage")
    parser.add_setting("--background", choices=("white", "black"),
                       help="what transparent pixels are put on (default: white)")
    parser.add_setting("--hold-out", type=cli.whole(2), metavar="N",
                       help="keep every N-th training view out of the training, and measure these instead of the test "
                            "views: to choose a setting by")
    parser.add_argument("--frames", type=cli.whole(0, 1000), metavar="N",
                        help="pictures in the turntable (default: 60; --quick 12)")
    parser.sizes.add_argument("--medium", action="store_const", const="medium", dest="size",
                              help="a version between --quick and the paper's")
    parser.add_argument("--render-only", action="store_true",
                        help="train nothing; render and measure the views of fields trained before")


def parse(parser: cli.Parser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options as given, with the defaults of what no record keeps."""
    args = cli.parse(parser, argv)
    args.scene = args.scene or ("toy" if args.size == "quick" else "lego")
    args.frames = args.frames if args.frames is not None else 12 if args.size == "quick" else 60
    return args


def size_settings(args: argparse.Namespace, medium: dict[str, Any], quick: dict[str, Any]) -> dict[str, Any]:
    """What --medium or --quick changes of the default settings."""
    if args.size == "quick" and args.scene == "toy":
        return {**quick, "downscale": 2}
    return {"": {}, "medium": medium, "quick": quick}[args.size]


def load(args: argparse.Namespace, default: dict[str, Any]) -> Scene:
    """The scene that the options ask for.

    Raises:
        UserError: test views that are too small for the SSIM, or as for `load_scene`.
    """
    scene = load_scene(args.scene, args.data, args.downscale or default["downscale"])
    if args.hold_out:
        held_out = np.arange(len(scene.train.names)) % args.hold_out == args.hold_out - 1
        if not held_out.any():
            raise UserError(f"--hold-out {args.hold_out} leaves out none of the {len(held_out)} training views")
        scene = Scene(scene.name, some_views(scene.train, ~held_out), some_views(scene.train, held_out))
    height, width = scene.test.images.shape[1:3]
    if min(height, width) < SSIM_WINDOW:
        raise UserError(f"the views are {width} × {height} pixels; at least {SSIM_WINDOW} a side are needed: "
                        "a smaller --downscale?")
    if long := [name for name in scene.test.names if len(os.fsencode(os.path.basename(name))) > 251]:
        raise UserError(f"the name of a view is too long for a .png behind it: {long[0]}; rename the file")
    return scene


def some_views(views: Views, chosen: np.ndarray) -> Views:
    """The views at which `chosen`, bool (N,), is true."""
    return Views(views.images[chosen], views.poses[chosen], views.intrinsics[chosen],
                 [name for name, is_chosen in zip(views.names, chosen) if is_chosen])


def scene_config(scene: Scene) -> dict[str, Any]:
    """What a run's config says of its data: the sizes of the splits, and a digest of each with cameras and names."""
    return {"scene": {"train": list(scene.train.images.shape), "test": list(scene.test.images.shape),
                      "digest": scene.train.digest(), "test_digest": scene.test.digest()}}


def bg_color(config: dict[str, Any]) -> float:
    """The gray level behind the scene."""
    return float(config["background"] == "white")


def decibels(mse: float) -> str:
    """The PSNR of the training rays, for the progress bar."""
    return f"{psnr(mse):.2f} dB"


def evaluate(run: Run, render: Render, autocast: AbstractContextManager, views: Views, center: np.ndarray,
             args: argparse.Namespace) -> tuple[dict[str, Any], np.ndarray]:
    """Render and measure test views, write each and its depth as PNG, and a turntable.

    `psnr` is the mean over the views, each of the colors as they are; `psnr_8bit` is that of the PNGs. A view is
    measured and written on a thread while the next is rendered.

    Args:
        autocast: the precision to render in.
        center: of the scene, (3,).

    Returns:
        The metrics of a record, and the images as uint8 (V, H, W, 3).
    """
    def finish(view: int, color: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, float, float, float]:
        truth, name = views.colors(view, bg_color(run.config)), views.names[view]
        image = np.rint(255 * color.clip(0, 1)).astype(np.uint8)
        figures.write_picture(image, run.path("") / "views" / f"{name}.png")
        # Black is 0, where there is nothing; white is the farthest.
        figures.write_picture(np.rint(255 * depth / max(depth.max(), 1e-6)).astype(np.uint8),
                              run.path("") / "depths" / f"{name}.png")
        return image, image_psnr(color, truth), image_psnr(image / 255, truth), ssim(color.clip(0, 1), truth)

    finished: list[Future] = []
    with ThreadPoolExecutor(1) as thread, autocast:
        for view, (pose, camera) in enumerate(zip(views.poses, views.intrinsics, strict=True)):
            finished.append(thread.submit(finish, view, *render(pose, camera, *views.images.shape[1:3])))
            if view >= MAX_QUEUED_VIEWS:
                finished[view - MAX_QUEUED_VIEWS].result()
        write_turntable(run, render, views, center, args.frames)
    images, psnrs, psnrs_8bit, ssims = zip(*(of_view.result() for of_view in finished))
    return ({"psnr": float(np.mean(psnrs)), "psnr_8bit": float(np.mean(psnrs_8bit)), "ssim": float(np.mean(ssims)),
             "views": list(views.names), "psnr_views": list(psnrs), "ssim_views": list(ssims)}, np.stack(images))


def orbit(frames: int, radius: float) -> np.ndarray:
    """Cameras on a circle around the z axis that look at the origin from 30 degrees above, (frames, 3, 4), OpenGL axes.

    Args:
        radius: their distance from the origin.
    """
    cameras = [figures.look_at(azimuth, 30).T for azimuth in np.linspace(0, 360, frames, endpoint=False)]
    return np.array([np.c_[axes, radius * axes[:, 2]] for axes in cameras], np.float32).reshape(-1, 3, 4)


def write_turntable(run: Run, render: Render, views: Views, center: np.ndarray, frames: int) -> None:
    """Render an orbit about `center` at the mean distance of the cameras of `views`, and write it as an animated GIF.

    Its pictures have the size of the views, divided by a whole number if a side is above 400 pixels.
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
    write_atomically(run.path("") / "turntable.gif", packed.getvalue())


def save_field(run: Run, field: dict[str, Any]) -> None:
    """Write the state dict of a trained field beside its record."""
    packed = io.BytesIO()
    torch.save({"config": run.config, "field": field}, packed)
    write_atomically(run.path(".pt"), packed.getvalue())


def load_field(run: Run) -> dict[str, Any]:
    """What `save_field` wrote, on the CPU. UserError if it is not there, damaged, or of other settings."""
    path = run.path(".pt")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        config, field = saved["config"], saved["field"]
    except FileNotFoundError as error:
        raise UserError(f"there is no trained field at {path}; train the run again with --force") from error
    except Exception as error:  # a damaged zip or pickle raises nearly anything
        raise UserError(f"{path} is damaged; train the run again with --force") from error
    if config != run.config:
        raise UserError(f"{path} was made with other settings; give the options it was trained with")
    return field


def finish(run: Run, field: nn.Module, scene: Scene, center: np.ndarray, args: argparse.Namespace,
           autocast: AbstractContextManager, losses: Tensor, clock: Stopwatch) -> str:
    """Write a trained field, FR folded, its renderings, and the record of its run; return the line that sums it up.

    Args:
        center: of the scene, (3,), about which the turntable goes.
        losses: (steps,), the mean squared error of each step's rays.
    """
    field = fold(field).requires_grad_(False)
    save_field(run, field=field.state_dict())
    measured, images = evaluate(run, partial(render_image, field, device=losses.device), autocast, scene.test, center,
                                args)
    run.finish(metrics=measured, arrays={"mse": losses.cpu().numpy(), "images": images}, seconds=clock.seconds,
               steps=len(losses))
    return (f"{measured['psnr']:.2f} dB on {len(images)} test views in {clock.seconds:.1f} s, "
            f"{len(losses) * run.config['batch'] / clock.seconds:,.0f} rays a second{peak_memory(losses.device)}")


def render_only(runs: list[Run], rebuild: Callable[[Run, dict[str, Any]], nn.Module], scene: Scene, center: np.ndarray,
                args: argparse.Namespace) -> None:
    """Do what --render-only asks for: render and measure each finished run's views again, and write its record anew.

    Args:
        rebuild: makes a run's field from its state dict.
        center: of the scene, (3,).
    """
    for run in runs:
        record = run.record()
        if record is None:
            raise UserError(f"{run.path('.json')} is not there; run without --render-only first")
        with run.locked():
            device, autocast = training.prepare(args, run.seed)
            field = rebuild(run, load_field(run)).requires_grad_(False).to(device)
            metrics, images = evaluate(run, partial(render_image, field, device=device), autocast, scene.test, center,
                                       args)
            run.write(record, metrics, {**run.arrays(), "images": images})
        print(f"{run}: {metrics['psnr']:.2f} dB on {len(metrics['views'])} views, written to "
              f"{run.path('')}")


def drawings(method: str, runs: list[Run], views: Views, args: argparse.Namespace) -> list[Callable[[], None]]:
    """What draws the figures of the first seed; `views` are the test views."""
    first = [run for run in runs if run.seed == args.seeds[0]]
    title = f"{method}, {labels.title(first[0])}"
    folder = args.figures / first[0].folder
    return [partial(draw_views, first, views, title, folder / "close_ups.png"),
            partial(draw_curves, first, f"PSNR over training\n{title}", folder / "psnr.png")]


def draw_views(runs: list[Run], views: Views, title: str, path: Path) -> None:
    """The part of a test view with the most detail: truth, networks, and the difference of the first two's errors."""
    view = len(views.names) // 2
    truth = views.colors(view, bg_color(runs[0].config))
    window = figures.busiest_window(truth)
    images = [run.arrays(images=(*views.images.shape[:3], 3))["images"][view] / 255 for run in runs]
    shown = [(label, f"{run.metric('psnr_views')[view]:.2f} dB", image[window])
             for run, label, image in zip(runs, labels.labels(map(vars, runs)), images)]
    if len(images) > 1:
        errors = [np.abs(image - truth).mean(axis=-1)[window] for image in images[:2]]
        difference = errors[0] - errors[1]
        scale = max(0.02, float(np.quantile(np.abs(difference), 0.99)))
        shown.append((f"error: blue, where {shown[1][0]} has less", f"full color at ± {scale:.2f}",
                      figures.matplotlib.colormaps["RdBu"]((difference / scale + 1) / 2)[..., :3]))
    figure = figures.close_ups(truth, window, truth[window], shown)
    figure.suptitle(f"{title}\nview {views.names[view]} with its own PSNR; the means of all {len(views.names)} views: "
                    + ", ".join(f"{label} {run.metric('psnr'):.2f} dB" for run, label in zip(
                        runs, labels.labels(map(vars, runs)))))
    figures.save(figure, path)


def draw_curves(runs: list[Run], title: str, path: Path) -> None:
    """PSNR of the training rays over the steps, averaged over hundredths of the training."""
    figure, axis = figures.curves("step", "PSNR of the training rays (dB)")
    measured = "held-out views" if runs[0].config.get("hold_out") else "test views"
    for run, label in zip(runs, labels.labels(map(vars, runs))):
        mse = run.arrays()["mse"]
        axis.plot(np.arange(1, len(mse) + 1), psnr(figures.smoothed(mse, len(mse) // 100)),
                  **figures.line_style(run.mode, run.own), label=f"{label}\n{measured}: {run.metric('psnr'):.2f} dB")
    axis.xaxis.set_major_formatter(figures.THOUSANDS)
    figures.save_curves(figure, title, path)
