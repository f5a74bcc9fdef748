"""The occupancy grid against its rules, followed cell by cell."""

import math

import numpy as np
import pytest
import torch
from conftest import camera_at

from models.nerf.occupancy_grid import OccupancyGrid, visible_cells


def cell_of(points, resolution, half_extent=0.5):
    index = np.floor(0.5 * (points.double().numpy() / half_extent + 1) * resolution).astype(int)
    return tuple(index.clip(0, resolution - 1).T)


def test_at_the_start_nothing_is_occupied():
    grid = OccupancyGrid()
    assert grid.density.shape == grid.occupied.shape == (128, 128, 128)
    assert grid.density.dtype == torch.float32 and grid.occupied.dtype == torch.bool
    assert not grid.occupied.any() and grid.density.eq(0).all()
    assert grid.step == pytest.approx(math.sqrt(3) / 1024) and grid.threshold == pytest.approx(5.912, abs=1e-3)
    assert set(grid.state_dict()) == {"density", "occupied"}
    assert OccupancyGrid(steps=128).threshold == pytest.approx(5.912 / 8, abs=1e-3)
    assert OccupancyGrid(half_extent=1.0).threshold == pytest.approx(5.912 / 2, abs=1e-3)


@pytest.mark.parametrize("half_extent", [0.5, 1.5])
def test_a_full_update_takes_one_point_in_each_cell(half_extent):
    torch.manual_seed(0)
    grid, seen = OccupancyGrid(12, half_extent), []

    def density_of(points):
        seen.append(points)
        return 1 + points @ torch.tensor([1.0, 2.0, 3.0]) / 10 / half_extent

    grid.update(density_of, everywhere=True)
    points = torch.cat(seen)
    flat = np.ravel_multi_index(cell_of(points, 12, half_extent), (12, 12, 12))
    assert np.array_equal(flat, np.arange(12**3))
    assert torch.equal(grid.density.flatten(), density_of(points))
    within = (points / half_extent + 1) * 6 % 1  # uniform in the cell
    assert within.mean(0).sub(0.5).abs().max() < 0.03 and within.std(0).sub(1 / math.sqrt(12)).abs().max() < 0.02


def test_later_updates_look_at_some_cells_and_all_decay():
    torch.manual_seed(0)
    grid, calls = OccupancyGrid(16), []
    grid.density.copy_(torch.where(torch.arange(16) < 4, 10.0, 2.0)[:, None, None])
    before = grid.density.clone()

    def density_of(points):
        calls.append(points)
        return 9 + points[:, 0]

    grid.update(density_of, everywhere=False)
    points = torch.cat(calls)
    assert len(points) == 2 * 16**3 // 4
    # The first half is drawn from everywhere, the second from the quarter above the threshold of 5.912.
    x, y, z = cell_of(points[:1024], 16)
    assert 190 < (x < 4).sum() < 320 and len({*zip(x, y, z)}) < 1024
    assert (points[1024:, 0] < -0.25).all() and (points[1024:].amax(0) > torch.tensor([-0.26, 0.49, 0.49])).all()

    newest = np.zeros((16, 16, 16))
    np.maximum.at(newest, cell_of(points, 16), density_of(points).double().numpy())
    expected = np.maximum(0.95 * before.numpy(), newest)
    assert np.abs(grid.density.numpy() - expected).max() < 1e-5
    unsampled = newest == 0
    assert unsampled.any() and np.allclose(grid.density.numpy()[unsampled], 0.95 * before.numpy()[unsampled])


@pytest.mark.parametrize("values, excluded, threshold", [
    ([0.0, 1.0, 2.0, 6.0], 0, 3.0), ([0.0, 100.0, 5.9, 5.95], 0, 5.912), ([50.0, 50.0, 1.0, 2.0], 4, 1.5)])
def test_threshold_is_the_mean_of_the_positive_cells_up_to_a_limit(values, excluded, threshold):
    grid, without = OccupancyGrid(8), torch.zeros(8, 8, 8, dtype=torch.bool)
    without[:excluded] = True
    grid.exclude(without)
    by_slab = torch.tensor(values).repeat_interleave(2).requires_grad_()
    grid.update(lambda points: by_slab[cell_of(points, 8)[0]], everywhere=True)
    expected = (by_slab > threshold)[:, None, None].expand(8, 8, 8) & ~without
    assert torch.equal(grid.occupied, expected) and 0 < expected.sum() < 512 and not grid.density.requires_grad


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_grid_that_would_be_empty_is_full_instead(everywhere):
    grid = OccupancyGrid(8)
    excluded = torch.zeros(8, 8, 8, dtype=torch.bool)
    excluded[0] = True
    grid.exclude(excluded)
    for density, where in ((0.0, everywhere), (1.0, True)):  # none above the mean, strictly
        with pytest.warns(UserWarning, match="no cell"):
            grid.update(lambda points, density=density: torch.full((len(points),), density), where)
        assert torch.equal(grid.occupied, ~excluded) and grid.density.isfinite().all()
    grid.update(lambda points: 100.0 * (points.norm(dim=-1) < 0.3), everywhere=True)
    assert 0 < grid.occupied.sum() < 8**3 // 2


def test_lookup_at_cell_borders_and_outside_the_cube():
    grid = OccupancyGrid(8)
    grid.occupied.copy_(torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5)
    ticks = torch.arange(9) / 8 - 0.5
    axes = torch.cat([ticks, ticks[1:] - 1e-6, torch.rand(5) - 0.5])
    points = torch.cartesian_prod(axes, axes, axes)
    assert torch.equal(grid(points), grid.occupied[cell_of(points, 8)])
    assert grid(torch.empty(0, 3)).shape == (0,)
    grid = OccupancyGrid(4, half_extent=2.0)
    grid.occupied.fill_(True)
    points = torch.tensor([[2.0, -2, 0], [2.001, 0, 0], [0, -2.001, 0], [0, 0, 1e30], [math.nan, 0, 0]])
    assert grid(points).tolist() == [True, False, False, False, False]


def test_bounds_hold_the_cells_that_are_occupied_now_with_a_cell_to_spare():
    grid = OccupancyGrid(8, half_extent=2.0)
    assert [bound.tolist() for bound in grid.bounds()] == [[-2.0] * 3, [2.0] * 3]
    grid.occupied[2, 0, 5] = grid.occupied[4, 1, 5] = True
    assert [bound.tolist() for bound in grid.bounds()] == [[-1.5, -2, 0], [1, -0.5, 1.5]]
    grid.occupied.zero_()[7, 7, 7] = True
    assert [bound.tolist() for bound in grid.bounds()] == [[1] * 3, [2] * 3]
    assert grid.double().bounds()[0].dtype == torch.float64


def test_visible_cells_against_a_projection_of_each():
    rng = np.random.default_rng(0)
    height, width, near, resolution, half_extent = 24, 36, 0.25, 9, 0.6
    intrinsics = np.array([(40, 40, 18, 12), (50, 30, 14, 13), (40, 45, 20, 9)])
    poses = np.stack([camera_at(position, rng.normal(size=3) / 5).numpy()
                      for position in [(1.5, 0.2, 0.1), (-0.4, 1.0, 0.7), (0.1, 0.05, 0.3)]])
    indices = np.stack(np.meshgrid(*[np.arange(resolution)] * 3, indexing="ij"), axis=-1)
    centers = (2 * indices / (resolution - 1) - 1) * (half_extent - half_extent / resolution)
    depths = np.full((3, resolution, resolution, resolution), np.inf)
    for depth, pose, (fx, fy, cx, cy) in zip(depths, poses, intrinsics):
        x, y, z = np.moveaxis((centers - pose[:, 3]) @ pose[:, :3], -1, 0)
        column, row = cx + fx * x / -z, cy - fy * y / -z
        seen = (z < 0) & (0 <= column) & (column < width) & (0 <= row) & (row < height)
        depth[seen] = -z[seen]
    expected = np.isfinite(depths).any(0) & (depths.min(0) >= near)
    arguments = resolution, half_extent, torch.from_numpy(poses), torch.from_numpy(intrinsics), height, width
    seen = visible_cells(*arguments, near)
    assert np.array_equal(seen.numpy(), expected) and 50 < expected.sum() < 9**3 - 50
    assert visible_cells(*arguments, near=1e-3).sum() > expected.sum()  # so `near` did leave out some
    seen = visible_cells(5, 0.5, torch.eye(3, 4)[None], torch.tensor([[50, 50, 50, 50]]), height=100, width=100)
    assert not seen[2, 2, 2] and seen[2, 2, 0] and not seen[2, 2, 3:].any()  # the camera is at the cell in the middle
