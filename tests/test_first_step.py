"""Adam's first step of W in a training: κ times the learning rate, where every weight has a gradient."""

from importlib import import_module

import pytest
import torch

from models import build_inr
from studies import first_step


@pytest.mark.parametrize("mode, kappa", [("sin", 1.0), ("sin+fr", 5.88)])
def test_it_is_kappa_with_sine(mode, kappa):
    torch.manual_seed(0)
    model = build_inr(mode, **import_module("1d_function_fitting").NETWORKS[mode])
    steps, still = first_step.first_step(model, *first_step.batch_1d())
    assert steps == pytest.approx([kappa] * 3, rel=0.02) and still == [0, 0, 0]


def test_without_a_gradient_a_weight_does_not_move():
    torch.manual_seed(0)
    model = build_inr("relu", **import_module("1d_function_fitting").NETWORKS["relu"])
    steps, still = first_step.first_step(model, *first_step.batch_1d())
    assert min(still) > 0.3 and [step**2 for step in steps] == pytest.approx([1 - share for share in still], rel=0.02)
