"""Volume rendering where its numbers are extreme; the fields' own tests compare it with its definition."""

import math

import pytest
import torch

from models.nerf.rays import ragged_indices
from models.nerf.volume_rendering import contributing, render_weights


def rendered(log_transmittance, ray_index, rays, stop):
    """Weights and remaining transmittance where a ray ends at `stop`, as the fields have them."""
    kept = contributing(log_transmittance.detach(), ray_index, rays, stop)
    weights, remaining = render_weights(log_transmittance[kept], ray_index[kept], rays)
    return torch.zeros_like(log_transmittance).index_put((kept,), weights), remaining


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
