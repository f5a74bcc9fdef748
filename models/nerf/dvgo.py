"""The radiance field of DirectVoxGO: densities and features on dense voxel grids, with a shallow color network.

Sun, Sun and Chen, "Direct Voxel Grid Optimization: Super-fast Convergence for Radiance Fields Reconstruction",
CVPR 2022.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encodings import PositionalEncoding
from models.nerf.color_mlp import color_mlp
from models.nerf.cpu import in_chunks
from models.nerf.rays import (
    RayDataset,
    box_intersection,
    uniform_samples,
)
from models.nerf.volume_rendering import (
    Rendering,
    composite,
    contributing,
    render_weights,
)
from models.nerf.voxel_grid import (
    Corners,
    MaskGrid,
    VoxelGrid,
    coordinates_along,
    count_views,
    grid_points,
    grid_shape,
    interpolate,
)

STEP = 0.5  # between samples, in voxels
MIN_OPACITY = 1e-3  # the opacity of the coarse field at which there is something
MIN_VIEWS = 3  # images that have to see a voxel; with fewer it could be anything (released code, dvgo.py)
WORLD_BOUND_SCALE = 1.05  # sides of the fine field's box, over those of what the coarse one found
MIN_TRANSMITTANCE = 1e-3  # the transmittance at which a ray ends


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
        hidden_features: the width of the color network; the coarse field has none.
        basis: low_freq_num, high_freq_num, phase_num and alpha of `color_mlp`; `relu+fr` needs them.

    Attributes:
        density, features: VoxelGrids of 1 channel and of 3 or 12.
        mask: a MaskGrid that tells where there may be something; it only ever loses nodes.
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
            nn.init.zeros_(self.color.get_parameter("4.bias"))

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.act_shift, self.voxel_size], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        self.act_shift, self.voxel_size = state.tolist()

    def log_transmittance(self, raw: Tensor, step: float) -> Tensor:
        """log(1 − α) of raw densities over `step` voxels of the current grid."""
        # By softplus: the opacities of 1e-7 at the start would not survive 1 − α in float32.
        return -step * self.voxel_size / self.final_voxel_size * F.softplus(raw + self.act_shift)

    def node_opacity(self) -> Tensor:
        """α over one voxel at each node of the grid, (X, Y, Z)."""
        return -self.log_transmittance(self.density.values.detach()[..., 0], 1.0).expm1()

    def samples(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Samples half a voxel apart along rays (R, 3), where the mask has something.

        Returns:
            Their coordinates in the box (3, S), their t (S,) in units of the directions, and ray_index (S,) long.
        """
        lower, upper = self.density.lower, self.density.upper
        t_min, t_max = box_intersection(origins, directions, lower, upper, self.near)
        t, ray_index = uniform_samples(t_min, t_max, STEP * self.voxel_size / directions.norm(dim=-1))
        coordinates = coordinates_along(origins, directions, t, ray_index, lower, upper)
        inside = (coordinates - 0.5).abs_().amax(0) <= 0.5  # but for rounding all are
        kept = (self.mask.look_up(coordinates) & inside).nonzero().squeeze(1)
        return coordinates.index_select(1, kept), t.index_select(0, kept), ray_index.index_select(0, kept)

    def forward(self, origins: Tensor, directions: Tensor) -> Rendering:
        """What rays (R, 3) see; `directions` advance by 1 in depth, see `pixel_rays`.

        Samples with a weight of at most `threshold` do not count: their weight in the Rendering is 0.
        """
        rays = len(origins)
        coordinates, t, ray_index = self.samples(origins, directions)
        with torch.no_grad():  # a first pass over all samples; the graph is built over those that count
            corners = Corners.around(coordinates, self.density.shape)
            raw = self.density.look_up(corners)
            kept = contributing(self.log_transmittance(raw[:, 0], STEP), ray_index, rays, MIN_TRANSMITTANCE,
                                self.threshold).nonzero().squeeze(1)
        corners = corners.take(kept)
        t, ray_index, raw = (values.index_select(0, kept) for values in (t, ray_index, raw))
        raw, features = interpolate([self.density, self.features], corners, [raw, None], self.color is not None)
        weights, final_transmittance = render_weights(self.log_transmittance(raw[:, 0], STEP), ray_index, rays)
        weights = weights.where(weights > self.threshold, 0)

        if self.color is None:
            colors = features.sigmoid()
        else:
            # The first bias is one more row of the weight, with ones as input. Its gradient needs no pass of its own,
            # and 40 columns are faster than 39.
            seen_from = F.pad(self.direction_encoding(F.normalize(directions, dim=-1)), (0, 1), value=1)
            first = torch.cat([self.color.get_parameter("0.weight").T, self.color.get_parameter("0.bias")[None]])
            colors = in_chunks([lambda x: x @ first, *list(self.color)[1:]],
                               torch.cat([features, seen_from.index_select(0, ray_index)], dim=-1)).to(features.dtype)
        return composite(weights, colors, t, ray_index, final_transmittance, self.bg_color)

    @torch.no_grad()
    def renew_mask(self) -> None:
        """Drop from the mask what has become empty, with all its neighbors."""
        self.mask.mask &= F.max_pool3d(self.node_opacity()[None], 3, 1, 1)[0] > self.threshold

    @torch.no_grad()
    def resize(self, voxels: int) -> None:
        """Go over to about so many voxels by interpolation, and lower b by 1 (decay_after_scale of the released code,
        since 2022); makes new parameters."""
        shape, self.voxel_size = grid_shape(self.density.lower, self.density.upper, voxels)
        self.density.resize(shape)
        self.features.resize(shape)
        points = grid_points(shape, self.density.lower, self.density.upper).reshape(-1, 3)
        full = F.max_pool3d(self.node_opacity()[None], 3, 1, 1)[0] > self.threshold
        self.mask = MaskGrid(self.mask(points).reshape(shape) & full, self.density.lower, self.density.upper)
        self.act_shift -= 1


def frustum_bounds(dataset: RayDataset, near: float, far: float) -> tuple[Tensor, Tensor]:
    """The corners (3,) of the box of all that the cameras see from the distance `near` to the distance `far`."""
    lower, upper = [], []
    for pixels in torch.arange(dataset.pixels, device=dataset.poses.device).split(2**20):
        origins, directions, _ = dataset.rays(pixels)
        ends = torch.cat([origins + distance * F.normalize(directions, dim=-1) for distance in (near, far)])
        lower.append(ends.amin(0))
        upper.append(ends.amax(0))
    return torch.stack(lower).amin(0), torch.stack(upper).amax(0)


def pixels_per_voxel(field: DVGOField, dataset: RayDataset) -> float:
    """How wide a voxel of the grid's present size is in the images, on the average."""
    distance = (dataset.poses[:, :, 3] - (field.density.lower + field.density.upper) / 2).norm(dim=-1).mean().item()
    return dataset.intrinsics[:, 0].median().item() * field.voxel_size / distance


def coarse_field(dataset: RayDataset, config: dict, near: float, far: float) -> tuple[DVGOField, Tensor]:
    """The coarse field before training, and the factors (X, Y, Z, 1) of its densities' learning rate (section 4.1).

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
        field.density.values.data[(nodes - center).norm(dim=-1) <= near] = -100
    # At least 4 rays cross a voxel, and at least every 4th is taken: so far `count_views` was compared with all rays.
    views = count_views(dataset.poses, dataset.intrinsics, dataset.height, dataset.width, lower, upper, shape, near,
                        STEP * field.voxel_size, stride=max(1, min(4, round(pixels_per_voxel(field, dataset) / 4))))
    field.mask.mask &= views >= MIN_VIEWS
    return field, (views / views.max().clamp(min=1))[..., None]


def fine_field(opacity: Tensor, lower: Tensor, upper: Tensor, mode: str, config: dict, near: float,
               bg_color: float) -> DVGOField:
    """The fine field before training, in the box in which the coarse one found something.

    Args:
        opacity: of the coarse field's nodes, (X, Y, Z), not everywhere at most `MIN_OPACITY`.
        lower, upper: the corners (3,) of the coarse field's box.
        mode: of the color network, relu or relu+fr.
        config: the stage's settings, with `network`, `voxels`, `scale_at`, `alpha_init` and `threshold`.
    """
    full = opacity > MIN_OPACITY
    nodes = grid_points(tuple(full.shape), lower, upper)
    voxel = (upper - lower) / (torch.tensor(full.shape, device=lower.device) - 1)
    corners = nodes[full].amin(0), nodes[full].amax(0).maximum(nodes[full].amin(0) + voxel)
    margin = (corners[1] - corners[0]) * (WORLD_BOUND_SCALE - 1) / 2
    field = DVGOField(corners[0] - margin, corners[1] + margin, config["voxels"] // 2 ** len(config["scale_at"]),
                      final_voxels=config["voxels"], alpha_init=config["alpha_init"], threshold=config["threshold"],
                      near=near, bg_color=bg_color, mode=mode, **config["network"])
    around = MaskGrid(F.max_pool3d(opacity[None], 3, 1, 1)[0] >= MIN_OPACITY, lower, upper)
    nodes = grid_points(tuple(field.mask.mask.shape), field.density.lower, field.density.upper).reshape(-1, 3)
    field.mask.mask &= around(nodes).reshape(field.mask.mask.shape)
    return field


@torch.no_grad()
def pixels_in_sight(field: DVGOField, dataset: RayDataset) -> Tensor:
    """The pixels (P,) whose rays have a sample where the mask has something; the others are background for good.

    Every fourth pixel along either axis is tested, or more where a voxel is less than eight wide. Then all between four
    that do not agree are. So only what is smaller than a voxel of the mask can be overlooked.
    """
    stride = max(1, min(4, int(pixels_per_voxel(field, dataset) / 2)))

    def seen(pixels: Tensor) -> Tensor:
        found = [torch.zeros(0, dtype=torch.bool, device=pixels.device)]
        for part in pixels.split(2**16):
            origins, directions, _ = dataset.rays(part)
            _, _, ray_index = field.samples(origins, directions)
            found.append(torch.zeros_like(part, dtype=torch.bool).index_fill_(0, ray_index, True))
        return torch.cat(found)

    height, width, device = dataset.height, dataset.width, dataset.poses.device
    row, column = torch.arange(height, device=device), torch.arange(width, device=device)
    rows, columns = (torch.arange(0, length + stride, stride, device=device).clamp(max=length - 1)
                     for length in (height, width))
    in_sight = []
    for view in range(dataset.count):
        first = view * height * width
        corners = seen((first + rows[:, None] * width + columns).flatten()).view(1, len(rows), len(columns)).float()
        every, some = (-F.max_pool2d(-corners, 2, 1)[0] > 0, F.max_pool2d(corners, 2, 1)[0] > 0)
        every, some = (block[row // stride][:, column // stride].flatten() for block in (every, some))
        between = (some & ~every).nonzero().squeeze(1)
        every[between] = seen(first + between)
        in_sight.append(first + every.nonzero().squeeze(1))
    return torch.cat(in_sight)


def objective(rendering: Rendering, target: Tensor, entropy_weight: float,
              per_sample_weight: float) -> tuple[Tensor, Tensor]:
    """The mean squared error of the rays' colors (R, 3), and the whole objective (section 4.1)."""
    error = F.mse_loss(rendering.color, target)
    left = rendering.final_transmittance.clamp(1e-6, 1 - 1e-6)  # a ray should end in something or in nothing
    entropy = (torch.special.entr(left) + torch.special.entr(1 - left)).mean()
    of_samples = (rendering.sample_color - target.index_select(0, rendering.ray_index)).square().sum(-1)
    per_sample = (rendering.weights.detach() * of_samples).sum()
    return error, error.add(entropy, alpha=entropy_weight).add(per_sample, alpha=per_sample_weight / len(target))
