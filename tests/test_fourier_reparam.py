"""The layer against its definition, computed the plain way in float64."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.utils.prune
from torch.nn import functional as F

from models import FourierReparamLinear, fold, reparameterize
from models.step_scale import step_scale

PAPER = {
    "1D": {"in_features": 128, "low_freq_num": 64, "high_freq_num": 64, "phase_num": 16, "alpha": 0.05},
    "2D relu": {"in_features": 256, "low_freq_num": 128, "high_freq_num": 128, "phase_num": 32, "alpha": 0.05},
    "2D sin": {"in_features": 256, "low_freq_num": 128, "high_freq_num": 128, "phase_num": 32, "alpha": 0.01},
    "3D relu": {"in_features": 256, "low_freq_num": 256, "high_freq_num": 256, "phase_num": 8, "alpha": 0.01},
    "3D sin": {"in_features": 256, "low_freq_num": 256, "high_freq_num": 256, "phase_num": 8, "alpha": 0.001},
    "DVGO": {"in_features": 128, "low_freq_num": 64, "high_freq_num": 64, "phase_num": 64, "alpha": 0.05},
    "Instant-NGP": {"in_features": 64, "low_freq_num": 32, "high_freq_num": 32, "phase_num": 64, "alpha": 0.01},
}
SETTINGS = [
    {"in_features": 7, "low_freq_num": 3, "high_freq_num": 4, "phase_num": 5, "alpha": 0.05},
    {"in_features": 8, "low_freq_num": 0, "high_freq_num": 4, "phase_num": 2, "alpha": 1.0},
    {"in_features": 9, "low_freq_num": 5, "high_freq_num": 0, "phase_num": 1, "alpha": 0.2},
    PAPER["1D"],
    PAPER["3D sin"],
]


def layer_of(settings, out_features=6):
    torch.manual_seed(0)
    return FourierReparamLinear(out_features=out_features, **settings)


def basis_by_definition(in_features, low_freq_num, high_freq_num, phase_num, alpha):
    period = 2 * math.pi * low_freq_num if low_freq_num else 2 * math.pi
    frequencies = [k / low_freq_num for k in range(1, low_freq_num + 1)] + list(range(1, high_freq_num + 1))
    points = [-period / 2 + period * j / (in_features - 1) for j in range(in_features)]
    return torch.tensor([[alpha * math.cos(f * x + 2 * math.pi * p / phase_num) for x in points]
                         for f in frequencies for p in range(phase_num)], dtype=torch.float64)


@pytest.mark.parametrize("settings", SETTINGS)
def test_basis_and_weight_follow_the_definition(settings):
    expected = basis_by_definition(**settings)
    layer = layer_of(settings)
    assert layer.basis.shape == expected.shape and layer.basis.dtype == torch.float32
    assert (layer.basis - expected).abs().max() < 1e-6 * settings["alpha"]

    layer.double()
    full_product = layer.coefficients @ expected
    assert (layer.weight - full_product).abs().max() < 1e-10 * full_product.abs().max()


@pytest.mark.parametrize("name", PAPER)
def test_the_two_ranks_that_the_weights_lack(name):
    layer = layer_of(PAPER[name], out_features=300).double()
    torch.nn.init.uniform_(layer.coefficients, -1, 1)  # any coefficients, not only those of the start
    weight = layer.weight.detach()
    scale = weight.abs().max()
    lacking = 1 if name.startswith("3D") else 2
    for matrix in (layer.basis, weight):
        assert torch.linalg.matrix_rank(matrix, rtol=1e-9) == layer.in_features - lacking
    assert (weight[:, 0] - weight[:, -1]).abs().max() < 1e-10 * scale
    sums = weight[:, :-1].sum(1).abs() / scale
    assert sums.min() > 1e-6 if lacking == 1 else sums.max() < 1e-10


@pytest.mark.parametrize("settings", [*SETTINGS[:3], {**SETTINGS[0], "phase_num": 1}, {**SETTINGS[0], "phase_num": 6},
                                      {**PAPER["3D relu"], "phase_num": 4}])  # its cos(255 x_j + π/2) vanishes
def test_step_scale_is_the_arcsine_law_s(settings):
    basis = basis_by_definition(**settings)
    basis = basis[basis.norm(dim=1) > 1e-6 * settings["alpha"]]
    signs = 2 / math.pi * torch.asin((F.normalize(basis) @ F.normalize(basis).T).clamp(-1, 1))
    expected = math.sqrt(torch.trace(basis.T @ signs @ basis) / settings["in_features"])
    assert step_scale(layer_of(settings)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("settings", PAPER.values())
def test_step_scale_is_that_of_adam_s_first_step_and_near_the_rule(settings):
    layer = layer_of(settings, out_features=64)
    scale = step_scale(layer)
    rows = (settings["low_freq_num"] + settings["high_freq_num"]) * settings["phase_num"]
    assert scale == pytest.approx(0.65 * settings["alpha"] * rows / math.sqrt(settings["in_features"]), rel=0.02)

    start = layer.weight.detach()
    gradient = torch.randn_like(start)
    (layer.weight * gradient).sum().backward()
    torch.optim.Adam(layer.parameters(), lr=1e-3).step()
    assert (layer.weight.detach() - start).square().mean().sqrt().item() == pytest.approx(1e-3 * scale, rel=0.01)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("omega", [1.0, 30.0])
def test_initial_coefficients(settings, omega):
    torch.manual_seed(1)
    layer = FourierReparamLinear(out_features=20, omega=omega, **settings)
    norms = basis_by_definition(**settings).norm(dim=1)
    assert (norms.min() < 1e-9) == (settings is PAPER["3D sin"])  # cos(255 x_j ± π/2), zero but for rounding
    bounds = (math.sqrt(6 / len(norms)) / norms / omega).masked_fill(norms < 1e-6 * settings["alpha"], 0).float()
    torch.manual_seed(1)
    for column, bound in zip(layer.coefficients.T, bounds):  # as if drawn one after another
        assert torch.allclose(column, bound * torch.empty(20).uniform_(-1, 1), rtol=1e-5)
    assert layer.coefficients.shape == (20, len(norms)) and not layer.bias.any()


def test_forward_and_gradient_are_those_of_the_full_product_for_any_leading_shape():
    layer = layer_of(SETTINGS[0]).double()
    layer.bias.data.uniform_()
    coefficients = layer.coefficients.detach().clone().requires_grad_()
    for shape in [(7,), (5, 7), (2, 3, 7), (0, 7)]:
        x = torch.randn(shape, dtype=torch.float64)
        expected = x @ (coefficients @ basis_by_definition(**SETTINGS[0])).T + layer.bias.detach()
        assert layer(x).shape == (*shape[:-1], 6) and torch.allclose(layer(x), expected)
        found = torch.autograd.grad(layer(x).square().sum(), layer.coefficients)
        assert torch.allclose(*found, *torch.autograd.grad(expected.square().sum(), coefficients))


@pytest.mark.parametrize("changes", [
    {"in_features": 8}, {"phase_num": 7}, {"alpha": 0.01}, {"omega": 30.0}, {"alpha": 0.05 * (1 + 1e-6)},
    {"low_freq_num": 4, "high_freq_num": 3}])  # of which the last three fit in shape
def test_a_state_of_another_basis_is_refused_by_name(changes):
    layer = layer_of(SETTINGS[0])
    other = torch.nn.Sequential(layer_of({**SETTINGS[0], **changes}))
    torch.nn.init.zeros_(other[0].coefficients)
    message = "; ".join(f"{name} is {getattr(layer, name):.9g} in the state_dict and {value:.9g} here"
                        for name, value in changes.items())
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"0\.coefficients: " + message):
            other.load_state_dict(torch.nn.Sequential(layer).state_dict(), strict=strict)
    assert other[0].coefficients.eq(0).all()  # nothing of it was taken
    with pytest.raises(ValueError, match=message):
        other[0].set_extra_state(layer.get_extra_state())


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("extra", [{}, *({"0._extra_state": placeholder} for placeholder in (
    None, b"", {}, object(), torch.empty(6, device="meta")))])
def test_parameters_load_without_the_extra_state_or_with_a_placeholder(strict, assign, extra):
    x, layer = torch.randn(4, 7), layer_of(SETTINGS[0])
    torch.nn.init.normal_(layer.bias)
    state = {f"0.{name}": parameter.detach().clone() for name, parameter in layer.named_parameters()} | extra
    names = set(state)
    other = torch.nn.Sequential(FourierReparamLinear(out_features=6, **SETTINGS[0]))
    assert not any(other.load_state_dict(state, strict=strict, assign=assign))
    assert set(state) == names and torch.equal(other(x), layer(x))
    with pytest.raises(RuntimeError, match="size mismatch for 0.coefficients"):
        torch.nn.Sequential(layer_of({**SETTINGS[0], "high_freq_num": 5})).load_state_dict(state, strict, assign)
    del state["0.bias"]
    assert other.load_state_dict(state, strict=False).missing_keys == ["0.bias"]


def test_every_value_of_a_state_dict_is_a_tensor_that_tools_can_change_and_load(tmp_path):
    with torch.device("meta"):
        on_meta = layer_of(SETTINGS[0])
    for layer in (layer_of(SETTINGS[0]), on_meta, FourierReparamLinear(out_features=6, **SETTINGS[0], device="meta")):
        state = layer.state_dict()
        assert set(state) == {"coefficients", "bias", "_extra_state"}
        assert state["_extra_state"].dtype == torch.float64 and state["_extra_state"].device.type == "cpu"
        assert state["_extra_state"].tolist() == [7, 3, 4, 5, 0.05, 1]

    model, other = (FourierReparamLinear(out_features=6, **SETTINGS[0]) for _ in range(2))
    average = copy.deepcopy(model.state_dict())
    moving = {name: value.clone() for name, value in model.state_dict().items()}
    for name, value in other.state_dict().items():
        average[name] = (average[name] + value) / 2
        for _ in range(1000):  # an exponential moving average, as its usual code is
            moving[name].mul_(0.999).add_(value, alpha=0.001)
    torch.save(model.state_dict(), tmp_path / "layer.pt")
    for state in (torch.load(tmp_path / "layer.pt", weights_only=True), average, moving):
        other.load_state_dict(state)
        assert all(other.state_dict()[name].allclose(value) for name, value in state.items())
        x = torch.randn(5, 7)
        for same in (other, copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
            assert torch.func.functional_call(model, state, x).equal(same(x))
            assert same.get_extra_state().equal(model.get_extra_state())


@pytest.mark.parametrize("settings", [SETTINGS[0], *PAPER.values()])
def test_a_state_in_another_dtype_loads_and_another_basis_in_it_is_still_refused(settings):
    layer = layer_of({**settings, "omega": 30.0})
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        state = {name: value.to(dtype) for name, value in layer.state_dict().items()}
        layer_of({**settings, "omega": 30.0}).load_state_dict(state)
        if dtype == torch.float16:
            state = {name: value.float() for name, value in state.items()}
            layer_of({**settings, "omega": 30.0}).load_state_dict(state)
        low, high = settings["low_freq_num"], settings["high_freq_num"]
        for change, names in (({"low_freq_num": low + 1, "high_freq_num": high - 1}, "(low|high)_freq_num"),
                              ({"alpha": 1.02 * settings["alpha"]}, "alpha"), ({"omega": 29.0}, "omega")):
            with pytest.raises(RuntimeError, match=f"{names} is"):
                layer_of({**settings, "omega": 30.0, **change}).load_state_dict(state)


@pytest.mark.parametrize("coefficients, bias", [(True, True), (True, False), (False, True), (False, False)])
def test_fold_and_from_linear_keep_what_is_frozen_and_the_mode(coefficients, bias):
    layer, x, state = layer_of(SETTINGS[0]).eval(), torch.randn(3, 7), torch.get_rng_state()
    layer.coefficients.requires_grad_(coefficients)
    layer.bias.requires_grad_(bias).data.uniform_()
    torch.set_rng_state(state)
    for folded in (layer.fold(), fold(torch.nn.Sequential(layer))[0]):
        assert type(folded) is torch.nn.Linear and torch.equal(folded(x), layer(x))
        assert (folded.weight.requires_grad, folded.bias.requires_grad) == (coefficients, bias)
        assert folded.weight.is_leaf and not folded.training and layer.train().fold().training
        layer.eval()
        back = reparameterize(folded, **BASIS_ARGUMENTS, where=lambda name, layer: True)
        assert (back.coefficients.requires_grad, back.bias.requires_grad) == (coefficients, bias)
        assert back.coefficients.is_leaf and not back.training
    assert torch.equal(torch.get_rng_state(), state)
    layer.coefficients.data.zero_()
    assert not torch.equal(folded(x), layer(x))  # a copy, not a view


BASIS_ARGUMENTS = {name: value for name, value in SETTINGS[0].items() if name != "in_features"}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("bias", [True, False])
def test_from_linear_is_the_nearest_layer_and_says_how_near(settings, bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(settings["in_features"], 20, bias=bias, dtype=torch.float64)
    basis, settings = basis_by_definition(**settings), {**settings, "omega": 30.0}
    del settings["in_features"]
    state = torch.get_rng_state()
    layer = FourierReparamLinear.from_linear(linear, **settings)
    assert torch.equal(torch.get_rng_state(), state) and layer.omega == 30 and layer.alpha == settings["alpha"]
    smallest = linear.weight @ torch.linalg.pinv(basis, rtol=1e-9)
    nearest = smallest @ basis
    assert layer.weight.dtype == torch.float64 and (layer.weight - nearest).abs().max() < 1e-9
    assert layer.fit_error == pytest.approx(((nearest - linear.weight).norm() / linear.weight.norm()).item(), abs=1e-9)
    assert (layer.coefficients - smallest).abs().max() < 1e-8 * smallest.abs().max()
    assert layer.coefficients.is_contiguous()
    assert (layer.bias is None) if linear.bias is None else layer.bias.equal(linear.bias)
    again = FourierReparamLinear.from_linear(layer.fold(), **settings)  # what an FR layer gave is given back whole
    assert again.fit_error < 1e-9 and (again.weight - layer.weight).abs().max() < 1e-9
    again.load_state_dict(layer.state_dict())
    again.weight.sum().backward()
    assert again.coefficients.grad.abs().sum() > 0


@pytest.mark.parametrize("settings", [{"bias": False}, {"dtype": torch.float64}, {"bias": False, "device": "meta"}])
def test_bias_device_and_dtype_are_those_of_an_ordinary_linear_layer(settings):
    layer, linear = FourierReparamLinear(out_features=6, **SETTINGS[0], **settings), torch.nn.Linear(7, 6, **settings)
    assert set(layer.state_dict()) == {"coefficients", "_extra_state", *linear.state_dict()} - {"weight"}
    for one in (layer, layer.fold()):
        assert (one.bias is None) == (linear.bias is None) and one.weight.shape == linear.weight.shape
        assert (one.weight.dtype, one.weight.device) == (linear.weight.dtype, linear.weight.device)


@pytest.mark.parametrize("in_features", [1, 2, 3, 4, 5, 128])
def test_a_layer_on_coordinates_is_warned_of(in_features, recwarn):
    FourierReparamLinear(in_features, 6, low_freq_num=3, high_freq_num=4, phase_num=5, alpha=0.05)
    assert [str(warning.message) for warning in recwarn] == (
        [f"the first and last of {in_features} columns of W are equal: use an nn.Linear"] * (2 <= in_features <= 4))


class Squared(FourierReparamLinear):
    def forward(self, x):
        return super().forward(x).square()


@pytest.mark.parametrize("change, obstacle", [
    (lambda layer: setattr(layer, "__class__", Squared), "Squared with a forward"),
    (lambda layer: setattr(layer, "forward", lambda x: 2 * x), "forward of its own"),
    (lambda layer: layer.register_forward_hook(lambda layer, x, y: -y), "hooks"),
    (lambda layer: layer.register_full_backward_hook(lambda layer, x, y: None), "hooks"),
    (lambda layer: torch.nn.utils.prune.random_unstructured(layer, "coefficients", 0.5), "hooks"),
    (lambda layer: torch.nn.utils.parametrizations.weight_norm(layer, "coefficients"), "parametrizations"),
])
def test_what_does_more_than_a_linear_layer_is_not_folded(change, obstacle):
    layer = layer_of(SETTINGS[0])
    change(layer)
    for broken in (layer, torch.nn.Sequential(torch.nn.Linear(3, 7), layer)):
        with pytest.raises(ValueError, match=obstacle) as error:
            fold(broken)
        assert "cannot be replaced" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="Linear with parametrizations.* cannot be replaced"):
        reparameterize(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(7, 7)), **BASIS_ARGUMENTS,
                       where=lambda name, layer: True)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_other_dtypes_have_the_basis_of_their_own_precision(dtype, tolerance):
    layer, expected = layer_of(SETTINGS[0]).to(dtype), basis_by_definition(**SETTINGS[0])
    assert (layer.basis.double() - expected).abs().max() < tolerance * SETTINGS[0]["alpha"]
    assert layer.basis.dtype == layer.fold().weight.dtype == layer(torch.randn(2, 7, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_is_filled_in_by_a_state_or_value_by_value_and_averaged_constants_come_back(dtype):
    expected, x = layer_of(SETTINGS[0]).to(dtype), torch.randn(2, 7, dtype=dtype)
    torch.nn.init.normal_(expected.bias)
    with torch.device("meta"):
        built = layer_of(SETTINGS[0])
    moved, here = layer_of(SETTINGS[0]).to("meta"), layer_of(SETTINGS[0]).to(dtype)
    for layer in (built, moved):
        assert layer(torch.empty(2, 7, device="meta")).shape == (2, 6)
        assert not any(buffer.is_meta for buffer in layer.buffers())  # what fills parameters in would not fill these
    assigned, emptied, by_name = copy.deepcopy(built), copy.deepcopy(built), copy.deepcopy(built).to(dtype)
    assigned.load_state_dict(expected.state_dict(), assign=True)
    emptied.to_empty(device="cpu").to(dtype).load_state_dict(expected.state_dict())
    for layer in (built, moved):  # as accelerate's set_module_tensor_to_device does it
        for name, parameter in expected.named_parameters():
            layer._parameters[name] = torch.nn.Parameter(parameter.detach().clone())
    for layer in (by_name, here):  # as accelerate's load_checkpoint_and_dispatch does it
        for name, value in expected.state_dict().items():
            assert getattr(layer, name).shape == value.shape
            if name in layer._parameters:
                layer._parameters[name] = torch.nn.Parameter(value.to(layer._parameters[name].dtype))
            else:
                layer._buffers[name] = value.to(layer._buffers[name].dtype)
    for layer in (built, moved, assigned, emptied, by_name, here):
        with torch.inference_mode():
            assert torch.equal(layer(x), expected(x))
        layer(x).sum().backward()
        assert layer.coefficients.grad.abs().sum() > 0 and torch.equal(layer.basis, expected.basis)
        assert layer.state_dict().keys() == expected.state_dict().keys()
        assert layer.get_extra_state().equal(expected.get_extra_state())
        for buffer in layer.buffers():
            if buffer.is_floating_point():
                buffer.mul_(1.01)  # ema_pytorch's PostHocEMA: a weighted sum, also of constants
        assert not layer(x).allclose(expected(x)) and torch.equal(layer.to(dtype)(x), expected(x))


def test_autocast_does_not_reach_the_composition():
    layer = layer_of(SETTINGS[3])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 128)).dtype == torch.bfloat16
        weight = layer.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, layer.weight)


def test_func_transforms():
    layer, x = layer_of(SETTINGS[0]), torch.randn(5, 7)
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    layer(x).square().sum().backward()
    assert torch.allclose(per_sample["coefficients"].sum(0), layer.coefficients.grad, rtol=1e-4, atol=1e-6)
    doubles = {name: parameter.detach().double() for name, parameter in parameters.items()}
    assert torch.func.grad(loss)(doubles, x.double())["coefficients"].dtype == torch.float64
    assert torch.equal(layer(x), layer_of(SETTINGS[0])(x))  # and the layer is again as it was
