"""The voxel grids of DirectVoxGO (Sun, Sun and Chen, "Direct Voxel Grid Optimization", CVPR 2022).

A grid's nodes lie on the faces of its box and evenly between; its axes are x, y, z in that order. Boxes are given by
their corners `lower` and `upper`, (3,) each.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function

from models.nerf.rays import box_intersection, pixel_rays, points_along, uniform_samples


def grid_shape(lower: Tensor, upper: Tensor, voxels: int) -> tuple[tuple[int, int, int], float]:
    """Divide a box into about `voxels` cubes.

    Returns:
        The number of nodes along x, y and z, at least 2, and the cubes' edge.

    Raises:
        ValueError: a box without volume, or no voxel.
    """
    extent = [high - low for low, high in zip(lower.tolist(), upper.tolist(), strict=True)]
    if min(extent) <= 0 or voxels < 1:
        raise ValueError(f"cannot divide a box of size {extent} into {voxels} voxels")
    size = (math.prod(extent) / voxels) ** (1 / 3)
    # The small addition is for a cube of n³ voxels, of which rounding would leave n − 1 a side.
    x, y, z = (max(2, math.floor(length / size + 1e-4)) for length in extent)
    return (x, y, z), size


def grid_points(shape: tuple[int, ...], lower: Tensor, upper: Tensor) -> Tensor:
    """The positions of a grid's nodes, (X, Y, Z, 3)."""
    axes = [torch.linspace(0, 1, nodes, dtype=lower.dtype, device=lower.device) for nodes in shape]
    return torch.lerp(lower, upper, torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1))


def in_box(points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Where points (S, 3) lie in a box, as grid_sample has it: from −1 to 1, z first."""
    return ((points - lower) / (upper - lower) * 2 - 1).flip(-1)


class VoxelGrid(nn.Module):
    """Features on a grid, interpolated trilinearly; zeros at the start.

    Args:
        channels: C, the number of features.
        shape: (X, Y, Z), nodes along each axis.
        lower, upper: (3,), the box.

    Attributes:
        values: Parameter of shape (C, X, Y, Z).
    """

    lower: Tensor
    upper: Tensor

    def __init__(self, channels: int, shape: tuple[int, ...], lower: Tensor, upper: Tensor):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(channels, *shape, dtype=lower.dtype, device=lower.device))
        self.register_buffer("lower", lower.clone())
        self.register_buffer("upper", upper.clone())

    def forward(self, points: Tensor) -> Tensor:
        """Map points (S, 3) to features (S, C). Beyond the box they fall to zero within one voxel."""
        return self.interpolate(in_box(points, self.lower, self.upper))

    @record_function("grids")
    def interpolate(self, where: Tensor) -> Tensor:
        """The features (S, C) at the places (S, 3) that `in_box` gives."""
        found = F.grid_sample(self.values[None], where[None, None, None], align_corners=True)  # (1, C, 1, 1, S)
        return found[0, :, 0, 0].T

    @torch.no_grad()
    def resize(self, shape: tuple[int, ...]) -> None:
        """Go over to `shape` nodes by interpolation. `values` becomes a new Parameter; optimizers hold the old one."""
        finer = F.interpolate(self.values[None], size=shape, mode="trilinear", align_corners=True)
        self.values = nn.Parameter(finer[0])

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # The number of nodes changes during training; that of what is loaded is taken over, the Parameter kept.
        if (prefix + "values") in state_dict:
            self.values.data = self.values.new_empty(state_dict[prefix + "values"].shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        channels, *shape = self.values.shape
        return f"channels={channels}, shape={tuple(shape)}"


class MaskGrid(nn.Module):
    """Which parts of space may hold something: a yes or no at each node, looked up at the nearest.

    Args:
        mask: bool (X, Y, Z).
        lower, upper: (3,), the box.
    """

    mask: Tensor
    lower: Tensor
    upper: Tensor
    last: Tensor
    half_last: Tensor
    middle: Tensor

    def __init__(self, mask: Tensor, lower: Tensor, upper: Tensor):
        super().__init__()
        self.register_buffer("mask", mask.clone())
        self.register_buffer("lower", lower.clone())
        self.register_buffer("upper", upper.clone())
        self._keep_shape()

    def _keep_shape(self) -> None:
        """Of the last node, z first: its index, and half of that with what rounds to the nearest one."""
        # Kept on the device: made anew at each call it would make the host wait for the GPU.
        last = torch.tensor(self.mask.shape[::-1], device=self.mask.device) - 1
        for name, buffer in (("last", last), ("half_last", last / 2), ("middle", last / 2 + 0.5)):
            self.register_buffer(name, buffer, persistent=False)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if (prefix + "mask") in state_dict:
            self.mask = self.mask.new_empty(state_dict[prefix + "mask"].shape)
            self._keep_shape()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, points: Tensor) -> Tensor:
        """Map points (S, 3) to bool (S,); False further than half a voxel outside the box."""
        return self.at(in_box(points, self.lower, self.upper))

    def at(self, where: Tensor) -> Tensor:
        """The same of places (S, 3) that `in_box` gives."""
        nearest = torch.addcmul(self.middle, where, self.half_last).floor().long()
        inside = ((nearest >= 0) & (nearest <= self.last)).all(-1)
        z, y, x = nearest.clamp(min=0).minimum(self.last).unbind(-1)
        place = z.add(y.add(x, alpha=self.mask.shape[1]), alpha=self.mask.shape[2])
        return self.mask.flatten().index_select(0, place) & inside


def count_views(poses: Tensor, intrinsics: Tensor, height: int, width: int, lower: Tensor, upper: Tensor,
                shape: tuple[int, ...], near: float, step: float, stride: int = 4) -> Tensor:
    """How many images see each voxel, for the paper's "view-count-based learning rate".

    An image sees a voxel if the samples of its pixels' rays, each shared out among the 8 nodes around it by the
    trilinear weights, leave there more than 1 in sum.

    Args:
        poses, intrinsics: as for `pixel_rays`.
        height, width: of the images, in pixels.
        lower, upper, shape: of the grid.
        near: depth at which the rays begin.
        step: distance between samples, in world units.
        stride: take one row and one column in this many, and 1 / stride² as the sum to exceed. 1 is exact; 4 agrees
            on 99.8 % of the voxels of a Blender scene at 800 × 800 pixels, where a voxel is some 15 pixels wide. At 2
            pixels a voxel it finds a fifth too few views.

    Returns:
        (X, Y, Z) long.
    """
    grid = VoxelGrid(1, shape, lower, upper)
    margin = (upper - lower) / (torch.tensor(shape, device=lower.device) - 1)
    rows, columns = torch.meshgrid(torch.arange(0, height, stride, device=poses.device),
                                   torch.arange(0, width, stride, device=poses.device), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    seen = torch.zeros(shape, dtype=torch.long, device=poses.device)
    for view in range(len(poses)):
        origins, directions = pixel_rays(poses, intrinsics, torch.full_like(rows, view), rows, columns)
        t_min, _ = box_intersection(origins, directions, lower, upper, near)
        # A sample up to a voxel behind the box still reaches the nodes on its face.
        _, t_max = box_intersection(origins, directions, lower - margin, upper + margin, near)
        t, ray_index, _ = uniform_samples(t_min, t_max, step / directions.norm(dim=-1))
        # What a sum of interpolated values owes to each node is the sum of the trilinear weights there.
        with torch.enable_grad():
            total = grid(points_along(origins, directions, t, ray_index)).sum()
        weight, = torch.autograd.grad(total, grid.values)
        seen += weight[0] > 1 / stride**2
    return seen


@torch.no_grad()
def add_total_variation_(values: nn.Parameter, weight: float) -> None:
    """Add to `values.grad`, where it is not 0, the gradient of a Huber loss on the differences of neighboring nodes.

    Each difference to one of the 6 neighbors, clamped to ±1, times `weight`.

    Args:
        values: (C, X, Y, Z), with a gradient.
    """
    slope = torch.zeros_like(values)
    for axis in (1, 2, 3):
        difference = values.diff(dim=axis).clamp(-1, 1)
        count = difference.shape[axis]
        slope.narrow(axis, 1, count).add_(difference)
        slope.narrow(axis, 0, count).sub_(difference)
    gradient = values.grad
    assert gradient is not None, "a backward pass comes first"
    gradient.add_(slope * (gradient != 0), alpha=weight)
