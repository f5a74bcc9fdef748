"""Samples chosen within bounds make the same picture and the same gradient as those that are chosen exactly."""

from collections import deque
from functools import partial

import pytest
import torch
from test_nerf_dvgo import small_field as dvgo_field
from test_nerf_dvgo import some_rays as dvgo_rays
from test_nerf_instant_ngp import small_field as ngp_field
from test_nerf_instant_ngp import some_rays as ngp_rays
from torch.utils._python_dispatch import TorchDispatchMode

from models.nerf import selection
from models.nerf.selection import LATELY, LEAST, BoundedSelection, ExactSelection

WAITS = {torch.ops.aten.nonzero.default, torch.ops.aten._local_scalar_dense.default}


def of_dvgo(mode):
    field = dvgo_field(mode).double()
    return field, partial(field.render, *dvgo_rays(150, torch.float64)), 4


def of_instant_ngp(mode):
    field, (origins, directions) = ngp_field(mode).double(), ngp_rays(150, torch.float64)
    return field, partial(field.render, origins, directions, torch.rand(150, dtype=torch.float64)), 3


METHODS = [(of_dvgo, None), (of_dvgo, "relu+fr"), (of_instant_ngp, "relu+fr")]


def outcome(field, rendering):
    """Colors, depths and the final transmittance of a Rendering, and the gradients of an objective that sees them."""
    per_sample = (rendering.weights * rendering.sample_color.square().sum(1)).sum()
    loss = rendering.color.square().sum() + rendering.final_transmittance.square().sum() + per_sample
    return [rendering.color, rendering.depth, rendering.final_transmittance, per_sample,
            *torch.autograd.grad(loss, list(field.parameters()))]


class Counting(TorchDispatchMode):
    """Counts the operations at which a GPU makes the host wait, but for those that read several numbers at once."""

    waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.waits += func in WAITS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method, mode", METHODS)
@pytest.mark.parametrize("known", [False, True])
def test_a_picture_and_its_gradient_do_not_depend_on_the_bounds(monkeypatch, method, mode, known):
    field, render, choices = method(mode)
    exact = render(ExactSelection())
    bounds = BoundedSelection()
    if known:  # one rendering before, in which the bounds are found
        bounds.complete(render)
    reads, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(tensor) or tolist(tensor))
    with Counting() as counting:
        bounded = bounds.complete(render)
    assert len(reads) == 1 and counting.waits == (0 if known else choices) and len(bounds.found) == choices
    assert len(exact.weights) < len(bounded.weights) == bounds.bound(choices - 1)
    for got, expected in zip(outcome(field, bounded), outcome(field, exact), strict=True):
        assert torch.allclose(got, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("method, mode", METHODS)
def test_no_sample_is_lost_where_a_bound_is_too_small_or_just_reached(monkeypatch, method, mode):
    field, render, choices = method(mode)
    expected, bounds = outcome(field, render(ExactSelection())), BoundedSelection()
    bounds.complete(render)
    counts, renderings = [found[0] for found in bounds.found], []

    def counted(selection):
        renderings.append(selection)
        return render(selection)

    for small in range(choices):
        for bound in (1, counts[small]):
            monkeypatch.setattr(selection, "LEAST", bound)
            bounds.found[small] = deque([0], LATELY)
            renderings.clear()
            bounded = bounds.complete(counted)
            assert len(renderings) == 2 and [max(found) for found in bounds.found] == counts
            for got, of_exact in zip(outcome(field, bounded), expected, strict=True):
                assert torch.allclose(got, of_exact, rtol=1e-11, atol=1e-12)


def test_bounds_far_too_small_and_far_too_large():
    _, render, choices = of_dvgo(None)
    bounds = BoundedSelection()
    bounds.complete(render)
    enough = list(map(bounds.bound, range(choices)))
    for count, renderings in ((0, 1), (10**5, LATELY)):
        bounds.found = [deque([count], LATELY) for _ in range(choices)]
        for _ in range(renderings):  # of which the first raises the bounds, and the last forgets the number
            assert list(map(bounds.bound, range(choices))) != enough
            bounds.complete(render)
        assert list(map(bounds.bound, range(choices))) == enough


def test_choices_are_those_of_nonzero_in_front_of_the_filling():
    torch.manual_seed(0)
    for share in (0.0, 0.3, 1.0):
        bounds, counts = BoundedSelection(), torch.tensor([3, 0, 500, 2, 0])
        ray_index, step_index = bounds.along_rays(counts)
        for found, expected in zip((ray_index, step_index), ExactSelection().along_rays(counts)):
            assert torch.equal(found[:505], expected)
        assert len(ray_index) == 505 + 505 // 32 + LEAST and (ray_index[505:] == 4).all()
        mask = torch.rand(len(ray_index)) < share  # also of the filling, which is not to be chosen
        chosen, expected = bounds.nonzero(mask), mask[:505].nonzero().squeeze(1)
        spare = LEAST + len(expected) // 32
        assert torch.equal(chosen[:len(expected)].long(), expected) and len(chosen) == len(expected) + spare
        values = torch.full((len(chosen),), -torch.inf)
        assert (bounds.visible(values) == 0).sum() == spare
        nothing = bounds.nonzero(torch.zeros(len(chosen), dtype=torch.bool))
        assert len(nothing) == LEAST and (bounds.visible(torch.full((LEAST,), -torch.inf)) == 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("method, mode", METHODS)
def test_on_a_gpu(method, mode):
    field, render, _ = method(mode)
    expected = outcome(field, render(ExactSelection()))
    field.cuda()
    render = partial(render.func, *(argument.cuda() for argument in render.args))
    for _ in range(2):
        for got, on_cpu in zip(outcome(field, field.bounds.complete(render)), expected, strict=True):
            assert torch.allclose(got.cpu(), on_cpu, rtol=1e-9, atol=1e-10)
