"""The default command of each script has the settings of the paper, as far as they are known; see test_records.py."""

from importlib import import_module

import pytest
from conftest import plan_runs

from models import MODES

DVGO = {"steps": 25_000, "batch": 8192, "voxels": 4_096_000, "scale_at": [1_000, 2_000, 3_000, 4_000], "lr": 1e-3,
        "alpha_init": 1e-2, "threshold": 1e-4, "grid_lr": 0.1, "decay_steps": 20_000, "entropy_weight": 1e-3,
        "per_sample_weight": 1e-2, "renew_every": 1_000,
        "downscale": 1, "background": "white",
        "coarse": {"steps": 5_000, "batch": 8192, "voxels": 1_024_000, "alpha_init": 1e-6, "threshold": 1e-7,
                   "grid_lr": 0.1, "decay_steps": 20_000, "entropy_weight": 1e-2, "per_sample_weight": 0.1,
                   "renew_every": 1_000}}
NGP = {"epochs": 110, "iterations": 1_000, "batch": 8192, "lr": 1e-2, "eps": 1e-15, "opacity_weight": 1e-3,
       "warm_up": 256, "update_every": 16, "downscale": 1, "background": "white",
       "field": {"levels": 16, "log2_size": 19, "finest": 1024, "resolution": 128, "steps": 1024}}


def planned(script):
    """The settings of all of a script's networks with no other option, by mode."""
    runs = plan_runs(script, "--modes", *import_module(script).NETWORKS)
    assert all(run.options == run.own == {} and run.config.pop("hidden_lr") == 1 for run in runs)
    return {run.mode: {key: value for key, value in run.config.items()
                       if key not in ("shape", "pixels", "scene")} for run in runs}


@pytest.mark.parametrize("script", ["1d_function_fitting", "2d_image_fitting", "3D_occupance"])
def test_coordinate_networks(script):
    """What test_records.py does not find in published records."""
    found = planned(script)
    assert tuple(found) == MODES
    if script == "1d_function_fitting":
        for mode, of_relu in (("relu+pe", found["relu"]), ("relu+pe+fr", found["relu+fr"])):
            assert found[mode] == {**of_relu, "network": {**of_relu["network"], "pe_frequencies": 6}}
    if script == "3D_occupance":
        assert all({**of_mode, "epochs": 200, "batch": 500_000} == of_mode for of_mode in found.values())


@pytest.mark.parametrize("script, training, width, frequencies, alpha", [
    ("dvgo", DVGO, 128, 64, 0.05), ("InstantNGP", NGP, 64, 32, 0.01)])
def test_radiance_fields(script, training, width, frequencies, alpha):
    fr = {"low_freq_num": frequencies, "high_freq_num": frequencies, "phase_num": 64, "alpha": alpha}
    assert planned(script) == {
        "relu": {**training, "network": {"hidden_features": width}},
        "relu+fr": {**training, "network": {"hidden_features": width, **fr}}}
