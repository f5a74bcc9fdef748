"""Train Instant-NGP (Müller, Evans, Schied and Keller, SIGGRAPH 2022) with the plain and with the Fourier
reparameterized color network (section 5 of the paper), from photographs with known cameras to renderings of new views.

    python InstantNGP.py                              lego at 800 × 800, both networks, 30 epochs: for a GPU
    python InstantNGP.py --epochs 110                 as many as the paper's comparison has
    python InstantNGP.py --scene toy --quick          a small scene that is rendered here
    python InstantNGP.py --scene lego --render-only   the views and the turntable again, of fields trained before

An epoch is 1,000 iterations of 8,192 rays. Nothing is compiled: the hash encoding, the occupancy grid and the marching
of rays are plain PyTorch. Writes

    results/ngp/<scene>/<mode>-seed<k>.json     PSNR and SSIM on the test views
    results/ngp/<scene>/<mode>-seed<k>.npz, .pt renderings and training curve; the field, FR folded
    results/ngp/<scene>/<mode>-seed<k>/         test views and their depth as .png, an orbit as turntable.gif
    figures/ngp_<scene>.png, …_psnr.png         two test views with their errors; PSNR over the iterations
    figures/renderers_<scene>.png               this and DVGO, both networks, where the records of dvgo.py are there

On two CPU cores --quick takes one to two minutes; the full size takes days there.
"""

import argparse
import functools
import math

import numpy as np
import torch
from torch import Tensor

from data.scenes import Scene, loaded_once, on_background
from experiment import cli, rendering
from experiment.errors import UserError
from experiment.metrics import psnr
from experiment.ranks import rank_0_first
from experiment.records import Run
from experiment.runtime import (
    Stopwatch,
    begin,
    check_finite,
    choose_device,
    environment,
    next_stop,
    set_precision,
)
from experiment.sweep import progress, slow_runs, sweep
from models import fold
from models.nerf.color_mlp import COLOR_MODES
from models.nerf.instant_ngp import InstantNGPField
from models.nerf.occupancy_grid import visible_cells
from models.nerf.rays import RayDataset
from models.nerf.volume_rendering import render_image

# The schedule of ngp_pl for Blender scenes, and section 5: FR in the place of the color network's one hidden layer.
PAPER = {mode: {"epochs": 30, "iterations": 1_000, "rays": 8192, "lr": 1e-2, "eps": 1e-15, "opacity_weight": 1e-3,
                "levels": 16, "log2_size": 19, "finest": 1024, "resolution": 128, "march_steps": 1024, "warm_up": 256,
                "update_every": 16, "low_freq_num": 32, "high_freq_num": 32, "phase_num": 64, "alpha": 0.01}
         for mode in COLOR_MODES}
FIELD = ("levels", "log2_size", "finest", "resolution", "low_freq_num", "high_freq_num", "phase_num", "alpha")
LAST_LR = 1 / 30  # of the first
CAMERA_DISTANCE = 1.5  # from the middle of the cube of side 1 that the scene is in
# A smaller encoding and occupancy grid, smaller batches; the same networks.
QUICK = {"epochs": 10, "iterations": 65, "rays": 512, "lr": 1.4e-2, "levels": 4, "log2_size": 18, "finest": 64,
         "resolution": 32, "march_steps": 192, "warm_up": 64, "update_every": 4}


def normalize_poses(poses: np.ndarray, radius: float) -> np.ndarray:
    """Cameras (N, 3, 4) in units in which the mean distance `radius` of the training cameras is CAMERA_DISTANCE."""
    moved = poses.copy()
    moved[:, :, 3] *= CAMERA_DISTANCE / radius
    return moved


def radius_of(scene: Scene) -> float:
    """The mean distance of a scene's training cameras from the origin, which is in the middle of the cube."""
    radius = float(np.linalg.norm(scene.train.poses[:, :, 3], axis=1).mean())
    if radius == 0:
        raise UserError(f"the cameras of {scene.name} are all at the origin, from where nothing is seen")
    return radius


def learning_rate(epoch: int, epochs: int, first: float) -> float:
    """A cosine from `first` down to a thirtieth of it, in steps of one epoch."""
    last = first * LAST_LR
    return last + (first - last) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def make_field(mode: str, config: dict, bg_color: float) -> InstantNGPField:
    """The field of a run, before training."""
    return InstantNGPField(mode, steps=config["march_steps"], bg_color=bg_color, **{name: config[name] for name in FIELD})


def loss_of(field: InstantNGPField, batch: tuple[Tensor, Tensor, Tensor], opacity_weight: float) -> tuple[Tensor, Tensor]:
    """The sums over a batch of rays of the squared error, and of the whole objective."""
    origins, directions, target = batch
    shown = field(origins, directions, jitter=True)
    error = (shown.color - target).square().sum() / 3
    opacity = 1 - shown.final_transmittance + 1e-10
    return error, error - opacity_weight * (opacity * opacity.log()).sum()  # a ray should end in something or nothing


def train(run: Run, args: argparse.Namespace) -> str:
    """Train one field, write its record and renderings, return the line that sums it up."""
    device, autocast = begin(args, run.seed, one_thread=args.quick)
    scene, config = scene_of(args), run.config
    dataset = RayDataset(torch.from_numpy(scene.train.images).to(device),
                              torch.from_numpy(normalize_poses(scene.train.poses, radius_of(scene))).to(device),
                              scene.train.focal, args.bg_color)
    field = make_field(run.mode, config, args.bg_color).to(device)
    cells = visible_cells(field.occupancy.resolution, field.occupancy.half_extent, dataset.poses,
                          dataset.focal, dataset.height, dataset.width)
    field.occupancy.exclude(~cells)
    optimizer = torch.optim.Adam(field.parameters(), lr=config["lr"], eps=config["eps"], fused=True)

    steps, rays = config["epochs"] * config["iterations"], config["rays"]
    mse = torch.zeros(steps, device=device)
    clock = Stopwatch(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    state = {"field": field, "optimizer": optimizer, "clock": clock, "mse": mse}
    step = run.restore(**state)
    report_every = min(100, max(1, steps // 20))
    with progress(steps, step, f"{run.case} {run.mode} seed {run.seed}") as bar:
        while step < steps:
            stop = next_stop(step, steps, report_every, config["iterations"], args.checkpoint_every)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step // config["iterations"], config["epochs"], config["lr"])
            with clock:
                for iteration in range(step, stop):
                    if iteration % config["update_every"] == 0:
                        field.update_occupancy(everywhere=iteration < config["warm_up"])
                    pixels = torch.randint(dataset.pixels, (rays,), device=device)
                    optimizer.zero_grad()
                    for part in pixels.split(args.chunk or rays):  # the gradients add up to those of the whole batch
                        with autocast:
                            error, loss = loss_of(field, dataset.rays(part), config["opacity_weight"])
                        (loss / rays).backward()
                        mse[iteration] += error.detach() / rays
                    optimizer.step()
            bar.update(stop - step)
            step = stop
            recent = mse[max(0, step - report_every):step].mean().item()
            check_finite(recent, step)
            bar.set_postfix_str(f"{psnr(recent):.2f} dB")
            if step % args.checkpoint_every == 0 and step < steps:
                run.checkpoint(step, **state)

    plain = fold(field).requires_grad_(False)
    rendering.save_field(run, field=plain.state_dict())
    metrics, images = render_views(plain, run, args, autocast)
    run.finish(metrics=metrics, seconds=clock.seconds, steps=steps, environment=environment(device, run.precision),
               arrays={"images": images, "mse": mse.cpu().numpy()})
    memory = f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else ""
    return (f"{metrics['psnr']:.2f} dB on {len(metrics['views'])} test views in {clock.seconds:.1f} s, "
            f"{steps * rays / clock.seconds:,.0f} rays a second{memory}")


def render_views(field: InstantNGPField, run: Run, args: argparse.Namespace, autocast) -> tuple[dict, np.ndarray]:
    """Render and measure the test views, write them and the turntable."""
    scene = scene_of(args)
    render = functools.partial(render_image, field, device=field.occupancy.density.device)
    return rendering.render_views(run, render, autocast, normalize_poses(scene.test.poses, radius_of(scene)), scene.test.focal,
                                  on_background(scene.test.images, args.bg_color), scene.test.names, args.frames)


def load_field(run: Run, args: argparse.Namespace, device: torch.device) -> InstantNGPField:
    """The field that a run has trained, for rendering; its FR layer was folded."""
    field = make_field("relu", run.config, args.bg_color)
    field.load_state_dict(rendering.load_field(run)["field"])
    return field.requires_grad_(False).to(device)


def scene_of(args: argparse.Namespace) -> Scene:
    """The scene that the options ask for."""
    return loaded_once(args.scene, args.data, args.downscale)


def planned_runs(args: argparse.Namespace, scene: Scene, device: torch.device) -> list[Run]:
    """The runs that the options ask for."""
    data = rendering.scene_config(scene.train.images, scene.train.poses, scene.test.images, args.background)
    runs = []
    for seed in args.seeds:
        for mode in args.modes:
            config = {**PAPER[mode], **(QUICK if args.quick else {}), **data, **cli.overrides(args, "epochs", "lr")}
            runs.append(Run(args.results, "ngp", scene.name, mode, seed, config, args.precision, device.type))
    return runs


@rank_0_first
def main() -> None:
    parser = cli.options(__doc__, modes=COLOR_MODES, default_modes=COLOR_MODES, epochs=30, checkpoint_every=5_000)
    rendering.add_options(parser)
    parser.add_argument("--chunk", type=cli.whole(1), metavar="N",
                        help="rays at a time, where memory is short; the step stays that of the whole batch")
    args = rendering.parse(parser)
    device = choose_device(args.device)
    autocast = set_precision(args.precision, device)
    scene = scene_of(args)
    runs = planned_runs(args, scene, device)
    if args.render_only:
        rendering.render_again(runs, lambda run: render_views(load_field(run, args, device), run, args, autocast)[0])
        return
    if slow_runs(runs, args):
        print("at this size the training takes days on a CPU; --quick takes one to two minutes")
    sweep(train, [runs], args, parallel=args.quick)
    truth = on_background(scene.test.images, args.bg_color)
    rendering.draw_and_print("Instant-NGP", runs, args, PAPER, truth, scene.test.names)
    rendering.draw_renderers(runs, args, truth, scene.test.names)


if __name__ == "__main__":
    cli.run(main)
