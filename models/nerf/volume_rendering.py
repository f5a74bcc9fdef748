"""Volume rendering of flat arrays of samples, sorted by ray and front to back (see models/nerf/rays.py).

A ray's samples have the opacities α_i. The transmittance in front of sample i is T_i = Π_{j<i} (1 − α_j). The ray's
color is Σ T_i α_i c_i, plus the background times what is left of T at the end (Max, 1995; NeRF, ECCV 2020, Eq. 3). The
functions take L_i = log(1 − α_i), which a density gives without ever forming 1 − α. It is −σ_i δ_i, and for DVGO
−interval · softplus(raw + act_shift). Then T_i = exp(Σ_{j<i} L_j) and α_i = −expm1(L_i).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.nerf.rays import pixel_rays


class Rendering(NamedTuple):
    """What a field shows along R rays, and the K samples that it was made from.

    Attributes:
        color: (R, 3), on the background.
        final_transmittance: (R,), T behind the last sample.
        t, weights, sample_color, ray_index: (K,), (K,), (K, 3) and (K,) long, of the samples.
    """

    color: Tensor
    final_transmittance: Tensor
    t: Tensor
    weights: Tensor
    sample_color: Tensor
    ray_index: Tensor

    @property
    @torch.no_grad()
    def depth(self) -> Tensor:
        """(R,), the mean of t over the samples, by weight, in units of the rays' directions; 0 where there is none."""
        of_samples = torch.stack([self.t, torch.ones_like(self.t)], dim=1)
        # The sum of the weights is 1 − final_transmittance, but exact where that is small.
        depth, opacity = accumulate(self.weights, of_samples, self.ray_index, len(self.color)).unbind(1)
        return depth / opacity.clamp(min=1e-10)


def _sums_along_rays(log_transmittance: Tensor, ray_index: Tensor, rays: int) -> tuple[Tensor, Tensor]:
    """log T in front of each sample, (S,), and, in float64, its running sum where the rays begin and end, (R + 1,)."""
    # The sum runs over the whole batch; its value where the ray begins is taken off. In float32 such a difference would
    # make T wrong in its second digit.
    sums = F.pad(log_transmittance.cumsum(0, dtype=torch.float64), (1, 0))
    bounds = torch.searchsorted(ray_index, torch.arange(rays + 1, device=ray_index.device))
    at_bounds = sums.index_select(0, bounds)
    in_front = sums[:-1] - at_bounds.index_select(0, ray_index)
    return in_front.to(log_transmittance), at_bounds


def _opaque_at_most(log_transmittance: Tensor) -> Tensor:
    # This changes nothing but −inf, as exp(−1000) is zero in float64 already. −inf would make the running sum a NaN for
    # the rays that follow.
    return log_transmittance.clamp(min=-1000)


@torch.no_grad()
def contributing(log_transmittance: Tensor, ray_index: Tensor, rays: int, stop: float,
                 threshold: float | None = None) -> Tensor:
    """Which samples enter the picture: α > threshold, and T in front > stop among those that pass the first test.

    The others count as wholly transparent. So a field may first be evaluated everywhere without a graph, and then with
    one at these samples alone.

    Args:
        log_transmittance, ray_index, rays: as for `render_weights`.
        stop: the T at which a ray ends.
        threshold: on α; without one all pass.

    Returns:
        bool (S,).
    """
    log_transmittance = _opaque_at_most(log_transmittance)
    visible = None if threshold is None else log_transmittance.expm1() < -threshold
    in_front, _ = _sums_along_rays(log_transmittance if visible is None else log_transmittance * visible, ray_index,
                                   rays)
    reached = in_front.exp() > stop
    return reached if visible is None else reached & visible


def render_weights(log_transmittance: Tensor, ray_index: Tensor, rays: int) -> tuple[Tensor, Tensor]:
    """w_i = T_i α_i of each sample and the transmittance that remains of each ray; differentiable.

    Args:
        log_transmittance: (S,), log(1 − α) ≤ 0; −inf for α = 1 is allowed.
        ray_index: (S,) long, ascending.
        rays: R. A ray without samples remains wholly transparent.

    Returns:
        Weights (S,), and the final transmittance (R,), the T behind each ray's last sample. Each ray's weights and its
        final transmittance add up to 1.
    """
    log_transmittance = _opaque_at_most(log_transmittance)
    in_front, at_bounds = _sums_along_rays(log_transmittance, ray_index, rays)
    return -in_front.exp() * log_transmittance.expm1(), at_bounds.diff().to(log_transmittance).exp()


def accumulate(weights: Tensor, values: Tensor, ray_index: Tensor, rays: int) -> Tensor:
    """Σ w_i v_i over the samples of each ray.

    Args:
        weights: (S,).
        values: (S, C), colors for instance.
        ray_index: (S,) long, in any order.
        rays: R.

    Returns:
        (R, C), zero for a ray without samples.
    """
    products = weights[:, None] * values
    return products.new_zeros(rays, values.shape[1]).index_add_(0, ray_index, products)


def composite(weights: Tensor, colors: Tensor, t: Tensor, ray_index: Tensor, final_transmittance: Tensor,
              bg_color: float) -> Rendering:
    """The picture that weighted samples make on a background.

    Args:
        weights, colors, t, ray_index: (K,), (K, 3), (K,) and (K,) long, of the samples.
        final_transmittance: (R,), of each ray.
        bg_color: a gray level.

    Returns:
        The Rendering of the R rays.
    """
    rays = len(final_transmittance)
    color = accumulate(weights, colors, ray_index, rays).add(final_transmittance[:, None], alpha=bg_color)
    return Rendering(color, final_transmittance, t, weights, colors, ray_index)


@torch.no_grad()
def render_image(field: Callable[[Tensor, Tensor], Rendering], pose: np.ndarray, intrinsics: np.ndarray, height: int,
                 width: int, device: torch.device, chunk: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """A whole image, `chunk` rays at a time.

    Args:
        field: maps origins and directions, (R, 3) each on `device`, to a Rendering.
        pose, intrinsics: of the camera, as for `pixel_rays`; (3, 4) and (4,).
        height, width: of the image, in pixels.

    Returns:
        Colors (height, width, 3), not clamped, and depths along the viewing axis (height, width), float32.
    """
    poses, camera = torch.from_numpy(pose)[None].to(device), torch.as_tensor(intrinsics)[None].to(device)
    colors, depths = [], []
    for pixels in torch.arange(height * width, device=device).split(chunk):
        rendering = field(*pixel_rays(poses, camera, torch.zeros_like(pixels), pixels // width, pixels % width))
        colors.append(rendering.color.float())
        depths.append(rendering.depth.float())
    return (torch.cat(colors).reshape(height, width, 3).cpu().numpy(),
            torch.cat(depths).reshape(height, width).cpu().numpy())
