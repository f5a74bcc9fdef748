"""Adam's first step of W in a training: κ times the learning rate, where every weight has a gradient."""

from importlib import import_module

import pytest
import torch

from models import build_inr
from studies import first_step


@pytest.mark.parametrize("mode, kappa", [("relu", 1.0), ("sin", 1.0), ("sin+fr", 5.88)])
def test_it_is_kappa_and_nothing_where_a_weight_has_no_gradient(mode, kappa):
    torch.manual_seed(0)
    model = build_inr(mode, **import_module("1d_function_fitting").NETWORKS[mode])
    steps, still = first_step.first_step(model, *first_step.batch_1d())
    assert steps == pytest.approx([kappa * (1 - share)**0.5 for share in still], rel=0.02)
    assert min(still) > 0.3 if mode == "relu" else still == [0, 0, 0]
