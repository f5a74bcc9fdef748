"""Volume rendering against loops over single rays and samples in float64."""

import math

import pytest
import torch

from models.nerf.rays import ragged_indices
from models.nerf.volume_rendering import accumulate, contributing, render_weights


def weights_by_definition(opacity, ray_index, rays, stop):
    """Weights and remaining transmittance, one sample after another, as lists of Python numbers."""
    weights, remaining = [0.0] * len(opacity), [1.0] * rays
    for i, ray in enumerate(ray_index):
        if remaining[ray] > stop:
            weights[i] = remaining[ray] * opacity[i]
            remaining[ray] = remaining[ray] * (1 - opacity[i])
    return weights, remaining


def rendered(log_transmittance, ray_index, rays, stop):
    """Weights and remaining transmittance where a ray ends at `stop`, as the fields have them."""
    kept = contributing(log_transmittance.detach(), ray_index, rays, stop)
    weights, remaining = render_weights(log_transmittance[kept], ray_index[kept], rays)
    return torch.zeros_like(log_transmittance).index_put((kept,), weights), remaining


COUNTS = [3, 0, 40, 1, 0, 25, 0]


def samples(dtype=torch.float64, seed=2):
    torch.manual_seed(seed)
    ray_index, _ = ragged_indices(torch.tensor(COUNTS))
    return -torch.rand(len(ray_index), dtype=dtype) ** 3, ray_index


@pytest.mark.parametrize("stop", [1e-3, 1e-4, 0.3, 0.0])
def test_weights_follow_the_definition(stop):
    log_transmittance, ray_index = samples()
    log_transmittance[5] = -1e4
    log_transmittance[50] = -math.inf
    weights, remaining = rendered(log_transmittance, ray_index, len(COUNTS), stop)
    assert weights.dtype == remaining.dtype == torch.float64
    opacity = (1 - log_transmittance.exp()).tolist()
    expected = weights_by_definition(opacity, ray_index.tolist(), len(COUNTS), stop)
    assert weights.tolist() == pytest.approx(expected[0], abs=1e-12)
    assert remaining.tolist() == pytest.approx(expected[1], abs=1e-12)
    total = accumulate(weights, torch.ones(len(weights), 1), ray_index, len(COUNTS)).squeeze(1)
    assert torch.allclose(total + remaining, torch.ones(len(COUNTS), dtype=torch.float64))


def test_gradients_against_the_definition():
    log_transmittance, ray_index = samples()
    log_transmittance.requires_grad_()
    mixed = torch.linspace(-1, 1, len(ray_index), dtype=torch.float64)
    weights, remaining = rendered(log_transmittance, ray_index, len(COUNTS), 1e-3)
    (got,) = torch.autograd.grad((weights * mixed).sum() + remaining.square().sum(), log_transmittance)
    expected = weights_by_definition(1 - log_transmittance.exp(), ray_index.tolist(), len(COUNTS), 1e-3)
    loss = sum(w * m for w, m in zip(expected[0], mixed)) + sum(r * r for r in expected[1])
    assert torch.allclose(got, torch.autograd.grad(loss, log_transmittance)[0], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("wall", [-1e3, -1e4, -1e30, -math.inf])
def test_an_opaque_sample_hides_what_is_behind_and_reaches_no_other_ray(wall):
    log_transmittance = torch.tensor([-0.5, wall, -0.5, -0.5, -0.25], requires_grad=True)
    weights, remaining = rendered(log_transmittance, torch.tensor([0, 0, 0, 1, 1]), 2, 1e-3)
    front, other = math.exp(-0.5), math.exp(-0.75)
    assert weights.tolist() == pytest.approx([1 - front, front, 0, 1 - front, front - other], abs=1e-6)
    assert remaining.tolist() == pytest.approx([0, other], abs=1e-6)
    (weights * torch.arange(5.0)).sum().backward()
    assert log_transmittance.grad[1:3].tolist() == [0, 0]
    # w₁ is what the sample in front lets through, exp(L₀).
    assert log_transmittance.grad[0].item() == pytest.approx(front)


def test_many_rays_in_float32_are_as_exact_as_one():
    torch.manual_seed(3)
    rays, count = 4000, 100
    ray_index, _ = ragged_indices(torch.full((rays,), count))
    log_transmittance = -0.2 * torch.rand(rays * count)
    weights, remaining = rendered(log_transmittance, ray_index, rays, 0.0)
    alone = log_transmittance[-count:].double()
    in_front = (alone.cumsum(0) - alone).exp()
    assert (weights[-count:] + in_front * alone.expm1()).abs().max() < 1e-6
    assert remaining[-1].item() == pytest.approx(alone.sum().exp().item(), rel=1e-5)


def test_faint_samples_keep_their_digits():
    # DVGO's coarse voxels begin at α = 5e-7, where 1 − (1 − α) in float32 is wrong by a tenth.
    weights, _ = render_weights(torch.full((3,), -5e-7), torch.tensor([0, 0, 0]), 1)
    assert weights.tolist() == pytest.approx([5e-7] * 3, rel=1e-5)


@pytest.mark.parametrize("threshold, stop", [(0.0, 1e-3), (0.1, 1e-3), (0.05, 0.5), (2.0, 0.0)])
def test_contributing_samples_follow_the_definition(threshold, stop):
    log_transmittance, ray_index = samples(seed=4)
    log_transmittance[::7] = 0
    log_transmittance[11] = -math.inf
    opacity = (1 - log_transmittance.exp()).tolist()
    transmittance, expected = [1.0] * len(COUNTS), []
    for i, ray in enumerate(ray_index.tolist()):
        if opacity[i] > threshold:
            if transmittance[ray] > stop:
                expected.append(i)
            transmittance[ray] *= 1 - opacity[i]
    kept = contributing(log_transmittance, ray_index, len(COUNTS), stop, threshold)
    assert kept.nonzero().squeeze(1).tolist() == expected and len(expected) < len(ray_index)
