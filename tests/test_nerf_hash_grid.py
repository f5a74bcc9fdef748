"""The hash encoding against its definition, computed the plain way."""

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


def encode(grid, point):
    """One point, one corner after another; NumPy's uint32 wraps around as the hash wants it."""
    table, start, features = grid.table.detach().double().numpy(), 0, []
    for level in range(grid.levels):
        growth = math.exp(math.log(grid.finest / grid.coarsest) / (grid.levels - 1)) if grid.levels > 1 else 1
        scale = grid.coarsest * growth**level - 1
        points = math.ceil(scale - 1e-4) + 1
        size = min(math.ceil(points**3 / 8) * 8, 2**grid.log2_size)
        position = np.asarray(point, dtype=np.float64) * scale + 0.5
        total = np.zeros(grid.features)
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
            total += weight * table[start + row]
        features.append(total)
        start += size
    return np.concatenate(features)


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


@pytest.mark.parametrize("settings", [{}, {"levels": 1}, {"features": 3}, {"finest": 8}, {"log2_size": 16},
                                      {"coarsest": 1}, {"coarsest": 1, "log2_size": 1}, {"log2_size": 5}])
def test_interpolation_follows_the_definition(settings):
    grid = small_grid(**settings)
    faces = torch.tensor(list(itertools.product((0.0, 0.3, 1.0), repeat=3)))
    x01 = torch.cat([torch.rand(30, 3), faces])
    expected = torch.from_numpy(np.stack([encode(grid, point) for point in x01.tolist()]))
    assert grid(x01).shape == (57, grid.out_features) and grid(x01).dtype == torch.float32
    assert (grid(x01) - expected).abs().max() < 2e-5
    assert (grid.double()(x01.double()) - expected).abs().max() < 1e-12


def test_paper_s_setting_follows_the_definition():
    grid = HashGrid()
    x01 = torch.cat([torch.rand(10, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([[0, 1, 1.0]])])
    expected = torch.from_numpy(np.stack([encode(grid, point) for point in x01.tolist()]))
    assert (grid(x01) - expected).abs().max() < 1e-8  # of features of up to 1e-4; float32 rounds at 1023 to 6e-5


def test_gradient_is_that_of_plain_autograd_and_reaches_the_table_alone():
    grid, x01, upstream = small_grid(), torch.rand(200, 3), torch.randn(200, 10)
    x01[:2] = 1
    grid(x01.requires_grad_()).backward(upstream)
    assert x01.grad is None
    table = grid.table.detach().clone().requires_grad_()
    plain = grid.levels * [0]
    for level in range(grid.levels):
        cell, upper = grid.cells(x01.detach(), slice(level, level + 1))
        (_, start, rows), = grid.rows(cell, slice(level, level + 1))
        for corner, of_corner in zip(itertools.product((0, 1), repeat=3), rows[:, 0]):
            weight = [of_axis if high else 1 - of_axis for high, of_axis in zip(corner, upper[:, 0])]
            plain[level] = plain[level] + math.prod(weight)[:, None] * table[start + of_corner]
    torch.cat(plain, 1).backward(upstream)
    assert torch.allclose(grid.table.grad, table.grad, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"levels": 1}, {"features": 3}, {"features": 4}, {"log2_size": 16}])
def test_levels_at_once_as_on_a_gpu_give_the_same_numbers(monkeypatch, settings):
    grid, x01 = small_grid(**settings), torch.rand(300, 3)
    upstream, outcomes = torch.randn(300, grid.out_features), []
    for batches in (grid.batches(), [slice(0, grid.levels)]):
        monkeypatch.setattr(HashGrid, "batches", lambda grid, batches=batches: batches)
        encoded = grid(x01)
        outcomes.append((encoded.detach(), *torch.autograd.grad(encoded, grid.table, upstream)))
    for found, expected in zip(*outcomes):
        assert torch.allclose(found, expected, rtol=0, atol=1e-6)  # sums of 8 numbers below 1, in another order


@pytest.mark.parametrize("features", [2, 3])
def test_what_was_found_before_and_more_threads_change_no_bit(features):
    grid, x01, outcomes, threads = small_grid(features=features), torch.rand(300, 3), [], torch.get_num_threads()
    upstream = torch.randn(300, grid.out_features)
    with torch.no_grad():
        found = grid(x01)
    try:
        for count, before in ((1, None), (1, found), (3, None), (3, found)):
            torch.set_num_threads(count)
            encoded = grid(x01, before)
            outcomes.append((encoded.detach(), *torch.autograd.grad(encoded, grid.table, upstream)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for other in outcomes[1:] for pair in zip(other, outcomes[0]))
    assert grid(x01, torch.zeros_like(found)).eq(0).all()  # it is not computed again


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


def test_only_the_points_are_kept_for_the_backward_pass():
    grid, x01, kept = small_grid(), torch.rand(50, 3), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape), lambda tensor: tensor):
        grid(x01)
    assert kept == [x01.shape]


def test_no_points_and_points_of_half_precision():
    grid = small_grid()
    encoded = grid(torch.empty(0, 3))
    assert encoded.shape == (0, 10)
    encoded.sum().backward()
    assert grid.table.grad.shape == grid.table.shape and grid.table.grad.eq(0).all()
    assert grid(torch.rand(5, 3).half()).dtype == torch.float32


@pytest.mark.parametrize("name, value", [("levels", 0), ("features", 1.5), ("log2_size", 0), ("coarsest", -2),
                                         ("finest", 7)])
def test_a_bad_argument_is_named_with_its_value(name, value):
    with pytest.raises(ValueError, match=name) as error:
        small_grid(**{name: value})
    assert repr(value) in str(error.value)
