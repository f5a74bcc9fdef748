"""Train Instant-NGP (Müller et al., SIGGRAPH 2022) with a plain and with a Fourier reparameterized color network.

This is of section 5 of the paper. It goes from photographs with known cameras to renderings of new views.

    python InstantNGP.py                lego at 800 × 800, both networks, 110 epochs: for a GPU
    python InstantNGP.py --medium       lego at 400 × 400, a quarter of the rays, a smaller encoding
    python InstantNGP.py --quick        a small scene that is rendered here; nothing to download
    python InstantNGP.py --render-only  the views and the turntable again, of fields trained before

An epoch is 1,000 iterations of 8,192 rays. Nothing is compiled: the hash encoding, the occupancy grid and the marching
of rays are plain PyTorch. The script writes

    results/ngp/<scene>/<options>/<network>-seed<k>.json        PSNR and SSIM on the test views
    results/ngp/<scene>/<options>/<network>-seed<k>.npz, .pt    renderings and training curve; the field, FR folded
    results/ngp/<scene>/<options>/<network>-seed<k>/            views/ and depths/ of the test views, turntable.gif
    figures/ngp/<scene>/<options>/close_ups.png, psnr.png       a test view, enlarged; PSNR over the iterations

<options> are what differs from the defaults, as quick or epochs=30. Each figure is also written as .pdf.
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR

from data.scenes import Scene, describe, normalize_poses
from harness import cli, figures, nerf_views, training
from harness.device import Stopwatch
from harness.records import Run, planned_runs
from harness.results import print_results
from harness.sweep import Job, in_ranks, sweep
from models.nerf.color_mlp import COLOR_MODES
from models.nerf.instant_ngp import InstantNGPField, make_field, objective
from models.nerf.rays import RayDataset

# Where no other source is named: ngp_pl's defaults for Blender scenes, with their names there. ngp_pl is an
# implementation of Instant-NGP in PyTorch and CUDA.
PAPER: dict = {
    "epochs": 110,              # the paper's comparison; ngp_pl itself 30 (num_epochs)
    "iterations": 1_000,        # of an epoch
    "batch": 8192,              # rays a step: batch_size
    "lr": 1e-2,                 # lr; Adam
    "eps": 1e-15,               # of Adam: eps
    "opacity_weight": 1e-3,     # lambda_opacity
    "warm_up": 256,             # warmup_steps
    "update_every": 16,         # steps between looks at the density: update_interval
    "field": {
        "levels": 16,           # L
        "log2_size": 19,        # log2_T
        "finest": 1024,         # 2048 × scale, a scene's size
        "resolution": 128,      # of the occupancy grid: grid_size
        "steps": 1024,          # across the cube: MAX_SAMPLES
    },
    "downscale": 1,
    "background": "white",      # of Blender scenes
}
FR = {
    "low_freq_num": 32,         # paper, section 5
    "high_freq_num": 32,        # paper, section 5
    "phase_num": 64,            # paper, section 5
    "alpha": 0.01,              # paper, section 5
}
NETWORKS = {
    "relu": {"hidden_features": 64},           # rgb_net's n_neurons
    "relu+fr": {"hidden_features": 64, **FR},
}
SETTINGS = {mode: {"network": network, **PAPER} for mode, network in NETWORKS.items()}
# Half the images' sides, smaller encoding and occupancy grid, a quarter of the rays.
MEDIUM = {"epochs": 10, "iterations": 500, "batch": 2048, "warm_up": 128, "downscale": 2,
          "field": {"levels": 8, "log2_size": 17, "finest": 256, "resolution": 64, "steps": 512}}
# A smaller encoding and occupancy grid, smaller batches; the same networks.
QUICK = {"epochs": 10, "iterations": 65, "batch": 512, "lr": 1.4e-2, "warm_up": 64, "update_every": 4, "downscale": 8,
         "field": {"levels": 4, "log2_size": 18, "finest": 64, "resolution": 32, "steps": 192}}
OPERATIONS_A_RAY = 19e6  # matrix products with so many take as long on a CPU as a training step of a ray
CENTER = np.zeros(3)  # of the cube
LAST_LR = 1 / 30  # the last learning rate over the first (ngp_pl: CosineAnnealingLR with eta_min = lr / 30)


def cosine(epoch: int, epochs: int) -> float:
    """The factor on each learning rate, from 1 to LAST_LR. CosineAnnealingLR would give all groups one last rate."""
    return LAST_LR + (1 - LAST_LR) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def train(run: Run, scene: Scene, args: argparse.Namespace) -> str:
    """Train one field, write its record and renderings, return the line that sums it up."""
    config = run.config
    device, autocast = training.prepare(args, run.seed)
    dataset = RayDataset.from_views(scene.train, nerf_views.bg_color(config), device)
    field = make_field(run.mode, config, dataset)
    groups = training.parameter_groups(field, config["lr"], config["hidden_lr"], network=field.color)
    optimizer = torch.optim.Adam(groups, eps=config["eps"], fused=True)
    scheduler = LambdaLR(optimizer, partial(cosine, epochs=config["epochs"]))  # epoch by epoch
    rays = config["batch"]

    losses = torch.zeros(config["epochs"] * config["iterations"], device=device)
    clock, state = Stopwatch(device), {"field": field, "optimizer": optimizer, "scheduler": scheduler}
    for step in training.steps(run, args, losses, clock, state, nerf_views.decibels):
        if step % config["update_every"] == 0:
            field.update_occupancy(everywhere=step < config["warm_up"])
        pixels = torch.randint(dataset.pixels, (rays,), device=device)
        optimizer.zero_grad()
        for part in pixels.split(args.chunk or rays):  # the gradients add up to those of the whole batch
            origins, directions, target = dataset.rays(part)
            with autocast:
                rendering = field(origins, directions, jitter=True)
                error, loss = objective(rendering, target, config["opacity_weight"])
            (loss / rays).backward()
            losses[step] += error.detach() / rays
        optimizer.step()
        if (step + 1) % config["iterations"] == 0:
            scheduler.step()

    return nerf_views.finish(run, field, scene, CENTER, args, autocast, losses, clock)


def rebuild(run: Run, saved: dict) -> InstantNGPField:
    """The field of a state dict; its FR layer was folded."""
    field = InstantNGPField("relu", bg_color=nerf_views.bg_color(run.config), **run.config["field"],
                            **run.config["network"])
    field.load_state_dict(saved)
    return field


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of `argv`."""
    parser = cli.options(__doc__, modes=COLOR_MODES, default_modes=COLOR_MODES, epochs=PAPER["epochs"],
                         checkpoint_every=5_000)
    nerf_views.add_options(parser)
    parser.add_argument("--chunk", type=cli.whole(1), metavar="N",
                        help="rays in memory at once; the step stays that of the whole batch (default: all)")
    return nerf_views.parse(parser, argv)


def load(args: argparse.Namespace) -> Scene:
    """The scene that the options ask for, moved and scaled into the cube."""
    return normalize_poses(nerf_views.load(args, {**PAPER, **nerf_views.size_settings(args, MEDIUM, QUICK)}))


def plan(args: argparse.Namespace, scene: Scene) -> list[Run]:
    """The runs that the options ask for."""
    return planned_runs(args, "ngp", scene.name, SETTINGS, nerf_views.size_settings(args, MEDIUM, QUICK),
                        nerf_views.scene_config(scene))


def main() -> None:
    args = parse()
    scene = load(args)
    print(describe(scene))
    runs = plan(args, scene)
    if args.render_only:
        nerf_views.render_only(runs, rebuild, scene, CENTER, args)
        return
    training.say_how_long(runs, args, lambda config: OPERATIONS_A_RAY * config["epochs"] * config["iterations"] *
                          config["batch"])
    sweep([Job(run, partial(train, run, scene, args)) for run in runs], args=args, parallel=args.size == "quick")
    figures.draw_each(*nerf_views.drawings("Instant-NGP", runs, scene.test, args),
                      partial(print_results, runs, "psnr", 2))


if __name__ == "__main__":
    cli.run(in_ranks(main))
