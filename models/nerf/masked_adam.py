"""Adam as DirectVoxGO uses it: for grids where one step touches few voxels."""

import torch
from torch import Tensor
from torch.optim import Optimizer


class MaskedAdam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015) that leaves alone what a sparse gradient does not reach.

    It differs from `torch.optim.Adam` in three things, all from the released code of DirectVoxGO. First, ε is added to
    √v without a bias correction:

        p ← p − lr √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε).

    Second, an element that a sparse gradient does not hold, or holds as exactly 0, keeps its p, m and v. The step count
    t, which a tensor's elements share, goes on all the same (`skip_zero_grad` in that code). Third, a group may scale
    the steps element by element.

    Args:
        params: parameters or groups. A group may hold, beside those below, `lr_factor`: None, or a tensor of the shape
            of the group's one parameter that multiplies lr.
        lr: learning rate.
        betas: β₁ and β₂.
        eps: ε.
    """

    def __init__(self, params, lr: float, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-8):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "lr_factor": None})

    @torch.no_grad()
    def step(self):  # type: ignore[override]  # no script gives it a closure
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["step"] += 1
                (beta1, beta2), t = group["betas"], state["step"]
                size = group["lr"] * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
                update = _sparse_step if p.grad.is_sparse else _dense_step
                update(p, p.grad, state["m"], state["v"], size, group)


def _dense_step(p: Tensor, gradient: Tensor, m: Tensor, v: Tensor, size: float, group: dict) -> None:
    m.lerp_(gradient, 1 - group["betas"][0])
    v.lerp_(gradient.square(), 1 - group["betas"][1])
    numerator = m if group["lr_factor"] is None else m * group["lr_factor"].to(m)
    p.addcdiv_(numerator, v.sqrt().add_(group["eps"]), value=-size)


def _sparse_step(p: Tensor, gradient: Tensor, m: Tensor, v: Tensor, size: float, group: dict) -> None:
    """The same of the few rows that are touched: copies of them are changed and put back."""
    rows, (beta1, beta2), dims = _rows(gradient), group["betas"], gradient.sparse_dim()
    if not (rows[1:] > rows[:-1]).all():  # VoxelGrid's are ascending, but autograd does not pass on that they are
        gradient = gradient.coalesce()
        rows = _rows(gradient)
    gradient = gradient._values()
    whole = [values.flatten(0, dims - 1) for values in (p, m, v)]
    new_p, new_m, new_v = new = [values.index_select(0, rows) for values in whole]
    touched = torch.ne(gradient, 0, out=torch.empty_like(gradient))  # 0 or 1, in one pass
    new_m.lerp_(gradient, touched * (1 - beta1))
    new_v.lerp_(gradient.square(), touched * (1 - beta2))
    numerator = touched.mul_(new_m)
    if group["lr_factor"] is not None:
        numerator *= group["lr_factor"].to(m).flatten(0, dims - 1).index_select(0, rows)
    new_p.addcdiv_(numerator, new_v.sqrt().add_(group["eps"]), value=-size)
    for values, changed in zip(whole, new):
        values.index_copy_(0, rows, changed)


def _rows(gradient: Tensor) -> Tensor:
    """The places in a tensor of what its sparse gradient holds, (K,) long."""
    rows = torch.zeros_like(gradient._indices()[0])
    for index, length in zip(gradient._indices(), gradient.shape):
        rows = rows.mul_(length).add_(index)
    return rows
