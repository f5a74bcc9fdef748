"""Instant-NGP's radiance field against loops over single rays and samples, in float64."""

import math

import pytest
import torch
from conftest import copied_to_a_gpu, some_rays

from models import FourierReparamLinear
from models.nerf.instant_ngp import InstantNGPField, make_field, objective, truncated_exp
from models.nerf.occupancy_grid import visible_cells
from models.nerf.rays import RayDataset
from models.nerf.volume_rendering import Rendering

SIZES = {"levels": 3, "log2_size": 9, "finest": 40, "resolution": 16, "steps": 128, "hidden_features": 16}
FR = {"low_freq_num": 3, "high_freq_num": 4, "phase_num": 5, "alpha": 0.05}
SMALL = {**SIZES, **FR}


def small_field(mode="relu+fr", contrast=1.0, **settings):
    """A field whose density varies the more, the higher the contrast, with some of the inner cells occupied."""
    torch.manual_seed(0)
    field = InstantNGPField(mode, **{**SMALL, **settings})
    torch.nn.init.uniform_(field.encoding.table, -1, 1)
    with torch.no_grad():
        field.density_mlp[2].weight[0] *= 10 * contrast
        field.density_mlp[2].bias[0] += 3
        for parameter in field.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)  # biases, of which those that start at zero show nothing
    x, y, z = torch.meshgrid(*[torch.arange(16)] * 3, indexing="ij")
    field.occupancy.occupied[:] = (x > 2) & (x < 15) & (y > 0) & (y < 12) & (z > 3) & (z < 15)
    field.occupancy.occupied &= torch.rand(16, 16, 16) < 0.7
    return field


def marched_by_definition(field, origins, directions, jitter, near):
    """(t, ray) of all samples, one grid vertex after another."""
    h, step, occupied = field.occupancy.half_extent, field.occupancy.step, field.occupancy.occupied
    samples, cells = [], len(occupied)
    for ray, (origin, direction) in enumerate(zip(origins.tolist(), directions.tolist())):
        enter, leave = near, math.inf
        for o, d in zip(origin, direction):
            faces = sorted(((-h - o) / d, (h - o) / d)) if d else (-math.inf, math.inf) if abs(o) <= h else (1, 0)
            enter, leave = max(enter, faces[0]), min(leave, faces[1])
        k, start = 0, enter + step * jitter[ray]
        while (t := start + k * step) < leave:
            point = [o + t * d for o, d in zip(origin, direction)]
            cell = tuple(min(max(math.floor((p / h + 1) / 2 * cells), 0), cells - 1) for p in point)
            if occupied[cell] and max(map(abs, point)) <= h:
                samples.append((t, ray))
            k += 1
    return samples


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("half_extent", [0.5, 1.3])
def test_marching_is_testing_every_lattice_point(jitter, half_extent):
    field = small_field(half_extent=half_extent).double()
    origins, directions = some_rays(60, torch.float64, half_extent)
    offsets = torch.rand(60, dtype=torch.float64) if jitter else None
    t, ray_index = field.march(origins, directions, offsets, near=0.3)
    expected = marched_by_definition(field, origins, directions, offsets.tolist() if jitter else [0.0] * 60, near=0.3)
    assert ray_index.tolist() == [ray for _, ray in expected] and len(expected) > 300
    assert torch.allclose(t, torch.tensor([t for t, _ in expected], dtype=torch.float64), atol=1e-12)
    assert 20 < len(ray_index.unique()) < 50


def test_the_cube_is_encoded_from_corner_to_corner():
    field, points = small_field(half_extent=1.3), 2.6 * torch.rand(50, 3) - 1.3
    sigma, features, _ = field.density(points)
    assert torch.allclose(features, field.density_mlp(field.encoding((points + 1.3) / 2.6)), atol=1e-4)
    assert torch.allclose(sigma, features[:, 0].exp()) and features.shape == (50, 16)


def rendered_by_definition(field, origins, directions):
    """Colors, depths, remaining transmittance and the number of samples that count, all samples with a graph."""
    t, ray_index = field.march(origins, directions, None)
    points = origins[ray_index] + t[:, None] * directions[ray_index]
    sigma, features, _ = field.density(points)
    unit = directions / directions.norm(dim=1, keepdim=True)
    sample_color = field.color(torch.cat([field.direction_encoding(unit[ray_index]), features], dim=1))
    opacity = 1 - (-sigma * field.occupancy.step).exp()
    colors, depths, remaining, count = [], [], [], 0
    for ray in range(len(origins)):
        left, color, depth = origins.new_ones(()), origins.new_zeros(3), origins.new_zeros(())
        for i in (ray_index == ray).nonzero().flatten():
            if left <= 1e-4:
                break
            color, depth = color + left * opacity[i] * sample_color[i], depth + left * opacity[i] * t[i]
            left, count = left * (1 - opacity[i]), count + 1
        colors.append(color + left * field.bg_color)
        depths.append(depth / (1 - left) if left < 1 else depth)
        remaining.append(left)
    return torch.stack(colors), torch.stack(depths), torch.stack(remaining), count, len(t)


@pytest.mark.parametrize("mode, contrast", [("relu", 1.0), ("relu+fr", 1.0), ("relu+fr", 4.0)])
def test_two_passes_are_one_over_all_samples(mode, contrast):
    field = small_field(mode, contrast, bg_color=0.4).double()
    origins, directions = some_rays(40, torch.float64)
    rendering = field(origins, directions)
    *expected, count, marched = rendered_by_definition(field, origins, directions)
    for got, by_definition in zip((rendering.color, rendering.depth, rendering.final_transmittance), expected):
        assert torch.allclose(got, by_definition, atol=1e-10)
    assert len(rendering.weights) == len(rendering.sample_color) == len(rendering.ray_index) == count
    assert 0.05 * marched < count < 0.9 * marched and (rendering.final_transmittance == 1).any()

    upstream = torch.randn_like(rendering.color)
    gradients = [torch.autograd.grad((upstream * color).sum() + remaining.square().sum(), list(field.parameters()))
                 for color, remaining in ((rendering.color, rendering.final_transmittance), (expected[0], expected[2]))]
    for got, by_definition in zip(*gradients):
        assert torch.allclose(got, by_definition, rtol=1e-7, atol=1e-9 * by_definition.abs().max().item())
        assert by_definition.abs().max() > 0

    counts = []
    field.encoding.register_forward_hook(lambda *call: counts.append((len(call[2]), call[2].requires_grad)))
    with torch.no_grad():
        for got, with_graph in zip(field(origins, directions), rendering):
            assert torch.allclose(got, with_graph, atol=1e-12)
    field(origins, directions)
    # Without a graph all samples are evaluated once; else those that count once more.
    assert counts == [(marched, False), (marched, False), (count, True)]


@pytest.mark.parametrize("rays", [0, 7])
def test_a_batch_without_samples(rays):
    field = small_field(bg_color=0.7)
    field.occupancy.occupied.zero_()
    origins, directions = some_rays(10)
    rendering = field(origins[:rays], directions[:rays], jitter=True)
    assert rendering.color.equal(torch.full((rays, 3), 0.7)) and rendering.depth.equal(torch.zeros(rays))
    assert rendering.final_transmittance.equal(torch.ones(rays)) and rendering.sample_color.shape == (0, 3)
    rendering.color.sum().backward()
    assert all(parameter.grad is None or (parameter.grad == 0).all() for parameter in field.parameters())


def test_sizes_at_the_paper_s_setting():
    torch.manual_seed(0)
    fields = [InstantNGPField("relu", resolution=8), InstantNGPField(
        "relu+fr", resolution=8, low_freq_num=32, high_freq_num=32, phase_num=64, alpha=0.01)]
    xavier = math.sqrt(6 / (64 + 3))  # PyTorch's own is 1 / 8

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    for field, hidden in zip(fields, (64 * 64 + 64, 262_208)):
        assert count(field.encoding) == 11_420_064 and count(field.density_mlp) == 32 * 64 + 64 + 64 * 16 + 16
        assert count(field.color) == 32 * 64 + 64 + hidden + 64 * 3 + 3
        assert 0.95 * xavier < field.color[4].weight.abs().max() <= xavier
    assert [type(layer) for layer in fields[1].color[::2]] == [torch.nn.Linear, FourierReparamLinear, torch.nn.Linear]


def test_density_is_that_of_float32_under_autocast():
    field, (origins, directions) = small_field(), some_rays(50)
    full = field(origins, directions)
    with torch.autocast("cpu", torch.bfloat16):
        low = field(origins, directions)
    assert all(got.dtype == torch.float32 for got in low[:5])
    assert torch.equal(low.final_transmittance, full.final_transmittance)
    assert torch.allclose(low.color, full.color, atol=0.02) and not torch.equal(low.color, full.color)
    gradients = [torch.autograd.grad(found.color.square().sum(), list(field.parameters())) for found in (low, full)]
    for got, without in zip(*gradients):
        assert (got - without).norm() < 0.05 * without.norm()


def test_truncated_exp_and_its_gradient():
    h = torch.tensor([-100.0, -15, -3, 0, 3, 15, 16, 80, 200], dtype=torch.float64, requires_grad=True)
    upstream = torch.arange(1.0, 10, dtype=torch.float64)
    truncated_exp(h).backward(upstream)
    assert torch.equal(truncated_exp(h), h.detach().clamp(max=80).exp())
    assert torch.equal(h.grad, upstream * h.detach().clamp(-15, 15).exp())
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        h = torch.tensor([0.5, 12.0, 300.0], dtype=dtype, requires_grad=True)
        value = truncated_exp(h)
        assert value.dtype == torch.float32 and value.isfinite().all()
        assert torch.allclose(value[:2], h.detach()[:2].float().exp())
        value[:1].sum().backward()
        assert h.grad.dtype == dtype and h.grad.isfinite().all()


def test_the_field_stays_empty_where_no_camera_sees(toy_rays):
    two_views = RayDataset(toy_rays.images[:2], toy_rays.poses[:2] * torch.tensor([1, 1, 1, 1.5 / 4]),
                           toy_rays.intrinsics[:2], 1.0)
    sizes = {name: value for name, value in SIZES.items() if name != "hidden_features"}
    field = make_field("relu", {"field": sizes, "network": {"hidden_features": 16}}, two_views)
    hidden = ~visible_cells(16, 0.5, two_views.poses, two_views.intrinsics, 16, 16)
    for everywhere in (True, False):
        field.update_occupancy(everywhere)
    assert (field.occupancy.density[hidden] == -1).all() and not field.occupancy.occupied[hidden].any()
    assert field.occupancy.occupied.any() and 0.01 < hidden.float().mean() < 0.9


def test_the_objective_is_the_squared_error_and_the_opacity_term():
    torch.manual_seed(0)
    color, target = torch.rand(4, 3, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    left, none = torch.tensor([0.0, 0.3, 0.9, 1.0], dtype=torch.float64), torch.zeros(0)
    error, loss = objective(Rendering(color, left, none, none, none, none), target, 0.02)
    assert error.item() == pytest.approx(sum((c - t) ** 2 for c, t in zip(color.flatten().tolist(),
                                                                          target.flatten().tolist())) / 3)
    opacity = -sum(o * math.log(o) for o in (1.0, 0.7, 0.1, 1e-10))
    assert (loss - error).item() == pytest.approx(0.02 * opacity, rel=1e-9)


def test_the_gradient_is_finite_where_nothing_is_seen_and_the_jitter_is_drawn_anew():
    field, (origins, directions) = small_field().double(), some_rays(60, torch.float64)
    colors = [field(origins, directions, jitter=True).color for _ in range(2)]
    assert not torch.equal(*colors)
    torch.nn.init.zeros_(field.density_mlp[2].weight)
    torch.nn.init.constant_(field.density_mlp[2].bias, -200)  # samples, but nothing in them
    error, loss = objective(field(origins, directions, jitter=True), torch.zeros_like(origins), 1e-3)
    loss.backward()
    assert error.item() == pytest.approx(60)  # white for black
    assert (loss - error).item() == pytest.approx(-60 * 1e-3 * 1e-10 * math.log(1e-10), abs=1e-12)
    assert all(parameter.grad.isfinite().all() for parameter in field.parameters())
    assert field.density_mlp[2].bias.grad[0] != 0
    field.occupancy.occupied.zero_()  # no samples at all
    assert objective(field(origins, directions, jitter=True), origins, 1e-3)[1].isfinite()


@pytest.mark.gpu
def test_the_same_on_a_gpu():
    field, (origins, directions) = small_field().double(), some_rays(200, torch.float64)
    on_gpu = copied_to_a_gpu(field, (origins, directions))
    on_gpu.update_occupancy(everywhere=False)
    on_gpu(origins.cuda()[:0], directions.cuda()[:0], jitter=True).color.sum().backward()
    with torch.autocast("cuda", torch.bfloat16):
        low = on_gpu.float()(origins.float().cuda(), directions.float().cuda(), jitter=True)
    assert [got.dtype for got in low[:5]] == [torch.float32] * 5 and low.color.isfinite().all()
