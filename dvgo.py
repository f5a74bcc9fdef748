"""Train DirectVoxGO (Sun, Sun and Chen, CVPR 2022) with a plain and with a Fourier reparameterized color network.

This is of section 5 of the paper. It goes from photographs with known cameras to renderings of new views.

    python dvgo.py                      lego at 800 × 800, both networks, 25,000 iterations: for a GPU
    python dvgo.py --medium             lego at 400 × 400, a quarter of the rays, smaller grids
    python dvgo.py --quick              a small scene that is rendered here; nothing to download
    python dvgo.py --render-only        the views and the turntable again, of fields trained before

First a coarse field, which both networks share, finds where the scene is. Then the fine field is trained there. The
script writes

    results/dvgo/<scene>/<options>/coarse-seed<k>.json, .npz    the coarse field, reused by every run of the same seed
    results/dvgo/<scene>/<options>/<network>-seed<k>.json       PSNR and SSIM on the test views
    results/dvgo/<scene>/<options>/<network>-seed<k>.npz, .pt   renderings and training curve; the field, FR folded
    results/dvgo/<scene>/<options>/<network>-seed<k>/           views/ and depths/ of the test views, turntable.gif
    figures/dvgo/<scene>/<options>/close_ups.png, psnr.png      a test view, enlarged; PSNR over the iterations

<options> are what differs from the defaults, as quick or background=black. Each figure is also written as .pdf. --steps
and --batch are those of the fine stage; --lr is the color network's.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ExponentialLR

from data.errors import UserError
from data.scenes import Scene, describe, near_far, scene_center
from harness import cli, figures, metrics, nerf_views, training
from harness.device import Stopwatch, peak_memory
from harness.records import Run, planned_runs
from harness.results import print_results
from harness.sweep import Job, in_ranks, sweep
from models.nerf.color_mlp import COLOR_MODES
from models.nerf.dvgo import MIN_OPACITY, MIN_VIEWS, DVGOField, coarse_field, fine_field, objective, pixels_in_sight
from models.nerf.masked_adam import MaskedAdam
from models.nerf.rays import RayDataset

# Where no other source is named: DirectVoxGO's configuration for Blender scenes, with its name there.
COARSE = {
    "steps": 5_000,             # N_iters
    "batch": 8192,              # rays a step: N_rand
    "voxels": 1_024_000,        # num_voxels, 100³ rounded up
    "alpha_init": 1e-6,         # alpha_init
    "threshold": 1e-7,          # fast_color_thres
    "grid_lr": 0.1,             # lrate_density, lrate_k0
    "decay_steps": 20_000,      # lrate_decay × 1,000: to a tenth
    "entropy_weight": 0.01,     # weight_entropy_last
    "per_sample_weight": 0.1,   # weight_rgbper
    "renew_every": 1_000,       # steps between renewals of the mask
}
PAPER: dict = {
    "steps": 25_000,            # the paper's comparison; DirectVoxGO itself 20,000 (N_iters)
    "batch": 8192,              # rays a step: N_rand
    "voxels": 160**3,           # num_voxels
    "scale_at": [1_000, 2_000, 3_000, 4_000],   # pg_scale: steps at which the grids get twice the voxels
    "alpha_init": 1e-2,         # alpha_init
    "threshold": 1e-4,          # fast_color_thres
    "grid_lr": 0.1,             # lrate_density, lrate_k0
    "lr": 1e-3,                 # lrate_rgbnet
    "decay_steps": 20_000,      # lrate_decay × 1,000
    "entropy_weight": 0.001,    # weight_entropy_last
    "per_sample_weight": 0.01,  # weight_rgbper
    "renew_every": 1_000,       # steps between renewals of the mask (released code, since 2022)
    "downscale": 1,
    "background": "white",      # white_bkgd
    "coarse": COARSE,
}
FR = {
    "low_freq_num": 64,         # paper, section 5
    "high_freq_num": 64,        # paper, section 5
    "phase_num": 64,            # paper, section 5
    "alpha": 0.05,              # paper, section 5
}
NETWORKS = {
    "relu": {"hidden_features": 128},          # rgbnet_width
    "relu+fr": {"hidden_features": 128, **FR},
}
SETTINGS = {mode: {"network": network, **PAPER} for mode, network in NETWORKS.items()}
# Half the images' sides, grids of 100³, a quarter of rays and a fifth of the iterations.
MEDIUM = {"steps": 5_000, "batch": 2048, "voxels": 100**3, "scale_at": [250, 500, 750, 1_000], "decay_steps": 5_000,
          "renew_every": 250, "downscale": 2,
          "coarse": {**COARSE, "steps": 2_000, "batch": 2048, "voxels": 64**3, "decay_steps": 5_000,
                     "renew_every": 500}}
# Smaller grids and batches, fewer and larger steps; the same networks.
QUICK = {"steps": 400, "batch": 512, "voxels": 48**3, "scale_at": [80, 160], "threshold": 2e-3, "grid_lr": 0.4,
         "decay_steps": 400, "renew_every": 100, "downscale": 8,
         "coarse": {**COARSE, "steps": 250, "batch": 1024, "voxels": 32**3, "alpha_init": 1e-5, "grid_lr": 0.4,
                    "renew_every": 100}}
OPERATIONS_A_RAY = 55e6  # matrix products with so many take as long on a CPU as a training step of a ray


def training_step(field: DVGOField, optimizer: MaskedAdam, scheduler: ExponentialLR, dataset: RayDataset,
                  pixels: Tensor, config: dict, autocast) -> Tensor:
    """Forward, loss, backward and step of either stage; the mean squared error of the rays through `pixels`."""
    origins, directions, target = dataset.rays(pixels)
    with autocast:
        rendering = field(origins, directions)
    error, loss = objective(rendering, target, config["entropy_weight"], config["per_sample_weight"])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    return error.detach()


def make_optimizer(field: DVGOField, config: dict, factors: Tensor | None) -> tuple[MaskedAdam, ExponentialLR]:
    """Adam that leaves alone the voxels that a step did not touch; `factors` scale the density's steps, if given."""
    density, features = field.density.values, field.features.values
    groups: list[dict] = ([{"params": [density, features]}] if factors is None else
                          [{"params": [density], "lr_factor": factors}, {"params": [features]}])
    if field.color is not None:
        groups += training.parameter_groups(field.color, config["lr"], config["hidden_lr"])
    optimizer = MaskedAdam(groups, lr=config["grid_lr"])
    return optimizer, ExponentialLR(optimizer, 0.1 ** (1 / config["decay_steps"]))


def mask_renewal_due(step: int, config: dict) -> bool:
    """Whether the mask is renewed before a step, counted from 0: in the middle of each interval (released code)."""
    return (step + 1 + config["renew_every"] // 2) % config["renew_every"] == 0


def train_coarse(run: Run, scene: Scene, args: argparse.Namespace) -> str:
    """Train the coarse field, which finds where the scene is; write its record, return the line that sums it up."""
    config = run.config
    device, autocast = training.prepare(args, run.seed)
    dataset = RayDataset.from_views(scene.train, nerf_views.bg_color(config), device)
    field, factors = coarse_field(dataset, config, *near_far(scene.train.poses))
    optimizer, scheduler = make_optimizer(field, config, factors)

    losses, clock = torch.zeros(config["steps"], device=device), Stopwatch(device)
    state = {"field": field, "optimizer": optimizer, "scheduler": scheduler}
    for step in training.steps(run, args, losses, clock, state, nerf_views.decibels):
        if mask_renewal_due(step, config):
            field.renew_mask()
        pixels = torch.randint(dataset.pixels, (config["batch"],), device=device)
        losses[step] = training_step(field, optimizer, scheduler, dataset, pixels, config, autocast)

    opacity = field.node_opacity().cpu().numpy()
    recent = losses[-min(100, max(1, len(losses) // 20)):].mean().item()
    run.finish(metrics={"training_psnr": float(metrics.psnr(recent)), "filled": float((opacity > MIN_OPACITY).mean())},
               arrays={"mse": losses.cpu().numpy(), "opacity": opacity, "lower": field.density.lower.cpu().numpy(),
                       "upper": field.density.upper.cpu().numpy()}, seconds=clock.seconds, steps=len(losses))
    return f"{metrics.psnr(recent):.2f} dB on training rays in {clock.seconds:.1f} s{peak_memory(device)}"


def train_fine(run: Run, scene: Scene, args: argparse.Namespace) -> str:
    """Train the fine field where the coarse one found something; write its record and renderings, return a line."""
    config = run.config
    device, autocast = training.prepare(args, run.seed)
    dataset = RayDataset.from_views(scene.train, nerf_views.bg_color(config), device)
    found = coarse_run(run).arrays()
    if not (found["opacity"] > MIN_OPACITY).any():
        raise UserError("the coarse field is empty, so that there is nothing to refine; "
                        "are the cameras right, and the --background?")
    opacity, lower, upper = (torch.from_numpy(found[name]).to(device) for name in ("opacity", "lower", "upper"))
    near, _ = near_far(scene.train.poses)
    field = fine_field(opacity, lower, upper, run.mode, config, near, dataset.bg_color)
    pool = pixels_in_sight(field, dataset)
    if not len(pool):
        raise UserError("no pixel sees what the coarse field found; are the cameras right?")
    batches = training.Batches(len(pool), config["batch"], run.seed, device)
    optimizer, scheduler = make_optimizer(field, config, None)

    losses, clock = torch.zeros(config["steps"], device=device), Stopwatch(device)
    state = {"field": field, "optimizer": optimizer, "scheduler": scheduler}
    for step in training.steps(run, args, losses, clock, state, nerf_views.decibels):
        if mask_renewal_due(step, config):
            field.renew_mask()
        if step + 1 in config["scale_at"]:
            to_come = sum(at > step + 1 for at in config["scale_at"])
            field.resize(config["voxels"] // 2**to_come)
            optimizer, scheduler = make_optimizer(field, config, None)
            state.update(optimizer=optimizer, scheduler=scheduler)  # a checkpoint keeps the new ones
        losses[step] = training_step(field, optimizer, scheduler, dataset, pool[batches[step]], config, autocast)

    return nerf_views.finish(run, field, scene, scene_center(scene.train.poses), args, autocast, losses, clock)


def rebuild(run: Run, saved: dict, near: float) -> DVGOField:
    """The field of a state dict; its FR layer was folded."""
    config = run.config
    # Loading takes over the number of nodes that was saved, whatever it is here.
    field = DVGOField(saved["density.lower"], saved["density.upper"], voxels=8, final_voxels=config["voxels"],
                      near=near, alpha_init=config["alpha_init"], threshold=config["threshold"],
                      bg_color=nerf_views.bg_color(config), mode="relu", **config["network"])
    field.load_state_dict(saved)
    return field


def coarse_run(run: Run) -> Run:
    """The run of the coarse stage that a fine one goes on from, with the options that hold for it."""
    shared = ("size", "downscale", "background", "hold_out", "precision", "device")
    config = {**run.config["coarse"], **{name: run.config[name] for name in ("scene", "background")}}
    options = {name: value for name, value in run.options.items() if name in shared}
    return replace(run, mode="coarse", config=config, options=options, own={})


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of `argv`."""
    parser = cli.options(__doc__, modes=COLOR_MODES, default_modes=COLOR_MODES, steps=PAPER["steps"],
                         checkpoint_every=1_000)
    nerf_views.add_options(parser)
    return nerf_views.parse(parser, argv)


def load(args: argparse.Namespace) -> Scene:
    """The scene that the options ask for."""
    return nerf_views.load(args, {**PAPER, **nerf_views.size_settings(args, MEDIUM, QUICK)})


def plan(args: argparse.Namespace, scene: Scene) -> list[Run]:
    """The runs that the options ask for."""
    return planned_runs(args, "dvgo", scene.name, SETTINGS, nerf_views.size_settings(args, MEDIUM, QUICK),
                        nerf_views.scene_config(scene))


def main() -> None:
    args = parse()
    scene = load(args)
    print(describe(scene))
    if (views := len(scene.train.images)) < MIN_VIEWS:
        raise UserError(f"{scene.name} has {views} training views; DVGO needs {MIN_VIEWS} or more, as it takes for "
                        "empty what fewer see")
    runs = plan(args, scene)
    if args.render_only:
        near, _ = near_far(scene.train.poses)
        nerf_views.render_only(runs, partial(rebuild, near=near), scene, scene_center(scene.train.poses), args)
        return
    coarse = {run.seed: coarse_run(run) for run in runs if args.force or not run.finished()}
    training.say_how_long(runs, args, lambda config: OPERATIONS_A_RAY * config["steps"] * config["batch"])
    sweep([Job(run, partial(train_coarse, run, scene, args)) for run in coarse.values()],
          [Job(run, partial(train_fine, run, scene, args)) for run in runs], args=args, parallel=args.size == "quick")
    figures.draw_each(*nerf_views.drawings("DVGO", runs, scene.test, args), partial(print_results, runs, "psnr", 2))


if __name__ == "__main__":
    cli.run(in_ranks(main))
