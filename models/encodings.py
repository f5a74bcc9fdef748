"""Fixed encodings of coordinates, put in front of a network."""

import math

import torch
from torch import Tensor, nn

from models.fourier_reparam import as_count, as_positive


class PositionalEncoding(nn.Module):
    """NeRF's positional encoding (Mildenhall et al., ECCV 2020, Eq. 4), with the coordinates themselves in front.

    Maps (..., in_features) to (..., in_features (1 + 2K)): the coordinates, then for i = 0..K−1 and for each
    coordinate c in turn sin(2^i π c), cos(2^i π c).

    Args:
        in_features: the number of coordinates.
        num_frequencies: K.
        base: what stands in the place of π; DirectVoxGO encodes directions with 1.

    Raises:
        ValueError: a number that is not whole or not positive.
    """

    def __init__(self, in_features: int, num_frequencies: int, base: float = math.pi):
        super().__init__()
        self.base = as_positive("base", base)
        self.in_features = as_count("in_features", in_features)
        self.num_frequencies = as_count("num_frequencies", num_frequencies)
        self.out_features = self.in_features * (1 + 2 * self.num_frequencies)

    def forward(self, x: Tensor) -> Tensor:
        octaves = 2.0 ** torch.arange(self.num_frequencies, dtype=x.dtype, device=x.device)
        angles = x[..., None, :] * (self.base * octaves)[:, None]  # (..., K, in)
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1)  # (..., K, in, 2)
        return torch.cat([x, waves.flatten(-3)], dim=-1)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_frequencies={self.num_frequencies}, base={self.base:g}"
