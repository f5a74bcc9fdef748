"""The shallow color network of the two radiance fields, plain or Fourier reparameterized (section 5 of the paper)."""

from typing import Any

from torch import nn

from models.checks import as_count
from models.fourier_reparam import FourierReparamLinear

COLOR_MODES = ("relu", "relu+fr")


def color_mlp(mode: str, in_features: int, hidden_features: int, *, low_freq_num: int | None = None,
              high_freq_num: int | None = None, phase_num: int | None = None,
              alpha: float | None = None) -> nn.Sequential:
    """Map (..., in_features) to colors (..., 3) in (0, 1): two ReLU layers of `hidden_features`, then a sigmoid.

    The linear layers start as PyTorch's do. With `relu+fr` the hidden-to-hidden one is Fourier reparameterized; it
    then starts at He's scale, with about six times the variance of the plain one.

    Args:
        mode: relu or relu+fr.
        low_freq_num, high_freq_num, phase_num, alpha: the basis, see `FourierReparamLinear`. `relu+fr` needs all four,
            `relu` uses none.

    Raises:
        ValueError: an unknown mode, a size, count or α out of range, or one of the basis missing.
    """
    if mode not in COLOR_MODES:
        raise ValueError(f"mode must be one of {', '.join(COLOR_MODES)}, not {mode!r}")
    basis: dict[str, Any] = {"low_freq_num": low_freq_num, "high_freq_num": high_freq_num, "phase_num": phase_num,
                             "alpha": alpha}
    width = as_count("hidden_features", hidden_features)
    hidden = FourierReparamLinear(width, width, **basis) if mode == "relu+fr" else nn.Linear(width, width)
    return nn.Sequential(nn.Linear(in_features, width), nn.ReLU(), hidden, nn.ReLU(), nn.Linear(width, 3), nn.Sigmoid())
