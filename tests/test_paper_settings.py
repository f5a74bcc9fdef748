"""The default command of each script has the settings of the paper, as far as they are known."""

from importlib import import_module

import pytest
from conftest import plan_runs

from models import MODES

# Width, hidden-to-hidden layers, F, P, ω₀, frequencies of the positional encoding; α of each backbone.
NETWORKS = {"1d": (128, 3, 64, 16, 5.0, 6, {"relu": 0.05, "relu+pe": 0.05, "sin": 0.05}),
            "2d": (256, 3, 128, 32, 30.0, 6, {"relu": 0.05, "relu+pe": 0.05, "sin": 0.01}),
            "3d": (256, 2, 256, 8, 30.0, 10, {"relu": 0.01, "relu+pe": 0.01, "sin": 0.001})}
TRAINING = {"1d": {"steps": 10_000, "lr": 1e-6},
            "2d": {"steps": 10_000, "lr": 1e-4, "decay_at": 3_000, "batch": None, "downscale": 1},
            "3d": {"epochs": 200, "batch": 500_000, "downscale": 1}}
RATES_3D = {"relu": 2e-3, "relu+fr": 2e-3, "relu+pe": 2e-3, "relu+pe+fr": 2e-3, "sin": 5e-4, "sin+fr": 5e-3}
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


@pytest.mark.parametrize("experiment, script", [
    ("1d", "1d_function_fitting"), ("2d", "2d_image_fitting"), ("3d", "3D_occupance")])
def test_coordinate_networks(experiment, script):
    width, layers, frequencies, phases, omega, encoded, alpha = NETWORKS[experiment]
    for mode, config in planned(script).items():
        if experiment == "3d":
            assert config.pop("lr") == RATES_3D[mode] and config.pop("voxels")
        backbone = mode.removesuffix("+fr")
        fr = {"low_freq_num": frequencies, "high_freq_num": frequencies, "phase_num": phases, "alpha": alpha[backbone]}
        assert config == {**TRAINING[experiment], "network": {
            "in_features": int(experiment[0]), "out_features": 3 if experiment == "2d" else 1,
            "hidden_features": width, "hidden_layers": layers,
            **({"pe_frequencies": encoded} if "pe" in mode else {}),
            **({"first_omega": omega, "hidden_omega": omega} if "sin" in mode else {}),
            **(fr if "+fr" in mode else {})}}
    assert tuple(planned(script)) == MODES


@pytest.mark.parametrize("script, training, width, frequencies, alpha", [
    ("dvgo", DVGO, 128, 64, 0.05), ("InstantNGP", NGP, 64, 32, 0.01)])
def test_radiance_fields(script, training, width, frequencies, alpha):
    fr = {"low_freq_num": frequencies, "high_freq_num": frequencies, "phase_num": 64, "alpha": alpha}
    assert planned(script) == {
        "relu": {**training, "network": {"hidden_features": width}},
        "relu+fr": {**training, "network": {"hidden_features": width, **fr}}}
