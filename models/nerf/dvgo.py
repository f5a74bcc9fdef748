"""The radiance field of DirectVoxGO (Sun, Sun and Chen, "Direct Voxel Grid Optimization: Super-fast Convergence for
Radiance Fields Reconstruction", CVPR 2022): densities and features on dense voxel grids, with a shallow color network.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function

from models.encodings import PositionalEncoding
from models.nerf.color_mlp import color_mlp
from models.nerf.rays import (
    RayDataset,
    box_intersection,
    points_along,
    uniform_samples,
)
from models.nerf.volume_rendering import (
    Rendering,
    composite,
    contributing,
    render_weights,
)
from models.nerf.voxel_grid import (
    MaskGrid,
    VoxelGrid,
    count_views,
    grid_points,
    grid_shape,
    in_box,
)

STEP = 0.5  # between samples, in voxels
FILLED = 1e-3  # opacity of the coarse field at which there is something
SEEN_BY = 3  # images at least: what two see or fewer could be anything (released code, dvgo.py)
WORLD_BOUND_SCALE = 1.05  # of the fine field's box, against that of what the coarse one found
STOP = 1e-3  # the transmittance at which a ray ends


class DVGOField(nn.Module):
    """Density and color in a box, at two stages of one method.

    The coarse field (`mode` None) has a color at each node, the same from all sides. In the fine one twelve features
    and the encoded viewing direction go through a color network. Densities are activated after interpolation, which
    lets a surface be sharper than the voxels (post-activation, section 4.2 of the paper):

        α = 1 − (1 + exp(raw + b))^(−s),    s the step in voxels of the final grid,

    b such that a voxel of raw density 0 starts at α = `alpha_init`.

    Args:
        lower, upper: (3,), the corners of the box.
        voxels: their number, about; `final_voxels` that of the finished grid.
        alpha_init: the opacity of a voxel at the start.
        threshold: samples below this opacity or weight are left out.
        near: the depth at which rays begin, in units of their directions.
        bg_color: the gray level behind the field.
        mode: None, relu or relu+fr.
        hidden_features: the width of the color network, which the coarse field has not.
        basis: low_freq_num, high_freq_num, phase_num and alpha of `color_mlp`; `relu+fr` needs them.

    Attributes:
        density, features: VoxelGrids of 1 channel and of 3 or 12.
        mask: a MaskGrid that tells where there may be something. It only ever loses nodes.
        act_shift: b.
    """

    def __init__(self, lower: Tensor, upper: Tensor, voxels: int, *, final_voxels: int, alpha_init: float,
                 threshold: float, near: float, bg_color: float = 1.0, mode: str | None = None,
                 hidden_features: int = 128, **basis):
        super().__init__()
        self.threshold, self.near, self.bg_color = threshold, near, bg_color
        self.act_shift = math.log(1 / (1 - alpha_init) - 1)
        shape, self.voxel_size = grid_shape(lower, upper, voxels)
        _, self.final_voxel_size = grid_shape(lower, upper, final_voxels)
        self.density = VoxelGrid(1, shape, lower, upper)
        self.features = VoxelGrid(3 if mode is None else 12, shape, lower, upper)
        self.mask = MaskGrid(torch.ones(shape, dtype=torch.bool, device=lower.device), lower, upper)
        self.color: nn.Sequential | None = None
        if mode is not None:
            self.direction_encoding = PositionalEncoding(3, 4, base=1.0)
            self.color = color_mlp(mode, 12 + self.direction_encoding.out_features, hidden_features,
                                   **basis).to(lower.device)
            nn.init.zeros_(cast(nn.Linear, self.color[-2]).bias)

    def get_extra_state(self) -> dict[str, float]:
        return {"act_shift": self.act_shift, "voxel_size": self.voxel_size}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.act_shift, self.voxel_size = state["act_shift"], state["voxel_size"]

    def log_transmittance(self, raw: Tensor, step: float) -> Tensor:
        """log(1 − α) of raw densities over `step` voxels of the current grid."""
        # −softplus, as the opacities of 1e-7 at the start would not survive 1 − α in float32.
        return -step * self.voxel_size / self.final_voxel_size * F.softplus(raw + self.act_shift)

    def node_opacity(self) -> Tensor:
        """α over one voxel at each node of the grid, (X, Y, Z)."""
        return -self.log_transmittance(self.density.values[0].detach(), 1.0).expm1()

    @record_function("sampling")
    def samples(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Samples half a voxel apart along rays (R, 3), where the mask has something.

        Returns:
            Where in the box they are (S, 3), see `in_box`, their t (S,) in units of the directions, and ray_index (S,)
            long.
        """
        t_min, t_max = box_intersection(origins, directions, self.density.lower, self.density.upper, self.near)
        t, ray_index, _ = uniform_samples(t_min, t_max, STEP * self.voxel_size / directions.norm(dim=-1))
        where = in_box(points_along(origins, directions, t, ray_index), self.density.lower, self.density.upper)
        kept = ((where.abs() <= 1).all(-1) & self.mask.at(where)).nonzero().squeeze(1)
        return where.index_select(0, kept), t.index_select(0, kept), ray_index.index_select(0, kept)

    def forward(self, origins: Tensor, directions: Tensor) -> Rendering:
        """What rays (R, 3) see; `directions` advance by 1 in depth, see `pixel_rays`."""
        rays = len(origins)
        where, t, ray_index = self.samples(origins, directions)
        with torch.no_grad():  # a first pass over all samples; the graph is built over those that count
            raw = self.density.interpolate(where)[:, 0]
            kept = contributing(self.log_transmittance(raw, STEP), ray_index, rays, STOP,
                                self.threshold).nonzero().squeeze(1)
        where, t, ray_index = (values.index_select(0, kept) for values in (where, t, ray_index))
        raw = self.density.interpolate(where)[:, 0] if torch.is_grad_enabled() else raw.index_select(0, kept)
        weights, final_transmittance = render_weights(self.log_transmittance(raw, STEP), ray_index, rays)
        kept = (weights.detach() > self.threshold).nonzero().squeeze(1)
        where, t, ray_index, weights = (values.index_select(0, kept) for values in (where, t, ray_index, weights))

        features = self.features.interpolate(where)
        if self.color is None:
            colors = features.sigmoid()
        else:
            with record_function("color"):
                seen_from = self.direction_encoding(F.normalize(directions, dim=-1)).index_select(0, ray_index)
                colors = self.color(torch.cat([features, seen_from], dim=-1)).to(features.dtype)
        return composite(weights, colors, t, ray_index, final_transmittance, self.bg_color)

    @torch.no_grad()
    @record_function("occupancy")
    def renew_mask(self) -> None:
        """Drop from the mask what has become empty, with all its neighbors."""
        points = grid_points(self.mask.mask.shape, self.mask.lower, self.mask.upper)
        raw = self.density(points.reshape(-1, 3)).reshape(self.mask.mask.shape)
        opacity = -self.log_transmittance(raw, 1.0).expm1()
        self.mask.mask &= F.max_pool3d(opacity[None], 3, 1, 1)[0] > self.threshold

    @torch.no_grad()
    def resize(self, voxels: int, act_shift_decay: float = 1.0) -> None:
        """Go over to about so many voxels by interpolation, and lower b by `act_shift_decay`; makes new parameters."""
        shape, self.voxel_size = grid_shape(self.density.lower, self.density.upper, voxels)
        self.density.resize(shape)
        self.features.resize(shape)
        points = grid_points(shape, self.density.lower, self.density.upper).reshape(-1, 3)
        full = F.max_pool3d(self.node_opacity()[None], 3, 1, 1)[0] > self.threshold
        self.mask = MaskGrid(self.mask(points).reshape(shape) & full, self.density.lower, self.density.upper)
        self.act_shift -= act_shift_decay


def frustum_bounds(dataset: RayDataset, near: float, far: float) -> tuple[Tensor, Tensor]:
    """The corners (3,) of the box of all that the cameras see from the distance `near` to the distance `far`."""
    lower, upper = [], []
    for pixels in torch.arange(dataset.pixels, device=dataset.poses.device).split(2**20):
        origins, directions, _ = dataset.rays(pixels)
        ends = torch.cat([origins + distance * F.normalize(directions, dim=-1) for distance in (near, far)])
        lower.append(ends.amin(0))
        upper.append(ends.amax(0))
    return torch.stack(lower).amin(0), torch.stack(upper).amax(0)


def coarse_field(dataset: RayDataset, config: dict, near: float, far: float) -> tuple[DVGOField, Tensor]:
    """The coarse field before training, and the factors (1, X, Y, Z) of its densities' learning rate (section 4.1).

    Args:
        config: the stage's settings, with `voxels`, `alpha_init` and `threshold`.
        near, far: the distances from the cameras between which the scene lies.
    """
    lower, upper = frustum_bounds(dataset, near, far)
    field = DVGOField(lower, upper, config["voxels"], final_voxels=config["voxels"], alpha_init=config["alpha_init"],
                      threshold=config["threshold"], near=near, bg_color=dataset.bg_color)
    shape = tuple(field.mask.mask.shape)
    nodes = grid_points(shape, lower, upper)
    centers = dataset.poses[:, :, 3]
    for center in centers:
        # Nothing is nearer than `near`: a density that stays empty whatever is added to it (released code, dvgo.py).
        field.density.values.data[0, (nodes - center).norm(dim=-1) <= near] = -100
    pixels_per_voxel = dataset.intrinsics[:, 0].median().item() * field.voxel_size / centers.norm(dim=-1).mean().item()
    # At least 4 rays across a voxel, and no fewer than every 4th, as far as `count_views` was compared with all rays.
    views = count_views(dataset.poses, dataset.intrinsics, dataset.height, dataset.width, lower, upper, shape, near,
                        STEP * field.voxel_size, stride=max(1, min(4, round(pixels_per_voxel / 4))))
    field.mask.mask &= views >= SEEN_BY
    return field, (views / views.max().clamp(min=1))[None]


def fine_field(opacity: Tensor, lower: Tensor, upper: Tensor, mode: str, config: dict, near: float,
               bg_color: float) -> DVGOField:
    """The fine field before training, in the box that the coarse one found something in.

    Args:
        opacity: of the coarse field's nodes, (X, Y, Z), not everywhere at most `FILLED`.
        lower, upper: the corners (3,) of the coarse field's box.
        mode: of the color network, relu or relu+fr.
        config: the stage's settings, with `network`, `voxels`, `scale_at`, `alpha_init` and `threshold`.
    """
    full = opacity > FILLED
    nodes = grid_points(tuple(full.shape), lower, upper)
    voxel = (upper - lower) / (torch.tensor(full.shape, device=lower.device) - 1)
    corners = nodes[full].amin(0), nodes[full].amax(0).maximum(nodes[full].amin(0) + voxel)
    margin = (corners[1] - corners[0]) * (WORLD_BOUND_SCALE - 1) / 2
    field = DVGOField(corners[0] - margin, corners[1] + margin, config["voxels"] // 2 ** len(config["scale_at"]),
                      final_voxels=config["voxels"], alpha_init=config["alpha_init"], threshold=config["threshold"],
                      near=near, bg_color=bg_color, mode=mode, **config["network"])
    around = MaskGrid(F.max_pool3d(opacity[None], 3, 1, 1)[0] >= FILLED, lower, upper)
    nodes = grid_points(tuple(field.mask.mask.shape), field.density.lower, field.density.upper).reshape(-1, 3)
    field.mask.mask &= around(nodes).reshape(field.mask.mask.shape)
    return field


def pixels_in_sight(field: DVGOField, dataset: RayDataset) -> Tensor:
    """The pixels whose rays have a sample where the mask has something; the others are background for good."""
    seen = []
    for pixels in torch.arange(dataset.pixels, device=dataset.poses.device).split(2**16):
        origins, directions, _ = dataset.rays(pixels)
        _, _, ray_index = field.samples(origins, directions)
        seen.append(pixels[torch.zeros_like(pixels, dtype=torch.bool).index_fill(0, ray_index, True)])
    return torch.cat(seen)


def objective(rendering: Rendering, target: Tensor, entropy_weight: float,
              per_sample_weight: float) -> tuple[Tensor, Tensor]:
    """The mean squared error of the rays' colors (R, 3), and the whole objective (section 4.1)."""
    error = F.mse_loss(rendering.color, target)
    left = rendering.final_transmittance.clamp(1e-6, 1 - 1e-6)  # a ray should end in something or in nothing
    entropy = (torch.special.entr(left) + torch.special.entr(1 - left)).mean()
    of_samples = (rendering.sample_color - target.index_select(0, rendering.ray_index)).square().sum(-1)
    per_sample = (rendering.weights.detach() * of_samples).sum()
    return error, error.add(entropy, alpha=entropy_weight).add(per_sample, alpha=per_sample_weight / len(target))
