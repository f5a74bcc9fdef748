"""Rays a second of the renderers' training, and where the time goes.

    python -m benchmarks.renderers              the sizes of --quick, for a CPU
    python -m benchmarks.renderers --full       the paper's sizes, for a GPU

Trains DVGO's coarse field, and then with either color network the fine one, in the box that the coarse one finds, and
Instant-NGP; on the toy scene, until they are no longer fog and the fine grid has its final size. Then times iterations
of the two color networks in turn, and after that the stages of some more. The stopwatches of these wait for the
device at both ends of a stage, so that the shares are right on a GPU too; the rays a second are measured without.
`samples` are those that a ray's color is made of, `dB` is the PSNR of the training views; two networks' fields
differ in both, and so in more than the cost of the color network.
"""

import contextlib
import functools
import statistics
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import device_name, interleaved, ratio
from data.scenes import Scene, load_scene
from experiment import cli
from experiment.metrics import psnr
from experiment.runtime import Stopwatch, choose_device, set_precision, random_order
from models import PositionalEncoding
from models.encodings import SphericalHarmonics
from models.nerf import dvgo as voxel_field
from models.nerf import instant_ngp as hash_field
from models.nerf.color_mlp import COLOR_MODES
from models.nerf.dvgo import DVGOField
from models.nerf.instant_ngp import InstantNGPField
from models.nerf.masked_adam import MaskedAdam
from models.nerf.occupancy_grid import visible_cells
from models.nerf.rays import RayDataset
from models.nerf.voxel_grid import VoxelGrid

dvgo, ngp = import_module("dvgo"), import_module("InstantNGP")

# The functions that make up each stage; one called by another belongs to the other's stage. What is in none of them,
# the loss above all, is `other`.
STAGES: dict[str, list[tuple[Any, str]]] = {
    "rays": [(RayDataset, "rays")],
    "sampling": [(DVGOField, "samples"), (InstantNGPField, "march")],
    "grids": [(VoxelGrid, "forward"), (InstantNGPField, "density")],
    "color": [(torch.nn.Sequential, "forward"), (PositionalEncoding, "forward"), (SphericalHarmonics, "forward")],
    "compositing": [(module, function) for module in (voxel_field, hash_field)
                    for function in ("contributing", "render_weights", "composite")],
    "backward": [(Tensor, "backward")],
    "optimizer": [(MaskedAdam, "step"), (torch.optim.Adam, "step")],
    "mask": [(DVGOField, "renew_mask"), (InstantNGPField, "update_occupancy")],
}


def shares_of_stages(advance: Callable[[int], None], count: int, device: torch.device) -> dict[str, float]:
    """The part of the time of `count` iterations that each stage takes."""
    clocks = {stage: Stopwatch(device) for stage in STAGES}
    running: list[str] = []

    def timed(function: Callable, stage: str) -> Callable:
        @functools.wraps(function)
        def call(*args, **kwargs):
            if running:
                return function(*args, **kwargs)
            running.append(stage)
            try:
                with clocks[stage]:
                    return function(*args, **kwargs)
            finally:
                running.clear()
        return call

    whole = Stopwatch(device)
    with contextlib.ExitStack() as stack:
        for stage, functions in STAGES.items():
            for owner, name in functions:
                stack.enter_context(patch.object(owner, name, timed(getattr(owner, name), stage)))
        with whole:
            advance(count)
    shares = {stage: clock.seconds / whole.seconds for stage, clock in clocks.items()}
    return {**shares, "other": 1 - sum(shares.values())}


class VoxelTraining:
    """`VoxelTraining(…)(n)` does n iterations of dvgo.py; `factors` are those of the coarse stage, None in the fine."""

    def __init__(self, field: DVGOField, factors: Tensor | None, dataset: RayDataset, config: dict):
        self.field, self.factors, self.dataset, self.config = field, factors, dataset, config
        self.rays = config["rays"]
        device = dataset.poses.device
        self.batches: tuple[Tensor, ...] = ()  # of one epoch of the fine stage, without an incomplete last one
        if factors is None:
            pool = dvgo.pixels_that_see(field, dataset)
            order = pool[random_order(len(pool), 0, 0, device)]
            self.batches = order[:max(1, len(pool) // self.rays) * self.rays].split(self.rays)
        self.optimizer = dvgo.optimizer_of(field, config, factors)
        self.iteration = 0

    def __call__(self, count: int) -> None:
        config = self.config
        for _ in range(count):
            self.iteration += 1
            if (self.iteration + config["renew_every"] // 2) % config["renew_every"] == 0:
                self.field.renew_mask()
            if self.iteration in config.get("scale_at", []):
                self.field.resize(config["voxels"] // 2 ** sum(at > self.iteration for at in config["scale_at"]))
                self.optimizer = dvgo.optimizer_of(self.field, config, self.factors)
            if self.batches:  # the same epoch again and again
                pixels = self.batches[self.iteration % len(self.batches)]
            else:
                pixels = torch.randint(self.dataset.pixels, (self.rays,), device=self.dataset.poses.device)
            origins, directions, target = self.dataset.rays(pixels)
            shown = self.field(origins, directions)
            _, loss = dvgo.loss_of(shown, target, config)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            for group in self.optimizer.param_groups:
                group["lr"] *= 0.1 ** (1 / config["decay_steps"])


class HashTraining:
    """`HashTraining(…)(n)` does n iterations of InstantNGP.py."""

    def __init__(self, mode: str, dataset: RayDataset, config: dict):
        self.dataset, self.config, self.rays = dataset, config, config["rays"]
        self.field = ngp.make_field(mode, config, dataset.bg_color).to(dataset.poses.device)
        occupancy = self.field.occupancy
        occupancy.exclude(~visible_cells(occupancy.resolution, occupancy.half_extent, dataset.poses,
                                         dataset.focal, dataset.height, dataset.width))
        self.optimizer = torch.optim.Adam(self.field.parameters(), lr=config["lr"], eps=config["eps"], fused=True)
        self.iteration = 0

    def __call__(self, count: int) -> None:
        config = self.config
        for _ in range(count):
            if self.iteration % config["update_every"] == 0:
                self.field.update_occupancy(everywhere=self.iteration < config["warm_up"])
            for group in self.optimizer.param_groups:
                group["lr"] = ngp.learning_rate(self.iteration // config["iterations"], config["epochs"], config["lr"])
            pixels = torch.randint(self.dataset.pixels, (self.rays,), device=self.dataset.poses.device)
            self.optimizer.zero_grad()
            _, loss = ngp.loss_of(self.field, self.dataset.rays(pixels), config["opacity_weight"])
            (loss / self.rays).backward()
            self.optimizer.step()
            self.iteration += 1


def photographs_of(scene: Scene, poses, device: torch.device) -> RayDataset:
    """The training views on white."""
    return RayDataset(torch.from_numpy(scene.train.images).to(device), torch.from_numpy(poses).to(device),
                       scene.train.focal, bg_color=1.0)


@torch.no_grad()
def quality(training: VoxelTraining | HashTraining) -> tuple[float, float]:
    """Samples that a ray's color is made of, and PSNR in dB, on a large batch of pixels of the training views."""
    pixels = torch.randint(training.dataset.pixels, (8192,), device=training.dataset.poses.device)
    origins, directions, target = training.dataset.rays(pixels)
    shown = training.field(origins, directions)
    return len(shown.weights) / len(pixels), float(psnr(F.mse_loss(shown.color, target).item()))


def measure(label: str, trainings: Mapping[str, VoxelTraining | HashTraining], device: torch.device, rounds: int,
            block: int) -> None:
    """Time trained fields in turn, and print a line for each."""
    times = interleaved(trainings, device, rounds, block)
    for mode, training in trainings.items():
        shares = shares_of_stages(training, block, device)
        samples, decibels = quality(training)
        print(f"{f'{label} {mode}':<20}{training.rays / statistics.median(times[mode]):>11,.0f}"
              f"{ratio(times[mode], next(iter(times.values()))):>8.2f}{samples:>9.1f}{decibels:>6.1f}"
              + "".join(f"{share:>13.0%}" for share in shares.values()), flush=True)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("fp32", "tf32"), default="fp32")
    parser.add_argument("--full", action="store_true", help="the paper's sizes")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    device = choose_device(args.device)
    set_precision(args.precision, device)
    if device.type == "cpu" and not args.full:
        torch.set_num_threads(1)  # as the scripts do
    torch.manual_seed(0)
    quick = {} if args.full else dvgo.QUICK
    fine = {**dvgo.PAPER["relu"], **quick}
    coarse = fine["coarse"]
    hashed = {**ngp.PAPER["relu"], **({} if args.full else ngp.QUICK)}
    scene = load_scene("toy", Path("data"), 1 if args.full else 2)
    dataset = photographs_of(scene, scene.train.poses, device)
    print(f"{device_name(device)}, {dataset.count} views of {dataset.height} × {dataset.width} pixels, "
          f"{args.precision}")
    print(f"{'training of':<20}{'rays/s':>11}{'/ relu':>8}{'samples':>9}{'dB':>6}"
          + "".join(f"{stage:>13}" for stage in (*STAGES, "other")))
    block = hashed["update_every"] * (1 if args.full else 4)  # whole intervals between two updates of its occupancy

    field, factors = dvgo.coarse_stage(dataset, coarse)
    training = VoxelTraining(field, factors, dataset, coarse)
    training(coarse["steps"])
    measure("DVGO coarse", {"": training}, device, args.rounds, block)

    found = {"opacity": field.node_opacity().cpu().numpy(),
             **{name: corner.cpu().numpy() for name, corner in zip(("lower", "upper"), dvgo.corners_of(field))}}
    trainings = {mode: VoxelTraining(dvgo.fine_stage(dataset, found, mode, fine), None, dataset, fine)
                 for mode in COLOR_MODES}
    for training in trainings.values():
        training(fine["scale_at"][-1] + block)
    measure("DVGO fine", trainings, device, args.rounds, block)

    normalize_poses = photographs_of(scene, ngp.normalize_poses(scene.train.poses, ngp.radius_of(scene)), device)
    hash_trainings = {mode: HashTraining(mode, normalize_poses, hashed) for mode in COLOR_MODES}
    for hash_training in hash_trainings.values():
        hash_training(4 * hashed["warm_up"])
    measure("Instant-NGP", hash_trainings, device, args.rounds, block)


if __name__ == "__main__":
    cli.run(main)
