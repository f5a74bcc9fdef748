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
    results/ngp/<scene>/<mode>-seed<k>/         views/ and depths/ of the test views as .png, an orbit as turntable.gif
    figures/ngp_<scene>_views.png, …_psnr.png   two test views with their errors; PSNR over the iterations
    figures/radiance_fields_<scene>.png         this and DVGO, both networks, where the records of dvgo.py are there

On two CPU cores --quick takes one to two minutes, --medium half an hour a network, the full size days.
"""

import argparse
import dataclasses
import functools
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from data.scenes import Scene, describe, load_scene, scene_center
from experiment import cli, figures, radiance_fields, tables, training
from experiment.errors import UserError
from experiment.records import Run, planned_runs
from experiment.sweep import sweep
from models import fold, parameter_groups
from models.nerf.color_mlp import COLOR_MODES
from models.nerf.instant_ngp import InstantNGPField
from models.nerf.occupancy_grid import visible_cells
from models.nerf.rays import RayDataset
from models.nerf.volume_rendering import render_image

# The schedule of ngp_pl for Blender scenes; the paper's comparison is of 110 epochs. Section 5: FR in the place of the
# color network's one hidden layer.
# `network` is what color_mlp takes, `field` what InstantNGPField takes beside it.
FIELD = {"levels": 16, "log2_size": 19, "finest": 1024, "resolution": 128, "steps": 1024}
NGP_PL: dict = {"epochs": 30, "iterations": 1_000, "rays": 8192, "lr": 1e-2, "eps": 1e-15, "opacity_weight": 1e-3,
          "warm_up": 256, "update_every": 16, "field": FIELD}
FR = {"low_freq_num": 32, "high_freq_num": 32, "phase_num": 64, "alpha": 0.01}
PAPER = {"relu":    {"network": {"hidden_features": 64}, **NGP_PL},
         "relu+fr": {"network": {"hidden_features": 64, **FR}, **NGP_PL}}
# Half the images' sides, smaller encoding and occupancy grid, a quarter of the rays: half an hour a network on a CPU.
MEDIUM = {"epochs": 10, "iterations": 500, "rays": 2048, "warm_up": 128,
          "field": {"levels": 8, "log2_size": 17, "finest": 256, "resolution": 64, "steps": 512}}
# A smaller encoding and occupancy grid, smaller batches; the same networks.
QUICK = {"epochs": 10, "iterations": 65, "rays": 512, "lr": 1.4e-2, "warm_up": 64, "update_every": 4,
         "field": {"levels": 4, "log2_size": 18, "finest": 64, "resolution": 32, "steps": 192}}
LAST_LR = 1 / 30  # of the first
CAMERA_DISTANCE = 1.5  # from the middle of the cube of side 1 that the scene is in


@functools.cache
def normalize_poses(scene: Scene) -> Scene:
    """The scene about the origin, in units in which its training cameras are at the mean distance CAMERA_DISTANCE."""
    center = scene_center(scene.train.poses).astype(np.float32)
    radius = float(np.linalg.norm(scene.train.poses[:, :, 3] - center, axis=1).mean())
    if radius == 0:
        raise UserError(f"the cameras of {scene.name} are all at one point, from where nothing is seen around")

    def moved(poses: np.ndarray) -> np.ndarray:
        poses = poses.copy()
        poses[:, :, 3] = (poses[:, :, 3] - center) * (CAMERA_DISTANCE / radius)
        return poses

    return Scene(scene.name, *(dataclasses.replace(views, poses=moved(views.poses))
                               for views in (scene.train, scene.test)))


def learning_rate(epoch: int, epochs: int, first: float) -> float:
    """A cosine from `first` down to a thirtieth of it, epoch by epoch: torch.optim.lr_scheduler.CosineAnnealingLR."""
    last = first * LAST_LR
    return last + (first - last) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def make_field(mode: str, config: dict, dataset: RayDataset) -> InstantNGPField:
    """The field of a run before training, without the cells that no camera sees."""
    field = InstantNGPField(mode, bg_color=dataset.bg_color, **config["field"], **config["network"])
    field = field.to(dataset.poses.device)
    cells = visible_cells(field.occupancy.resolution, field.occupancy.half_extent, dataset.poses, dataset.intrinsics,
                          dataset.height, dataset.width)
    field.occupancy.exclude(~cells)
    return field


def objective(field: InstantNGPField, batch: tuple[Tensor, Tensor, Tensor],
              opacity_weight: float) -> tuple[Tensor, Tensor]:
    """The sums over a batch of rays of the squared error, and of the whole objective."""
    origins, directions, target = batch
    rendering = field(origins, directions, jitter=True)
    error = (rendering.color - target).square().sum() / 3
    opacity = 1 - rendering.final_transmittance + 1e-10  # its logarithm is finite where there is nothing
    # −o log o: a ray should end in something or in nothing
    return error, error + opacity_weight * torch.special.entr(opacity).sum()


def training_iteration(field: InstantNGPField, optimizer: torch.optim.Adam, dataset: RayDataset, step: int,
                       config: dict, autocast, chunk: int | None = None) -> Tensor:
    """Forward, loss, backward and step on random rays, `chunk` at a time; their mean squared error."""
    if step % config["update_every"] == 0:
        field.update_occupancy(everywhere=step < config["warm_up"])
    rays = config["rays"]
    pixels = torch.randint(dataset.pixels, (rays,), device=dataset.poses.device)
    optimizer.zero_grad()
    mse = torch.zeros((), device=pixels.device)
    # Parts of one size, so that their numbers of samples are alike; the gradients add up to those of the whole batch.
    for part in pixels.tensor_split(math.ceil(rays / (chunk or rays))):
        with autocast:
            error, loss = objective(field, dataset.rays(part), config["opacity_weight"])
        (loss / rays).backward()
        mse += error.detach() / rays
    optimizer.step()
    return mse


def train(run: Run, args: argparse.Namespace) -> str:
    """Train one field, write its record and renderings, return the line that sums it up."""
    device, autocast = training.prepare(args, run.seed, one_thread=args.quick)
    scene, config = normalize_poses(load(args)), run.config
    dataset = RayDataset.from_views(scene.train, args.bg_color, device)
    field = make_field(run.mode, config, dataset)
    groups = parameter_groups(field, config["lr"], config.get("hidden_lr", 1.0), network=field.color)
    optimizer = torch.optim.Adam(groups, eps=config["eps"], fused=True)
    mse = torch.zeros(config["epochs"] * config["iterations"], device=device)
    clock = training.Stopwatch(device)
    state = {"field": field, "optimizer": optimizer}
    for block in training.blocks(run, args, clock, mse, state, radiance_fields.decibels,
                                 stop_every=[config["iterations"]]):
        epoch = block.start // config["iterations"]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch, config["epochs"], group["initial_lr"])
        with clock:
            for step in block:
                mse[step] = training_iteration(field, optimizer, dataset, step, config, autocast, args.chunk)

    plain = fold(field).requires_grad_(False)
    radiance_fields.save_field(run, field=plain.state_dict())
    measured, images = evaluate(plain, run, args, autocast)
    run.finish(metrics=measured, arrays={"images": images, "mse": mse.cpu().numpy()}, seconds=clock.seconds,
               steps=len(mse))
    return (f"{measured['psnr']:.2f} dB on {len(images)} test views in {clock.seconds:.1f} s, "
            f"{len(mse) * config['rays'] / clock.seconds:,.0f} rays a second{training.peak_memory(device)}")


def evaluate(field: InstantNGPField, run: Run, args: argparse.Namespace, autocast):
    """Render and measure the test views, write them and the turntable."""
    render = functools.partial(render_image, field, device=field.occupancy.density.device)
    return radiance_fields.evaluate(run, render, autocast, normalize_poses(load(args)).test, np.zeros(3), args)


def render_again(run: Run, args: argparse.Namespace) -> dict:
    """The test views and the turntable of a field that was trained before; its FR layer was folded."""
    device, autocast = training.prepare(args, run.seed, one_thread=False)
    field = InstantNGPField("relu", bg_color=args.bg_color, **run.config["field"], **run.config["network"])
    field.load_state_dict(radiance_fields.load_field(run)["field"])
    return evaluate(field.requires_grad_(False).to(device), run, args, autocast)[0]


load_once = functools.cache(load_scene)


def load(args: argparse.Namespace) -> Scene:
    """The scene that the options ask for, read once in a process."""
    return load_once(args.scene, args.data, args.downscale)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of `argv`."""
    parser = cli.options(__doc__, modes=COLOR_MODES, default_modes=COLOR_MODES, epochs=NGP_PL["epochs"],
                         checkpoint_every=5_000)
    radiance_fields.add_options(parser)
    parser.add_argument("--chunk", type=cli.whole(1), metavar="N",
                        help="rays at a time, where memory is short; the step stays that of the whole batch")
    return radiance_fields.parse(parser, argv)


def plan(args: argparse.Namespace) -> list[Run]:
    """The runs that the options ask for."""
    scene, settings = load(args), radiance_fields.of_size(PAPER, MEDIUM, args)
    return planned_runs(args, "ngp", {scene.name: {mode: {
        **cli.settings(settings[mode], QUICK, args, "epochs", "lr", "rays"),
        **radiance_fields.scene_config(scene.train, scene.test, args)} for mode in args.modes}})


def main() -> None:
    args = parse()
    scene = load(args)
    print(describe(scene))
    runs = plan(args)
    if args.render_only:
        radiance_fields.render_only(runs, partial(render_again, args=args))
        return
    radiance_fields.say_how_long(runs, args)
    sweep(train, [runs], args, parallel=args.quick)
    figures.draw_each(*radiance_fields.drawings("Instant-NGP", runs, scene.test, args,
                                                 radiance_fields.of_size(PAPER, MEDIUM, args)),
                      partial(radiance_fields.draw_comparison, runs, scene.test, args),
                      partial(tables.print_table, "radiance fields", runs))


if __name__ == "__main__":
    training.run(main)
