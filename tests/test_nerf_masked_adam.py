"""DVGO's optimizer against its definition in float64."""

import math

import pytest
import torch

from models.nerf.masked_adam import MaskedAdam


def by_definition(p, gradients, lrs, factor, skip, beta1=0.9, beta2=0.99, eps=1e-8):
    """The parameter after all steps; with `skip` an element whose gradient is 0 is left as it is."""
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for t, (g, lr) in enumerate(zip(gradients, lrs), start=1):
        moved = (g != 0) | (not skip)
        m = torch.where(moved, beta1 * m + (1 - beta1) * g, m)
        v = torch.where(moved, beta2 * v + (1 - beta2) * g * g, v)
        step = lr * factor * math.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (v.sqrt() + eps)
        p = torch.where(moved, p - step, p)
    return p


@pytest.mark.parametrize("kind", ["dense", "dense with factor", "sparse", "sparse with factor", "sparse in disorder"])
def test_it_follows_the_definition(kind):
    torch.manual_seed(2)
    gradients = torch.randn(30, 5, 4).double() * 10.0 ** torch.randint(-9, 2, (5, 4)) * (torch.rand(30, 5, 4) < 0.4)
    gradients[:, 0, 0] = 0
    start = torch.randn(5, 4).double()
    factor = torch.rand(5, 4) if "factor" in kind else None
    p = torch.nn.Parameter(start.clone())
    optimizer = MaskedAdam([{"params": [p], "lr_factor": factor}], lr=0.1)
    lrs = [0.1 * 0.97**i for i in range(len(gradients))]
    for g, lr in zip(gradients, lrs):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = g.clone()
        if "sparse" in kind:
            rows = ((g != 0).any(1) | (torch.arange(5) == 2)).nonzero().squeeze(1)  # the third always
            halves = [rows, rows.flip(0)] if "disorder" in kind else [rows]
            where = torch.cat(halves)
            p.grad = torch.sparse_coo_tensor(where[None], g[where] / len(halves), g.shape, check_invariants=True)
        optimizer.step()
    expected = by_definition(start, gradients, lrs, 1.0 if factor is None else factor.double(), "sparse" in kind)
    assert torch.allclose(p.detach(), expected, rtol=1e-10, atol=1e-12)
    assert p[0, 0] == start[0, 0] and not torch.equal(p, start)


def test_it_passes_over_what_has_no_gradient():
    p, q = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    MaskedAdam([p, q], lr=0.1).step()
    assert torch.allclose(p, torch.full((2,), 0.9)) and torch.equal(q, torch.ones(2))
