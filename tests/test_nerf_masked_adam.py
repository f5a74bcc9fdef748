"""DVGO's optimizer against loops over single elements in float64."""

import math

import pytest
import torch

from models.nerf.masked_adam import MaskedAdam


def masked_adam_by_definition(p, gradients, lrs, factor=1.0, skip=False, beta1=0.9, beta2=0.99, eps=1e-8):
    """One element, all steps."""
    m = v = 0.0
    for t, (g, lr) in enumerate(zip(gradients, lrs), start=1):
        if skip and g == 0:
            continue
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p -= lr * factor * math.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (math.sqrt(v) + eps)
    return p


def parameters_and_gradients(steps=30):
    torch.manual_seed(2)
    gradients = torch.randn(steps, 5, 4).double() * 10.0 ** torch.randint(-9, 2, (5, 4))
    gradients *= torch.rand(steps, 5, 4) < 0.4
    gradients[:, 0, 0] = 0
    return torch.randn(5, 4).double(), gradients


@pytest.mark.parametrize("kind", ["dense", "dense with factor", "sparse", "sparse with factor", "sparse in disorder"])
def test_it_follows_the_definition(kind):
    start, gradients = parameters_and_gradients()
    factor = torch.rand(5, 4) if "factor" in kind else None
    p = torch.nn.Parameter(start.clone())
    optimizer = MaskedAdam([{"params": [p], "lr_factor": factor}], lr=0.1)
    lrs = [0.1 * 0.97**i for i in range(len(gradients))]
    for g, lr in zip(gradients, lrs):
        optimizer.param_groups[0]["lr"] = lr
        before, moments = p.detach().clone(), {k: v.clone() for k, v in optimizer.state[p].items() if k != "step"}
        p.grad = g.clone()
        if "sparse" in kind:
            rows = ((g != 0).any(1) | (torch.arange(5) == 2)).nonzero().squeeze(1)  # the third always
            halves = [rows, rows.flip(0)] if "disorder" in kind else [rows]
            where = torch.cat(halves)
            p.grad = torch.sparse_coo_tensor(where[None], g[where] / len(halves), g.shape, check_invariants=True)
        optimizer.step()
        if "sparse" in kind and moments:
            still = g == 0
            assert torch.equal(p[still], before[still])
            assert all(torch.equal(optimizer.state[p][name][still], old[still]) for name, old in moments.items())
    expected = [[masked_adam_by_definition(start[i, j].item(), gradients[:, i, j].tolist(), lrs,
                                           1.0 if factor is None else factor[i, j].item(), "sparse" in kind)
                 for j in range(4)] for i in range(5)]
    assert torch.allclose(p.detach(), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    assert p[0, 0] == start[0, 0] and not torch.equal(p, start)


def test_it_passes_over_what_has_no_gradient_and_takes_a_closure():
    p, q = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = MaskedAdam([p, q], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    MaskedAdam([q], lr=0.1).step()
    assert optimizer.step(closure) == 2
    assert torch.allclose(p, torch.full((2,), 0.9)) and torch.equal(q, torch.ones(2))
