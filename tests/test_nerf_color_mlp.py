"""What the color network is given, through the fields that have one."""

import pytest
import torch

from models.nerf.dvgo import DVGOField
from models.nerf.instant_ngp import InstantNGPField

FR = {"low_freq_num": 3, "high_freq_num": 4, "phase_num": 5, "alpha": 0.05}


def dvgo(mode, hidden_features, **basis):
    return DVGOField(torch.zeros(3), torch.ones(3), 8, final_voxels=8, alpha_init=1e-2, threshold=1e-4, near=2.0,
                     mode=mode, hidden_features=hidden_features, **basis).color


def instant_ngp(mode, hidden_features, **basis):
    return InstantNGPField(mode, levels=2, log2_size=4, finest=20, resolution=8, hidden_features=hidden_features,
                           **basis).color


each = pytest.mark.parametrize("build", [dvgo, instant_ngp])


@each
@pytest.mark.parametrize("mode", ["sin", "relu+pe", ""])
def test_an_unknown_mode_is_named(build, mode):
    with pytest.raises(ValueError, match="mode must be one of relu, relu\\+fr") as error:
        build(mode, 16, **FR)
    assert repr(mode) in str(error.value)


@each
@pytest.mark.parametrize("mode", ["relu", "relu+fr"])
def test_the_width_is_that_of_both_hidden_layers(build, mode):
    network = build(mode, 16, **FR)
    assert [network[i].out_features for i in (0, 2, 4)] == [16, 16, 3]
    for wrong in (0, -3, 2.5):
        with pytest.raises(ValueError, match=f"hidden_features .*{wrong}"):
            build(mode, wrong, **FR)


@each
@pytest.mark.parametrize("name", FR)
def test_the_basis_is_needed_by_fr_alone(build, name):
    without = {key: value for key, value in FR.items() if key != name}
    with pytest.raises(ValueError, match=f"relu\\+fr needs {name}"):
        build("relu+fr", 16, **without)
    parameters = []
    for basis in (without, FR):
        torch.manual_seed(0)
        parameters.append(list(build("relu", 16, **basis).parameters()))
    assert all(map(torch.equal, *parameters))
    with pytest.raises(ValueError, match=f"{name} .*-1"):
        build("relu", 16, **{name: -1})
