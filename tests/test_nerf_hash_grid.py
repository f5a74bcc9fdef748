"""The hash encoding against its definition, computed the plain way."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.nerf.hash_grid import HashGrid

RESOLUTIONS = [16, 22, 28, 37, 49, 64, 85, 112, 148, 195, 256, 338, 446, 589, 777, 1024]


def small_grid(**settings):
    """Two dense levels (8³ and 12³ ≤ 2^11) and three hashed ones (18, 27 and 40), with a table of no small numbers."""
    torch.manual_seed(0)
    grid = HashGrid(**{"levels": 5, "features": 2, "log2_size": 11, "coarsest": 8, "finest": 40, **settings})
    torch.nn.init.uniform_(grid.table, -1, 1)
    return grid


def corners(grid, point):
    """Of each level the 8 rows and weights around a point; NumPy's uint32 wraps around as the hash wants it."""
    start = 0
    for level in range(grid.levels):
        growth = math.exp(math.log(grid.finest / grid.coarsest) / (grid.levels - 1)) if grid.levels > 1 else 1
        scale = grid.coarsest * growth**level - 1
        points = math.ceil(scale - 1e-4) + 1
        size = min(math.ceil(points**3 / 8) * 8, 2**grid.log2_size)
        position = np.asarray(point, dtype=np.float64) * scale + 0.5
        for offsets in itertools.product((0, 1), repeat=3):
            weight = 1.0
            corner = []
            for p, offset in zip(position, offsets):
                fraction = p - math.floor(p)
                weight *= fraction if offset else 1 - fraction
                corner.append(min(math.floor(p) + offset, points - 1))
            x, y, z = np.array(corner, dtype=np.uint32)
            if points**3 <= size:
                row = x + y * points + z * points**2
            else:
                with np.errstate(over="ignore"):
                    row = (x ^ y * np.uint32(2654435761) ^ z * np.uint32(805459861)) % np.uint32(size)
            yield level, start + int(row), weight
        start += size


def by_definition(grid, x01, upstream):
    """The features of points, one corner after another, and the gradient of the table from theirs; in float64."""
    table, features = grid.table.detach().double(), torch.zeros(len(x01), grid.levels, grid.features).double()
    gradient, upstream = torch.zeros_like(table), upstream.double().view_as(features)
    for i, point in enumerate(x01.tolist()):
        for level, row, weight in corners(grid, point):
            features[i, level] += weight * table[row]
            gradient[row] += weight * upstream[i, level]
    return features.flatten(1), gradient


def test_sizes_at_the_paper_s_setting():
    grid = HashGrid()
    dense = [4096, 10648, 21952, 50656, 117656, 262144]  # 37³ = 50653 and 49³ = 117649 rounded up to eights
    assert list(grid.resolutions) == RESOLUTIONS
    assert list(grid.sizes) == dense + 10 * [2**19]
    assert grid.table.shape == (5_710_032, 2) and grid.table.dtype == torch.float32
    assert grid.out_features == 32 and set(grid.state_dict()) == {"table"}
    assert grid.scales[0] == 15 and grid.scales[5] == pytest.approx(63) and grid.scales[15] == pytest.approx(1023)
    # Here three scales, 63 among them, come out above the whole number they are by rounding even in float64.
    assert HashGrid(log2_size=4, finest=512).resolutions[::3] == (16, 32, 64, 128, 256, 512)
    assert grid.table.abs().max() <= 1e-4 and grid.table.std().item() == pytest.approx(1e-4 / math.sqrt(3), rel=0.01)


@pytest.mark.parametrize("settings", [{}, {"levels": 1}, {"features": 3}, {"features": 4}, {"finest": 8},
                                      {"log2_size": 16}, {"coarsest": 1}, {"coarsest": 1, "log2_size": 1},
                                      {"log2_size": 5}])
@pytest.mark.parametrize("at_once", [False, True])  # all levels, as on a GPU, or shared out among threads
def test_features_and_gradient_follow_the_definition(settings, at_once, monkeypatch):
    grid = small_grid(**settings)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    if at_once:
        monkeypatch.setattr(HashGrid, "batches", lambda grid: [slice(0, grid.levels)])
    faces = torch.tensor(list(itertools.product((0.0, 0.3, 1.0), repeat=3)))
    x01, upstream = torch.cat([torch.rand(30, 3), faces]), torch.randn(57, grid.out_features)
    expected = by_definition(grid, x01, upstream)
    for one, dtype, tolerance in ((copy.deepcopy(grid).double(), torch.float64, 1e-12), (grid, torch.float32, 2e-5)):
        points = x01.detach().to(dtype).requires_grad_()
        encoded = one(points)
        assert encoded.shape == (57, grid.out_features) and encoded.dtype == dtype
        encoded.backward(upstream.to(dtype))
        assert (encoded - expected[0]).abs().max() < tolerance
        assert (one.table.grad - expected[1]).abs().max() < 10 * tolerance
        assert points.grad is None  # it reaches the table alone


def test_paper_s_setting_follows_the_definition():
    grid = HashGrid()
    x01 = torch.cat([torch.rand(10, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([[0, 1, 1.0]])])
    expected, _ = by_definition(grid, x01, torch.zeros(11, 32))
    assert (grid(x01) - expected).abs().max() < 1e-8  # of features of up to 1e-4; float32 rounds at 1023 to 6e-5


def test_few_calls_whatever_the_number_of_levels(monkeypatch):
    """Each call is a kernel or more on a GPU, whose launch takes longer than what it computes."""
    calls = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func)
            return func(*args, **(kwargs or {}))

    grid = HashGrid()
    monkeypatch.setattr(HashGrid, "batches", lambda grid: [slice(0, grid.levels)])
    with Count():
        grid(torch.rand(10, 3)).sum().backward()
    assert len([func for func in calls if not func.is_view]) < 80


def test_only_the_points_are_kept_for_the_backward_pass_and_what_was_found_before_is_not_computed_again():
    grid, x01, kept = small_grid(), torch.rand(50, 3), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape), lambda tensor: tensor):
        grid(x01)
    assert kept == [x01.shape]
    assert grid(x01, torch.zeros(50, 10)).eq(0).all()


def test_no_points_and_points_of_half_precision():
    grid = small_grid()
    encoded = grid(torch.empty(0, 3))
    assert encoded.shape == (0, 10)
    encoded.sum().backward()
    assert grid.table.grad.shape == grid.table.shape and grid.table.grad.eq(0).all()
    assert grid(torch.rand(5, 3).half()).dtype == torch.float32
