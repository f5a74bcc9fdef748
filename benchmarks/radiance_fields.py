"""Training iterations of the radiance fields against the simple way of the same.

    python -m benchmarks.radiance_fields            the paper's sizes
    python -m benchmarks.radiance_fields --small    those of --medium, a quarter of the rays

The simple way, below, is that of DirectVoxGO's and other pure PyTorch code. F.grid_sample looks up grids (C, X, Y, Z),
once to find the samples that count and once more for these. Adam passes over whole grids. The hash encoding goes level
after level, and autograd differentiates it. Both ways take turns with the same steps from the same state: a ball with a
soft surface, seen from all around. `difference` is that of their first losses. In DVGO's coarse stage the field is full
of fog. In its fine one some 40 samples a ray count, as in a trained field.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import device_name, interleaved, ratio
from harness import cli
from harness.allocator import keep_freed_memory
from harness.device import choose_device
from models.nerf.dvgo import MIN_TRANSMITTANCE, STEP, DVGOField, objective
from models.nerf.hash_grid import PRIMES, HashGrid
from models.nerf.instant_ngp import InstantNGPField
from models.nerf.masked_adam import MaskedAdam
from models.nerf.volume_rendering import Rendering, composite, contributing, render_weights
from models.nerf.voxel_grid import grid_points

DVGO, NGP = import_module("dvgo"), import_module("InstantNGP")


class SimpleDVGOField(nn.Module):
    """A DVGOField's grids as (C, X, Y, Z), and its rendering by F.grid_sample; the rest is the field's."""

    def __init__(self, field: DVGOField):
        super().__init__()
        self.field = copy.deepcopy(field)
        self.density, self.features = (nn.Parameter(grid.values.detach().permute(3, 0, 1, 2).contiguous())
                                       for grid in (self.field.density, self.field.features))

    def forward(self, origins: Tensor, directions: Tensor) -> Rendering:
        field, rays = self.field, len(origins)
        coordinates, t, ray_index = field.samples(origins, directions)
        with torch.no_grad():
            log_transmittance = field.log_transmittance(grid_sample(self.density, coordinates)[:, 0], STEP)
            kept = contributing(log_transmittance, ray_index, rays, MIN_TRANSMITTANCE, field.threshold).nonzero()[:, 0]
        coordinates, t, ray_index = coordinates[:, kept], t[kept], ray_index[kept]
        log_transmittance = field.log_transmittance(grid_sample(self.density, coordinates)[:, 0], STEP)
        weights, final_transmittance = render_weights(log_transmittance, ray_index, rays)
        kept = (weights.detach() > field.threshold).nonzero()[:, 0]
        t, ray_index, weights = t[kept], ray_index[kept], weights[kept]
        features = grid_sample(self.features, coordinates[:, kept])
        if field.color is None:
            colors = features.sigmoid()
        else:
            seen_from = field.direction_encoding(F.normalize(directions, dim=-1)).index_select(0, ray_index)
            colors = field.color(torch.cat([features, seen_from], dim=-1))
        return composite(weights, colors, t, ray_index, final_transmittance, field.bg_color)


def grid_sample(values: Tensor, coordinates: Tensor) -> Tensor:
    """The features (S, C) of a grid (C, X, Y, Z) at points (3, S)."""
    places = (2 * coordinates - 1).flip(0).T
    return F.grid_sample(values[None], places[None, None, None], align_corners=True)[0, :, 0, 0].T


class SimpleAdam(MaskedAdam):
    """MaskedAdam in passes over all elements, whether a step touched them or not."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["step"] += 1
                (beta1, beta2), t = group["betas"], state["step"]
                touched = p.grad != 0 if group["skip"] else torch.ones_like(p, dtype=torch.bool)
                state["m"] = torch.where(touched, beta1 * state["m"] + (1 - beta1) * p.grad, state["m"])
                state["v"] = torch.where(touched, beta2 * state["v"] + (1 - beta2) * p.grad.square(), state["v"])
                size = group["lr"] * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
                p.sub_(torch.where(touched, size * state["m"] / (state["v"].sqrt() + group["eps"]), 0))


class SimpleHashGrid(HashGrid):
    """HashGrid in the simple way: level after level, anew whenever it is asked, and differentiated by autograd."""

    def forward(self, x01: Tensor, encoded: Tensor | None = None) -> Tensor:
        corners = torch.cartesian_prod(*[torch.arange(2, device=x01.device)] * 3)[:, None]  # (8, 1, 3)
        of_levels = []
        for level, (scale, points, size) in enumerate(zip(self.scales, self.resolutions, self.sizes)):
            position = x01 * scale + 0.5
            cell = position.floor()
            weights = torch.where(corners == 1, position - cell, 1 - position + cell).prod(2)  # (8, S)
            x, y, z = (cell.long() + corners).clamp(0, points - 1).unbind(2)
            if level < self.dense_levels:
                rows = x + points * (y + points * z)
            else:
                rows = (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) % size
            table = self.table.narrow(0, sum(self.sizes[:level]), size)
            of_levels.append((weights[:, :, None] * table[rows]).sum(0))
        return torch.cat(of_levels, dim=1)


def camera_rays(count: int, distance: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rays from all around at a ball of radius 1/2 and its surroundings, and colors for them."""
    origins = distance * F.normalize(torch.randn(count, 3, device=device), dim=-1)
    return origins, torch.rand(count, 3, device=device) - 0.5 - origins, torch.rand(count, 3, device=device)


def iterations(optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor]) -> Callable[[int], float]:
    """A function that does n iterations and returns the last loss; each has random numbers of its own, from a seed."""
    generator = torch.Generator().manual_seed(0)

    def advance(count: int) -> float:
        for _ in range(count):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            loss = loss_of()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return advance


def dvgo_steps(field: DVGOField | SimpleDVGOField, fine: bool, rays: int) -> Callable[[int], float]:
    """A function that does n iterations of either stage and returns the last loss."""
    if isinstance(field, DVGOField):
        grids, color, adam = [field.density.values, field.features.values], field.color, MaskedAdam
    else:
        grids, color, adam = [field.density, field.features], field.field.color, SimpleAdam
    optimizer = adam([{"params": grids, "skip": fine}, {"params": color.parameters() if color else [], "skip": False}],
                     lr=1e-3)

    def loss_of() -> Tensor:
        origins, directions, target = camera_rays(rays, 4.0, grids[0].device)
        return objective(field(origins, directions), target, *((0.001, 0.01) if fine else (0.01, 0.1)))[1]

    return iterations(optimizer, loss_of)


def ngp_steps(field: InstantNGPField, rays: int) -> Callable[[int], float]:
    """Likewise for Instant-NGP, between two updates of the occupancy grid."""
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-4, eps=1e-15, fused=True)

    def loss_of() -> Tensor:
        origins, directions, target = camera_rays(rays, 1.5, field.encoding.table.device)
        return F.mse_loss(field(origins, directions, jitter=True).color, target)

    return iterations(optimizer, loss_of)


def make_dvgo(voxels: int, fine: bool, device: torch.device) -> DVGOField:
    """A field of a ball: fog in its box before the coarse stage is trained, or a surface of some voxels' depth."""
    box = torch.full((3,), 0.6, device=device)
    field = DVGOField(-box, box, voxels, final_voxels=voxels, alpha_init=1e-2 if fine else 1e-6, near=0.5,
                      threshold=1e-4 if fine else 1e-7, mode="relu+fr" if fine else None,
                      **(DVGO.NETWORKS["relu+fr"] if fine else {}))
    if fine:
        depth = 0.5 - grid_points(field.density.shape, -box, box).norm(dim=-1)  # below the surface
        field.density.values.data[..., 0] = (200 * depth).clamp(-10, 2)
        nn.init.normal_(field.features.values, std=0.1)
        field.renew_mask()
    return field


def make_ngp(config: dict, device: torch.device) -> InstantNGPField:
    """A field of fog in a ball."""
    field = InstantNGPField("relu+fr", **config["field"], **NGP.NETWORKS["relu+fr"])
    nn.init.constant_(field.density_mlp.get_parameter("2.bias"), 1.0)
    nn.init.uniform_(field.encoding.table, -1, 1)  # else the loss would hardly depend on it
    axis = torch.linspace(-0.5, 0.5, config["field"]["resolution"])
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    field.occupancy.occupied.copy_((radius < 0.35) & (radius > 0.25))
    return field.to(device)


def measure(label: str, steps: dict[str, Callable[[int], Any]], args: argparse.Namespace) -> None:
    """Time the two in turn and print a line."""
    first = {name: advance(1) for name, advance in steps.items()}
    times = interleaved(steps, args.device, args.rounds, block=1)
    ours, simple = (1e3 * statistics.median(times[name]) for name in ("ours", "simple"))
    print(f"{label:<14}{ours:>10.0f}{simple:>12.0f}{ratio(times['simple'], times['ours']):>15.2f}"
          f"{abs(first['ours'] / first['simple'] - 1):>13.0e}", flush=True)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--small", action="store_true", help="the sizes of --medium")
    parser.add_argument("--rounds", type=cli.whole(1), default=5)
    args = parser.parse_args()
    args.device = choose_device(args.device)
    keep_freed_memory()
    dvgo, ngp = ({**script.PAPER, **(script.MEDIUM if args.small else {})} for script in (DVGO, NGP))
    rays = dvgo["batch"]
    torch.manual_seed(0)
    print(f"{device_name(args.device)}, {rays:,} rays")
    print(f"{'iteration':<14}{'ms':>10}{'simple, ms':>12}{'simple / ours':>15}{'difference':>13}")
    for stage, fine in (("coarse", False), ("fine", True)):
        field = make_dvgo((dvgo if fine else dvgo["coarse"])["voxels"], fine, args.device)
        measure(f"DVGO {stage}", {"ours": dvgo_steps(field, fine, rays),
                                  "simple": dvgo_steps(SimpleDVGOField(field), fine, rays)}, args)
    hashed = make_ngp(ngp, args.device)
    simple = copy.deepcopy(hashed)
    simple.encoding.__class__ = SimpleHashGrid
    measure("Instant-NGP", {"ours": ngp_steps(hashed, rays), "simple": ngp_steps(simple, rays)}, args)


if __name__ == "__main__":
    cli.run(main)
