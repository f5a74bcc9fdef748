"""The six networks against a plain implementation that is given their weights."""

import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import MODES, FourierReparamLinear, build_inr, fold, reparameterize

SETTINGS = {"out_features": 3, "hidden_features": 32, "hidden_layers": 2, "low_freq_num": 6, "high_freq_num": 6,
            "phase_num": 4, "alpha": 0.05, "first_omega": 20.0, "hidden_omega": 10.0}


def network(mode, in_features=2, **settings):
    torch.manual_seed(0)
    return build_inr(mode, in_features=in_features, **{**SETTINGS, **settings})


def encoded(x, frequencies):
    parts = [x]
    for i in range(frequencies):
        for c in range(x.shape[1]):
            parts += [torch.sin(2**i * math.pi * x[:, c:c + 1]), torch.cos(2**i * math.pi * x[:, c:c + 1])]
    return torch.cat(parts, dim=1)


class Plain:
    """The network of experiments in plain tensors: W = Λ B by the full product, layer after layer."""

    def __init__(self, model, mode):
        self.mode = mode
        self.layers = [layer for layer in model.modules() if isinstance(layer, (torch.nn.Linear, FourierReparamLinear))]
        self.bases = [getattr(layer, "basis", None) for layer in self.layers]
        self.parameters = [parameter.detach().clone().requires_grad_()
                           for layer in self.layers for parameter in layer.parameters()]

    def __call__(self, x):
        if "+pe" in self.mode:
            x = encoded(x, 10 if x.shape[1] == 3 else 6)
        for i, basis in enumerate(self.bases):
            weight, bias = self.parameters[2 * i:2 * i + 2]
            x = x @ (weight if basis is None else weight @ basis).T + bias
            if i < len(self.bases) - 1:
                omega = SETTINGS["first_omega"] if i == 0 else SETTINGS["hidden_omega"]
                x = torch.sin(omega * x) if "sin" in self.mode else torch.relu(x)
        return x


@pytest.mark.parametrize("in_features", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_outputs_and_training_agree_with_the_plain_implementation(mode, in_features):
    model = network(mode, in_features)
    plain = Plain(model, mode)
    x = torch.rand(50, in_features) * 2 - 1
    target = torch.rand(50, 3)
    assert (model(x) - plain(x)).norm() < 1e-5 * plain(x).norm()

    ours = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    theirs = torch.optim.Adam(plain.parameters, lr=1e-3)
    for _ in range(40):
        losses = []
        for optimizer, net in ((ours, model), (theirs, plain)):
            optimizer.zero_grad()
            loss = F.mse_loss(net(x), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0] < 0.7 * F.mse_loss(network(mode, in_features)(x), target).item()


@pytest.mark.parametrize("mode", ["sin", "sin+fr"])
def test_sine_networks_under_transforms_and_compile(mode):
    model, x = network(mode, out_features=1).double(), torch.rand(5, 2, dtype=torch.float64)
    laplacian = torch.func.vmap(lambda x: torch.func.hessian(lambda x: model(x)[0])(x).trace())(x)
    x.requires_grad_()
    gradient, = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    expected = sum(torch.autograd.grad(gradient[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
    assert torch.allclose(laplacian, expected, rtol=1e-9)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), model(x), rtol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_layers_in_order_and_fr_only_between_hidden_layers(mode):
    model, x = network(mode, in_features=3, hidden_layers=4, pe_frequencies=4), torch.rand(2, 5, 3)
    layers = [layer for layer in model.modules() if isinstance(layer, (torch.nn.Linear, FourierReparamLinear))]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [
        (3 * 9 if "+pe" in mode else 3, 32), *[(32, 32)] * 4, (32, 3)]
    assert [isinstance(layer, FourierReparamLinear) for layer in layers] == [False, *["+fr" in mode] * 4, False]
    expected = x
    for module in model:  # one after another, so that tools can replace them
        expected = module(expected)
    assert type(model) is nn.Sequential and torch.equal(model(x), expected) and expected.shape == (2, 5, 3)


@pytest.mark.parametrize("mode", MODES)
def test_initial_weights(mode):
    model = network(mode, hidden_features=256, out_features=64)
    first, hidden, *_, last = [layer for layer in model.modules()
                               if isinstance(layer, (torch.nn.Linear, FourierReparamLinear))]
    sine = "sin" in mode
    he = math.sqrt(6 / 256)
    bounds = [(first.weight, 1 / 2 if sine else 1 / math.sqrt(first.in_features)),
              (last.weight, he / SETTINGS["hidden_omega"] if sine else he),
              (first.bias, 1 / math.sqrt(first.in_features))]
    if "+fr" in mode:
        assert hidden.bias.eq(0).all() and hidden.omega == (SETTINGS["hidden_omega"] if sine else 1)
    else:
        bounds.append((hidden.weight, he / SETTINGS["hidden_omega"] if sine else 1 / math.sqrt(256)))
    for values, bound in bounds:
        assert 0.97 * bound < values.abs().max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_fold_leaves_plain_layers_and_the_output(mode):
    model = network(mode)
    folded = fold(model)
    x = torch.rand(10, 2)
    assert not any(isinstance(layer, FourierReparamLinear) for layer in folded.modules())
    assert torch.equal(folded(x), model(x))
    for parameter in folded.parameters():
        parameter.data.zero_()
    assert model(x).abs().sum() > 0  # nothing is shared
    assert any(isinstance(layer, FourierReparamLinear) for layer in model.modules()) == ("+fr" in mode)


def test_fold_of_a_layer_and_of_a_layer_used_twice():
    layer = FourierReparamLinear(8, 8, low_freq_num=2, high_freq_num=2, phase_num=3, alpha=0.1)
    assert type(fold(layer)) is torch.nn.Linear
    twice = fold(torch.nn.Sequential(layer, torch.nn.ReLU(), layer))
    assert twice[0] is twice[2]
    again = reparameterize(twice, **FR, where=lambda name, layer: True)
    assert again[0] is again[2] and type(again[0]) is FourierReparamLinear


FR = {"low_freq_num": 16, "high_freq_num": 16, "phase_num": 4, "alpha": 0.05}


class Siren(nn.Module):
    """A network of somebody else's."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 32)
        self.blocks = nn.ModuleList([nn.Linear(32, 32), nn.Linear(32, 32, bias=False)])
        self.head = nn.Linear(32, 1)

    def forward(self, x):
        x = torch.sin(30 * self.first(x))
        for block in self.blocks:
            x = torch.sin(30 * block(x))
        return self.head(x)


def test_reparameterize_replaces_hidden_layers_of_any_model_and_fold_gives_them_back():
    torch.manual_seed(0)
    model, x = Siren().double(), torch.rand(9, 2, dtype=torch.float64)
    reparameterized = reparameterize(model, **FR, omega=30.0)
    kinds = {name: type(layer) for name, layer in reparameterized.named_modules() if hasattr(layer, "in_features")}
    assert kinds == {"first": nn.Linear, "blocks.0": FourierReparamLinear, "blocks.1": FourierReparamLinear,
                     "head": nn.Linear}
    assert type(model.blocks[0]) is nn.Linear and reparameterized.blocks[0].omega == 30
    assert reparameterized.blocks[1].bias is None and reparameterized.blocks[0].bias is not model.blocks[0].bias
    assert 0 < reparameterized.blocks[0].fit_error < 0.5
    folded = fold(reparameterized)
    assert torch.equal(folded(x), reparameterized(x))
    again = reparameterize(folded, **FR, omega=30.0)
    assert (again(x) - folded(x)).abs().max() < 1e-9 and again.blocks[0].fit_error < 1e-9
    one = reparameterize(model, **FR, where=lambda name, layer: name.startswith("blocks") and layer.bias is None)
    assert [type(block) for block in one.blocks] == [nn.Linear, FourierReparamLinear]


BASIS = ("low_freq_num", "high_freq_num", "phase_num", "alpha")


@pytest.mark.parametrize("mode", [mode for mode in MODES if "+fr" not in mode])
def test_plain_networks_need_no_basis_and_are_the_same_with_one(mode):
    plain = {key: value for key, value in SETTINGS.items() if key not in BASIS}
    expected = network(mode)
    for basis in ({}, {"alpha": 0.05}, {"low_freq_num": 0}):
        torch.manual_seed(0)
        found = build_inr(mode, in_features=2, **plain, **basis)
        assert all(map(torch.equal, found.parameters(), expected.parameters()))


@pytest.mark.parametrize("missing", BASIS)
@pytest.mark.parametrize("mode", [mode for mode in MODES if "+fr" in mode])
def test_fr_needs_the_whole_basis(mode, missing):
    settings = {key: value for key, value in SETTINGS.items() if key != missing}
    with pytest.raises(ValueError, match=rf"^{re.escape(mode)} needs {missing}"):
        build_inr(mode, in_features=2, **settings)


@pytest.mark.parametrize("name, value", [
    ("mode", "tanh"), ("mode", None), ("in_features", 0), ("out_features", 0), ("hidden_features", -1),
    ("hidden_layers", 0), ("low_freq_num", -2), ("phase_num", 0), ("alpha", -0.1), ("first_omega", 0.0),
    ("hidden_omega", math.nan), ("pe_frequencies", 0),
])
@pytest.mark.parametrize("mode", ["relu", "sin+fr"])
def test_a_bad_argument_is_named_with_its_value(mode, name, value):
    arguments = {"mode": mode, "in_features": 2, **SETTINGS, name: value}
    with pytest.raises(ValueError) as error:
        build_inr(arguments.pop("mode"), **arguments)
    assert name in str(error.value) and repr(value) in str(error.value)


@pytest.mark.parametrize("mode", ["relu+fr", "sin+fr"])
def test_a_trace_takes_the_state_dict_for_tensors_as_the_old_onnx_exporter_and_flop_counters_do(mode):
    model = build_inr(mode, in_features=2, out_features=1, hidden_features=16, hidden_layers=2, low_freq_num=8,
                      high_freq_num=8, phase_num=4, alpha=0.05)
    assert len(torch.jit._trace._unique_state_dict(model, keep_vars=True)) == len(model.state_dict())
    points = torch.rand(5, 2)
    torch.testing.assert_close(torch.jit.trace(model, torch.rand(3, 2))(points), model(points))
