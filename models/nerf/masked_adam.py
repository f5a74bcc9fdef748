"""Adam as DirectVoxGO uses it: for grids of which one step touches few voxels."""

import torch
from torch import Tensor
from torch.optim import Optimizer


class MaskedAdam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015) that can leave alone what has no gradient.

    It differs from `torch.optim.Adam` in three things, all from the released code of DirectVoxGO: ε is added to √v
    without a bias correction,

        p ← p − lr √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε);

    a group may skip elements whose gradient is exactly 0, and may scale the steps element by element.

    Args:
        params: parameters or groups. A group may hold, beside those below, `skip_zero_grad`: with True an element
            whose gradient is exactly 0 keeps its p, m and v, while t, which the tensor's elements share, goes on,
            and on a GPU the host waits for the number of the others;
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
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g, state = p.grad, self.state[p]
                if not state:
                    state["step"] = 0
                    state["m"], state["v"] = torch.zeros_like(p), torch.zeros_like(p)
                state["step"] += 1
                t, m, v = state["step"], state["m"], state["v"]

                factor = group["lr_factor"]
                size = group["lr"] * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
                if group["skip_zero_grad"]:  # a step of copies of the elements that are touched, which few are
                    touched = g.flatten().nonzero().squeeze(1)
                    whole = [values.view(-1) for values in (p, m, v)]
                    few = [values.index_select(0, touched) for values in whole]
                    if factor is not None:
                        factor = factor.flatten().index_select(0, touched)
                    _adam_step(*few, g.flatten().index_select(0, touched), size, factor, group)
                    for values, new in zip(whole, few):
                        values.scatter_(0, touched, new)
                else:
                    _adam_step(p, m, v, g, size, factor, group)
        return loss


def _adam_step(p: Tensor, m: Tensor, v: Tensor, g: Tensor, size: float, factor: Tensor | None, group: dict) -> None:
    """One step of all elements, in place; `factor` scales it for each."""
    beta1, beta2 = group["betas"]
    m.lerp_(g, 1 - beta1)
    v.lerp_(g * g, 1 - beta2)
    update = m if factor is None else m * factor.to(m)
    p.addcdiv_(update, v.sqrt().add_(group["eps"]), value=-size)
