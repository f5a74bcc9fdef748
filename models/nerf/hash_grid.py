"""The multiresolution hash encoding of Instant-NGP (Müller, Evans, Schied and Keller, SIGGRAPH 2022, section 3)."""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.fourier_reparam import as_count

PRIMES = (1, 2654435761, 805459861)  # Eq. 4


class HashGrid(nn.Module):
    """L grids of learned features, from coarse to fine, interpolated trilinearly at a point and concatenated.

    Level l has the scale s_l = N_min b^l − 1 with b = exp(ln(N_max / N_min) / (L − 1)) (after Eqs. 2 and 3), and
    R_l = ⌈s_l⌉ + 1 grid vertices along each axis; a coordinate x lies at s_l x + 1/2 among them. A level of at most
    T points has a row of the table for each of them; a finer one shares T rows, found by the hash

        (x ⊕ 2654435761 y ⊕ 805459861 z) mod T        (Eq. 4),

    with nothing done about collisions. The half cell by which the vertices are shifted, so that the cells of different
    levels do not line up, and the sizes are those of the authors' tiny-cuda-nn; where the shift would reach past the
    last grid vertex, the field is continued as a constant.

    The gradient reaches the table, not the points, and is first-order only. Autocast has no effect.

    Args:
        levels: L.
        features: F, the numbers in a row.
        log2_size: log₂ T.
        coarsest: N_min.
        finest: N_max.

    Attributes:
        table: a Parameter of shape (rows of all levels, F), from U(±1e-4) at the start.
        out_features: L F.
        scales, resolutions, sizes: s_l, R_l and the number of rows, a tuple of L each.

    Raises:
        ValueError: a number that is not whole or not positive, or `finest` below `coarsest`.
    """

    def __init__(self, levels: int = 16, features: int = 2, log2_size: int = 19, coarsest: int = 16,
                 finest: int = 1024):
        super().__init__()
        self.levels, self.features = as_count("levels", levels), as_count("features", features)
        self.log2_size = as_count("log2_size", log2_size)
        self.coarsest = as_count("coarsest", coarsest)
        self.finest = as_count("finest", finest, smallest=self.coarsest)
        self.out_features = self.levels * self.features

        growth = math.log(self.finest / self.coarsest) / max(self.levels - 1, 1)
        self.scales = tuple(self.coarsest * math.exp(level * growth) - 1 for level in range(self.levels))
        # Some s_l is a whole number (63 at the default's level 5) but for rounding, which must not decide the size.
        self.resolutions = tuple(math.ceil(scale - 1e-4) + 1 for scale in self.scales)
        self.sizes = tuple(min(-(-points**3 // 8) * 8, 2**self.log2_size) for points in self.resolutions)
        self.table = nn.Parameter(torch.empty(sum(self.sizes), self.features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table from U(−1e-4, 1e-4) (section 4)."""
        nn.init.uniform_(self.table, -1e-4, 1e-4)

    def forward(self, x01: Tensor) -> Tensor:
        """Encode points.

        Args:
            x01: shape (S, 3), in the unit cube; S may be 0. A point outside gets the value of one on its face.

        Returns:
            The features, coarsest level first, shape (S, L F), in the dtype of the table.
        """
        return _Interpolate.apply(x01.to(self.table.dtype), self.table, self.scales, self.resolutions, self.sizes)

    def extra_repr(self) -> str:
        return (f"levels={self.levels}, features={self.features}, log2_size={self.log2_size}, "
                f"coarsest={self.coarsest}, finest={self.finest}")


def corners(x01: Tensor, scale: float, points: int, size: int) -> tuple[Tensor, Tensor]:
    """The rows in one level of the 8 grid vertices around each of S points, and their trilinear weights.

    Both have shape (8, S): corner-major, which keeps every operation on them contiguous.
    """
    position = x01 * scale + 0.5
    cell = position.floor()
    upper_weight = position - cell
    lower = cell.long()
    vertices = torch.stack([lower, lower + 1]).clamp_(0, points - 1)  # (2, S, 3)
    weight = torch.stack([1 - upper_weight, upper_weight])

    # Whether lower or upper: x along the first dimension, y along the second, z along the third.
    x, y, z = vertices[:, None, None, :, 0], vertices[None, :, None, :, 1], vertices[None, None, :, :, 2]
    if points**3 <= size:
        rows = x + points * y + points**2 * z
    else:
        # Below 2^32 times the resolution, so that int64 holds the products exactly. T is a power of two.
        rows = (PRIMES[0] * x ^ PRIMES[1] * y ^ PRIMES[2] * z) & (size - 1)
    weights = weight[:, None, None, :, 0] * weight[None, :, None, :, 1] * weight[None, None, :, :, 2]
    return rows.flatten(0, 2), weights.flatten(0, 2)


class _Interpolate(torch.autograd.Function):
    """Keeps only the points for the backward pass: rows and weights would be 96 numbers a level and sample more."""

    @staticmethod
    def forward(ctx, x01: Tensor, table: Tensor, scales: tuple, resolutions: tuple, sizes: tuple) -> Tensor:
        ctx.save_for_backward(x01)
        ctx.levels, ctx.features = (scales, resolutions, sizes), table.shape[1]
        encoded = []
        for part, *level in zip(table.split(sizes), scales, resolutions, sizes):
            rows, weights = corners(x01, *level)
            encoded.append((F.embedding(rows, part) * weights[..., None]).sum(0))
        return torch.cat(encoded, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        (x01,) = ctx.saved_tensors
        scales, resolutions, sizes = ctx.levels
        table_gradient = gradient.new_zeros(sum(sizes), ctx.features)
        columns = iter(gradient.unbind(1))
        for part, *level in zip(table_gradient.split(sizes), scales, resolutions, sizes):
            rows, weights = corners(x01, *level)
            for target in part.unbind(1):
                target.scatter_add_(0, rows.flatten(), (weights * next(columns)).flatten())
        return None, table_gradient, None, None, None
