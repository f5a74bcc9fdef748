"""The six networks of the paper: ReLU, ReLU on a positional encoding, and SIREN, each plain and Fourier
reparameterized (section 5)."""

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from .checks import as_count, as_positive
from .encodings import PositionalEncoding
from .fourier_reparam import FourierReparamLinear

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
            all four, the others use none.
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
    basis: dict[str, Any] = {"low_freq_num": low_freq_num, "high_freq_num": high_freq_num, "phase_num": phase_num,
                             "alpha": alpha}
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
    return nn.Sequential(*layers, last)


def fold(model: AnyModule) -> AnyModule:
    """A copy of `model` in which every FR layer is an ordinary `nn.Linear` with the composed weight.

    The copy computes the same output at the cost of a plain network. `model` itself is left as it is; where it is an
    FR layer, the result is a linear layer.

    Raises:
        ValueError: an FR layer has hooks, parametrizations or a forward of its own, which would be lost.
    """
    return _replaced(model, FourierReparamLinear, FourierReparamLinear.fold, lambda name, layer: True)


def reparameterize(model: AnyModule, *, low_freq_num: int, high_freq_num: int, phase_num: int, alpha: float,
                   omega: float = 1.0, where: Callable[[str, nn.Linear], bool] | None = None) -> AnyModule:
    """A copy of `model` in which linear layers are FR layers with the nearest weight: the reverse of `fold`.

    Args:
        low_freq_num, high_freq_num, phase_num, alpha, omega: see `FourierReparamLinear`.
        where: whether to replace a linear layer, from its name in `model.named_modules()` and the layer. Where not
            given, all but the first and the last one in that order are replaced, as in the paper's networks.

    Returns:
        The copy. How near each weight is, the layer's `fit_error` says, see `FourierReparamLinear.from_linear`.

    Raises:
        ValueError: a layer to replace has hooks, parametrizations or a forward of its own; an argument out of range.
    """
    if where is None:
        hidden = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)][1:-1]
        where = lambda name, layer: name in hidden  # noqa: E731
    return _replaced(model, nn.Linear, lambda linear: FourierReparamLinear.from_linear(
        linear, low_freq_num=low_freq_num, high_freq_num=high_freq_num, phase_num=phase_num, alpha=alpha, omega=omega),
        where)


def _replaced(model: AnyModule, cls: type[nn.Module], replace: Callable[[Any], nn.Module],
              where: Callable[[str, Any], bool]) -> AnyModule:
    """A copy of `model` with other layers in the place of those of a class that a call uses by their forward alone."""
    others = {}
    for name, layer in model.named_modules():
        if isinstance(layer, cls) and where(name, layer):
            more = ""
            if getattr(layer.forward, "__func__", None) is not cls.forward or type(layer).__call__ is not cls.__call__:
                more = "a forward of its own"
            elif layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
                more = "hooks (pruning and the like are hooks, too)"
            elif is_parametrized(layer):
                more = "parametrizations"
            if more:
                raise ValueError(f"a {type(layer).__name__} with {more} cannot be replaced, as that would be lost")
            others[id(layer)] = replace(layer)
    # deepcopy takes what its memo holds for a module in the module's place, wherever and however often it occurs.
    return copy.deepcopy(model, others)
