"""Adam as DirectVoxGO uses it: for grids of which one step touches few voxels."""

import functools

import torch
from torch import Tensor
from torch.optim import Optimizer


def places_of_nonzero(tensors: list[Tensor]) -> list[Tensor]:
    """The indices, ascending, of what is not 0 in each of some tensors (N,).

    The host waits for their numbers, of all tensors at once. Where PyTorch cannot be told the numbers on a GPU, as in
    2.4, it waits for each tensor.
    """
    if tensors[0].is_cpu or not takes_size(tensors[0].device):
        return [values.nonzero().squeeze(1) for values in tensors]
    counts = torch.stack([values.count_nonzero() for values in tensors]).tolist()
    return [values.nonzero_static(size=count).squeeze(1) for values, count in zip(tensors, counts)]


@functools.cache
def takes_size(device: torch.device) -> bool:
    """Whether `nonzero_static` is there for a device."""
    try:
        torch.zeros(1, device=device).nonzero_static(size=1)
    except NotImplementedError:
        return False
    return True


class MaskedAdam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015) that can leave alone what has no gradient.

    It differs from `torch.optim.Adam` in three things, all from the released code of DirectVoxGO: ε is added to √v
    without a bias correction,

        p ← p − lr √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε);

    a group may skip elements whose gradient is exactly 0, and may scale the steps element by element.

    Args:
        params: parameters or groups. A group may hold, beside those below, `skip_zero_grad`: with True an element
            whose gradient is exactly 0 keeps its p, m and v, while t, which the tensor's elements share, goes on,
            and on a GPU the host waits for the number of the others, see `places_of_nonzero`;
            and `lr_factor`: None, or a tensor of the shape of the group's one parameter that multiplies lr.
        lr: learning rate.
        betas: β₁ and β₂.
        eps: ε.
    """

    def __init__(self, params, lr: float, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-8):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "skip_zero_grad": False, "lr_factor": None})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            whole = [[p, *self._moments(p), p.grad] for p in params]
            parts = whole
            if group["skip_zero_grad"]:  # a step of copies of the elements that are touched, which few are
                whole = [[values.view(-1) for values in of_p] for of_p in whole]
                touched = places_of_nonzero([gradient for *_, gradient in whole])
                parts = [[values.index_select(0, places) for values in of_p] for of_p, places in zip(whole, touched)]
            ps, ms, vs, gs = (list(values) for values in zip(*parts))
            beta1, beta2 = group["betas"]
            torch._foreach_lerp_(ms, gs, 1 - beta1)
            torch._foreach_lerp_(vs, torch._foreach_mul(gs, gs), 1 - beta2)
            updates = ms
            if group["lr_factor"] is not None:
                (m,), factor = ms, group["lr_factor"].to(ms[0])
                updates = [m * (factor.view(-1).index_select(0, touched[0]) if group["skip_zero_grad"] else factor)]
            denominators = torch._foreach_sqrt(vs)
            torch._foreach_add_(denominators, group["eps"])
            steps = [self.state[p]["step"] for p in params]
            torch._foreach_addcdiv_(ps, updates, denominators, [
                -group["lr"] * (1 - beta2**t) ** 0.5 / (1 - beta1**t) for t in steps])
            if group["skip_zero_grad"]:
                for of_p, places, changed in zip(whole, touched, zip(ps, ms, vs)):
                    for values, new in zip(of_p, changed):
                        values.scatter_(0, places, new)
        return loss

    def _moments(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """m and v of a parameter, in a step that is counted."""
        state = self.state[p]
        if not state:
            state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
        state["step"] += 1
        return state["m"], state["v"]
