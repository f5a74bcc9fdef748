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
    results/dvgo/<scene>/<mode>-seed<k>/             test views and their depth as .png, an orbit as turntable.gif
    figures/dvgo_<scene>.png, …_psnr.png             two test views with their errors; PSNR over the iterations

--steps and --lr are the fine stage's iterations and the color network's learning rate. On two CPU cores --quick takes
one to two minutes; the full size takes days there.
"""

import argparse
import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.scenes import FAR, NEAR, Scene, loaded_once, on_background
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
    random_order,
    set_precision,
)
from experiment.sweep import progress, slow_runs, sweep, unfinished
from models import fold
from models.nerf.color_mlp import COLOR_MODES
from models.nerf.dvgo import STEP, DVGOField
from models.nerf.masked_adam import MaskedAdam
from models.nerf.rays import RayDataset
from models.nerf.volume_rendering import Rendering, render_image
from models.nerf.voxel_grid import (
    MaskGrid,
    add_total_variation_,
    count_views,
    grid_points,
)

# DirectVoxGO's released configuration for Blender scenes.
COARSE = {"steps": 5_000, "rays": 8192, "voxels": 1_024_000, "alpha_init": 1e-6, "threshold": 1e-7, "grid_lr": 0.1,
          "decay_steps": 20_000, "entropy_weight": 0.01, "per_sample_weight": 0.1, "renew_every": 1_000}
FINE = {"steps": 20_000, "rays": 8192, "voxels": 160**3, "scale_at": [1_000, 2_000, 3_000, 4_000], "alpha_init": 1e-2,
        "threshold": 1e-4, "grid_lr": 0.1, "lr": 1e-3, "decay_steps": 20_000, "entropy_weight": 0.001, "per_sample_weight": 0.01,
        "renew_every": 1_000, "mask_renew": True, "act_decay": True, "tv_density": 0.0, "tv_features": 0.0}
# Section 5: FR in the place of the color network's one hidden layer.
PAPER = {mode: {**FINE, "low_freq_num": 64, "high_freq_num": 64, "phase_num": 64, "alpha": 0.05, "coarse": COARSE}
         for mode in COLOR_MODES}
COLOR = ("low_freq_num", "high_freq_num", "phase_num", "alpha")
BOX_THRESHOLD = 1e-3  # opacity of the coarse field at which there is something
WORLD_BOUND_SCALE = 1.05
# Smaller grids and batches, fewer and larger steps; the same networks.
QUICK = {"steps": 400, "rays": 512, "voxels": 48**3, "scale_at": [80, 160], "threshold": 2e-3, "grid_lr": 0.4,
         "decay_steps": 400, "renew_every": 100,
         "coarse": {**COARSE, "steps": 250, "rays": 1024, "voxels": 32**3, "alpha_init": 1e-5, "grid_lr": 0.4,
                    "renew_every": 100}}


def frustum_bounds(dataset: RayDataset) -> tuple[Tensor, Tensor]:
    """The box of all that the cameras see between NEAR and FAR."""
    lower, upper = [], []
    for pixels in torch.arange(dataset.pixels, device=dataset.poses.device).split(2**20):
        origins, directions, _ = dataset.rays(pixels)
        ends = torch.cat([origins + distance * F.normalize(directions, dim=-1) for distance in (NEAR, FAR)])
        lower.append(ends.amin(0))
        upper.append(ends.amax(0))
    return torch.stack(lower).amin(0), torch.stack(upper).amax(0)


def coarse_stage(dataset: RayDataset, config: dict) -> tuple[DVGOField, Tensor]:
    """The coarse field before training, and the factors of its densities' learning rate (section 4.1)."""
    lower, upper = frustum_bounds(dataset)
    field = DVGOField(lower, upper, config["voxels"], final_voxels=config["voxels"], alpha_init=config["alpha_init"],
                       threshold=config["threshold"], near=NEAR, bg_color=dataset.bg_color)
    shape = tuple(field.mask.mask.shape)
    nodes = grid_points(shape, lower, upper)
    centers = dataset.poses[:, :, 3]
    for center in centers:
        field.density.values.data[0, (nodes - center).norm(dim=-1) <= NEAR] = -100
    pixels_per_voxel = dataset.focal * field.voxel_size / centers.norm(dim=-1).mean().item()
    views = count_views(dataset.poses, dataset.focal, dataset.height, dataset.width, lower, upper,
                        shape, NEAR, STEP * field.voxel_size, stride=max(1, min(4, round(pixels_per_voxel / 4))))
    field.mask.mask &= views > 2
    return field, (views / views.max().clamp(min=1))[None]


def fine_stage(dataset: RayDataset, coarse: dict[str, np.ndarray], mode: str, config: dict) -> DVGOField:
    """The fine field before training, in the box that the coarse one found something in."""
    device = dataset.poses.device
    opacity, lower, upper = (torch.from_numpy(coarse[name]).to(device) for name in ("opacity", "lower", "upper"))
    full = opacity > BOX_THRESHOLD
    if not full.any():
        raise UserError("the coarse field is empty, so that there is nothing to refine; "
                            "are the cameras right, and the --background?")
    nodes = grid_points(tuple(full.shape), lower, upper)
    voxel = (upper - lower) / (torch.tensor(full.shape, device=device) - 1)
    corners = nodes[full].amin(0), nodes[full].amax(0).maximum(nodes[full].amin(0) + voxel)
    margin = (corners[1] - corners[0]) * (WORLD_BOUND_SCALE - 1) / 2
    field = DVGOField(corners[0] - margin, corners[1] + margin, config["voxels"] // 2 ** len(config["scale_at"]),
                       final_voxels=config["voxels"], alpha_init=config["alpha_init"], threshold=config["threshold"],
                       near=NEAR, bg_color=dataset.bg_color, mode=mode,
                       **{name: config[name] for name in COLOR})
    around = MaskGrid(F.max_pool3d(opacity[None], 3, 1, 1)[0] >= BOX_THRESHOLD, lower, upper)
    nodes = grid_points(tuple(field.mask.mask.shape), *corners_of(field)).reshape(-1, 3)
    field.mask.mask &= around(nodes).reshape(field.mask.mask.shape)
    return field


def corners_of(field: DVGOField) -> tuple[Tensor, Tensor]:
    """The box of a field."""
    return field.density.lower, field.density.upper


def pixels_that_see(field: DVGOField, dataset: RayDataset) -> Tensor:
    """The pixels whose rays have a sample where the mask has something; the others are background for good."""
    seen = []
    for pixels in torch.arange(dataset.pixels, device=dataset.poses.device).split(2**16):
        origins, directions, _ = dataset.rays(pixels)
        _, _, ray_index = field.samples(origins, directions)
        seen.append(pixels[torch.zeros_like(pixels, dtype=torch.bool).index_fill(0, ray_index, True)])
    return torch.cat(seen)


def optimizer_of(field: DVGOField, config: dict, factors: Tensor | None) -> MaskedAdam:
    """Adam that leaves alone the voxels that a step did not touch; in the coarse stage with a factor for each."""
    skip = factors is None
    groups = [{"params": [field.density.values], "lr": config["grid_lr"], "skip_zero_grad": skip, "lr_factor": factors},
              {"params": [field.features.values], "lr": config["grid_lr"], "skip_zero_grad": skip}]
    if field.color is not None:
        groups.append({"params": list(field.color.parameters()), "lr": config["lr"]})
    return MaskedAdam(groups, lr=config["grid_lr"])


def loss_of(shown: Rendering, target: Tensor, config: dict) -> tuple[Tensor, Tensor]:
    """The mean squared error of the rays' colors, and the whole objective (section 4.1)."""
    error = F.mse_loss(shown.color, target)
    left = shown.final_transmittance.clamp(1e-6, 1 - 1e-6)  # a ray should end in something or in nothing
    entropy = -(left * left.log() + (1 - left) * (1 - left).log()).mean()
    of_samples = (shown.sample_color - target.index_select(0, shown.ray_index)).square().sum(-1)
    per_sample = (shown.weights.detach() * of_samples).sum() / len(target)
    return error, error + config["entropy_weight"] * entropy + config["per_sample_weight"] * per_sample


def train(run: Run, args: argparse.Namespace) -> str:
    """Train the coarse field (mode coarse) or a fine one, write its record, return the line that sums it up."""
    device, autocast = begin(args, run.seed, one_thread=args.quick)
    scene, config = scene_of(args), run.config
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    dataset = RayDataset(torch.from_numpy(scene.train.images).to(device),
                              torch.from_numpy(scene.train.poses).to(device), scene.train.focal, args.bg_color)
    coarse = run.mode == "coarse"
    if coarse:
        field, factors = coarse_stage(dataset, config)
        pool = None
    else:
        found = coarse_run(run).arrays()
        field, factors = fine_stage(dataset, found, run.mode, config), None
        pool = pixels_that_see(field, dataset)
        if not len(pool):
            raise UserError("no pixel sees what the coarse field found; are the cameras right?")
    scale_at = [] if coarse else config["scale_at"]
    optimizer = optimizer_of(field, config, factors)

    steps, rays, half = config["steps"], config["rays"], config["renew_every"] // 2
    mse = torch.zeros(steps, device=device)
    clock = Stopwatch(device)
    state = {"field": field, "optimizer": optimizer, "clock": clock, "mse": mse}
    step = run.restore(**state)
    optimizer.param_groups[0]["lr_factor"] = factors  # on the device; the checkpoint's is on the CPU
    epoch, order = -1, torch.empty(0)
    report_every = min(100, max(1, steps // 20))
    with progress(steps, step, f"{run.case} {run.mode} seed {run.seed}") as bar:
        while step < steps:
            stop = next_stop(step, steps, report_every, args.checkpoint_every)
            with clock:
                for iteration in range(step + 1, stop + 1):
                    if (coarse or config["mask_renew"]) and (iteration + half) % config["renew_every"] == 0:
                        field.renew_mask()
                    if iteration in scale_at:
                        to_come = len(scale_at) - scale_at.index(iteration) - 1
                        field.resize(config["voxels"] // 2**to_come, act_shift_decay=float(config["act_decay"]))
                        optimizer = state["optimizer"] = optimizer_of(field, config, factors)
                    if pool is None:
                        pixels = torch.randint(dataset.pixels, (rays,), device=device)
                    else:  # in shuffled epochs, whose incomplete last batch is left out
                        now, place = divmod(iteration - 1, max(1, len(pool) // rays))
                        if now != epoch:
                            epoch, order = now, random_order(len(pool), run.seed, now, device)
                        pixels = pool[order[place * rays:(place + 1) * rays]]
                    origins, directions, target = dataset.rays(pixels)
                    with autocast:
                        shown = field(origins, directions)
                    error, loss = loss_of(shown, target, config)
                    optimizer.zero_grad()
                    loss.backward()
                    if not coarse:
                        add_total_variation(field, config, len(pixels))
                    optimizer.step()
                    for group in optimizer.param_groups:
                        group["lr"] *= 0.1 ** (1 / config["decay_steps"])
                    mse[iteration - 1] = error.detach()
            bar.update(stop - step)
            step = stop
            recent = mse[max(0, step - report_every):step].mean().item()
            check_finite(recent, step)
            bar.set_postfix_str(f"{psnr(recent):.2f} dB")
            if step % args.checkpoint_every == 0 and step < steps:
                run.checkpoint(step, **state)

    arrays = {"mse": mse.cpu().numpy()}
    memory = f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else ""
    if coarse:
        arrays["opacity"] = field.node_opacity().cpu().numpy()
        arrays["lower"], arrays["upper"] = (corner.cpu().numpy() for corner in corners_of(field))
        metrics = {"training_psnr": float(psnr(recent)), "filled": float((arrays["opacity"] > BOX_THRESHOLD).mean())}
        line = f"{metrics['training_psnr']:.2f} dB on training rays"
    else:
        plain = fold(field).requires_grad_(False)
        lower, upper = corners_of(plain)
        rendering.save_field(run, field=plain.state_dict(), lower=lower, upper=upper)
        metrics, arrays["images"] = render_views(plain, run, args, autocast)
        line = f"{metrics['psnr']:.2f} dB on {len(arrays['images'])} test views"
    run.finish(metrics=metrics, seconds=clock.seconds, steps=steps, environment=environment(device, run.precision),
               arrays=arrays)
    return f"{line} in {clock.seconds:.1f} s, {steps / clock.seconds:.1f} iterations a second{memory}"


def add_total_variation(field: DVGOField, config: dict, rays: int) -> None:
    """Smooth the grids, where the configuration says so: it does for other data sets than Blender's."""
    for grid, weight in ((field.density, config["tv_density"]), (field.features, config["tv_features"])):
        if weight:
            add_total_variation_(grid.values, weight / rays * max(grid.values.shape[1:]) / 128 / 6)


def render_views(field: DVGOField, run: Run, args: argparse.Namespace, autocast) -> tuple[dict, np.ndarray]:
    """Render and measure the test views, write them and the turntable."""
    test = scene_of(args).test
    render = functools.partial(render_image, field, device=field.density.lower.device)
    return rendering.render_views(run, render, autocast, test.poses, test.focal, on_background(test.images, args.bg_color),
                                  test.names, args.frames)


def load_field(run: Run, args: argparse.Namespace, device: torch.device) -> DVGOField:
    """The field that a run has trained, for rendering; its FR layer was folded."""
    saved = rendering.load_field(run)
    field = DVGOField(saved["lower"], saved["upper"], 8, final_voxels=run.config["voxels"],
                       alpha_init=run.config["alpha_init"], threshold=run.config["threshold"], near=NEAR,
                       bg_color=args.bg_color, mode="relu",
                       **{name: run.config[name] for name in COLOR})
    field.load_state_dict(saved["field"])
    return field.requires_grad_(False).to(device)


def scene_of(args: argparse.Namespace) -> Scene:
    """The scene that the options ask for."""
    return loaded_once(args.scene, args.data, args.downscale)


def coarse_run(run: Run) -> Run:
    """The run of the coarse stage that a fine one goes on from."""
    config = {**run.config["coarse"], "scene": run.config["scene"], "background": run.config["background"]}
    return Run(run.results, run.experiment, run.case, "coarse", run.seed, config, run.precision, run.device)


def planned_runs(args: argparse.Namespace, scene: Scene, device: torch.device) -> list[Run]:
    """The fine runs that the options ask for."""
    data = rendering.scene_config(scene.train.images, scene.train.poses, scene.test.images, args.background)
    runs = []
    for seed in args.seeds:
        for mode in args.modes:
            config = {**PAPER[mode], **(QUICK if args.quick else {}), **data,
                      **cli.overrides(args, "steps", "lr", "tv_density", "tv_features"),
                      "mask_renew": not args.no_mask_renew, "act_decay": not args.no_act_decay}
            runs.append(Run(args.results, "dvgo", scene.name, mode, seed, config, args.precision, device.type))
    return runs


@rank_0_first
def main() -> None:
    parser = cli.options(__doc__, modes=COLOR_MODES, default_modes=COLOR_MODES, steps=20_000, checkpoint_every=1_000)
    rendering.add_options(parser)
    add = parser.add_argument
    for name in ("density", "features"):
        add(f"--tv-{name}", type=cli.positive, metavar="W", help=f"weight of the {name} grid's total variation")
    add("--no-mask-renew", action="store_true", help="do not drop from the fine stage's mask what has become empty")
    add("--no-act-decay", action="store_true", help="keep the shift of the densities' activation in a finer grid")
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
    coarse_runs = list({run.seed: coarse_run(run) for run in unfinished(runs, args)}.values())
    sweep(train, [coarse_runs, runs], args, parallel=args.quick)
    rendering.draw_and_print("DVGO", runs, args, PAPER, on_background(scene.test.images, args.bg_color), scene.test.names)


if __name__ == "__main__":
    cli.run(main)
