"""Fixed encodings of coordinates and directions, put in front of a network."""

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


class SphericalHarmonics(nn.Module):
    """The 16 real spherical harmonics of degree 0 to 3, orthonormal on the unit sphere.

    By degree l, and within a degree by order m = −l..l, with the Condon–Shortley phase (−1)^m: the order and the
    signs of Instant-NGP (Müller et al., SIGGRAPH 2022, section 5.4; tiny-cuda-nn counts them as degree 4).

    Maps unit vectors (..., 3) to (..., 16). A vector of another length gives values that are not harmonics.
    """

    out_features = 16

    def forward(self, directions: Tensor) -> Tensor:
        x, y, z = directions.unbind(-1)
        xx, yy, zz = x * x, y * y, z * z
        return torch.stack([
            torch.full_like(x, 0.28209479),
            -0.48860251 * y,
            0.48860251 * z,
            -0.48860251 * x,
            1.09254843 * x * y,
            -1.09254843 * y * z,
            0.94617470 * zz - 0.31539157,
            -1.09254843 * x * z,
            0.54627422 * (xx - yy),
            0.59004359 * y * (yy - 3 * xx),
            2.89061144 * x * y * z,
            0.45704580 * y * (1 - 5 * zz),
            0.37317633 * z * (5 * zz - 3),
            0.45704580 * x * (1 - 5 * zz),
            1.44530572 * z * (xx - yy),
            0.59004359 * x * (3 * yy - xx),
        ], dim=-1)


def voxel_coordinates(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The positions (N, 3) of voxels in [−1, 1]³, both ends in: along axis 1, then 0, then 2, the release's order.

    Args:
        index: the voxels' places in the flattened volume, shape (N,).
        shape: the volume's.
    """
    places = (index // shape[2] % shape[1], index // (shape[1] * shape[2]), index % shape[2])
    # Filled on the device: for the copy of a tensor of numbers the host would wait.
    last = [index.new_full((), side - 1) for side in (shape[1], shape[0], shape[2])]
    return torch.stack([2 * place / end - 1 for place, end in zip(places, last)], dim=-1)
