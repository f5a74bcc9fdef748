"""The radiance field of Instant-NGP, in plain PyTorch, with or without Fourier reparameterization.

Müller, Evans, Schied and Keller, "Instant Neural Graphics Primitives", SIGGRAPH 2022, section 5.4 and appendix E. Rays
are marched as in the ngp_pl implementation. The Fourier reparameterization is that of section 5 of the CVPR paper.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.checks import as_count
from models.encodings import SphericalHarmonics
from models.nerf.color_mlp import color_mlp
from models.nerf.cpu import in_chunks
from models.nerf.hash_grid import HashGrid
from models.nerf.occupancy_grid import OccupancyGrid, visible_cells
from models.nerf.rays import RayDataset, box_intersection, points_along, ragged_indices
from models.nerf.volume_rendering import (
    Rendering,
    composite,
    contributing,
    render_weights,
)

DENSITY_FEATURES = 16  # the outputs of the density network; the first is log σ
MIN_TRANSMITTANCE = 1e-4  # the transmittance at which a ray ends


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h: Tensor) -> Tensor:
        ctx.save_for_backward(h)
        return h.clamp(max=80).exp()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors
        return gradient * h.clamp(-15, 15).exp()


def truncated_exp(h: Tensor) -> Tensor:
    """exp(h) with the gradient of exp(clamp(h, −15, 15)), the activation that makes a density of a network's output.

    The gradient neither vanishes nor explodes however far h strays. The result is float32 at least, also under
    autocast. h is cut off at 80, so that no infinity arises.
    """
    return _TruncatedExp.apply(h if h.dtype == torch.float64 else h.float())


class InstantNGPField(nn.Module):
    """Density and color in the cube [−h, h]³, and what they show along rays.

    A point's hash encoding goes through a network of one hidden layer to 16 numbers, the first of them log σ. These
    and the spherical harmonics of the viewing direction go through the color network. Its middle layer is Fourier
    reparameterized in the mode `relu+fr`. The linear layers have biases and start as PyTorch's do. Only the weight of
    the color network's last one is Xavier-uniform (released code of the CVPR paper).

    Densities are per world unit. As in ngp_pl, the step between samples is counted along the directions as they are
    given: their length does not enter the optical depth. Under autocast only the color network runs in the lower
    precision.

    Args:
        mode: relu or relu+fr.
        half_extent: h, in world units.
        levels, log2_size, finest: of the hash encoding, see `HashGrid`.
        resolution, steps: of the occupancy grid, see `OccupancyGrid`.
        bg_color: the gray level behind the cube; 1 is white.
        hidden_features: the width of both networks.
        basis: low_freq_num, high_freq_num, phase_num and alpha of `color_mlp`; `relu+fr` needs them.

    Attributes:
        encoding, density_mlp, direction_encoding, color, occupancy: the parts, in the order of their use; `color` maps
            (S, 32) harmonics and features to (S, 3).

    Raises:
        ValueError: an unknown mode, a size, count or α out of range, or one of the basis missing.
    """

    def __init__(self, mode: str, *, half_extent: float = 0.5, levels: int = 16, log2_size: int = 19,
                 finest: int = 1024, resolution: int = 128, steps: int = 1024, bg_color: float = 1.0,
                 hidden_features: int = 64, **basis):
        super().__init__()
        hidden_features = as_count("hidden_features", hidden_features)
        self.bg_color = bg_color
        self.encoding = HashGrid(levels, log2_size=log2_size, finest=finest)
        self.density_mlp = nn.Sequential(nn.Linear(self.encoding.out_features, hidden_features), nn.ReLU(),
                                         nn.Linear(hidden_features, DENSITY_FEATURES))
        self.direction_encoding = SphericalHarmonics()
        self.color = color_mlp(mode, self.direction_encoding.out_features + DENSITY_FEATURES, hidden_features, **basis)
        nn.init.xavier_uniform_(self.color.get_parameter("4.weight"))
        self.occupancy = OccupancyGrid(resolution, half_extent, steps)

    def density(self, points: Tensor, encoded: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The density and what the color network is told of it.

        Args:
            points: (S, 3), in world units, in the cube; S may be 0.
            encoded: (S, L F), if they were encoded before.

        Returns:
            σ (S,), per world unit, the features (S, 16) and the encoding (S, L F). They are not subject to autocast:
            with the 8 bits of bfloat16 for log σ, σ would be wrong by per cents.
        """
        with torch.autocast(points.device.type, enabled=False):
            encoded = self.encoding(points / (2 * self.occupancy.half_extent) + 0.5, encoded)
            features = in_chunks(self.density_mlp, encoded)
            return truncated_exp(features[:, 0]), features, encoded

    @torch.no_grad()
    def march(self, origins: Tensor, directions: Tensor, offsets: Tensor | None,
              near: float = 0.01) -> tuple[Tensor, Tensor]:
        """The samples at t_0 + k step, k = 0, 1, …, that lie in occupied cells; t_0 is where a ray enters the cube.

        Args:
            origins, directions: (R, 3), in world units; the directions of any length.
            offsets: (R,), moves each ray's samples on by this part of a step.
            near: the least t_0, without the offset.

        Returns:
            t (S,), in units of the directions, and ray_index (S,) long: ray by ray, front to back.
        """
        step, corner = self.occupancy.step, origins.new_full((3,), self.occupancy.half_extent)
        inner_lower, inner_upper = self.occupancy.bounds()
        boxes = torch.stack([-corner, inner_lower]).unsqueeze(1), torch.stack([corner, inner_upper]).unsqueeze(1)
        (start, inner_start), (_, inner_end) = box_intersection(origins, directions, *boxes, near)
        if offsets is not None:
            start = start.add(offsets, alpha=step)
        # Samples are made only where the ray is in the box of the occupied cells.
        first = ((inner_start - start) / step).floor().clamp(min=0)
        past = ((inner_end - start) / step).ceil()
        ray_index, index = ragged_indices((past - first).clamp(min=0).long())
        t = start.index_select(0, ray_index).add(index + first.index_select(0, ray_index), alpha=step)

        occupied = self.occupancy(points_along(origins, directions, t, ray_index)).nonzero().squeeze(1)
        return t.index_select(0, occupied), ray_index.index_select(0, occupied)

    def forward(self, origins: Tensor, directions: Tensor, jitter: bool = False) -> Rendering:
        """Render rays on the background.

        Args:
            origins, directions: (R, 3), as for `march`.
            jitter: move each ray's samples on by a random part of a step; for training.

        Returns:
            Colors and the rest, see `Rendering`, of the samples with more than 10⁻⁴ transmittance in front of them.
        """
        rays = len(origins)
        offsets = torch.rand_like(origins[:, 0]) if jitter else None
        t, ray_index = self.march(origins, directions, offsets)
        with torch.no_grad():
            sigma, features, encoded = self.density(points_along(origins, directions, t, ray_index))
            # Whatever the opacity, as the gradient of `truncated_exp` does not vanish with it.
            seen = contributing(sigma * -self.occupancy.step, ray_index, rays, MIN_TRANSMITTANCE).nonzero().squeeze(1)
        t, ray_index = t.index_select(0, seen), ray_index.index_select(0, seen)
        if torch.is_grad_enabled():
            points = points_along(origins, directions, t, ray_index)
            sigma, features, _ = self.density(points, encoded.index_select(0, seen))
        else:
            sigma, features = sigma.index_select(0, seen), features.index_select(0, seen)

        weights, final_transmittance = render_weights(sigma * -self.occupancy.step, ray_index, rays)
        harmonics = self.direction_encoding(F.normalize(directions, dim=-1))
        color = in_chunks(self.color, torch.cat([harmonics.index_select(0, ray_index), features], dim=-1)).to(sigma)
        return composite(weights, color, t, ray_index, final_transmittance, self.bg_color)

    def update_occupancy(self, everywhere: bool) -> None:
        """Look at the density anew in all cells of the occupancy grid or in some, see `OccupancyGrid.update`."""
        self.occupancy.update(lambda points: self.density(points)[0], everywhere)


def make_field(mode: str, config: dict, dataset: RayDataset) -> InstantNGPField:
    """The field of a run before training, without the cells that no camera sees."""
    field = InstantNGPField(mode, bg_color=dataset.bg_color, **config["field"], **config["network"])
    field = field.to(dataset.poses.device)
    cells = visible_cells(field.occupancy.resolution, field.occupancy.half_extent, dataset.poses, dataset.intrinsics,
                          dataset.height, dataset.width)
    field.occupancy.exclude(~cells)
    return field


def objective(rendering: Rendering, target: Tensor, opacity_weight: float) -> tuple[Tensor, Tensor]:
    """The sums over the rays (R, 3) of the squared error, and of the whole objective."""
    error = (rendering.color - target).square().sum() / 3
    opacity = 1 - rendering.final_transmittance + 1e-10  # its logarithm is finite where there is nothing
    # −o log o: a ray should end in something or in nothing
    return error, error + opacity_weight * torch.special.entr(opacity).sum()
