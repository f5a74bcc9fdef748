"""The closed form of the NTK against J Jᵀ by autograd."""

import pytest
import torch
from torch import nn

from models import MODES, FourierReparamLinear, build_inr, empirical_ntk


def network(mode, dtype=torch.float32, **settings):
    torch.manual_seed(0)
    return build_inr(mode, **{"in_features": 2, "out_features": 1, "hidden_features": 24, "hidden_layers": 3,
                              "low_freq_num": 5, "high_freq_num": 4, "phase_num": 6, "alpha": 0.05, "first_omega": 5.0,
                              "hidden_omega": 5.0, **settings}).to(dtype)


def by_autograd(model, x):
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, retain_graph=True)])
            for value in model(x).flatten()]
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("in_features", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_closed_form_is_the_jacobians(mode, in_features, dtype, tolerance):
    model = network(mode, dtype, in_features=in_features)
    x = torch.rand(40, in_features, dtype=dtype) * 2 - 1
    kernel, expected = empirical_ntk(model, x), by_autograd(model, x)
    assert kernel.shape == (40, 40) and kernel.dtype == dtype and not kernel.requires_grad
    assert (kernel - expected).norm() < tolerance * expected.norm()


def test_frozen_parameters_do_not_count_and_no_grad_does_not_matter():
    model = network("relu+fr", torch.float64, phase_num=3)
    model[0].weight.requires_grad_(False)
    model[2].coefficients.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    x = torch.rand(20, 2, dtype=torch.float64)
    expected = by_autograd(model, x)
    with torch.no_grad():
        kernel = empirical_ntk(model, x)
    assert torch.allclose(kernel, expected, rtol=1e-10)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_activations_in_place_and_unused_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8, bias=False), nn.ReLU(inplace=True), nn.Linear(8, 8),
                                     nn.ReLU(inplace=True), nn.Linear(8, 1), nn.Flatten(0))
            self.unused = nn.Linear(2, 2)

        def forward(self, x):
            self.unused(x)
            return self.net(x)

    torch.manual_seed(0)
    model, x = Net().double(), torch.rand(9, 2, dtype=torch.float64)
    assert torch.allclose(empirical_ntk(model, x), by_autograd(model.net, x), rtol=1e-10)


def test_what_has_no_closed_form_is_refused():
    x = torch.rand(5, 2)
    with pytest.raises(ValueError, match="one output"):
        empirical_ntk(network("relu", out_features=3), x)
    with pytest.raises(ValueError, match=r"\(N, in\)"):
        empirical_ntk(network("relu"), x[0])
    with pytest.raises(ValueError, match="1.weight"):
        empirical_ntk(nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Linear(4, 1)), x)
    tied = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1))
    tied[2].weight = tied[0].weight
    with pytest.raises(ValueError, match="share"):
        empirical_ntk(tied, x)
    shared = FourierReparamLinear(2, 2, low_freq_num=1, high_freq_num=1, phase_num=3, alpha=1)
    with pytest.raises(ValueError, match="more than once"):
        empirical_ntk(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(2, 1)), x)
