"""DirectVoxGO's field against loops over single rays, samples and voxels in float64, and where its stages begin."""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import camera_at, copied_to_a_gpu, some_rays
from scipy.ndimage import maximum_filter

from models import FourierReparamLinear
from models.nerf import cpu
from models.nerf.dvgo import (
    DVGOField,
    coarse_field,
    fine_field,
    objective,
    pixels_in_sight,
    pixels_per_voxel,
)
from models.nerf.rays import RayDataset
from models.nerf.volume_rendering import Rendering, render_image
from models.nerf.voxel_grid import MaskGrid, grid_points

LOWER, UPPER = torch.tensor([-1, -0.7, -0.5]), torch.tensor([1, 0.8, 0.9])
VOXELS, NEAR, THRESHOLD = 600, 0.3, 0.02
FR = {"low_freq_num": 3, "high_freq_num": 4, "phase_num": 5, "alpha": 0.05}


def small_field(mode=None, final_voxels=8 * VOXELS, **settings):
    """A field with surfaces, fog and nothing, and no weight or bias zero.

    Its mask hides some nodes, and those of the faces, where rounding decides whether a ray's first sample is inside.
    """
    torch.manual_seed(0)
    settings = {"alpha_init": 1e-2, "threshold": THRESHOLD, "near": NEAR, **(FR if mode else {}), **settings}
    field = DVGOField(LOWER, UPPER, VOXELS, final_voxels=final_voxels, mode=mode, **settings)
    torch.nn.init.normal_(field.density.values, 2, 6)
    torch.nn.init.normal_(field.features.values)
    field.mask.mask[1:-1, 1:-1, 1:-1] &= torch.rand(field.mask.mask.shape)[1:-1, 1:-1, 1:-1] < 0.8
    for face in itertools.product((0, 1, 2), (0, -1)):
        field.mask.mask.select(*face)[:] = False
    for parameter in field.color.parameters() if mode else ():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return field


def interpolated(values, point):
    """Trilinear interpolation of values (X, Y, Z, C) at one point within the box, (C,)."""
    where = [(p - a) / (b - a) * (n - 1) for p, a, b, n in zip(point, LOWER.tolist(), UPPER.tolist(), values.shape)]
    total = 0
    for corner in itertools.product((0, 1), repeat=3):
        x, y, z = node = [math.floor(w) + c for w, c in zip(where, corner)]
        total = total + math.prod(1 - abs(w - n) for w, n in zip(where, node)) * values[x, y, z]
    return total


def nearest(mask, point):
    """The mask's value at the node nearest to a point of the box."""
    return mask[tuple(round((p - a) / (b - a) * (n - 1))
                      for p, a, b, n in zip(point, LOWER.tolist(), UPPER.tolist(), mask.shape))].item()


def rendered_by_definition(field, origins, directions, ratio):
    """As the field's Rendering, one sample after another, and how many samples each of the filters took.

    Args:
        ratio: the edge of the grid's voxels, in voxels of the final grid.
    """
    step = 0.5 * (math.prod((UPPER - LOWER).tolist()) / VOXELS) ** (1 / 3)
    colors, depths, remaining, samples, dropped = [], [], [], [], dict.fromkeys(("box", "mask", "α", "T", "weight"), 0)
    for ray, (origin, direction) in enumerate(zip(origins.tolist(), directions.tolist())):
        enter, leave = -math.inf, math.inf
        for o, d, a, b in zip(origin, direction, LOWER.tolist(), UPPER.tolist()):
            faces = sorted(((a - o) / d, (b - o) / d)) if d else (-math.inf, math.inf) if a <= o <= b else (1, 0)
            enter, leave = max(enter, faces[0]), min(leave, faces[1])
        enter, leave, length = max(enter, NEAR), max(leave, NEAR), math.hypot(*direction)
        unit = torch.tensor(direction, dtype=torch.float64) / length
        left, color, depth, total = torch.ones(()).double(), torch.zeros(3).double(), 0.0, 0.0
        for k in range(max(1, math.ceil((leave - enter) * length / step))):
            t = enter + k * step / length
            point = [o + d * t for o, d in zip(origin, direction)]
            if not all(a <= p <= b for p, a, b in zip(point, LOWER.tolist(), UPPER.tolist())):
                dropped["box"] += 1
                continue
            if not nearest(field.mask.mask, point):
                dropped["mask"] += 1
                continue
            raw = interpolated(field.density.values, point)[0]
            opacity = 1 - (1 + (raw + math.log(1 / 0.99 - 1)).exp()) ** (-0.5 * ratio)
            if opacity <= THRESHOLD:
                dropped["α"] += 1
                continue
            if left < 1e-3:
                dropped["T"] += 1
                continue
            weight, left = left * opacity, left * (1 - opacity)
            if weight <= THRESHOLD:
                dropped["weight"] += 1
                continue
            of_sample = interpolated(field.features.values, point)
            if field.color is None:
                of_sample = of_sample.sigmoid()
            else:
                of_sample = field.color(torch.cat([of_sample, field.direction_encoding(unit)]))
            samples.append((weight, of_sample, ray))
            color, depth, total = color + weight * of_sample, depth + weight.item() * t, total + weight.item()
        colors.append(color + left * field.bg_color)
        depths.append(depth / total if total else 0.0)
        remaining.append(left)
    weights, of_samples, rays = zip(*samples)
    return (torch.stack(colors), torch.stack(remaining), torch.tensor(depths).double(), torch.stack(weights),
            torch.stack(of_samples), torch.tensor(rays)), dropped


@pytest.mark.parametrize("mode, bg_color, threads", [(None, 1.0, 3), ("relu", 0.0, 1), ("relu+fr", 0.4, 3)])
def test_rendering_and_its_gradient_follow_the_definition(mode, bg_color, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(cpu, "CHUNK", 10)
    field = small_field(mode, bg_color=bg_color).double()
    origins, directions = some_rays(40, torch.float64, 0.8)
    rendering = field(origins, directions)
    expected, dropped = rendered_by_definition(field, origins, directions, ratio=2)
    counted = rendering.weights > 0
    assert torch.equal(rendering.ray_index[counted], expected[5]) and len(expected[5]) > 30
    assert (~counted).sum() == dropped["weight"] and min(dropped.values()) > 3
    found = rendering._replace(t=rendering.depth, weights=rendering.weights[counted],
                               sample_color=rendering.sample_color[counted])
    for got, by_definition in zip(found[:5], expected[:5]):
        assert got.dtype == torch.float64 and torch.allclose(got, by_definition, atol=1e-10)
    seen = torch.isin(torch.arange(40), rendering.ray_index[counted])
    untouched = (rendering.final_transmittance == 1) & ~seen
    assert 5 < untouched.sum() < 35 and (rendering.color[untouched] == bg_color).all()

    upstream = torch.randn(40, 3).double()
    gradients = []
    for color, remaining, _, weights, sample_color, _ in (rendering, expected):
        per_sample = (weights.detach()[:, None] * sample_color.square()).sum()
        found = torch.autograd.grad((color * upstream).sum() + remaining.square().sum() + per_sample,
                                    list(field.parameters()))
        gradients.append([gradient.to_dense() for gradient in found])
    for got, by_definition in zip(*gradients):
        assert torch.allclose(got, by_definition, atol=1e-10) and by_definition.any()


@pytest.mark.parametrize("rays", [0, 7])
@pytest.mark.parametrize("mode", [None, "relu+fr"])
def test_a_batch_without_samples_is_background_and_still_differentiable(mode, rays):
    field = small_field(mode, bg_color=0.7)
    origins = torch.full((rays, 3), 5.0)
    rendering = field(origins, torch.ones_like(origins))
    assert torch.equal(rendering.color, torch.full((rays, 3), 0.7)) and not rendering.depth.any()
    assert (rendering.final_transmittance == 1).all() and rendering.weights.shape == (0,)
    (rendering.color.sum() + rendering.final_transmittance.sum() + rendering.sample_color.sum()).backward()
    assert not any(grid.values.grad.to_dense().any() for grid in (field.density, field.features))


def test_opacity_at_the_start_is_exact():
    for alpha_init, shift in ((1e-6, -13.8155), (1e-2, -4.5951)):
        field = DVGOField(LOWER, UPPER, 1000, final_voxels=1000, alpha_init=alpha_init, threshold=1e-7, near=2.0)
        assert field.act_shift == pytest.approx(shift, abs=1e-4)
        half = -field.log_transmittance(torch.zeros(1), 0.5).expm1()
        # 1 − (1 + e)^(−1/2) in float32 is 4.77e-7 at an opacity of 1e-6, wrong by a twentieth.
        assert half.item() == pytest.approx(-math.expm1(0.5 * math.log1p(-alpha_init)), rel=1e-5)
        assert torch.allclose(field.node_opacity(), torch.tensor(alpha_init), rtol=1e-5)
    extreme = torch.tensor([-1e4, -100, 1e4], requires_grad=True)
    opacity = -field.log_transmittance(extreme, 0.5).expm1()
    opacity.sum().backward()
    assert opacity.tolist() == [0, 0, 1] and extreme.grad.tolist() == [0, 0, 0]


def dilated(opacity, threshold):
    """Whether a node or one of its 26 neighbors is above the threshold."""
    return torch.from_numpy(maximum_filter(opacity.detach().numpy(), 3, mode="nearest") > threshold)


def test_a_renewed_mask_has_lost_what_is_empty_with_its_neighbors():
    field = small_field()
    raw = field.density.values
    torch.nn.init.normal_(raw, -12, 6)  # few nodes above the threshold
    before = field.mask.mask.clone()
    opacity = 1 - (1 + (raw[..., 0].double() + math.log(1 / 0.99 - 1)).exp()) ** -2.0
    expected = before & dilated(opacity, THRESHOLD)
    field.renew_mask()
    assert torch.equal(field.mask.mask, expected) and 0.2 < expected.sum() / before.sum() < 0.8
    raw.data[:] = 20
    field.renew_mask()
    assert torch.equal(field.mask.mask, expected)  # what is lost stays lost


def test_resizing_keeps_linear_fields_and_renews_the_mask_with_the_shift_of_before():
    field = small_field().double()
    slope = torch.tensor([3.0, -2, 5]).double()
    shape = field.mask.mask.shape
    with torch.no_grad():
        field.density.values[..., 0] = grid_points(shape, field.density.lower, field.density.upper) @ slope - 1
        field.features.values[..., 2] = grid_points(shape, field.density.lower, field.density.upper) @ slope.flip(0)
    old_mask, old_act_shift, parameters = field.mask.mask.clone(), field.act_shift, list(field.parameters())
    field.resize(1700)
    edge = (math.prod((UPPER - LOWER).tolist()) / 1700) ** (1 / 3)
    shape = tuple(math.floor(length / edge) for length in (UPPER - LOWER).tolist())
    assert field.voxel_size == pytest.approx(edge) and field.act_shift == old_act_shift - 1
    assert field.density.values.shape == (*shape, 1) and field.features.values.shape == (*shape, 3)
    assert not any(new is old for new in field.parameters() for old in parameters)
    assert all(new.is_leaf and new.is_contiguous() and new.dtype == torch.float64 for new in field.parameters())
    points = LOWER + torch.rand(50, 3).double() * (UPPER - LOWER)
    assert torch.allclose(field.density(points)[:, 0], points @ slope - 1)
    assert torch.allclose(field.features(points)[:, 2], points @ slope.flip(0))

    nodes = grid_points(shape, LOWER.double(), UPPER.double())
    ratio = (8 * VOXELS / 1700) ** (1 / 3)
    opacity = 1 - (1 + (nodes @ slope - 1 + old_act_shift).exp()) ** -ratio
    expected = dilated(opacity, THRESHOLD)
    assert not torch.equal(expected, dilated(1 - (1 + (nodes @ slope - 2 + old_act_shift).exp()) ** -ratio, THRESHOLD))
    for node in itertools.product(*map(range, shape)):
        expected[node] &= nearest(old_mask, nodes[node].tolist())
    assert torch.equal(field.mask.mask, expected) and 0.2 < expected.double().mean() < 0.75
    assert field.act_shift == old_act_shift - 1


def test_sizes_at_the_paper_s_setting():
    paper = {"low_freq_num": 64, "high_freq_num": 64, "phase_num": 64, "alpha": 0.05}
    for mode, basis, hidden in (("relu", {}, 129 * 128), ("relu+fr", paper, 1_048_704)):
        field = DVGOField(LOWER, UPPER, 1000, final_voxels=1000, alpha_init=1e-2, threshold=1e-4, near=2.0, mode=mode,
                          **basis)
        counts = [sum(parameter.numel() for parameter in layer.parameters()) for layer in field.color]
        assert field.features.values.shape[3] == 12 and counts[::2] == [40 * 128, hidden, 129 * 3]
        assert isinstance(field.color[2], FourierReparamLinear) == (mode == "relu+fr")
        assert not field.color[4].bias.any() and field.color[0].bias.any()
        assert (field.direction_encoding.num_frequencies, field.direction_encoding.base) == (4, 1)  # without π
        assert not field.density.values.any() and not field.features.values.any() and field.mask.mask.all()
        assert mode == "relu" or 1.8 < 128 * field.color[2].weight.var() < 2.15  # He's scale


def test_autocast_reaches_the_color_network_alone():
    field, rays = small_field("relu+fr"), some_rays(50, torch.float32, 0.8)
    full = field(*rays)
    with torch.autocast("cpu", torch.bfloat16):
        low = field(*rays)
    assert all(got.dtype == torch.float32 for got in low[:5])
    assert torch.equal(low.weights, full.weights) and torch.equal(low.final_transmittance, full.final_transmittance)
    assert torch.allclose(low.color, full.color, atol=0.03) and not torch.equal(low.color, full.color)


def test_depth_counts_along_the_viewing_axis():
    field = DVGOField(torch.full((3,), -2.0), torch.full((3,), 2.0), 9**3, final_voxels=9**3, alpha_init=1e-2,
                       threshold=1e-4, near=0.1)
    field.density.values.data[..., 0] = 200 * grid_points((9, 9, 9), *corners_of(field))[..., 1]
    pose = np.array([[1, 0, 0, 0], [0, 0, -1, -1.9], [0, 1, 0, 0]], np.float32)  # a wall at y = 0, seen from y = −1.9
    color, depth = render_image(field, pose, np.array([20, 20, 7.5, 7.5]), 15, 13, torch.device("cpu"), chunk=16)
    assert np.abs(depth - 1.9).max() < 0.25 and np.ptp(depth) < 0.25  # the corner's distance is 1.9 × 1.12
    assert color.shape == (15, 13, 3) and depth.shape == (15, 13) and color.dtype == depth.dtype == np.float32
    whole, _ = render_image(field, pose, np.array([20, 20, 7.5, 7.5]), 15, 13, torch.device("cpu"))
    assert np.allclose(color, whole, atol=1e-6)


def corners_of(field):
    return field.density.lower, field.density.upper


def test_the_coarse_field_holds_all_that_cameras_see_and_is_empty_around_them_and_where_few_look(toy_rays):
    origins, directions, _ = toy_rays.rays(torch.arange(toy_rays.pixels))
    ends = torch.cat([origins + distance * torch.nn.functional.normalize(directions) for distance in (2.0, 6.0)])
    field, factors = coarse_field(toy_rays, {"voxels": 1500, "alpha_init": 1e-6, "threshold": 1e-7}, 2.0, 6.0)
    assert all(map(torch.allclose, corners_of(field), (ends.amin(0), ends.amax(0))))
    shape, cameras = field.mask.mask.shape, toy_rays.poses[:, :, 3]
    nodes = grid_points(shape, *corners_of(field))
    near = torch.cdist(nodes.reshape(-1, 3), cameras).amin(1).reshape(shape) <= 2.0
    assert 0.1 < near.float().mean() < 0.9
    assert torch.equal(field.density.values[..., 0], torch.where(near, -100.0, 0.0)) and not field.features.values.any()
    views = (factors * 60).round()  # the voxels in the middle are seen by all
    assert factors.shape == field.density.values.shape and torch.allclose(views, factors * 60, atol=1e-4)
    assert factors.max() == 1 and torch.equal(field.mask.mask, views[..., 0] > 2)
    assert 0.2 < field.mask.mask.float().mean() < 1 and field.features.values.shape[3] == 3 and field.color is None
    assert (field.act_shift, field.threshold) == (pytest.approx(-13.8155, abs=1e-4), 1e-7)


def test_the_fine_field_stands_where_the_coarse_one_found_something():
    lower, upper, shape = torch.tensor([-2.0, -1.5, -1]), torch.tensor([2.0, 1.5, 1]), (13, 11, 9)
    opacity = torch.full(shape, 1e-6)
    opacity[4:7, 3, 2:6], opacity[9, 8, 4], opacity[1, 1, 1] = 0.5, 1.1e-3, 0.9e-3
    config = {"network": {"hidden_features": 16, **FR}, "voxels": 32_000, "scale_at": [1, 2, 3, 4], "alpha_init": 1e-2,
              "threshold": 1e-4}
    field = fine_field(opacity, lower, upper, "relu+fr", config, 2.0, 1.0)
    nodes = grid_points(shape, lower, upper)
    corners = nodes[4, 3, 2], nodes[9, 8, 5]
    margin = 0.025 * (corners[1] - corners[0])
    for found, expected in zip(corners_of(field), (corners[0] - margin, corners[1] + margin)):
        assert torch.allclose(found, expected)
    edge = (math.prod((corners[1] - corners[0]).tolist()) * 1.05**3 / 2000) ** (1 / 3)  # 32,000 / 2⁴
    assert field.voxel_size == pytest.approx(edge) and field.final_voxel_size == pytest.approx(edge / 16 ** (1 / 3))
    assert field.features.values.shape[3] == 12 and field.act_shift == pytest.approx(-4.5951, abs=1e-4)

    around = torch.zeros(shape, dtype=torch.bool)  # a node further than what is full
    around[3:8, 2:5, 1:7] = around[8:11, 7:10, 3:6] = True
    where = (grid_points(field.mask.mask.shape, *corners_of(field)) - lower) / (upper - lower)
    x, y, z = (where * (torch.tensor(shape) - 1)).round().long().unbind(-1)
    assert torch.equal(field.mask.mask, around[x, y, z]) and 0.1 < field.mask.mask.float().mean() < 0.9

    opacity[4:7, 3, 2:6] = 1e-6  # a single voxel is left
    field = fine_field(opacity, lower, upper, "relu+fr", config, 2.0, 1.0)
    assert field.mask.mask.any() and min(field.mask.mask.shape) > 5


def test_pixels_between_four_that_agree_need_no_test(monkeypatch):
    field, tested = small_field("relu"), []
    field.mask.mask[:] = torch.nn.functional.max_pool3d((torch.rand(field.mask.mask.shape) < 0.1).float()[None], 3, 1,
                                                        1)[0] > 0
    poses = torch.stack([camera_at(position, (0, 0, 0.2)).float() for position in ((3, 0, 1), (-2, 2, 0))])
    images = torch.zeros(2, 150, 201, 4, dtype=torch.uint8)
    rays = RayDataset(images, poses, torch.tensor([[170, 170, 100, 75]] * 2), bg_color=1.0)
    assert 8 < pixels_per_voxel(field, rays) < 20
    _, _, ray_index = field.samples(*rays.rays(torch.arange(rays.pixels))[:2])
    expected, samples = ray_index.unique(), field.samples
    monkeypatch.setattr(field, "samples", lambda origins, directions: tested.append(len(origins)) or samples(
        origins, directions))
    found = pixels_in_sight(field, rays)
    assert torch.equal(found, found.unique()) and 0.2 < len(expected) / rays.pixels < 0.8
    assert len(set(found.tolist()) ^ set(expected.tolist())) < 0.003 * rays.pixels  # corners of voxels
    assert sum(tested) < 0.35 * rays.pixels


def test_the_objective_is_the_error_the_entropy_and_the_samples_own_errors():
    torch.manual_seed(0)
    target, color, samples = (torch.rand(count, 3, dtype=torch.float64) for count in (4, 4, 9))
    left = torch.tensor([0.0, 0.3, 0.9, 1.0], dtype=torch.float64)
    weights = torch.rand(9, dtype=torch.float64, requires_grad=True)
    ray_index = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2])
    error, loss = objective(Rendering(color, left, weights, weights, samples, ray_index), target, 0.01, 0.1)
    mse = sum((c - t) ** 2 for c, t in zip(color.flatten().tolist(), target.flatten().tolist())) / 12
    entropy = sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (1e-6, 0.3, 0.9, 1 - 1e-6)) / 4
    own = sum(weight * (sample - target[ray]).square().sum().item()
              for weight, sample, ray in zip(weights.tolist(), samples, ray_index)) / 4
    assert error.item() == pytest.approx(mse, rel=1e-12)
    assert loss.item() == pytest.approx(mse + 0.01 * entropy + 0.1 * own, rel=1e-9)
    assert not loss.requires_grad  # a sample's weight is a factor of its error, and nothing that the error changes


@pytest.mark.gpu
def test_the_same_on_a_gpu():
    field, rays = small_field("relu+fr").double(), some_rays(200, torch.float64, 0.8)
    on_gpu = copied_to_a_gpu(field, rays)
    for one in (field, on_gpu):
        one.renew_mask()
        one.resize(1300)
    assert torch.equal(on_gpu.mask.mask.cpu(), field.mask.mask) and isinstance(on_gpu.mask, MaskGrid)
    made_there = DVGOField(LOWER.cuda(), UPPER.cuda(), 100, final_voxels=100, alpha_init=1e-2, threshold=1e-4,
                            near=NEAR, mode="relu", **FR)
    assert made_there(*(x.float().cuda() for x in rays)).color.is_cuda
