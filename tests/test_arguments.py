"""What the layer, the networks, encodings and fields refuse to be built with, and what they can be built without."""

import math
import re
from functools import partial

import pytest
import torch

from models import MODES, FourierReparamLinear, PositionalEncoding, build_inr
from models.nerf.color_mlp import COLOR_MODES
from models.nerf.dvgo import DVGOField
from models.nerf.hash_grid import HashGrid
from models.nerf.instant_ngp import InstantNGPField
from models.nerf.occupancy_grid import OccupancyGrid

FR: dict = {"low_freq_num": 3, "high_freq_num": 4, "phase_num": 5, "alpha": 0.05}
layer = partial(FourierReparamLinear, in_features=7, out_features=6, **FR)
inr = partial(build_inr, in_features=2, out_features=3, hidden_features=16, hidden_layers=2)
dvgo = partial(DVGOField, torch.zeros(3), torch.ones(3), 8, final_voxels=8, alpha_init=1e-2, threshold=1e-4, near=2.0,
               hidden_features=16)
instant_ngp = partial(InstantNGPField, levels=2, log2_size=4, finest=20, resolution=8, hidden_features=16)


@pytest.mark.parametrize("build, bad", [
    (layer, {"in_features": (0, "seven"), "out_features": (-3,), "low_freq_num": (-1,), "high_freq_num": (2.5,),
             "phase_num": (0,), "alpha": (0.0, math.nan, math.inf, None), "omega": (-30.0,)}),
    (partial(inr, mode="sin+fr", **FR), {
        "in_features": (0,), "out_features": (0,), "hidden_features": (-1,), "hidden_layers": (0,),
        "low_freq_num": (-2,), "phase_num": (0,), "alpha": (-0.1,), "first_omega": (0.0,), "hidden_omega": (math.nan,),
        "pe_frequencies": (0,)}),
    *((partial(build, mode=mode, **FR), {"hidden_features": (0, -3, 2.5)})
      for build in (dvgo, instant_ngp) for mode in COLOR_MODES),
    (partial(PositionalEncoding, in_features=3, num_frequencies=4), {
        "in_features": (0,), "num_frequencies": (2.5,), "base": (-1.0, math.nan)}),
    (HashGrid, {"levels": (0,), "features": (1.5,), "log2_size": (0,), "coarsest": (-2,), "finest": (7,)}),
    (OccupancyGrid, {"resolution": (0,), "half_extent": (-1.0,), "steps": (2.5,)}),
])
def test_a_bad_argument_is_named_with_its_value(build, bad):
    for name, values in bad.items():
        for value in values:
            with pytest.raises(ValueError, match=f"{name} .*{re.escape(repr(value))}"):
                build(**{name: value})


def test_a_basis_has_one_frequency_at_least():
    with pytest.raises(ValueError, match="low_freq_num or high_freq_num"):
        layer(low_freq_num=0, high_freq_num=0)


@pytest.mark.parametrize("mode", ["tanh", "", None, "relu+pe+pe"])
@pytest.mark.parametrize("build, modes", [(inr, MODES), (dvgo, COLOR_MODES), (instant_ngp, COLOR_MODES)])
def test_an_unknown_mode_is_named(build, modes, mode):
    if (build, mode) != (dvgo, None):  # DVGO's coarse field
        with pytest.raises(ValueError, match=re.escape(f"mode must be one of {', '.join(modes)}, not {mode!r}")):
            build(mode=mode, **FR)


@pytest.mark.parametrize("missing", FR)
@pytest.mark.parametrize("build, mode", [*((inr, mode) for mode in MODES if "+fr" in mode),
                                         (dvgo, "relu+fr"), (instant_ngp, "relu+fr")])
def test_the_basis_is_needed_by_fr_alone(build, mode, missing):
    without, plain, networks = {name: value for name, value in FR.items() if name != missing}, mode[:-3], []
    with pytest.raises(ValueError, match=f"^{missing} must be .* not None"):
        build(mode=mode, **without)
    for basis in (FR, without, {}):
        torch.manual_seed(0)
        networks.append(list(build(mode=plain, **basis).parameters()))
    assert all(map(torch.equal, networks[0], network) for network in networks[1:]) and networks[0]
