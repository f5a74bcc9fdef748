"""DVGO's grids against loops over single points and voxels in float64."""

import itertools
import math

import pytest
import torch

from models.nerf.rays import pixel_rays
from models.nerf.voxel_grid import (
    Corners,
    MaskGrid,
    VoxelGrid,
    count_views,
    grid_coordinates,
    grid_points,
    grid_shape,
    interpolate,
)

LOWER, UPPER = torch.tensor([-1, -0.5, 2]).double(), torch.tensor([1, 0.7, 5]).double()
SHAPE = (4, 6, 3)


@pytest.fixture(autouse=True)
def threads_as_they_were():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def random_points(count, margin=0.0):
    torch.manual_seed(0)
    return LOWER - margin + torch.rand(count, 3).double() * (UPPER - LOWER + 2 * margin)


def corners_by_definition(point, shape):
    """The nodes around a point, those beyond the grid included, and their trilinear weights."""
    where = [(p - a) / (b - a) * (n - 1) for p, a, b, n in zip(point, LOWER.tolist(), UPPER.tolist(), shape)]
    for offsets in itertools.product((0, 1), repeat=3):
        node = tuple(math.floor(w) + offset for w, offset in zip(where, offsets))
        yield node, math.prod(1 - abs(w - n) for w, n in zip(where, node))


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


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_interpolation_and_its_gradient_follow_the_definition(sparse, threads):
    """Of two grids at once, the features of the first looked up before."""
    torch.set_num_threads(threads)
    grids = [VoxelGrid(channels, SHAPE, LOWER, UPPER) for channels in (1, 3)]
    assert not any(grid.values.any() for grid in grids)
    points = torch.cat([random_points(60), LOWER[None], UPPER[None], (LOWER + UPPER)[None] / 2])
    corners = Corners.around(grid_coordinates(points, LOWER, UPPER), SHAPE)
    for grid in grids:
        torch.nn.init.normal_(grid.values)
    found = interpolate(grids, corners, [grids[0].look_up(corners), None], sparse)
    for grid, features in zip(grids, found):
        expected, scale = torch.zeros_like(features), torch.randn_like(features)
        gradient = torch.zeros_like(grid.values)
        for i, point in enumerate(points):
            for node, weight in corners_by_definition(point.tolist(), SHAPE):
                if all(0 <= n < size for n, size in zip(node, SHAPE)):
                    expected[i] += weight * grid.values.detach()[node]
                    gradient[node] += weight * scale[i]
        assert torch.allclose(features, expected)
        (features * scale).sum().backward(retain_graph=True)
        assert grid.values.grad.is_sparse == sparse
        assert torch.allclose(grid.values.grad.to_dense(), gradient)
        if sparse:  # each node once, in order, and those alone that have a point near
            place = torch.tensor(SHAPE[1:]).prod() * grid.values.grad._indices()[0] + SHAPE[2] * (
                grid.values.grad._indices()[1]) + grid.values.grad._indices()[2]
            assert torch.equal(place, corners.nodes.unique().long())


def test_no_points_have_no_features_and_no_gradient():
    grid, corners = VoxelGrid(2, SHAPE, LOWER, UPPER), Corners.around(torch.zeros(3, 0).double(), SHAPE)
    for sparse in (False, True):
        nothing, = interpolate([grid], corners, sparse=sparse)
        nothing.sum().backward()
        assert nothing.shape == (0, 2) and not grid.values.grad.to_dense().any()
        grid.values.grad = None


def test_a_mask_is_looked_up_at_the_nearest_node():
    torch.manual_seed(1)
    mask = torch.rand(SHAPE) < 0.5
    grid = MaskGrid(mask, LOWER, UPPER)
    points = random_points(300, margin=0.6)
    expected = []
    for point in points:
        node = [math.floor((p - a) / (b - a) * (n - 1) + 0.5) for p, a, b, n in zip(point, LOWER, UPPER, SHAPE)]
        expected.append(all(0 <= n < size for n, size in zip(node, SHAPE)) and mask[tuple(node)].item())
    assert grid(points).tolist() == expected and 20 < sum(expected) < 200
    assert torch.equal(grid(grid_points(SHAPE, LOWER, UPPER).flatten(0, 2)), mask.flatten())
    assert grid(points[:0]).shape == (0,)
    assert set(grid.state_dict()) == {"mask", "lower", "upper"}


def views_by_definition(poses, intrinsics, height, width, near, step, shape, stride):
    """Splat every sample of a fixed number of steps, enough to cross the box, also those outside."""
    seen = torch.zeros(shape, dtype=torch.long)
    for view in range(len(poses)):
        weights = dict.fromkeys(itertools.product(*map(range, shape)), 0.0)
        for row, column in itertools.product(range(0, height, stride), range(0, width, stride)):
            origin, direction = (x[0].tolist() for x in pixel_rays(
                poses, intrinsics, torch.tensor([view]), torch.tensor([row]), torch.tensor([column])))
            t_min = max(near, *(min((a - o) / d, (b - o) / d)
                                for a, b, o, d in zip(LOWER.tolist(), UPPER.tolist(), origin, direction)))
            length = math.hypot(*direction)
            for k in range(40):
                point = [o + d * (t_min + k * step / length) for o, d in zip(origin, direction)]
                for node, weight in corners_by_definition(point, shape):
                    if node in weights:
                        weights[node] += weight
        for node, weight in weights.items():
            seen[node] += weight > 1 / stride**2
    return seen


@pytest.fixture(scope="module")
def cameras():
    """Four cameras that look at the box from outside, (4, 3, 4); the first sees but a part of it."""
    middle, poses = (LOWER + UPPER) / 2, []
    for position, right in (((0.1, -6, 4), (1, 0.1, 0)), ((6, 0.2, 3), (0, 1, 0.2)), ((-5, 0.3, 7), (0.1, -1, 0)),
                            ((0.3, 4, 1), (-1, 0, 0.3))):
        back = torch.nn.functional.normalize(torch.tensor(position).double() - middle, dim=0)
        right = torch.tensor(right).double()
        right = torch.nn.functional.normalize(right - right @ back * back, dim=0)
        poses.append(torch.stack([right, torch.linalg.cross(back, right), back, middle + back * 6], dim=1))
    poses[0][:, 3] -= 5 * poses[0][:, 2]  # so near that `near` cuts into the box
    return torch.stack(poses)


def test_view_counts_follow_the_definition(cameras):
    # The last is a wide angle, at which directions are longer than 1.
    for stride, camera in ((1, (45, 45, 3.5, 4.5)), (2, (60, 50, 3.0, 5.0)), (1, (6, 6, 3.5, 4.5))):
        arguments = {"intrinsics": torch.tensor([camera] * 4), "height": 9, "width": 7, "near": 0.8, "step": 0.15,
                     "shape": SHAPE, "stride": stride}
        expected = views_by_definition(cameras, **arguments)
        counts = count_views(cameras, lower=LOWER, upper=UPPER, **arguments)
        assert counts.dtype == torch.long and torch.equal(counts, expected)
        assert expected.min() < 2 and expected.max() == 4
