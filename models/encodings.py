"""Fixed encodings of coordinates and directions, put in front of a network."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import as_count, as_positive


class PositionalEncoding(nn.Module):
    """NeRF's positional encoding (Mildenhall et al., ECCV 2020, Eq. 4), with the coordinates themselves in front.

    Maps (..., in_features) to (..., in_features (1 + 2K)): the coordinates, then for i = 0..K−1 and for each
    coordinate c in turn sin(2^i π c), cos(2^i π c).

    Args:
        in_features: the number of coordinates.
        num_frequencies: K.
        base: the factor in the place of π; DirectVoxGO encodes directions with 1.

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


# The real spherical harmonics of degree 0 to 3 on the unit sphere, with the Condon–Shortley phase (−1)^m. They come by
# degree l, within one by order m = −l..l. Each is a sum of products of coordinates, given by their coefficients.
HARMONICS: tuple[dict[str, float], ...] = (
    {"": 0.28209479},
    {"y": -0.48860251},
    {"z": 0.48860251},
    {"x": -0.48860251},
    {"xy": 1.09254843},
    {"yz": -1.09254843},
    {"zz": 0.94617470, "": -0.31539157},
    {"xz": -1.09254843},
    {"xx": 0.54627422, "yy": -0.54627422},
    {"yyy": 0.59004359, "xxy": -1.77013077},
    {"xyz": 2.89061144},
    {"y": 0.45704580, "yzz": -2.28522900},
    {"zzz": 1.86588166, "z": -1.11952900},
    {"x": 0.45704580, "xzz": -2.28522900},
    {"xxz": 1.44530572, "yyz": -1.44530572},
    {"xyy": 1.77013077, "xxx": -0.59004359},
)


class SphericalHarmonics(nn.Module):
    """The 16 real spherical harmonics of degree 0 to 3, orthonormal on the unit sphere.

    Order and signs are those of Instant-NGP (Müller et al., SIGGRAPH 2022, section 5.4), where tiny-cuda-nn counts them
    as degree 4; see `HARMONICS`. Maps unit vectors (..., 3) to (..., 16).
    """

    out_features = len(HARMONICS)
    coefficients: Tensor

    def __init__(self) -> None:
        super().__init__()
        coefficients = torch.zeros(4, 4, 4, self.out_features, dtype=torch.float64)
        for i, harmonic in enumerate(HARMONICS):
            for product, coefficient in harmonic.items():
                # As many factors 1 as are missing to three.
                coefficients[tuple("1xyz".index(factor) for factor in product.ljust(3, "1")) + (i,)] = coefficient
        self.register_buffer("coefficients", coefficients.flatten(0, 2), persistent=False)

    def forward(self, directions: Tensor) -> Tensor:
        factors = F.pad(directions, (1, 0), value=1)  # 1, x, y, z
        products = factors[..., :, None, None] * factors[..., None, :, None] * factors[..., None, None, :]
        return products.flatten(-3) @ self.coefficients.to(directions.dtype)
