"""DVGO's grids against loops over single points and voxels in float64."""

import itertools
import math

import pytest
import torch
from conftest import camera_at

from models.nerf.rays import pixel_rays
from models.nerf.voxel_grid import (
    MaskGrid,
    VoxelGrid,
    count_views,
    grid_points,
    grid_shape,
)

LOWER, UPPER = torch.tensor([-1, -0.5, 2]).double(), torch.tensor([1, 0.7, 5]).double()
SHAPE = (4, 6, 3)


def random_points(count, margin=0.0):
    torch.manual_seed(0)
    return LOWER - margin + torch.rand(count, 3).double() * (UPPER - LOWER + 2 * margin)


def in_nodes(points, shape):
    """Where points (..., 3) are, counted in nodes of the grid along each axis."""
    return (points - LOWER) / (UPPER - LOWER) * (torch.tensor(shape) - 1)


def test_shape_of_a_grid():
    shape, size = grid_shape(LOWER, UPPER, 1000)
    assert size == pytest.approx((2 * 1.2 * 3 / 1000) ** (1 / 3))
    assert shape == tuple(math.floor(length / size) for length in (2, 1.2, 3))
    # Lego's box in DVGO's coarse stage.
    lower, upper = torch.tensor([-3.016, -3.008, -2.594]), torch.tensor([3.005, 3.016, 2.338])
    assert grid_shape(lower, upper, 1_024_000) == ((107, 107, 88), pytest.approx(0.0559, abs=1e-4))
    for side, length in itertools.product((5, 32, 48, 100, 160), (1.0, 0.3, 1.05 * 2.4)):
        assert grid_shape(torch.zeros(3), torch.full((3,), length), side**3)[0] == (side, side, side)
    for upper, voxels, said in (((1, 1, 0), 1000, "size"), ((1, -1, 1), 1000, "size"), ((1, 1, 1), 0, "0 voxels")):
        with pytest.raises(ValueError, match=said):
            grid_shape(torch.zeros(3), torch.tensor(upper).float(), voxels)


def test_a_linear_field_is_interpolated_exactly_and_beyond_the_box_as_on_its_face():
    nodes, slope = grid_points(SHAPE, LOWER, UPPER), torch.tensor([[2, -3, 0.5], [0, 1, 0]]).double().T
    for x, y, z in itertools.product(*map(range, SHAPE)):
        fraction = torch.tensor([x / 3, y / 5, z / 2]).double()
        assert torch.allclose(nodes[x, y, z], LOWER + fraction * (UPPER - LOWER))
    grid = VoxelGrid(2, SHAPE, LOWER, UPPER)
    grid.values.data[:] = nodes @ slope + 1
    points = torch.cat([random_points(100, margin=0.4), nodes.flatten(0, 2)])
    assert torch.allclose(grid(points), points.clamp(LOWER, UPPER) @ slope + 1)


def test_a_mask_is_looked_up_at_the_nearest_node():
    torch.manual_seed(1)
    grid, points = MaskGrid(torch.rand(SHAPE) < 0.5, LOWER, UPPER), random_points(300, margin=0.6)
    nodes = [tuple(map(math.floor, node)) for node in (in_nodes(points, SHAPE) + 0.5).tolist()]
    expected = [all(0 <= n < size for n, size in zip(node, SHAPE)) and grid.mask[node].item() for node in nodes]
    assert grid(points).tolist() == expected and 20 < sum(expected) < 200
    assert torch.equal(grid(grid_points(SHAPE, LOWER, UPPER).flatten(0, 2)), grid.mask.flatten())
    assert grid(points[:0]).shape == (0,) and set(grid.state_dict()) == {"mask", "lower", "upper"}


def views_by_definition(poses, intrinsics, height, width, near, step, shape, stride):
    """Splat every sample of a fixed number of steps, enough to cross the box, also those outside."""
    seen = torch.zeros(shape, dtype=torch.long)
    pixels = torch.cartesian_prod(torch.arange(0, height, stride), torch.arange(0, width, stride)).T
    for view in range(len(poses)):
        origins, directions = pixel_rays(poses, intrinsics, torch.full_like(pixels[0], view), *pixels)
        faces = torch.stack([(face - origins) / directions for face in (LOWER, UPPER)])
        enter, total = faces.amin(0).amax(1).clamp(min=near), torch.zeros(shape).double()
        t = enter[:, None] + torch.arange(40) * step / directions.norm(dim=1)[:, None]
        where = in_nodes(origins[:, None] + t[..., None] * directions[:, None], shape)
        for corner in itertools.product((0, 1), repeat=3):
            node = where.floor() + torch.tensor(corner)
            inside = ((node >= 0) & (node < torch.tensor(shape))).all(-1)
            weight = (1 - (where - node).abs()).prod(-1)
            total.index_put_(tuple(node[inside].long().T), weight[inside], accumulate=True)
        seen += total > 1 / stride**2
    return seen


def test_view_counts_follow_the_definition():
    middle = ((LOWER + UPPER) / 2).tolist()
    cameras = torch.stack([camera_at(position, middle) for position in ((1, -3, 6), (7, 1, 5), (-6, 2, 7), (1, 6, 2))])
    cameras[0, :, 3] -= 3.5 * cameras[0, :, 2]  # so near that it sees but a part of the box, and `near` cuts into it
    # The last is a wide angle, at which directions are longer than 1.
    for stride, camera in ((1, (45, 45, 3.5, 4.5)), (2, (60, 50, 3.0, 5.0)), (1, (6, 6, 3.5, 4.5))):
        arguments = {"intrinsics": torch.tensor([camera] * 4), "height": 9, "width": 7, "near": 0.8, "step": 0.15,
                     "shape": SHAPE, "stride": stride}
        expected = views_by_definition(cameras, **arguments)
        counts = count_views(cameras, lower=LOWER, upper=UPPER, **arguments)
        assert counts.dtype == torch.long and torch.equal(counts, expected)
        assert expected.min() < 2 and expected.max() == 4
