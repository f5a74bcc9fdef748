"""The multiresolution hash encoding of Instant-NGP (Müller, Evans, Schied and Keller, SIGGRAPH 2022, section 3)."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.checks import as_count
from models.nerf.cpu import share_out

CPU_CHUNK = 2**16  # points of a level that are encoded at once: what is between lies in the cache
PRIMES = (1, 2654435761, 805459861)  # Eq. 4


class HashGrid(nn.Module):
    """L grids of learned features, from coarse to fine, interpolated trilinearly at a point and concatenated.

    Level l has the scale s_l = N_min b^l − 1 with b = exp(ln(N_max / N_min) / (L − 1)) (after Eqs. 2 and 3), and
    R_l = ⌈s_l⌉ + 1 vertices along each axis. A coordinate x lies at s_l x + 1/2 among them. A level of at most T
    vertices has a row of the table for each. A finer one shares T rows, found by the hash

        (x ⊕ 2654435761 y ⊕ 805459861 z) mod T        (Eq. 4);

    nothing is done about collisions. The sizes are those of the authors' tiny-cuda-nn. So is the shift of the vertices
    by half a cell, by which the cells of different levels do not line up. Where the shift reaches past the last vertex,
    the field is continued as a constant.

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
        dense_levels: how many levels, the coarsest ones, have a row for each vertex.

    Raises:
        ValueError: a number that is not whole or not positive, or `finest` below `coarsest`.
    """

    _scale: Tensor
    _last: Tensor
    _last_cell: Tensor
    _steps: Tensor
    _dense_corners: Tensor
    _hashed_start: Tensor
    _weight: Tensor
    _weight_slope: Tensor

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
        if sum(self.sizes) > 2**31:
            raise ValueError(f"a table of {sum(self.sizes)} rows is too large; log2_size={self.log2_size}")
        self.dense_levels = sum(points**3 <= size for points, size in zip(self.resolutions, self.sizes))
        self.table = nn.Parameter(torch.empty(sum(self.sizes), self.features))
        # In int32 a product is right in its last 32 bits, and the hash needs no more. A prime of 32 bits is written as
        # the negative number with the same bits.
        primes = [(prime + 2**31) % 2**32 - 2**31 for prime in PRIMES]
        strides = [primes if level >= self.dense_levels else [1, points, points**2] if points > 1 else [0, 0, 0]
                   for level, points in enumerate(self.resolutions)]

        def beside_points(name: str, numbers, dtype: torch.dtype = torch.int32) -> None:
            self.register_buffer(name, torch.tensor(numbers, dtype=dtype).unsqueeze(-1), persistent=False)

        starts = list(itertools.accumulate(self.sizes[:-1], initial=0))
        beside_points("_scale", self.scales, torch.float64)
        beside_points("_last", [points - 1 for points in self.resolutions])
        beside_points("_last_cell", [max(0, points - 2) for points in self.resolutions])
        # From a cell's lower vertex to itself and to the upper one: (2, 3, L, 1).
        beside_points("_steps", [[[0] * self.levels] * 3, list(zip(*strides))])
        dense = range(self.dense_levels)
        beside_points("_dense_corners", [[starts[level] + sum(itertools.compress(strides[level], corner))
                                          for level in dense] for corner in itertools.product((0, 1), repeat=3)])
        # Counted from the first hashed level, the start is a multiple of T: it has no bit in common with a hash.
        self.hashed_start = sum(self.sizes[:self.dense_levels])
        beside_points("_hashed_start", [start - self.hashed_start for start in starts])
        # A weight w of the upper vertex is 1 − w of the lower one: constants and factors of w, (2, 1, 1).
        beside_points("_weight", [[1.0], [0.0]], torch.float32)
        beside_points("_weight_slope", [[-1.0], [1.0]], torch.float32)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table from U(−1e-4, 1e-4) (section 4)."""
        nn.init.uniform_(self.table, -1e-4, 1e-4)

    def forward(self, x01: Tensor, encoded: Tensor | None = None) -> Tensor:
        """Encode points.

        Args:
            x01: shape (S, 3), in the unit cube; S may be 0. A point outside gets the value of one on its face.
            encoded: what they were encoded to before, with the same table. Only the gradient is then computed.

        Returns:
            The features, coarsest level first, shape (S, L F), in the dtype of the table.
        """
        return _Interpolate.apply(x01.to(self.table.dtype), self.table, self, encoded)

    def batches(self) -> list[slice]:
        """The levels that are encoded at once: on a GPU all, on a CPU each by itself.

        A GPU wants few and large kernels. A CPU wants the rows of one level, 4 MB at the paper's size, in its cache.
        """
        if self.table.device.type == "cpu":
            return [slice(level, level + 1) for level in range(self.levels)]
        return [slice(0, self.levels)]

    def cells(self, x01: Tensor, levels: slice) -> tuple[Tensor, Tensor]:
        """The cells that S points are in, of N neighboring levels, by their lower vertices, and where in them.

        Args:
            x01: (S, 3).

        Returns:
            int32 (3, N, S), and the weights of the upper vertices along each axis, in x01's dtype, (3, N, S).
        """
        x01 = x01.clamp(0, 1).T.contiguous().unsqueeze(1)  # else all that follows is laid out point by point
        position = (x01 * self._scale[levels].to(x01)).add_(0.5).minimum(self._last[levels])
        cell = position.int().minimum(self._last_cell[levels])
        return cell, position.sub_(cell)

    def rows(self, cell: Tensor, levels: slice) -> Iterator[tuple[slice, int, Tensor]]:
        """The rows of the table of the 8 vertices of cells (3, N, S), first of the dense levels, then of the hashed.

        Yields:
            Which of the N levels; the row of the table from which its rows are counted; the rows, int32 (8, n, S). The
            corners come in the order lower, lower, lower; lower, lower, upper; … along x, y and z.
        """
        steps = self._steps[:, :, levels]
        lower = cell * steps[1]
        dense = max(0, min(self.dense_levels, levels.stop) - levels.start)
        if dense:
            yield slice(0, dense), 0, lower[:, :dense].sum(0, dtype=torch.int32) + self._dense_corners[:, levels]
        if dense < cell.shape[1]:  # T is a power of two, so that the remainder is a matter of bits
            hashed = slice(dense, cell.shape[1])
            vertices = lower[:, hashed] + steps[:, :, hashed]
            x, y, z = vertices.bitwise_and_(2**self.log2_size - 1).unbind(1)
            z = z | self._hashed_start[levels][hashed]
            yield hashed, self.hashed_start, ((x[:, None] ^ y)[:, :, None] ^ z).flatten(0, 2)

    def extra_repr(self) -> str:
        return (f"levels={self.levels}, features={self.features}, log2_size={self.log2_size}, "
                f"coarsest={self.coarsest}, finest={self.finest}")


def _columns(numbers: Tensor) -> tuple[Tensor, ...]:
    """The numbers (…, F) by feature, (…) each; by pair, as one complex number, where they come in pairs.

    A pair is then read in one visit to the memory of its row. The encoding spends its time on these visits.
    """
    if numbers.shape[-1] % 2 == 0:
        numbers = torch.view_as_complex(numbers.unflatten(-1, (-1, 2)))
    return numbers.unbind(-1)


def _chunks(numbers: Tensor) -> tuple[Tensor, ...]:
    """The numbers of some points at a time on a CPU, of all elsewhere."""
    return numbers.split(CPU_CHUNK if numbers.is_cpu else max(1, len(numbers)))


class _Interpolate(torch.autograd.Function):
    """Keeps only the points for the backward pass: rows and weights would be 44 bytes a level and sample more."""

    @staticmethod
    def forward(ctx, x01: Tensor, table: Tensor, grid: HashGrid, found: Tensor | None) -> Tensor:
        ctx.save_for_backward(x01)
        ctx.grid = grid
        if found is not None:
            return found.view_as(found)
        encoded = table.new_empty(len(x01), grid.levels, grid.features)

        def encode(levels: slice) -> None:
            for points, target in zip(_chunks(x01), _chunks(encoded)):
                cell, upper = grid.cells(points, levels)
                # A weight for each number of a pair: all is contiguous then, and the interpolation fast.
                upper = upper.unsqueeze(-1).repeat(1, 1, 1, 2 - grid.features % 2)
                for part, start, rows in grid.rows(cell, levels):
                    for column, result in zip(_columns(table[start:]), _columns(target[:, levels][:, part])):
                        corners = column.index_select(0, rows.flatten())
                        corners = torch.view_as_real(corners) if corners.is_complex() else corners.unsqueeze(-1)
                        corners = corners.view(2, 2, 2, *upper[0, part].shape)
                        for weight in upper[:, part]:  # along x, y and z
                            corners = corners[0].lerp(corners[1], weight)
                        result.copy_(_columns(corners)[0].T)

        share_out(encode, grid.batches(), x01.device)
        return encoded.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        (x01,), grid = ctx.saved_tensors, ctx.grid
        table_gradient = gradient.new_zeros(sum(grid.sizes), grid.features)
        gradient = gradient.contiguous().view(len(x01), grid.levels, grid.features)

        def scatter(levels: slice) -> None:
            for points, above in zip(_chunks(x01), _chunks(gradient)):
                cell, upper = grid.cells(points, levels)
                x, y, z = torch.addcmul(grid._weight.to(upper), grid._weight_slope.to(upper),
                                        upper.unsqueeze(1)).unbind(0)
                across = (x[:, None] * y).flatten(0, 1)  # four weights, of an edge along z each
                above = above.transpose(0, 1)[levels]  # (N, points, F)
                for part, start, rows in grid.rows(cell, levels):
                    for target, column in zip(_columns(table_gradient[start:]), _columns(above[part])):
                        of_corners = across[:, None, part] * (z[:, part] * column)
                        target.index_add_(0, rows.flatten(), of_corners.flatten())

        share_out(scatter, grid.batches(), x01.device)
        return None, table_gradient, None, None
