"""The shallow color network of the two renderers, plain or Fourier reparameterized (section 5 of the paper)."""

from torch import nn

from models.fourier_reparam import FourierReparamLinear

COLOR_MODES = ("relu", "relu+fr")


def color_mlp(mode: str, in_features: int, width: int, *, low_freq_num: int, high_freq_num: int, phase_num: int,
              alpha: float) -> nn.Sequential:
    """Map (..., in_features) to colors (..., 3) in (0, 1): two ReLU layers of `width`, then a sigmoid.

    The linear layers start as PyTorch's do. With `relu+fr` the one from width to width is Fourier reparameterized; it
    then starts at He's scale, with about six times the variance of the plain one.

    Args:
        mode: relu or relu+fr.
        low_freq_num, high_freq_num, phase_num, alpha: the basis, see `FourierReparamLinear`.

    Raises:
        ValueError: an unknown mode, or a size or count out of range.
    """
    if mode not in COLOR_MODES:
        raise ValueError(f"mode must be one of {', '.join(COLOR_MODES)}, not {mode!r}")
    hidden: nn.Module
    if mode == "relu+fr":
        hidden = FourierReparamLinear(width, width, low_freq_num=low_freq_num, high_freq_num=high_freq_num,
                                      phase_num=phase_num, alpha=alpha)
    else:
        hidden = nn.Linear(width, width)
    return nn.Sequential(nn.Linear(in_features, width), nn.ReLU(), hidden, nn.ReLU(), nn.Linear(width, 3), nn.Sigmoid())
