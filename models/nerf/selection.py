"""Which samples of a batch of rays are looked at, chosen in several steps, of which each needs the one before.

An array of what was chosen has a size, and on a GPU the host has to wait for it: each time, all that was queued comes
to its end first. So there are two ways to choose, with the same functions.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.nerf.rays import ragged_indices
from models.nerf.volume_rendering import Rendering

SPARE = 1 / 16  # of a bound, above what was found when it was set
LEAST = 256  # samples to spare


class ExactSelection:
    """Arrays as long as what was chosen."""

    def along_rays(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """See `ragged_indices`."""
        return ragged_indices(counts)

    def nonzero(self, mask: Tensor) -> Tensor:
        """The indices (K,), ascending, of what is True in a mask (S,)."""
        return mask.nonzero().squeeze(1)

    def visible(self, values: Tensor) -> Tensor:
        """Values (S,) of the samples chosen last, 0 in the place of those that were not."""
        return values


class BoundedSelection(ExactSelection):
    """Arrays of a length that is known beforehand, filled up behind what was chosen.

    The filling are further samples of the last ray. It is never chosen from, and `visible` makes its log-transmittance
    or its weights 0, with which it adds nothing to a picture or to a gradient. Each choice has a bound of its own: what
    was found there at first, and a sixteenth more. `complete` reads how many there really were, all at once. If a
    choice had more than its bound, nothing is lost: the bound is raised and the rendering done again.
    """

    def __init__(self) -> None:
        self.bounds: list[int] = []
        self._counts: list[Tensor] = []  # () int32, as many as there were choices in this rendering
        self._places = torch.empty(0, dtype=torch.int32)
        self._chosen = torch.empty(0, dtype=torch.bool)

    def complete(self, render: Callable[[ExactSelection], Rendering]) -> Rendering:
        """What `render` returns with a selection, done with bounds that were large enough. On a GPU the host waits
        once, but for the first time and for a rendering that is done again."""
        while True:
            self._counts = []
            rendering = render(self)
            counts = torch.stack(self._counts).tolist()
            short = next((k for k, count in enumerate(counts) if count > self.bounds[k]), None)
            for k, count in enumerate(counts[:None if short is None else short + 1]):  # behind it they are too low
                if not count <= self.bounds[k] <= _with_spare(_with_spare(count)):  # or far too large
                    self.bounds[k] = _with_spare(count)
            if short is None:
                return rendering
            del rendering  # lest there be two graphs in memory

    def _fill(self, count: Tensor) -> Tensor:
        """Note how many were chosen, () int32; the places 0, 1, … up to the bound."""
        if len(self.bounds) == len(self._counts):
            self.bounds.append(_with_spare(int(count)))
        bound = self.bounds[len(self._counts)]
        if len(self._places) < bound or self._places.device != count.device:
            self._places = torch.arange(2 * bound, dtype=torch.int32, device=count.device)
        self._counts.append(count)
        places = self._places[:bound]
        self._chosen = places < count
        return places

    def along_rays(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        ends = counts.cumsum(0, dtype=torch.int32)
        places = self._fill(ends[-1])
        ray_index = torch.searchsorted(ends, places, right=True).clamp_(max=len(counts) - 1)
        return ray_index, places - (ends - counts).index_select(0, ray_index)

    def nonzero(self, mask: Tensor) -> Tensor:
        # The first place at which one more has been found than stands before it.
        found = (mask & self._chosen).cumsum(0, dtype=torch.int32)
        places = self._fill(found[-1])
        return torch.searchsorted(found, places, right=True, out_int32=True).clamp_(max=len(mask) - 1)

    def visible(self, values: Tensor) -> Tensor:
        return torch.where(self._chosen, values, 0)


def select(bounds: BoundedSelection, render: Callable[[ExactSelection], Rendering], rays: Tensor) -> Rendering:
    """What `render` returns with the selection that is the faster for it: where a GPU trains the bounded one."""
    on_gpu = rays.device.type != "cpu" and len(rays) > 0
    return bounds.complete(render) if on_gpu and torch.is_grad_enabled() else render(ExactSelection())


def _with_spare(count: int) -> int:
    return count + max(LEAST, int(SPARE * count))
