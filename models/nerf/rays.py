"""Rays through pixels, and the points along them at which a radiance field is evaluated.

A batch of R rays takes S samples in all, a different number for each. They lie in flat arrays, ray by ray and front to
back, beside `ray_index`, the ray that each sample belongs to.
"""

import torch
from torch import Tensor


def pixel_rays(poses: Tensor, intrinsics: Tensor, views: Tensor, rows: Tensor,
               columns: Tensor) -> tuple[Tensor, Tensor]:
    """The rays through the centers of the given pixels.

    Args:
        poses: (N, 3, 4) camera-to-world, the camera's axes as in OpenGL: x right, y up, looking along −z.
        intrinsics: (N, 4), the focal lengths fx, fy and the center cx, cy of each view, in pixels. The first pixel has
            its center at (0.5, 0.5).
        views, rows, columns: (R,) long, the image and the pixel of each ray.

    Returns:
        Origins and directions, (R, 3) each. A direction is not of unit length: it advances by 1 along the viewing
        axis, so that a distance counted in it is a depth.
    """
    focal, center = intrinsics.to(poses).index_select(0, views).split(2, dim=-1)
    right_down = (torch.stack([columns, rows], dim=-1) + 0.5 - center) / focal
    chosen = poses.index_select(0, views)
    # Not a matrix product: on a GPU those may be allowed to round to TF32.
    right, down = (chosen[:, :, :2] * right_down[:, None]).unbind(-1)
    return chosen[:, :, 3], right - down - chosen[:, :, 2]


class RayDataset:
    """Images with known cameras, and the rays through their pixels.

    The images stay at 8 bits a channel; rays and colors of all pixels as floats would take ten times the memory.

    Args:
        images: (N, H, W, 4) uint8, RGBA with straight alpha.
        poses, intrinsics: as for `pixel_rays`; the poses on the device of the images.
        bg_color: the gray level that the images are composited on.
    """

    def __init__(self, images: Tensor, poses: Tensor, intrinsics: Tensor, bg_color: float):
        self.images, self.poses, self.intrinsics, self.bg_color = images, poses, intrinsics.to(poses), bg_color
        self.count, self.height, self.width, _ = images.shape
        self.pixels = self.count * self.height * self.width

    @classmethod
    def from_views(cls, views, bg_color: float, device: torch.device) -> "RayDataset":
        """The dataset of views that have `images`, `poses` and `intrinsics` as above, on the host, as arrays."""
        return cls(torch.from_numpy(views.images).to(device), torch.from_numpy(views.poses).to(device),
                   torch.from_numpy(views.intrinsics), bg_color)

    def rays(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Origins, directions and colors in [0, 1], (R, 3) each, of pixels given by their place (R,) in all images."""
        of_view = pixels % (self.height * self.width)
        origins, directions = pixel_rays(self.poses, self.intrinsics, pixels // (self.height * self.width),
                                         of_view // self.width, of_view % self.width)
        rgba = self.images.view(-1, 4).index_select(0, pixels) / 255
        return origins, directions, (rgba[:, :3] - self.bg_color) * rgba[:, 3:] + self.bg_color


def box_intersection(origins: Tensor, directions: Tensor, lower: Tensor, upper: Tensor,
                     near: float) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave a box, by the slab test.

    Args:
        origins, directions: (R, 3).
        lower, upper: (3,), the box's corners; or (B, 1, 3), those of several boxes.
        near: both results are clamped to at least this.

    Returns:
        t_min and t_max, (R,) or (B, R) each, in units of `directions`. Where a ray misses the box, t_max ≤ t_min.
    """
    directions = torch.where(directions == 0, 1e-6, directions)
    to_lower, to_upper = (lower - origins) / directions, (upper - origins) / directions
    t_min = torch.minimum(to_lower, to_upper).amax(-1)
    t_max = torch.maximum(to_lower, to_upper).amin(-1)
    return t_min.clamp(min=near), t_max.clamp(min=near)


def ragged_indices(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Number the samples of rays that take different numbers of them.

    Args:
        counts: (R,) long, samples of each ray.

    Returns:
        ray_index and step_index, (S,) long each with S = Σ counts. For counts 2, 0, 3 they are 0 0 2 2 2 and 0 1 0 1 2.
        On a GPU the host waits once, for S.
    """
    rays = torch.arange(len(counts), device=counts.device)
    ray_index = rays.repeat_interleave(counts, output_size=int(counts.sum()))
    starts = counts.cumsum(0) - counts
    return ray_index, torch.arange(len(ray_index), device=counts.device) - starts.index_select(0, ray_index)


def uniform_samples(t_min: Tensor, t_max: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Evenly spaced samples t_min + k step < t_max for k = 0, 1, …, of each ray.

    Args:
        t_min, t_max, step: (R,), in units of the rays' directions. Where t_max ≤ t_min there are no samples.

    Returns:
        t (S,), and ray_index (S,) long.
    """
    ray_index, step_index = ragged_indices(((t_max - t_min) / step).ceil().clamp(min=0).long())
    return t_min.index_select(0, ray_index) + step_index * step.index_select(0, ray_index), ray_index


def points_along(origins: Tensor, directions: Tensor, t: Tensor, ray_index: Tensor) -> Tensor:
    """The points o + t d, (S, 3), of samples at `t` (S,) along the rays `ray_index` (S,)."""
    # Axis by axis: on a CPU rows of three numbers are looked up at a third of the speed.
    return torch.stack([torch.addcmul(origin.index_select(0, ray_index), t, direction.index_select(0, ray_index))
                        for origin, direction in zip(origins.T.contiguous(), directions.T.contiguous())]).T
