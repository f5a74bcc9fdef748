"""The Fourier reparameterized linear layer: the contribution of the paper, and the file to read first.

Shi, Zhou and Gu, "Improved Implicit Neural Representation with Fourier Reparameterized Training", CVPR 2024.

A linear layer whose weight is not learned directly but composed, W = Λ B, from learned coefficients Λ and a fixed
basis B of sampled cosines. The set of functions the network can compute is the same but for two ranks of W; the path
that gradient descent takes through it is not, and high frequencies are learned sooner.

This file needs nothing but PyTorch: copy it alone into another project, or see `hubconf.py`.
"""

import math
import operator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

SETTINGS = ("in_features", "low_freq_num", "high_freq_num", "phase_num", "alpha", "omega")  # what Λ is made for


class FourierReparamLinear(nn.Module):
    """y = x Wᵀ + b with W = Λ B (paper, section 4): Λ is learned, the Fourier basis B is fixed.

    The frequencies are k/L for k = 1..L, then k for k = 1..H; the phases φ_p = 2πp/P for p = 0..P−1. With x_j the
    d_in points spaced evenly over one period T = 2πL of the lowest frequency (2π where L = 0), both ends in,

        B[(f, p), j] = α cos(f x_j + φ_p),    M = (L + H) P rows, frequency-major, low frequencies first.

    The rank of B is d_in − 2 at the paper's settings. The first and the last column of every W are equal, as x_0 and
    the last x_j are a period apart; and the rows of W sum to zero without the last column, as each wave does over the
    d_in − 1 points of its period. In 3D (d_in = L = 256) the rank is d_in − 1: the frequency 255/256 makes one turn
    from point to point and so is a constant, which does not sum to zero.

    B is never stored. As cos(fx + φ) = cos φ cos(fx) − sin φ sin(fx), W is composed in two small products: contracting
    its P phases with (cos φ, −sin φ) leaves each frequency two amplitudes, and the d_out × 2(L + H) matrix of those is
    multiplied by the waves (cos fx, sin fx). That is about P/2 times less arithmetic than Λ B.

    Args:
        in_features: d_in, the size of the last dimension of the input.
        out_features: d_out, the size of the last dimension of the output.
        low_freq_num: L, the number of frequencies up to 1. May be 0 where `high_freq_num` is not, and the reverse.
        high_freq_num: H, the number of whole frequencies from 1.
        phase_num: P, the number of phases.
        alpha: α, the scale of the basis. It cancels from W at the start; under Adam it then scales W's steps, so that
            it says something only together with the learning rate, see `step_scale`.
        omega: ω₀ of the sine activation that follows, by which Λ is divided at the start; 1 for any other activation.

    Attributes:
        coefficients: Λ, a Parameter of shape (out_features, M).
        bias: a Parameter of shape (out_features,), zeros at the start.

    A state_dict holds these two and, as its extra state, d_in and the last five arguments, without which Λ means
    nothing: loading one of another basis is a RuntimeError that names what differs. One without them, as earlier
    versions of this layer wrote it, is taken to be of this layer's basis.

    Raises:
        ValueError: a size or count that is not a whole number in range, an α or ω₀ that is not finite and positive.
    """

    phases: Tensor
    waves: Tensor

    def __init__(self, in_features: int, out_features: int, *, low_freq_num: int, high_freq_num: int, phase_num: int,
                 alpha: float, omega: float = 1.0):
        super().__init__()
        self.in_features = as_count("in_features", in_features)
        self.out_features = as_count("out_features", out_features)
        self.low_freq_num, self.high_freq_num, self.phase_num, self.alpha = check_basis(
            low_freq_num, high_freq_num, phase_num, alpha)
        self.omega = as_positive("omega", omega)

        frequencies = self.low_freq_num + self.high_freq_num
        self.coefficients = nn.Parameter(torch.empty(self.out_features, frequencies * self.phase_num))
        self.bias = nn.Parameter(torch.empty(self.out_features))
        # Not persistent: both follow from the arguments.
        self.register_buffer("phases", None, persistent=False)
        self.register_buffer("waves", None, persistent=False)
        self._set_factors()
        self.reset_parameters()

    def _factors(self) -> tuple[Tensor, Tensor]:
        """α (cos φ, −sin φ) of shape (2, P), and (cos fx, sin fx) of shape (2, L + H, d_in), in float64 on the CPU.

        float64 because f x reaches 1e5 at the paper's 3D setting, where float32 is good for two digits of a cosine.
        """
        with torch.device("cpu"):
            low = torch.arange(1, self.low_freq_num + 1, dtype=torch.float64) / max(self.low_freq_num, 1)
            high = torch.arange(1, self.high_freq_num + 1, dtype=torch.float64)
            half_period = math.pi * max(self.low_freq_num, 1)
            points = torch.linspace(-half_period, half_period, self.in_features, dtype=torch.float64)
            phases = 2 * math.pi / self.phase_num * torch.arange(self.phase_num, dtype=torch.float64)
        angles = torch.cat([low, high])[:, None] * points
        return (self.alpha * torch.stack([phases.cos(), -phases.sin()]),
                torch.stack([angles.cos(), angles.sin()]))

    def _set_factors(self) -> None:
        phases, waves = self._factors()
        self.phases = phases.to(self.coefficients)
        self.waves = waves.to(self.coefficients)

    def _apply(self, fn, recurse=True):
        # .double(), .to(device), .to_empty() and the like end here. Computing the factors anew keeps them exact in
        # the new dtype, and defined where memory was only allocated.
        super()._apply(fn, recurse)
        if not self.coefficients.is_meta:
            self._set_factors()
        return self

    def get_extra_state(self) -> dict[str, float]:
        """What a state_dict says of the basis: plain numbers by the names of the arguments."""
        return {name: getattr(self, name) for name in SETTINGS}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Set nothing; ValueError if `state` is that of another basis."""
        settings = ((name, getattr(self, name), state.get(name, getattr(self, name))) for name in SETTINGS)
        differences = [f"{name} is {saved!r} in the state_dict and {here!r} here"
                       for name, here, saved in settings if not math.isclose(here, saved)]
        if differences:
            raise ValueError("; ".join(differences))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs):
        # The dictionary is load_state_dict's own copy. Without this, strict would miss what earlier versions left out.
        state = state_dict.setdefault(prefix + "_extra_state", self.get_extra_state())
        columns = state_dict.get(prefix + "coefficients", self.coefficients).shape[1:].numel()
        try:
            self.set_extra_state(state)
            if columns != self.coefficients.shape[1]:
                raise ValueError(f"M = (low_freq_num + high_freq_num) phase_num is {columns} in the state_dict and "
                                 f"({self.low_freq_num} + {self.high_freq_num}) {self.phase_num} here")
        except ValueError as error:
            error_msgs.append(f"another basis for {prefix}coefficients: {error}")
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)
        # With assign=True the parameters take the dtype and the device of what is loaded.
        if not self.coefficients.is_meta:
            self._set_factors()

    def reset_parameters(self) -> None:
        """Draw column i of Λ from U(±sqrt(6 / M) / ‖B_i‖₂ / ω₀), so that W starts at He's scale; zero the bias."""
        phases, waves = self._factors()
        gram = torch.einsum("cfj,dfj->fcd", waves, waves)
        norms = torch.einsum("cp,fcd,dp->fp", phases, gram, phases).clamp(min=0).sqrt().flatten()  # (M,)
        bound = math.sqrt(6 / len(norms)) / norms / self.omega
        # A row that is zero at every sample point but for rounding (as cos(255 x_j + π/2) at d_in = 256 and L = 256)
        # adds nothing to W whatever its coefficient; without this it would get one of 1e12.
        bound = bound.masked_fill(norms < 1e-6 * self.alpha, 0)
        with torch.no_grad():
            # Column after column, as the released code draws them: the same seed gives the same network.
            columns = torch.empty_like(self.coefficients.T, memory_format=torch.contiguous_format).uniform_(-1, 1)
            self.coefficients.copy_(columns.T * bound.to(columns))
            self.bias.zero_()

    @property
    def basis(self) -> Tensor:
        """B, shape (M, in_features): a new tensor of constants, on the layer's device and in its dtype."""
        return torch.einsum("cp,cfj->fpj", self.phases, self.waves).flatten(0, 1)

    @property
    def weight(self) -> Tensor:
        """W = Λ B, shape (out_features, in_features), differentiable with respect to Λ; not subject to autocast."""
        device = self.coefficients.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._compose()
        return self._compose()

    def _compose(self) -> Tensor:
        by_phase = self.coefficients.reshape(-1, self.phase_num).T  # (P, out (L + H))
        amplitudes = (self.phases @ by_phase).reshape(2, self.out_features, -1)  # of the cosines and of the sines
        return (amplitudes @ self.waves).sum(0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return F.linear(x, self.weight, self.bias)

    def step_scale(self) -> float:
        """κ: how far Adam's first step moves W, root mean square over its elements, in units of the learning rate.

        That step moves each coefficient by ± lr, against the sign of its gradient, and so W by −lr sign(G Bᵀ) B, G the
        gradient with respect to W. An ordinary layer's W moves by −lr sign(G), where κ = 1. For a G of independent
        normal numbers those in a row of G Bᵀ are normal, too, with the correlations C of B's rows, and the covariance
        of their signs is S = (2/π) arcsin C. So

            κ² = trace(Bᵀ S B) / d_in,

        which this computes. Rule of thumb: κ ≈ 0.65 α M / sqrt(d_in). The d_in points tell about d_in / 2 frequencies
        apart, on which the others alias. Where they do so evenly, as at the paper's settings, n = 2 M / d_in rows share
        each, of norm α sqrt(d_in / 2), and S is zero between rows of different ones. Two that share one, at phases
        δ apart, have C = cos δ and S = 1 − 2|δ| / π, and the mean of S C over all δ is 4 / π². Thus

            κ² ≈ (1 / d_in) (d_in / 2) (n² α² d_in / 2) (4 / π²) = (2/π α M)² / d_in,

        and 2/π = 0.637 becomes 0.64 to 0.66 as the last point repeats the first and P is finite. With fewer frequencies
        than half d_in κ is larger.
        """
        phases, waves = self._factors()
        opposites = self.phase_num % 2 == 0  # where φ + π is there with φ, as a row and its negative move W alike
        if opposites:
            phases = phases[:, :self.phase_num // 2]
        gram = torch.einsum("cfj,dgj->fgcd", waves, waves)
        norms = torch.einsum("cp,ffcd,dp->fp", phases, gram, phases).clamp(min=0).sqrt()
        norms = norms.clamp(min=1e-6 * self.alpha)  # of rows that are zero but for rounding, see reset_parameters
        trace = 0.0
        for f in range(len(gram)):  # one after another, as M × M numbers are too many
            products = torch.einsum("cp,gcd,dq->pgq", phases, gram[f, f:], phases)  # of f's rows of B with later rows
            correlations = (products / (norms[f, :, None, None] * norms[f:])).clamp(-1, 1)
            with_each = 2 / math.pi * (correlations.asin() * products).sum((0, 2))
            trace += 2 * with_each.sum().item() - with_each[0].item()
        return (2 if opposites else 1) * math.sqrt(trace / self.in_features)

    def fold(self) -> nn.Linear:
        """The ordinary linear layer with this layer's current W and bias: the same output, and no cost beyond it.

        What was frozen, Λ or the bias, is frozen in it. A subclass may compose another W, which is folded as it is.

        Raises:
            ValueError: the layer does more than x Wᵀ + b, or has hooks or parametrizations, which would be lost.
        """
        obstacle = beyond_forward(self, FourierReparamLinear)
        if not obstacle and is_parametrized(self):
            obstacle = "parametrizations"
        if obstacle:
            raise ValueError(f"a {type(self).__name__} with {obstacle} cannot be folded into a linear layer")
        linear = nn.utils.skip_init(nn.Linear, self.in_features, self.out_features,
                                    device=self.bias.device, dtype=self.bias.dtype)
        with torch.no_grad():
            linear.weight.copy_(self.weight)
            linear.bias.copy_(self.bias)
        linear.weight.requires_grad_(self.coefficients.requires_grad)
        linear.bias.requires_grad_(self.bias.requires_grad)
        return linear.train(self.training)

    def extra_repr(self) -> str:
        return (f"in_features={self.in_features}, out_features={self.out_features}, low_freq_num={self.low_freq_num}, "
                f"high_freq_num={self.high_freq_num}, phase_num={self.phase_num}, alpha={self.alpha:g}, "
                f"omega={self.omega:g}")


def beyond_forward(module: nn.Module, cls: type[nn.Module]) -> str:
    """What a call of `module` does beside the `forward` of `cls`, in words; empty if nothing."""
    if getattr(module.forward, "__func__", None) is not cls.forward or type(module).__call__ is not nn.Module.__call__:
        return "a forward of its own"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return "hooks (pruning and the like are hooks, too)"
    return ""


def as_count(name: str, value: int, smallest: int = 1) -> int:
    """`value` as an int; ValueError if it is not a whole number or lies below `smallest`."""
    try:
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, not {value!r}") from None
    if count < smallest:
        raise ValueError(f"{name} must be at least {smallest}, not {value!r}")
    return count


def as_positive(name: str, value: float) -> float:
    """`value` as a float; ValueError if it is not a finite number above zero."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, not {value!r}") from None
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be finite and above zero, not {value!r}")
    return number


def check_basis(low_freq_num: int, high_freq_num: int, phase_num: int, alpha: float) -> tuple[int, int, int, float]:
    """The four that make a basis, as numbers; ValueError if they make none."""
    low = as_count("low_freq_num", low_freq_num, smallest=0)
    high = as_count("high_freq_num", high_freq_num, smallest=0)
    as_count("low_freq_num + high_freq_num", low + high)
    return low, high, as_count("phase_num", phase_num), as_positive("alpha", alpha)
