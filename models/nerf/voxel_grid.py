"""The voxel grids of DirectVoxGO (Sun, Sun and Chen, "Direct Voxel Grid Optimization", CVPR 2022).

A grid's nodes lie on the faces of its box and evenly between; its axes are x, y, z in that order. Boxes are given by
their corners `lower` and `upper`, (3,) each. Coordinates (3, S) are those of S points in the unit cube that the box
becomes, axis by axis.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.nerf.cpu import share_out
from models.nerf.rays import box_intersection, pixel_rays, uniform_samples


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
    # The small addition is for a cube of n³ voxels: rounding would make it n − 1 a side.
    x, y, z = (max(2, math.floor(length / size + 1e-4)) for length in extent)
    return (x, y, z), size


def grid_points(shape: Sequence[int], lower: Tensor, upper: Tensor) -> Tensor:
    """The positions of a grid's nodes, (X, Y, Z, 3)."""
    axes = [torch.linspace(0, 1, nodes, dtype=lower.dtype, device=lower.device) for nodes in shape]
    return torch.lerp(lower, upper, torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1))


def grid_coordinates(points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The coordinates (3, S) in a box of points (S, 3), from 0 to 1 within it."""
    return ((points - lower) / (upper - lower)).T.contiguous()


def coordinates_along(origins: Tensor, directions: Tensor, t: Tensor, ray_index: Tensor, lower: Tensor,
                      upper: Tensor) -> Tensor:
    """The coordinates (3, S) in a box of the points o + t d, samples at `t` (S,) along the rays `ray_index` (S,)."""
    origins, directions = grid_coordinates(origins, lower, upper), (directions / (upper - lower)).T.contiguous()
    return torch.addcmul(origins.index_select(1, ray_index), t, directions.index_select(1, ray_index))


def place(node: Sequence[Tensor] | Tensor, shape: Sequence[int]) -> Tensor:
    """The place in a flattened grid of nodes given by their three indices."""
    x, y, z = node
    return (x * shape[1] + y) * shape[2] + z


class Corners(NamedTuple):
    """The nodes around S points, and what each counts in trilinear interpolation.

    Attributes:
        nodes: (S, 8) int32, by their place in the grid.
        weights: (S, 8), with the sum 1.
    """

    nodes: Tensor
    weights: Tensor

    @classmethod
    def around(cls, coordinates: Tensor, shape: Sequence[int]) -> "Corners":
        """The corners around points (3, S) within the box of a grid of (X, Y, Z) nodes."""
        # Whether a corner is the upper one along an axis: (3, 8).
        upper = torch.cartesian_prod(*[torch.arange(2, dtype=torch.int32, device=coordinates.device)] * 3).T
        cell, weights = [], []
        for axis, nodes, is_upper in zip(coordinates, shape, upper):
            position = axis * (nodes - 1)
            cell.append(position.int().clamp_(0, nodes - 2))
            # 1 − f for the lower corner and f for the upper one
            weights.append(torch.addcmul((1 - is_upper).to(axis), (2 * is_upper - 1).to(axis),
                                         position.sub_(cell[-1])[:, None]))
        return cls(place(cell, shape)[:, None] + place(upper, shape), weights[0].mul_(weights[1]).mul_(weights[2]))

    def take(self, kept: Tensor) -> "Corners":
        """The corners around the points with the indices (K,)."""
        return Corners(self.nodes.index_select(0, kept), self.weights.index_select(0, kept))


class VoxelGrid(nn.Module):
    """Features on a grid, interpolated trilinearly; zeros at the start.

    Args:
        channels: C, the number of features.
        shape: (X, Y, Z), nodes along each axis.
        lower, upper: (3,), the box.

    Attributes:
        values: Parameter of shape (X, Y, Z, C).
    """

    lower: Tensor
    upper: Tensor

    def __init__(self, channels: int, shape: Sequence[int], lower: Tensor, upper: Tensor):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(*shape, channels, dtype=lower.dtype, device=lower.device))
        self.register_buffer("lower", lower.clone())
        self.register_buffer("upper", upper.clone())

    @property
    def shape(self) -> torch.Size:
        """(X, Y, Z)."""
        return self.values.shape[:3]

    def forward(self, points: Tensor) -> Tensor:
        """Map points (S, 3) to features (S, C); beyond the box to those of its face."""
        coordinates = grid_coordinates(points, self.lower, self.upper).clamp_(0, 1)
        return interpolate([self], Corners.around(coordinates, self.shape))[0]

    def look_up(self, corners: Corners) -> Tensor:
        """The features (S, C) at S points, without a graph."""
        return F.embedding_bag(corners.nodes, self.values.detach().flatten(0, 2), per_sample_weights=corners.weights,
                               mode="sum")

    @torch.no_grad()
    def resize(self, shape: Sequence[int]) -> None:
        """Go over to `shape` nodes by interpolation. `values` becomes a new Parameter; optimizers hold the old one."""
        finer = F.interpolate(self.values.permute(3, 0, 1, 2)[None], size=tuple(shape), mode="trilinear",
                              align_corners=True)
        # Not .contiguous(): it leaves a single channel its stride, with which embedding_bag is slow.
        self.values = nn.Parameter(finer[0].movedim(0, -1).clone(memory_format=torch.contiguous_format))

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # The number of nodes changes during training; that of what is loaded is taken over, the Parameter kept.
        if (prefix + "values") in state_dict:
            self.values.data = self.values.new_empty(state_dict[prefix + "values"].shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"channels={self.values.shape[-1]}, shape={tuple(self.shape)}"


def interpolate(grids: Sequence[VoxelGrid], corners: Corners, found: Sequence[Tensor | None] = (None, None),
                sparse: bool = False) -> tuple[Tensor, ...]:
    """The features (S, C) of one or two grids of the same nodes, at S points; differentiable in the grids' values.

    Args:
        found: the features of a grid, if they were looked up before.
        sparse: give the gradients as sparse tensors of the nodes around the points alone, as nn.Embedding does.
    """
    return _Interpolate.apply(corners, [grid.look_up(corners) if features is None else features
                                        for grid, features in zip(grids, found)],
                              sparse, *(grid.values for grid in grids))


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, corners: Corners, features: list[Tensor], sparse: bool, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*corners)
        ctx.shape, ctx.sparse = values[0].shape[:3], sparse
        return tuple(of_grid.detach() for of_grid in features)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        scatter = scatter_sparse if ctx.sparse else scatter_dense
        return None, None, None, *scatter(Corners(*ctx.saved_tensors), gradients, ctx.shape)


def scatter_sparse(corners: Corners, gradients: Sequence[Tensor], shape: Sequence[int]) -> list[Tensor]:
    """The gradients of a grid's values from those (S, C) of its features: sparse (X, Y, Z, C), the nodes ascending."""
    # Sorted by node, the sum of a node is over one stretch. The cost does not depend on the number of nodes, and all
    # cores are used. On a GPU the sums are the same whatever the order of its threads.
    nodes, order = corners.nodes.flatten().sort(stable=True)
    is_first = torch.ones_like(nodes, dtype=torch.bool)
    torch.ne(nodes[1:], nodes[:-1], out=is_first[1:])
    first = is_first.nonzero().squeeze(1)
    points, weights = (order >> 3).int(), corners.weights.flatten().index_select(0, order)
    touched = nodes.index_select(0, first).long()
    indices = torch.stack([touched // (shape[1] * shape[2]), touched // shape[2] % shape[1], touched % shape[2]])
    return [torch.sparse_coo_tensor(indices, F.embedding_bag(
        points, gradient.contiguous(), first.int(), per_sample_weights=weights, mode="sum"),
        (*shape, gradient.shape[1]), check_invariants=False) for gradient in gradients]


def scatter_dense(corners: Corners, gradients: Sequence[Tensor], shape: Sequence[int]) -> list[Tensor]:
    """The gradients of `scatter_sparse` as dense tensors."""
    nodes, of_channels = corners.nodes.flatten(), [column for gradient in gradients for column in gradient.unbind(1)]
    sums = [corners.weights.new_zeros(math.prod(shape)) for _ in of_channels]

    def add(channel: int) -> None:
        sums[channel].index_add_(0, nodes, (corners.weights * of_channels[channel][:, None]).flatten())

    share_out(add, range(len(sums)), nodes.device)
    columns = iter(sums)
    return [torch.stack([next(columns) for _ in gradient.unbind(1)], dim=-1).view(*shape, -1)
            for gradient in gradients]


class MaskGrid(nn.Module):
    """Which parts of space may hold something: a yes or no at each node, looked up at the nearest.

    Args:
        mask: bool (X, Y, Z).
        lower, upper: (3,), the box.
    """

    mask: Tensor
    lower: Tensor
    upper: Tensor

    def __init__(self, mask: Tensor, lower: Tensor, upper: Tensor):
        super().__init__()
        self.register_buffer("mask", mask.clone())
        self.register_buffer("lower", lower.clone())
        self.register_buffer("upper", upper.clone())

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if (prefix + "mask") in state_dict:
            self.mask = self.mask.new_empty(state_dict[prefix + "mask"].shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, points: Tensor) -> Tensor:
        """Map points (S, 3) to bool (S,); False further than half a voxel outside the box."""
        return self.look_up(grid_coordinates(points, self.lower, self.upper))

    def look_up(self, coordinates: Tensor) -> Tensor:
        """What `forward` gives for points with the coordinates (3, S)."""
        nearest = [(axis * (nodes - 1)).add_(0.5).floor_().int() for axis, nodes in zip(coordinates, self.mask.shape)]
        inside = [(node >= 0) & (node < nodes) for node, nodes in zip(nearest, self.mask.shape)]
        nodes = place([node.clamp_(0, last - 1) for node, last in zip(nearest, self.mask.shape)], self.mask.shape)
        return self.mask.flatten().index_select(0, nodes) & inside[0] & inside[1] & inside[2]


def count_views(poses: Tensor, intrinsics: Tensor, height: int, width: int, lower: Tensor, upper: Tensor,
                shape: Sequence[int], near: float, step: float, stride: int = 4) -> Tensor:
    """How many images see each voxel, for the paper's "view-count-based learning rate".

    The samples of an image's rays are shared out among the 8 nodes around each, by the trilinear weights. The image
    sees a voxel whose sum is above 1.

    Args:
        poses, intrinsics: as for `pixel_rays`.
        height, width: of the images, in pixels.
        lower, upper, shape: of the grid.
        near: depth at which the rays begin.
        step: distance between samples, in world units.
        stride: take one row and one column in this many, and 1 / stride² as the sum to exceed. 1 is exact. 4 agrees
            on 99.8 % of the voxels of a Blender scene at 800 × 800 pixels, some 15 pixels a voxel. At 2 pixels a voxel
            it finds a fifth too few views.

    Returns:
        (X, Y, Z) long.
    """
    # A sample up to a voxel outside the box still reaches the nodes on its face. So the grid is wider by a voxel.
    margin = (upper - lower) / (torch.tensor(shape, device=lower.device) - 1)
    wider, wider_lower, wider_upper = [nodes + 2 for nodes in shape], lower - margin, upper + margin
    rows, columns = torch.meshgrid(torch.arange(0, height, stride, device=poses.device),
                                   torch.arange(0, width, stride, device=poses.device), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    seen = torch.zeros(*shape, dtype=torch.long, device=poses.device)

    for view in range(len(poses)):
        origins, directions = pixel_rays(poses, intrinsics, torch.full_like(rows, view), rows, columns)
        t_min, _ = box_intersection(origins, directions, lower, upper, near)
        _, t_max = box_intersection(origins, directions, wider_lower, wider_upper, near)
        t, ray_index = uniform_samples(t_min, t_max, step / directions.norm(dim=-1))
        coordinates = coordinates_along(origins, directions, t, ray_index, wider_lower, wider_upper)
        nodes, weights = Corners.around(coordinates.clamp_(0, 1), wider)
        total = weights.new_zeros(math.prod(wider)).index_add_(0, nodes.flatten(), weights.flatten())
        seen += total.view(wider)[1:-1, 1:-1, 1:-1] > 1 / stride**2
    return seen
