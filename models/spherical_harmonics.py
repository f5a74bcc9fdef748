"""Real spherical harmonics, with which Instant-NGP encodes the viewing direction."""

import torch
from torch import Tensor, nn


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
