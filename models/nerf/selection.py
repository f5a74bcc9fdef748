"""Which samples of a batch of rays are looked at, chosen in several steps, of which each needs the one before.

How many were chosen is known on the device alone, and to read it the host waits until all that was queued there is
done. `ExactSelection` does so at every choice, `BoundedSelection` once for all of them.
"""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from models.nerf.rays import ragged_indices
from models.nerf.volume_rendering import Rendering

SPARE = 1 / 32  # of the most that was found lately, to spare
LEAST = 256  # samples to spare
LATELY = 8  # renderings


class ExactSelection:
    """Arrays as long as what was chosen."""

    def along_rays(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """See `ragged_indices`."""
        return ragged_indices(counts)

    def nonzero(self, mask: Tensor) -> Tensor:
        """The indices (K,), never descending, of what is True in a mask (S,)."""
        return mask.nonzero().squeeze(1)

    def visible(self, log_transmittance: Tensor) -> Tensor:
        """Log-transmittances (S,) of the samples chosen last, 0 in the place of those that were not."""
        return log_transmittance


class BoundedSelection(ExactSelection):
    """Arrays of a length that is known beforehand, filled up behind what was chosen.

    The filling is further samples of the last ray, and of a choice among these the last one, again and again. Nothing
    is chosen from it, and `visible` makes it transparent, so that it adds nothing to a picture or to a gradient. Each
    choice has a bound of its own: the most that was found there lately, and a little more. `complete` reads how many
    there really were, all at once. If a choice had as many as its bound or more, nothing is lost: the bound is raised
    and the rendering done again.
    """

    def __init__(self) -> None:
        self.found: list[deque[int]] = []  # at each choice, in the last renderings
        self._counts: list[Tensor] = []  # () int32, as many as there were choices in this rendering
        self._places = torch.empty(0, dtype=torch.int32)
        self._filling = torch.empty(0, dtype=torch.bool)

    def complete(self, render: Callable[[ExactSelection], Rendering]) -> Rendering:
        """What `render` returns with a selection, done with bounds that were large enough. On a GPU the host waits
        once, but for the first time and for a rendering that is done again."""
        while True:
            self._counts = []
            rendering = render(self)
            counts = torch.stack(self._counts).tolist()
            enough = all(count < self.bound(k) for k, count in enumerate(counts))
            for found, count in zip(self.found, counts):
                found.append(count)  # too small a number where the choice before fell short, and then not the largest
            if enough:
                return rendering
            del rendering  # lest there be two graphs in memory

    def bound(self, choice: int) -> int:
        """The length of the arrays of the given choice, counted from 0."""
        return int((1 + SPARE) * max(self.found[choice])) + LEAST

    def _fill(self, count: Tensor) -> Tensor:
        """Note how many were chosen, () int32; the places 0, 1, … up to the bound."""
        if len(self.found) == len(self._counts):
            self.found.append(deque([int(count)], LATELY))
        bound = self.bound(len(self._counts))
        if len(self._places) < bound or self._places.device != count.device:
            self._places = torch.arange(2 * bound, dtype=torch.int32, device=count.device)
        self._counts.append(count)
        places = self._places[:bound]
        self._filling = places >= count
        return places

    def along_rays(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        ends = counts.cumsum(0, dtype=torch.int32)
        places = self._fill(ends[-1])
        ray_index = torch.searchsorted(ends, places, right=True).clamp_(max=len(counts) - 1)
        return ray_index, places - (ends - counts).index_select(0, ray_index)

    def nonzero(self, mask: Tensor) -> Tensor:
        # The first place at which one more has been found than stands before it; what is True in the filling is not.
        found = (mask > self._filling).cumsum(0, dtype=torch.int32)
        places = self._fill(found[-1])
        return torch.searchsorted(found, places, right=True, out_int32=True).clamp_(max=len(mask) - 1)

    def visible(self, log_transmittance: Tensor) -> Tensor:
        return log_transmittance.masked_fill(self._filling, 0)


def select(bounds: BoundedSelection, render: Callable[[ExactSelection], Rendering], rays: Tensor) -> Rendering:
    """What `render` returns with the selection that is the faster for it: where a GPU trains the bounded one."""
    on_gpu = rays.device.type != "cpu" and len(rays) > 0
    return bounds.complete(render) if on_gpu and torch.is_grad_enabled() else render(ExactSelection())
