"""Rays a second of the radiance fields' training, and where the time goes.

    python -m benchmarks.radiance_fields              the sizes of --quick, for a CPU
    python -m benchmarks.radiance_fields --full       the paper's sizes, for a GPU

Trains DVGO's coarse field, then with either color network the fine one, in the box that the coarse one finds, and
Instant-NGP; on the toy scene, until they are no longer fog and the fine grid has its final size. Then times iterations
of the two color networks in turn, and after that profiles some more. The shares are those of the labels in models/nerf
and of PyTorch's own: of the time of the thread on a CPU, of that of the kernels on a GPU; what has no label, the loss
above all, is `other`. `samples` are those that a ray's color is made of, `dB` is the PSNR of the training views; two
networks' fields differ in both, and so in more than the cost of the color network.
"""

import functools
import itertools
import statistics
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.common import device_name, interleaved, ratio
from data.scenes import load_scene, near_far
from experiment import cli
from experiment.device import choose_device, set_precision
from experiment.metrics import psnr
from models.nerf.color_mlp import COLOR_MODES
from models.nerf.dvgo import DVGOField, coarse_field, fine_field, pixels_in_sight
from models.nerf.instant_ngp import InstantNGPField
from models.nerf.rays import RayDataset

dvgo, ngp = import_module("dvgo"), import_module("InstantNGP")

# How the names of each stage's events in a profile begin.
STAGES = {"sampling": "sampling", "grids": "grids", "color": "color", "compositing": "compositing",
          "backward": "autograd::engine::evaluate_function", "optimizer": "Optimizer.", "occupancy": "occupancy"}
BLOCK = 16  # iterations: whole intervals between two updates of Instant-NGP's occupancy grid


def shares_of_stages(advance: Callable[[int], None], count: int, device: torch.device) -> dict[str, float]:
    """The part of the time of `count` iterations that each stage takes."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as profiler:
        with record_function("other"):
            advance(count)
    times = dict.fromkeys([*STAGES, "other"], 0.0)
    for event in profiler.events():
        around, stage = event, "other"
        while around:  # the outermost label counts
            stage = next((name for name, start in STAGES.items() if around.name.startswith(start)), stage)
            around = around.cpu_parent
        if not on_gpu:
            times[stage] += event.self_cpu_time_total
        elif not event.is_user_annotation:  # a label launches nothing itself
            times[stage] += sum(kernel.duration for kernel in event.kernels)
    return {stage: time / sum(times.values()) for stage, time in times.items()}


def dvgo_iterations(field: DVGOField, dataset: RayDataset, config: dict, autocast,
                    factors: torch.Tensor | None = None) -> Callable[[int], None]:
    """A function that does n iterations of one stage of dvgo.py; `factors` are those of the coarse one."""
    pool, optimizer = pixels_in_sight(field, dataset), dvgo.make_optimizer(field, config, factors)
    steps = itertools.count()

    def advance(count: int) -> None:
        nonlocal optimizer
        for step in itertools.islice(steps, count):
            if dvgo.mask_renewal_due(step, config):
                field.renew_mask()
            if step + 1 in config.get("scale_at", []):
                field.resize(config["voxels"] // 2 ** sum(at > step + 1 for at in config["scale_at"]))
                optimizer = dvgo.make_optimizer(field, config, None)
            pixels = pool[torch.randint(len(pool), (config["rays"],), device=pool.device)]
            dvgo.training_iteration(field, optimizer, dataset, pixels, config, autocast)

    return advance


def ngp_iterations(field: InstantNGPField, dataset: RayDataset, config: dict, autocast) -> Callable[[int], None]:
    """A function that does n iterations of InstantNGP.py, at the first epoch's learning rate."""
    optimizer = torch.optim.Adam(field.parameters(), lr=config["lr"], eps=config["eps"], fused=True)
    steps = itertools.count()

    def advance(count: int) -> None:
        for step in itertools.islice(steps, count):
            ngp.training_iteration(field, optimizer, dataset, step, config, autocast)

    return advance


@torch.no_grad()
def quality(field: DVGOField | InstantNGPField, dataset: RayDataset) -> tuple[float, float]:
    """Samples that a ray's color is made of, and PSNR in dB, on a large batch of pixels of the training views."""
    origins, directions, target = dataset.rays(torch.randint(dataset.pixels, (8192,), device=dataset.poses.device))
    rendering = field(origins, directions)
    return len(rendering.weights) / len(target), float(psnr(F.mse_loss(rendering.color, target).item()))


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--full", action="store_true", help="the paper's sizes")
    parser.add_argument("--steps", type=cli.whole(1), help="iterations before those that are timed "
                                                           "(default: 250, with --full 4,500)")
    parser.add_argument("--rounds", type=cli.whole(1), default=3)
    args = parser.parse_args()
    device = choose_device(args.device)
    autocast = set_precision(args.precision, device)
    if device.type == "cpu" and not args.full:
        torch.set_num_threads(1)  # as the scripts do
    torch.manual_seed(0)

    def config(script, mode: str) -> dict:
        return {**script.PAPER[mode], **({} if args.full else script.QUICK)}

    def measure(label: str, dataset: RayDataset, fields: dict, configs: dict, iterations: Callable) -> None:
        """Train fields, time them in turn, and print a line for each."""
        trainings = {mode: iterations(field, dataset, configs[mode], autocast) for mode, field in fields.items()}
        for training in trainings.values():
            training(args.steps or (4_500 if args.full else 250))
        times = interleaved(trainings, device, args.rounds, BLOCK)
        for mode, training in trainings.items():
            shares = shares_of_stages(training, BLOCK, device)
            samples, decibels = quality(fields[mode], dataset)
            print(f"{f'{label} {mode}':<20}{configs[mode]['rays'] / statistics.median(times[mode]):>11,.0f}"
                  f"{ratio(times[mode], next(iter(times.values()))):>8.2f}{samples:>9.1f}{decibels:>6.1f}"
                  + "".join(f"{share:>13.0%}" for share in shares.values()), flush=True)

    scene = load_scene("toy", Path("data"), 1 if args.full else 2)
    dataset = RayDataset.from_views(scene.train, 1.0, device)
    print(f"{device_name(device)}, {dataset.count} views of {dataset.height} × {dataset.width} pixels, "
          f"{args.precision}")
    print(f"{'training of':<20}{'rays/s':>11}{'/ relu':>8}{'samples':>9}{'dB':>6}"
          + "".join(f"{stage:>13}" for stage in (*STAGES, "other")))

    coarse = config(dvgo, "relu")["coarse"]
    near, far = near_far(scene.train.poses)
    field, factors = coarse_field(dataset, coarse, near, far)
    measure("DVGO coarse", dataset, {"": field}, {"": coarse}, functools.partial(dvgo_iterations, factors=factors))

    configs = {mode: config(dvgo, mode) for mode in COLOR_MODES}
    found = field.node_opacity(), field.density.lower, field.density.upper
    fine = {mode: fine_field(*found, mode, configs[mode], near, dataset.bg_color) for mode in COLOR_MODES}
    measure("DVGO fine", dataset, fine, configs, dvgo_iterations)

    dataset = RayDataset.from_views(ngp.normalize_poses(scene).train, 1.0, device)
    configs = {mode: config(ngp, mode) for mode in COLOR_MODES}
    hashed = {mode: ngp.make_field(mode, configs[mode], dataset) for mode in COLOR_MODES}
    measure("Instant-NGP", dataset, hashed, configs, ngp_iterations)


if __name__ == "__main__":
    cli.run(main)
