"""Train DirectVoxGO (Sun, Sun and Chen, CVPR 2022) with the plain and with the Fourier reparameterized color network
(section 5 of the paper), from photographs with known cameras to renderings of new views.

    python dvgo.py                              lego at 800 × 800, both networks, 20,000 iterations: for a GPU
    python dvgo.py --steps 25000                as many as the paper's comparison has
    python dvgo.py --scene toy --quick          a small scene that is rendered here
    python dvgo.py --scene lego --render-only   the views and the turntable again, of fields trained before

First a coarse field finds where the scene is, the same for both networks; then the fine field is trained there. Writes

    results/dvgo/<scene>/coarse-seed<k>.json, .npz   the coarse field, reused by every run of the same seed
    results/dvgo/<scene>/<mode>-seed<k>.json         PSNR and SSIM on the test views
    results/dvgo/<scene>/<mode>-seed<k>.npz, .pt     renderings and training curve; the field, FR folded
    results/dvgo/<scene>/<mode>-seed<k>/             views/ and depths/ of the test views, an orbit as turntable.gif
    figures/dvgo_<scene>_views.png, …_psnr.png       two test views with their errors; PSNR over the iterations

--steps and --lr are the fine stage's iterations and the color network's learning rate. On two CPU cores --quick takes
one to two minutes, --medium an hour a network, the full size days.
"""

import argparse
import functools
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from data.scenes import Scene, describe, loaded_once, near_far, scene_center
from experiment import cli, figures, metrics, radiance_fields, tables, training
from experiment.errors import UserError
from experiment.records import Run, planned_runs
from experiment.sweep import sweep, unfinished
from models import fold, parameter_groups
from models.nerf.color_mlp import COLOR_MODES
from models.nerf.dvgo import (
    MIN_OPACITY,
    MIN_VIEWS,
    DVGOField,
    coarse_field,
    fine_field,
    objective,
    pixels_in_sight,
)
from models.nerf.masked_adam import MaskedAdam
from models.nerf.rays import RayDataset
from models.nerf.volume_rendering import render_image
from models.nerf.voxel_grid import add_total_variation_

# DirectVoxGO's released configuration for Blender scenes; the paper's comparison is of 25,000 fine iterations.
COARSE = {"steps": 5_000, "rays": 8192, "voxels": 1_024_000, "alpha_init": 1e-6, "threshold": 1e-7, "grid_lr": 0.1,
          "decay_steps": 20_000, "entropy_weight": 0.01, "per_sample_weight": 0.1, "renew_every": 1_000}
FINE: dict = {"steps": 20_000, "rays": 8192, "voxels": 160**3, "scale_at": [1_000, 2_000, 3_000, 4_000],
              "alpha_init": 1e-2, "threshold": 1e-4, "grid_lr": 0.1, "lr": 1e-3, "decay_steps": 20_000,
              "entropy_weight": 0.001, "per_sample_weight": 0.01, "renew_every": 1_000, "mask_renew": True,
              "act_decay": True, "tv_density": 0.0, "tv_features": 0.0, "coarse": COARSE}
# Section 5: FR in the place of the color network's one hidden layer. `network` is what color_mlp takes.
FR = {"low_freq_num": 64, "high_freq_num": 64, "phase_num": 64, "alpha": 0.05}
PAPER = {"relu":    {"network": {"hidden_features": 128}, **FINE},
         "relu+fr": {"network": {"hidden_features": 128, **FR}, **FINE}}
# Half the images' sides, grids of 100³, a quarter of rays and iterations: an hour a network on a CPU.
MEDIUM = {"steps": 5_000, "rays": 2048, "voxels": 100**3, "scale_at": [250, 500, 750, 1_000], "decay_steps": 5_000,
          "renew_every": 250, "coarse": {**COARSE, "steps": 2_000, "rays": 2048, "voxels": 64**3, "decay_steps": 5_000,
                                         "renew_every": 500}}
# Smaller grids and batches, fewer and larger steps; the same networks.
QUICK = {"steps": 400, "rays": 512, "voxels": 48**3, "scale_at": [80, 160], "threshold": 2e-3, "grid_lr": 0.4,
         "decay_steps": 400, "renew_every": 100,
         "coarse": {**COARSE, "steps": 250, "rays": 1024, "voxels": 32**3, "alpha_init": 1e-5, "grid_lr": 0.4,
                    "renew_every": 100}}


def training_iteration(field: DVGOField, optimizer: MaskedAdam, dataset: RayDataset, pixels: Tensor, config: dict,
                       autocast) -> Tensor:
    """Forward, loss, backward and step of either stage; the mean squared error of the rays through `pixels`."""
    origins, directions, target = dataset.rays(pixels)
    with autocast:
        rendering = field(origins, directions)
    error, loss = objective(rendering, target, config["entropy_weight"], config["per_sample_weight"])
    optimizer.zero_grad()
    loss.backward()
    for grid, weight in ((field.density, config.get("tv_density")), (field.features, config.get("tv_features"))):
        if weight:  # not for Blender's scenes; 128 and 6 neighbors are the released code's unit
            add_total_variation_(grid.values, weight / len(pixels) * max(grid.shape) / 128 / 6)
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] *= 0.1 ** (1 / config["decay_steps"])  # torch.optim.lr_scheduler.ExponentialLR, a step at a time
    return error.detach()


def make_optimizer(field: DVGOField, config: dict, factors: Tensor | None) -> MaskedAdam:
    """Adam that leaves alone the voxels that a step did not touch; in the coarse stage with a factor for each."""
    density, features = field.density.values, field.features.values
    groups: list[dict] = ([{"params": [density, features]}] if factors is None else
                          [{"params": [density], "lr_factor": factors}, {"params": [features]}])
    if field.color is not None:
        groups += parameter_groups(field.color, config["lr"], config.get("hidden_lr", 1.0))
    return MaskedAdam(groups, lr=config["grid_lr"])


def mask_renewal_due(step: int, config: dict) -> bool:
    """Whether the mask is renewed before a step, counted from 0: in the middle of each interval (released code)."""
    return (step + 1 + config["renew_every"] // 2) % config["renew_every"] == 0


def train_coarse(run: Run, args: argparse.Namespace) -> str:
    """Train the coarse field, which finds where the scene is; write its record, return the line that sums it up."""
    device, autocast = training.prepare(args, run.seed, one_thread=args.quick)
    views, config = load(args).train, run.config
    dataset = RayDataset.from_views(views, args.bg_color, device)
    field, factors = coarse_field(dataset, config, *near_far(views.poses))
    optimizer = make_optimizer(field, config, factors)
    mse, clock = torch.zeros(config["steps"], device=device), training.Stopwatch(device)
    state = {"field": field, "optimizer": optimizer}
    for block in training.blocks(run, args, clock, mse, state, radiance_fields.decibels):
        with clock:
            for step in block:
                if mask_renewal_due(step, config):
                    field.renew_mask()
                pixels = torch.randint(dataset.pixels, (config["rays"],), device=device)
                mse[step] = training_iteration(field, optimizer, dataset, pixels, config, autocast)

    opacity = field.node_opacity().cpu().numpy()
    recent = mse[-min(100, max(1, len(mse) // 20)):].mean().item()
    run.finish(metrics={"training_psnr": float(metrics.psnr(recent)), "filled": float((opacity > MIN_OPACITY).mean())},
               arrays={"mse": mse.cpu().numpy(), "opacity": opacity, "lower": field.density.lower.cpu().numpy(),
                       "upper": field.density.upper.cpu().numpy()}, seconds=clock.seconds, steps=len(mse))
    return f"{metrics.psnr(recent):.2f} dB on training rays in {clock.seconds:.1f} s{training.peak_memory(device)}"


def train_fine(run: Run, args: argparse.Namespace) -> str:
    """Train the fine field where the coarse one found something; write its record and renderings, return a line."""
    device, autocast = training.prepare(args, run.seed, one_thread=args.quick)
    scene, config = load(args), run.config
    dataset = RayDataset.from_views(scene.train, args.bg_color, device)
    found = coarse_run(run).arrays()
    if not (found["opacity"] > MIN_OPACITY).any():
        raise UserError("the coarse field is empty, so that there is nothing to refine; "
                        "are the cameras right, and the --background?")
    opacity, lower, upper = (torch.from_numpy(found[name]).to(device) for name in ("opacity", "lower", "upper"))
    near, _ = near_far(scene.train.poses)
    field = fine_field(opacity, lower, upper, run.mode, config, near, args.bg_color)
    pool = pixels_in_sight(field, dataset)
    if not len(pool):
        raise UserError("no pixel sees what the coarse field found; are the cameras right?")
    optimizer = make_optimizer(field, config, None)
    mse, clock = torch.zeros(config["steps"], device=device), training.Stopwatch(device)
    state = {"field": field, "optimizer": optimizer}
    batches = max(1, len(pool) // config["rays"])  # of an epoch, whose incomplete last one is left out
    for block in training.blocks(run, args, clock, mse, state, radiance_fields.decibels, stop_every=[batches]):
        epoch, place = divmod(block.start, batches)
        order = pool[training.random_order(len(pool), run.seed, epoch, device)][place * config["rays"]:]
        with clock:
            for step, pixels in zip(block, order.split(config["rays"])):
                if config["mask_renew"] and mask_renewal_due(step, config):
                    field.renew_mask()
                if step + 1 in config["scale_at"]:
                    to_come = sum(at > step + 1 for at in config["scale_at"])
                    field.resize(config["voxels"] // 2**to_come, act_shift_decay=float(config["act_decay"]))
                    optimizer = state["optimizer"] = make_optimizer(field, config, None)
                mse[step] = training_iteration(field, optimizer, dataset, pixels, config, autocast)

    plain = fold(field).requires_grad_(False)
    radiance_fields.save_field(run, field=plain.state_dict(), lower=field.density.lower, upper=field.density.upper)
    measured, images = evaluate(plain, run, args, autocast)
    run.finish(metrics=measured, arrays={"mse": mse.cpu().numpy(), "images": images}, seconds=clock.seconds,
               steps=len(mse))
    return (f"{measured['psnr']:.2f} dB on {len(images)} test views in {clock.seconds:.1f} s, "
            f"{len(mse) / clock.seconds:.1f} iterations a second{training.peak_memory(device)}")


def train(run: Run, args: argparse.Namespace) -> str:
    """Train one stage of a run."""
    return (train_coarse if run.mode == "coarse" else train_fine)(run, args)


def evaluate(field: DVGOField, run: Run, args: argparse.Namespace, autocast):
    """Render and measure the test views, write them and the turntable."""
    render = functools.partial(render_image, field, device=field.density.lower.device)
    scene = load(args)
    return radiance_fields.evaluate(run, render, autocast, scene.test, scene_center(scene.train.poses), args)


def render_again(run: Run, args: argparse.Namespace) -> dict:
    """The test views and the turntable of a field that was trained before; its FR layer was folded."""
    device, autocast = training.prepare(args, run.seed, one_thread=False)
    saved, config = radiance_fields.load_field(run), run.config
    near, _ = near_far(load(args).train.poses)
    field = DVGOField(saved["lower"], saved["upper"], 8, final_voxels=config["voxels"], near=near,
                      alpha_init=config["alpha_init"], threshold=config["threshold"], bg_color=args.bg_color,
                      mode="relu", **config["network"])
    field.load_state_dict(saved["field"])
    return evaluate(field.requires_grad_(False).to(device), run, args, autocast)[0]


def coarse_run(run: Run) -> Run:
    """The run of the coarse stage that a fine one goes on from."""
    config = {**run.config["coarse"], "scene": run.config["scene"], "background": run.config["background"]}
    return Run(run.results, run.experiment, run.case, "coarse", run.seed, config, run.precision, run.device,
               run.command)


def load(args: argparse.Namespace) -> Scene:
    """The scene that the options ask for, read once in a process."""
    return loaded_once(args.scene, args.data, args.downscale)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of `argv`."""
    parser = cli.options(__doc__, modes=COLOR_MODES, default_modes=COLOR_MODES, steps=FINE["steps"],
                         checkpoint_every=1_000)
    radiance_fields.add_options(parser)
    for name in ("density", "features"):
        parser.add_argument(f"--tv-{name}", type=cli.positive, metavar="W",
                            help=f"weight of the {name} grid's total variation")
    parser.add_argument("--no-mask-renew", dest="mask_renew", action="store_false", default=None,
                        help="do not drop from the fine stage's mask what has become empty")
    parser.add_argument("--no-act-decay", dest="act_decay", action="store_false", default=None,
                        help="keep the shift of the densities' activation in a finer grid")
    return radiance_fields.parse(parser, argv)


def plan(args: argparse.Namespace) -> list[Run]:
    """The runs that the options ask for."""
    scene, settings = load(args), radiance_fields.of_size(PAPER, MEDIUM, args)
    return planned_runs(args, "dvgo", {scene.name: {mode: {
        **cli.settings(settings[mode], QUICK, args, "steps", "lr", "rays", "tv_density", "tv_features",
                       "mask_renew", "act_decay"),
        **radiance_fields.scene_config(scene.train, scene.test, args)} for mode in args.modes}})


def main() -> None:
    args = parse()
    scene = load(args)
    print(describe(scene))
    if (views := len(scene.train.images)) < MIN_VIEWS:
        raise UserError(f"{scene.name} has {views} training views; DVGO needs {MIN_VIEWS} or more, as it takes for "
                        "empty what fewer see")
    runs = plan(args)
    if args.render_only:
        radiance_fields.render_only(runs, partial(render_again, args=args))
        return
    radiance_fields.say_how_long(runs, args)
    coarse_runs = list({run.seed: coarse_run(run) for run in unfinished(runs, args)}.values())
    sweep(train, [coarse_runs, runs], args, parallel=args.quick)
    figures.draw_each(*radiance_fields.drawings("DVGO", runs, scene.test, args,
                                                 radiance_fields.of_size(PAPER, MEDIUM, args)),
                      partial(tables.print_table, "radiance fields", runs))


if __name__ == "__main__":
    training.run(main)
