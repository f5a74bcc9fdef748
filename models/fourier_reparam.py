"""The Fourier reparameterized linear layer of Shi, Zhou and Gu, CVPR 2024 (section 4): the file to read first.

    y = x Wᵀ + b,    W = Λ B,    B[(f, p), j] = α cos(f x_j + φ_p)

Λ is learned. The basis B is fixed: M = (L + H) P sampled cosines of the frequencies 1/L, 2/L, … 1 and 1, 2, … H, each
at the phases φ_p = 2πp/P. The d_in points x_j are spaced evenly over one period 2πL of the lowest frequency (2π where
L = 0), both ends in. The network learns its high frequencies sooner. This file needs PyTorch alone and can be copied.
"""

import copy
import math
import warnings
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SETTINGS = ("in_features", "low_freq_num", "high_freq_num", "phase_num", "alpha", "omega")  # what Λ is made for


class FourierReparamLinear(nn.Module):
    """y = x Wᵀ + b with W = Λ B: Λ, of shape (d_out, M), is learned; B, of shape (M, d_in), is fixed and never stored.

    Every W lacks two ranks (one at the paper's 3D setting): its first and last column are equal, and each row sums to
    zero without its last number. It lacks more where 2 (L + H) < d_in. A layer on coordinates should be an `nn.Linear`.
    `weight` is computed at each use: writing into it has no effect. Write into `coefficients`, or use `from_linear`.
    A state_dict holds `coefficients`, `bias` and, as a tensor, the numbers of `SETTINGS`; loading others is an error.

    Args:
        in_features, out_features: d_in and d_out, the sizes of the last dimension of input and output.
        low_freq_num, high_freq_num, phase_num: L, H and P. Either L or H may be 0.
        alpha: α. It cancels from W at the start; under Adam it scales W's steps, see `step_scale.py`.
        omega: ω₀ of the sine that follows, by which Λ is divided at the start; 1 for any other activation.
        bias, device, dtype: as of `nn.Linear`; the bias starts at zero.

    Raises:
        ValueError: a size or count that is not a whole number in range, an α or ω₀ that is not finite and positive.
    """

    bias: nn.Parameter  # or None, as of nn.Linear
    fit_error: float | None = None  # of a layer that `from_linear` made

    def __init__(self, in_features: int, out_features: int, *, low_freq_num: int, high_freq_num: int, phase_num: int,
                 alpha: float, omega: float = 1.0, bias: bool = True, device=None, dtype=None):
        super().__init__()
        for name, value, smallest in (("in_features", in_features, 1), ("out_features", out_features, 1),
                                      ("low_freq_num", low_freq_num, 0), ("high_freq_num", high_freq_num, 0),
                                      ("low_freq_num or high_freq_num", low_freq_num or high_freq_num, 1),
                                      ("phase_num", phase_num, 1)):
            if not isinstance(value, Integral) or value < smallest:
                raise ValueError(f"{name} must be a whole number of at least {smallest}, not {value!r}")
        for name, number in (("alpha", alpha), ("omega", omega)):
            if not isinstance(number, Real) or not 0 < number < math.inf:
                raise ValueError(f"{name} must be finite and above zero, not {number!r}")
        if 2 <= in_features <= 4:
            warnings.warn(f"the first and last of {in_features} columns of W are equal: use an nn.Linear", stacklevel=2)
        self.in_features, self.out_features, self.phase_num = in_features, out_features, phase_num
        self.low_freq_num, self.high_freq_num, self.alpha, self.omega = low_freq_num, high_freq_num, alpha, omega
        shape = out_features, (low_freq_num + high_freq_num) * phase_num
        self.coefficients = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.register_parameter("bias", nn.Parameter(self.coefficients.new_empty(out_features)) if bias else None)
        for name in ("phases", "waves", "_extra_state"):  # not saved as buffers, as they follow from the arguments
            self.register_buffer(name, None, persistent=False)
        self._set_factors()
        if not self.coefficients.is_meta:  # there torch would load its compiler, to fill nothing
            self.reset_parameters()

    def exact_factors(self) -> tuple[Tensor, Tensor]:
        """α (cos φ, −sin φ), shape (2, P), and (cos fx, sin fx), shape (2, L + H, d_in); B is their `product`."""
        with torch.device("cpu"):  # in float64, as f x reaches 1e5 in the paper's 3D networks
            low = torch.arange(1, self.low_freq_num + 1, dtype=torch.float64) / max(self.low_freq_num, 1)
            high = torch.arange(1, self.high_freq_num + 1, dtype=torch.float64)
            half_period = math.pi * max(self.low_freq_num, 1)
            points = torch.linspace(-half_period, half_period, self.in_features, dtype=torch.float64)
            phases = 2 * math.pi / self.phase_num * torch.arange(self.phase_num, dtype=torch.float64)
        angles = torch.cat([low, high])[:, None] * points
        return self.alpha * torch.stack([phases.cos(), -phases.sin()]), torch.stack([angles.cos(), angles.sin()])

    def reset_parameters(self) -> None:
        """Draw column i of Λ from U(±sqrt(6 / M) / ‖B_i‖₂ / ω₀), so that W starts at He's scale; zero the bias."""
        norms = product(*self.exact_factors()).norm(dim=1)
        # A row of B that is zero at all points but for rounding would get coefficients of 1e12: it gets zeros.
        bound = (math.sqrt(6 / len(norms)) / norms / self.omega).masked_fill(norms < 1e-6 * self.alpha, 0)
        with torch.no_grad():  # column after column, as the released code draws them: the same seed, the same network
            columns = torch.empty_like(self.coefficients.T, memory_format=torch.contiguous_format).uniform_(-1, 1)
            self.coefficients.copy_(columns.T * bound.to(columns))
            if self.bias is not None:
                self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return F.linear(x, self.weight, self.bias)

    @property
    def weight(self) -> Tensor:
        """W = Λ B, shape (out_features, in_features), differentiable with respect to Λ; not subject to autocast."""
        with torch.autocast("cpu" if self.coefficients.is_meta else self.coefficients.device.type, enabled=False):
            return self._compose()

    def _compose(self) -> Tensor:
        # The phases first, which leaves each frequency two amplitudes: P/2 times less arithmetic than Λ B.
        phases, waves = self._factors()
        by_phase = self.coefficients.reshape(-1, self.phase_num).T  # (P, out (L + H))
        amplitudes = (phases @ by_phase).reshape(2, self.out_features, -1)  # of the cosines and of the sines
        return (amplitudes @ waves).sum(0)

    @property
    def basis(self) -> Tensor:
        """B, shape (M, in_features): a new tensor of constants, on the layer's device and in its dtype."""
        return product(*self._factors())

    def _factors(self) -> tuple[Tensor, Tensor]:
        like = self.coefficients.device, self.coefficients.dtype
        if (self.waves.device, self.waves.dtype) != like and not self.coefficients.is_meta:
            self._set_factors()  # something has put other coefficients into the layer
        return self.phases.to(*like), self.waves.to(*like)

    @torch.inference_mode(False)  # a training may follow
    def _set_factors(self) -> None:
        device = "cpu" if self.coefficients.is_meta else self.coefficients.device  # what fills Λ in does not fill these
        self.phases, self.waves = (factor.to(device, self.coefficients.dtype) for factor in self.exact_factors())
        self._extra_state = torch.zeros(len(SETTINGS), dtype=torch.long, device=device)  # accelerate puts a file's here

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self._set_factors()  # after .double(), .to_empty() and the like: exact in the new dtype and the new memory
        return self

    def get_extra_state(self) -> Tensor:
        return torch.tensor([getattr(self, name) for name in SETTINGS], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Any) -> None:
        """Set nothing; ValueError if `state` is that of another basis. A tool's placeholder is passed over."""
        if not isinstance(state, Tensor) or state.is_meta:
            return
        here = self.get_extra_state().to(state.dtype).tolist()
        tolerance = 1e-9 if state.dtype == torch.float64 else 5e-4  # a float32 may have been a float16
        if wrong := [f"{name} is {saved:.9g} in the state_dict and {getattr(self, name):.9g} here" for name, saved, own
                     in zip(SETTINGS, state.tolist(), here) if not math.isclose(saved, own, rel_tol=tolerance)]:
            raise ValueError("; ".join(wrong))

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        try:  # None where a file has no extra state, which strict would miss
            self.set_extra_state(state_dict.setdefault(f"{prefix}_extra_state", None))
        except ValueError as error:
            arguments[-1].append(f"another basis for {prefix}coefficients: {error}")  # error_msgs
        else:
            super()._load_from_state_dict(state_dict, prefix, *arguments)

    @classmethod
    def from_linear(cls, linear: nn.Linear, **settings: Any) -> "FourierReparamLinear":
        """An FR layer with W as near to the weight of `linear` as B's rank allows (least squares), and with its bias.

        `settings` are L, H, P, α and ω₀ by name. Its `fit_error` is ‖Λ B − W‖ / ‖W‖. What hooks, parametrizations or
        a subclass add to `linear` is lost, here and in `fold`; the functions of `backbones.py` refuse such a layer.
        """
        layer = cls(linear.in_features, linear.out_features, **settings, bias=False, device="meta")
        basis, weight = product(*layer.exact_factors()), linear.weight.detach().to("cpu", torch.float64)
        solution = torch.linalg.lstsq(basis.T, weight.T, rcond=1e-9, driver="gelsd").solution.T.contiguous()
        layer.fit_error = ((solution @ basis - weight).norm() / weight.norm()).item()
        layer.coefficients = nn.Parameter(solution.to(linear.weight), linear.weight.requires_grad)
        layer.bias = copy.deepcopy(linear.bias)
        return layer.train(linear.training)

    def fold(self) -> nn.Linear:
        """The ordinary linear layer with the current W and bias, frozen where Λ and bias are."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(self.weight.detach(), self.coefficients.requires_grad)
        linear.bias = copy.deepcopy(self.bias)
        return linear.train(self.training)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name):g}" for name in ("out_features", *SETTINGS))


def product(phases: Tensor, waves: Tensor) -> Tensor:
    """B, shape (M, d_in), as cos(fx + φ) = cos φ cos fx − sin φ sin fx; frequency after frequency, low ones first."""
    return torch.einsum("cp,cfj->fpj", phases, waves).flatten(0, 1)
