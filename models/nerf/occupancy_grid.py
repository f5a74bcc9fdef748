"""Instant-NGP's occupancy grid, which tells where a scene has density, so that marching skips empty space.

Müller, Evans, Schied and Keller, "Instant Neural Graphics Primitives", SIGGRAPH 2022, appendix E.2, with the numbers of
the ngp_pl implementation. The world is the cube [−h, h]³, cut into R³ cells.
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.checks import as_count, as_positive

CHUNK = 2**19  # points evaluated at once
DECAY = 0.95
LEAST_OPTICAL_DEPTH = 0.01  # over one marching step; a cell that reaches it is never empty


class OccupancyGrid(nn.Module):
    """Keeps for each cell a decayed maximum of the densities seen in it, and whether that makes it occupied.

    Args:
        resolution: R, the cells along an axis.
        half_extent: h, in world units.
        steps: the marching steps along the diagonal of the cube, which set the optical depth of one step.

    Attributes:
        density: buffer, shape (R, R, R), axes x, y, z; per world unit. 0 at the start; −1 in an excluded cell.
        occupied: buffer, bool, the same shape. False everywhere until the first update.
        step: the length of one marching step, 2√3 h / steps, in world units.
        threshold: the density above which a cell is occupied whatever the mean, 0.01 / step.

    Raises:
        ValueError: a number that is not positive, or a count that is not whole.
    """

    density: Tensor
    occupied: Tensor

    def __init__(self, resolution: int = 128, half_extent: float = 0.5, steps: int = 1024):
        super().__init__()
        self.resolution = as_count("resolution", resolution)
        self.half_extent = as_positive("half_extent", half_extent)
        self.step = 2 * math.sqrt(3) * self.half_extent / as_count("steps", steps)
        self.threshold = LEAST_OPTICAL_DEPTH / self.step
        self.register_buffer("density", torch.zeros((self.resolution,) * 3))
        self.register_buffer("occupied", torch.zeros((self.resolution,) * 3, dtype=torch.bool))
        self._bounds: tuple[Tensor, int, torch.dtype, Tensor, Tensor] | None = None

    def forward(self, points: Tensor) -> Tensor:
        """Whether each point lies in an occupied cell; not so outside the cube.

        Args:
            points: shape (S, 3), in world units.

        Returns:
            bool, shape (S,).
        """
        cell = (points * (self.resolution / (2 * self.half_extent)) + self.resolution / 2).floor()
        x, y, z = cell.long().clamp_(0, self.resolution - 1).unbind(-1)
        inside = (points.abs() <= self.half_extent).all(-1)
        place = z.add(y.add(x, alpha=self.resolution), alpha=self.resolution)
        return self.occupied.take(place) & inside

    @torch.no_grad()
    def update(self, density_of: Callable[[Tensor], Tensor], everywhere: bool) -> None:
        """Look at the density anew, at one random point in each of some cells.

        Every cell decays, looked at or not: density ← max(0.95 density, newest). A cell is then occupied if its density
        is above the lower one of two: the mean of the positive densities, and `threshold`. If no cell is, all that are
        not excluded are taken to be occupied, and a warning is given.

        Args:
            density_of: maps points (S, 3) in the cube to densities (S,), none negative. Called with up to 2^19 points.
            everywhere: look at all R³ cells, as in the first 256 training steps. Else R³/4 are drawn uniformly and as
                many from those above `threshold`, both with replacement.
        """
        if everywhere:
            cells = torch.arange(self.density.numel(), device=self.density.device)
        else:
            cells = self._some_cells()
        newest = torch.zeros_like(self.density).flatten()
        for chunk in cells.split(CHUNK):
            # Where a cell was drawn twice, the larger counts: the same whatever the order, on a GPU too.
            newest.scatter_reduce_(0, chunk, density_of(self._random_points(chunk)).to(newest), "amax")

        decayed = torch.maximum(DECAY * self.density, newest.view_as(self.density))
        self.density.copy_(torch.where(self.density < 0, self.density, decayed))
        # Without a positive cell the mean is 0. As undefined it would leave the grid empty for good.
        mean = self.density.clamp(min=0).sum() / (self.density > 0).sum().clamp(min=1)
        self.occupied.copy_(self.density > mean.clamp(max=self.threshold))
        if not self.occupied.any():
            warnings.warn("no cell of the occupancy grid is occupied; taking all of them to be", stacklevel=3)
            self.occupied.copy_(self.density >= 0)

    def _some_cells(self) -> Tensor:
        count, device = self.density.numel() // 4, self.density.device
        uniform = torch.randint(self.density.numel(), (count,), device=device)
        dense = (self.density.flatten() > self.threshold).nonzero().squeeze(1)
        if not len(dense):
            return uniform
        return torch.cat([uniform, dense[torch.randint(len(dense), (count,), device=device)]])

    def _random_points(self, cells: Tensor) -> Tensor:
        """A uniformly random point in each cell: (S,) flat indices to (S, 3)."""
        axes = torch.stack([cells // self.resolution**2, cells // self.resolution % self.resolution,
                            cells % self.resolution], dim=-1)
        jitter = torch.rand(axes.shape, device=axes.device, dtype=self.density.dtype)
        return ((axes + jitter) / self.resolution * 2 - 1) * self.half_extent

    def exclude(self, cells: Tensor) -> None:
        """Make cells empty for good. `cells`: bool, shape (R, R, R), as the inverse of `visible_cells`."""
        self.density.masked_fill_(cells, -1)
        self.occupied.masked_fill_(cells, False)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest corner, shape (3,) each, of a box that holds all occupied cells.

        The box is a cell wider on each side, within the cube, so that a ray clipped to it loses no sample to rounding.
        Where nothing is occupied it is the whole cube. It is computed anew when `occupied` has changed.
        """
        looked_at = self.occupied, self.occupied._version, self.density.dtype
        if self._bounds and self._bounds[0] is looked_at[0] and self._bounds[1:3] == looked_at[1:]:
            return self._bounds[3:]
        hit = torch.stack([self.occupied.any(2).any(1), self.occupied.any(2).any(0), self.occupied.any(1).any(0)])
        first = hit.int().argmax(1) - 1  # of a maximum that occurs more than once, argmax gives the first
        end = self.resolution - hit.flip(1).int().argmax(1) + 1
        # With nothing occupied first is −1 and end R + 1, and the clamps give the cube.
        corners = torch.stack([first.clamp(min=0), end.clamp(max=self.resolution)]).to(self.density.dtype)
        lower, upper = (corners / self.resolution * 2 - 1) * self.half_extent
        self._bounds = *looked_at, lower, upper
        return lower, upper

    def extra_repr(self) -> str:
        return f"resolution={self.resolution}, half_extent={self.half_extent:g}, step={self.step:g}"


def visible_cells(resolution: int, half_extent: float, poses: Tensor, intrinsics: Tensor, height: int, width: int,
                  near: float = 0.01) -> Tensor:
    """The cells whose center some camera sees from no nearer than `near`, and no camera sees from nearer than that.

    Args:
        resolution, half_extent: those of the grid.
        poses: shape (N, 3, 4), camera to world, in the units of the grid; OpenGL axes (x right, y up, looking to −z).
        intrinsics: shape (N, 4), fx, fy, cx, cy of each view in pixels, on any device.
        height, width: of the images, in pixels.
        near: a depth along the optical axis.

    Returns:
        bool, shape (R, R, R), axes x, y, z, on the device of the poses.
    """
    index = torch.arange(resolution, dtype=poses.dtype, device=poses.device)
    center = ((index + 0.5) / resolution * 2 - 1) * half_extent
    seen = torch.zeros((resolution,) * 3, dtype=torch.bool, device=poses.device)
    too_near = seen.clone()
    for pose, (fx, fy, cx, cy) in zip(poses, intrinsics.tolist(), strict=True):
        rotation, position = pose[:, :3], pose[:, 3]
        # Camera coordinates are linear in x, y and z, so that a sum of three vectors gives them all.
        along = rotation[:, :, None] * (center - position[:, None])[:, None]  # (world axis, camera axis, R)
        right, up, back = along[0, :, :, None, None] + along[1, :, None, :, None] + along[2, :, None, None, :]
        # 0 ≤ fx x / depth + cx < width and the same downwards, without the division; false at depth 0. From the middle
        # of the image, in halves of it, as back is −depth:
        across = 2 * fx / width * right + (1 - 2 * cx / width) * back
        down = -2 * fy / height * up + (1 - 2 * cy / height) * back
        in_image = (across >= back) & (across < -back) & (down >= back) & (down < -back)
        seen |= in_image & (-back >= near)
        too_near |= in_image & (-back < near)
    return seen & ~too_near
