"""The six networks of the paper: ReLU, ReLU on a positional encoding, and SIREN, each plain and Fourier
reparameterized (section 5)."""

import copy
import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encodings import PositionalEncoding
from models.fourier_reparam import (
    FourierReparamLinear,
    as_count,
    as_positive,
    beyond_forward,
    check_basis,
)

AnyModule = TypeVar("AnyModule", bound=nn.Module)

MODES = ("relu", "relu+fr", "relu+pe", "relu+pe+fr", "sin", "sin+fr")


class Sine(nn.Module):
    """sin(ω₀ x), SIREN's activation (Sitzmann et al., NeurIPS 2020, section 3.2)."""

    def __init__(self, omega: float):
        super().__init__()
        self.omega = as_positive("omega", omega)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * x)

    def extra_repr(self) -> str:
        return f"omega={self.omega:g}"


def is_plain(module: nn.Module, *classes: type[nn.Module]) -> bool:
    """Whether a call of `module` does what the `forward` of one of `classes` does and nothing else."""
    return any(isinstance(module, cls) and not beyond_forward(module, cls) for cls in classes)


class SineNetwork(nn.Sequential):
    """Modules one after another, with each sine's ω₀ multiplied into the linear or FR layer in front of it.

    sin(ω₀ (x Wᵀ + b)) = sin(x (ω₀ W)ᵀ + ω₀ b), and W and b are small where the activations are many: in a training step
    they are read or written 7 times, not 11. A layer or sine that is not plain, as where it has hooks, is called by
    itself, as in any `nn.Sequential`.
    """

    def forward(self, x: Tensor) -> Tensor:
        modules: list[Any] = list(self)
        while modules:
            layer = modules.pop(0)
            if modules and is_plain(layer, nn.Linear, FourierReparamLinear) and is_plain(modules[0], Sine):
                omega = modules.pop(0).omega
                x = F.linear(x, omega * layer.weight, None if layer.bias is None else omega * layer.bias).sin()
            else:
                x = layer(x)
        return x


def build_inr(mode: str, *, in_features: int, out_features: int, hidden_features: int, hidden_layers: int,
              low_freq_num: int | None = None, high_freq_num: int | None = None, phase_num: int | None = None,
              alpha: float | None = None, first_omega: float = 30.0, hidden_omega: float = 30.0,
              pe_frequencies: int | None = None) -> nn.Sequential:
    """Build a coordinate network that maps (..., in_features) to (..., out_features).

    One input layer, `hidden_layers` hidden-to-hidden layers, one output layer. In the modes with `fr` the
    hidden-to-hidden layers are Fourier reparameterized; the first and the last layer are ordinary in every mode.

    Args:
        mode: one of relu, relu+fr, relu+pe, relu+pe+fr, sin, sin+fr.
        in_features: the number of coordinates, which lie in [−1, 1].
        out_features: the number of values per point.
        hidden_features: the width.
        hidden_layers: the number of hidden-to-hidden layers.
        low_freq_num, high_freq_num, phase_num, alpha: the basis, see `FourierReparamLinear`. The modes with `fr` need
            all four. The others use none; what is given is checked all the same.
        first_omega, hidden_omega: ω₀ of the first and of the later sine activations; only `sin` uses them.
        pe_frequencies: K of the positional encoding; the paper's where not given, 10 from three coordinates on and
            6 = floor(log2(256 / 4)) below. Only `pe` uses it.

    Raises:
        ValueError: an unknown mode, a size, count, α or ω₀ out of range, or one of the basis missing.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    in_features = as_count("in_features", in_features)
    out_features = as_count("out_features", out_features)
    width = as_count("hidden_features", hidden_features)
    hidden_layers = as_count("hidden_layers", hidden_layers)
    basis = basis_for(mode, low_freq_num=low_freq_num, high_freq_num=high_freq_num, phase_num=phase_num, alpha=alpha)
    first_omega = as_positive("first_omega", first_omega)
    hidden_omega = as_positive("hidden_omega", hidden_omega)
    if pe_frequencies is None:
        pe_frequencies = 10 if in_features >= 3 else 6
    pe_frequencies = as_count("pe_frequencies", pe_frequencies)

    sine = mode.startswith("sin")
    layers: list[nn.Module] = []

    def add(layer: nn.Module, omega: float) -> None:
        layers.extend([layer, Sine(omega) if sine else nn.ReLU()])

    if "+pe" in mode:
        encoding = PositionalEncoding(in_features, pe_frequencies)
        in_features = encoding.out_features
        layers.append(encoding)
    first = nn.Linear(in_features, width)
    if sine:
        nn.init.uniform_(first.weight, -1 / in_features, 1 / in_features)
    add(first, first_omega)

    hidden_bound = math.sqrt(6 / width) / (hidden_omega if sine else 1)
    for _ in range(hidden_layers):
        if "+fr" in mode:
            add(FourierReparamLinear(width, width, **basis, omega=hidden_omega if sine else 1), hidden_omega)
        else:
            plain = nn.Linear(width, width)
            if sine:
                nn.init.uniform_(plain.weight, -hidden_bound, hidden_bound)
            add(plain, hidden_omega)

    last = nn.Linear(width, out_features)
    nn.init.uniform_(last.weight, -hidden_bound, hidden_bound)
    return (SineNetwork if sine else nn.Sequential)(*layers, last)


def basis_for(mode: str, **basis: Any) -> dict[str, Any]:
    """The four that make a basis, as given; ValueError if one is out of range, or None where `mode` needs it."""
    for name, value in basis.items():
        if value is None and "+fr" in mode:
            raise ValueError(f"{mode} needs {name}, which is not given")
    check_basis(**{name: 1 if value is None else value for name, value in basis.items()})
    return basis


def parameter_groups(model: nn.Module, lr: float, hidden_lr: float = 1.0,
                     network: nn.Module | None = None) -> list[dict[str, Any]]:
    """The parameters of a model for an optimizer, in two groups with a learning rate each; in one if that is the same.

    Args:
        lr: of all parameters but the weights of the hidden-to-hidden layers.
        hidden_lr: the factor on `lr` for those, the coefficients of an FR layer or the weight of what stands in its
            place.
        network: the part of the model whose hidden-to-hidden layers are meant, the model itself where not given. Its
            linear and FR layers come in `modules()` in the order in which they are applied.

    Returns:
        Groups with `params`, `lr`, and the same number as `initial_lr`, from which schedules start.
    """
    if hidden_lr == 1:  # a step of two groups takes longer
        return [{"params": list(model.parameters()), "lr": lr, "initial_lr": lr}]
    linear = [layer for layer in (network or model).modules() if isinstance(layer, (nn.Linear, FourierReparamLinear))]
    hidden = [layer.weight if isinstance(layer, nn.Linear) else layer.coefficients for layer in linear[1:-1]]
    others = [parameter for parameter in model.parameters() if not any(parameter is weight for weight in hidden)]
    return [{"params": params, "lr": lr * factor, "initial_lr": lr * factor}
            for params, factor in ((others, 1.0), (hidden, hidden_lr))]


def fold(model: AnyModule) -> AnyModule:
    """A copy of `model` in which every FR layer is an ordinary `nn.Linear` with the composed weight.

    The copy computes the same output at the cost of a plain network. `model` itself is left as it is; where it is an
    FR layer, the result is a linear layer. ValueError where an FR layer cannot be folded, see its `fold`.
    """
    linears = {layer: layer.fold() for layer in model.modules() if isinstance(layer, FourierReparamLinear)}
    # deepcopy takes what its memo holds for a module in the module's place, wherever and however often it occurs.
    return copy.deepcopy(model, {id(layer): linear for layer, linear in linears.items()})
