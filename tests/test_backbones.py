"""The six networks against a plain implementation that is given their weights."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import MODES, FourierReparamLinear, PositionalEncoding, build_inr, fold, reparameterize

SETTINGS = {"out_features": 3, "hidden_features": 32, "hidden_layers": 2, "low_freq_num": 6, "high_freq_num": 6,
            "phase_num": 4, "alpha": 0.05, "first_omega": 20.0, "hidden_omega": 10.0}
LAST_LOSSES = {  # of 40 steps with one, two and three coordinates: a seed gives the network that it always gave
    "relu": [0.0798955, 0.0845099, 0.0824743],
    "relu+fr": [0.0965881, 0.0900380, 0.112568],
    "relu+pe": [0.0734931, 0.0661205, 0.0451923],
    "relu+pe+fr": [0.101330, 0.0930151, 0.0757514],
    "sin": [0.0434066, 0.0132227, 0.0131509],
    "sin+fr": [0.0424081, 0.0403811, 0.0280492],
}


def network(mode, in_features=2, **settings):
    torch.manual_seed(0)
    return build_inr(mode, in_features=in_features, **{**SETTINGS, **settings})


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
            x = PositionalEncoding(x.shape[1], 10 if x.shape[1] == 3 else 6)(x)
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
    assert losses[0] == pytest.approx(LAST_LOSSES[mode][in_features - 1], rel=1e-3)


def test_a_sine_network_under_transforms_and_compile():
    model, x = network("sin+fr", out_features=1).double(), torch.rand(5, 2, dtype=torch.float64)
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
    assert torch.equal(folded(x), reparameterized(x)) and type(folded.blocks[0]) is type(folded.blocks[1]) is nn.Linear
    again = reparameterize(folded, **FR, omega=30.0)
    assert (again(x) - folded(x)).abs().max() < 1e-9 and again.blocks[0].fit_error < 1e-9
    one = reparameterize(model, **FR, where=lambda name, layer: name.startswith("blocks") and layer.bias is None)
    assert [type(block) for block in one.blocks] == [nn.Linear, FourierReparamLinear]
    before = reparameterized(x)
    for parameter in folded.parameters():
        parameter.data.zero_()
    assert torch.equal(reparameterized(x), before)  # nothing is shared


@pytest.mark.parametrize("mode", ["relu+fr", "sin+fr"])
def test_a_trace_takes_the_state_dict_for_tensors_as_the_old_onnx_exporter_and_flop_counters_do(mode):
    model = network(mode)
    assert len(torch.jit._trace._unique_state_dict(model, keep_vars=True)) == len(model.state_dict())
    points = torch.rand(5, 2)
    torch.testing.assert_close(torch.jit.trace(model, torch.rand(3, 2))(points), model(points))
