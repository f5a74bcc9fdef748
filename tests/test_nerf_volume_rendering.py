"""Volume rendering against loops over single rays and samples in float64."""

import math

import pytest
import torch

from models.nerf.rays import ragged_indices
from models.nerf.volume_rendering import accumulate, contributing, render_weights


def rendered(log_transmittance, ray_index, rays, stop, threshold=None):
    """Weights, which samples count, and remaining transmittance, where a ray ends at `stop`, as the fields do it."""
    kept = contributing(log_transmittance.detach(), ray_index, rays, stop, threshold)
    weights, remaining = render_weights(log_transmittance[kept], ray_index[kept], rays)
    return torch.zeros_like(log_transmittance).index_put((kept,), weights), kept, remaining


@pytest.mark.parametrize("stop, threshold", [
    (1e-3, None), (1e-4, None), (0.3, None), (0.0, None), (1e-3, 0.0), (1e-3, 0.1), (0.5, 0.05), (0.0, 2.0)])
def test_weights_and_their_gradient_follow_the_definition(stop, threshold):
    counts = [3, 0, 40, 1, 0, 25, 0]
    torch.manual_seed(2)
    ray_index, _ = ragged_indices(torch.tensor(counts))
    log_transmittance = -torch.rand(len(ray_index), dtype=torch.float64) ** 3
    log_transmittance[::7] = 0
    log_transmittance[5], log_transmittance[50] = -1e4, -math.inf
    log_transmittance.requires_grad_()

    expected, counted, left = [], [], [torch.ones((), dtype=torch.float64) for _ in counts]
    for opacity, ray in zip(1 - log_transmittance.exp(), ray_index.tolist()):
        counted.append(bool(left[ray] > stop and (threshold is None or opacity > threshold)))
        expected.append(left[ray] * opacity * counted[-1])
        left[ray] = left[ray] * (1 - opacity * counted[-1])
    expected, left = torch.stack(expected), torch.stack(left)
    weights, kept, remaining = rendered(log_transmittance, ray_index, len(counts), stop, threshold)
    assert kept.tolist() == counted and not all(counted) and weights.dtype == remaining.dtype == torch.float64
    assert torch.allclose(weights, expected, atol=1e-12) and torch.allclose(remaining, left, atol=1e-12)
    total = accumulate(weights, torch.ones(len(weights), 1), ray_index, len(counts)).squeeze(1)
    assert torch.allclose(total + remaining, torch.ones(len(counts), dtype=torch.float64))

    mixed = torch.linspace(-1, 1, len(ray_index), dtype=torch.float64)
    gradients = [torch.autograd.grad((w * mixed).sum() + r.square().sum(), log_transmittance)[0]
                 for w, r in ((weights, remaining), (expected, left))]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("wall", [-1e3, -1e4, -1e30, -math.inf])
def test_an_opaque_sample_hides_what_is_behind_and_reaches_no_other_ray(wall):
    log_transmittance = torch.tensor([-0.5, wall, -0.5, -0.5, -0.25], requires_grad=True)
    weights, _, remaining = rendered(log_transmittance, torch.tensor([0, 0, 0, 1, 1]), 2, 1e-3)
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
    weights, _, remaining = rendered(log_transmittance, ray_index, rays, 0.0)
    alone = log_transmittance[-count:].double()
    in_front = (alone.cumsum(0) - alone).exp()
    assert (weights[-count:] + in_front * alone.expm1()).abs().max() < 1e-6
    assert remaining[-1].item() == pytest.approx(alone.sum().exp().item(), rel=1e-5)


def test_faint_samples_keep_their_digits():
    # DVGO's coarse voxels begin at α = 5e-7, where 1 − (1 − α) in float32 is wrong by a tenth.
    weights, _ = render_weights(torch.full((3,), -5e-7), torch.tensor([0, 0, 0]), 1)
    assert weights.tolist() == pytest.approx([5e-7] * 3, rel=1e-5)
