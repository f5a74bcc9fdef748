"""Published values stand beside runs of their own settings, or beside what differs; the table a script ends with."""

import re
from importlib import import_module

import numpy as np
import pytest

from data.errors import UserError
from harness.labels import labels, length
from harness.records import Run
from harness.results import PUBLISHED_VALUES, mean_and_spread, print_results, published

KODIM = {"shape": [512, 768, 3], "steps": 10_000, "lr": 1e-4, "batch": None, "hidden_lr": 1.0}
SCENE = {"test": [200, 800, 800, 4], "train": [100, 800, 800, 4]}


def record(experiment, case, mode, config, own=None, options=None):
    return {"experiment": experiment, "case": case, "mode": mode, "own": own or {}, "options": options or {},
            "config": config}


def test_a_value_stands_beside_its_own_settings_and_no_others():
    def found(mode="sin", case="kodim05", metric="psnr", own=None, options=None, **changed):
        return published(record("2d", case, mode, {**KODIM, **changed}, own, options), metric, 2)

    assert (found(), found("relu+pe+fr"), found(batch=8192)) == ("33.05", "26.78", "33.05 (all pixels a step)")
    for other in ({"case": "kodim06"}, {"metric": "ssim"}, {"steps": 9_999}, {"lr": 2e-4, "own": {"lr": 2e-4}},
                  {"own": {"alpha": 0.5}}, {"own": {"hidden_lr": 0.5}}, {"shape": [256, 384, 3]}, {"mode": "tanh"},
                  {"options": {"precision": "bf16"}}):
        assert found(**other) == "–", other


@pytest.mark.parametrize("name, experiment, settings", [
    ("dvgo", "dvgo", {}), ("InstantNGP", "ngp", {"epochs": 20, "batch": 16384, "lr": 2e-2})])
def test_those_of_a_radiance_field_name_what_no_setting_says(name, experiment, settings):
    config = {**import_module(name).PAPER, **settings, "scene": SCENE}
    entry = next(entry for entry in PUBLISHED_VALUES if entry["experiment"] == experiment and all(
        settings.get(key, config.get(key)) == value for key, value in entry["at"].items() if key != "scene_size"))

    def found(case="lego", mode="relu", options=None, **changed):
        own = {"lr": config["lr"]} if "lr" in settings else {}  # what a script's default is not
        return published(record(experiment, case, mode, {**config, **changed}, own, options), "psnr", 2)

    assert found() == f"{entry['values']['relu']:.2f} ({entry['beside']})"
    assert found(batch=4096) == f"{entry['values']['relu']:.2f} ({entry['beside']}, {entry['at']['batch']:,} a step)"
    for other in ({"case": "ship"}, {"mode": "relu+fr"}, {"background": "black"}, {"lr": 0.5},
                  {"scene": {**SCENE, "test": [200, 400, 400, 4]}}, {"options": {"precision": "tf32"}},
                  *([{"voxels": 8}] if name == "dvgo" else [{"epochs": 7}])):
        assert found(**other) == "–", other


def test_a_mean_has_its_spread():
    assert mean_and_spread([1.0], 2) == "1.00" and mean_and_spread([1.0, 2.0, 3.0], 1) == "2.0 ± 1.0"
    assert mean_and_spread([1.0, None], 2) == "–"  # a surface that is empty has no distance


def test_a_script_ends_with_a_row_for_each_network(tmp_path, capsys):
    runs = []
    for case in ("kodim05", "mine"):
        for mode, own in (("sin", {}), ("sin+fr", {"lr": 2e-4})):
            for seed in (0, 1):
                runs.append(Run(tmp_path, "2d", case, mode, seed, {**KODIM, **own}, {}, own))
                runs[-1].finish(metrics={"psnr": 30.0 + seed}, arrays={"a": np.zeros(1)}, seconds=9 + 2 * seed, steps=1)
    print_results([run for run in runs if run.case == "kodim05" and run.seed == 0], "psnr", 2)
    assert [re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["network", "psnr", "published", "seconds"], ["SIREN, lr 0.0001", "30.00", "33.05", "9"],
        ["SIREN + FR, lr 0.0002", "30.00", "–", "9"]]
    print_results(runs, "psnr", 2)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("  ")[0] for row in rows] == [f"{case}: {label}" for case in ("kodim05", "mine") for label in (
        "SIREN, lr 0.0001", "SIREN + FR, lr 0.0002")]
    assert all("30.50 ± 0.71" in row and row.endswith(" 10") for row in rows)
    runs[0].path(".json").write_text("{")
    with pytest.raises(UserError, match="sin-seed0.json is damaged"):
        print_results(runs, "psnr", 2)


def test_a_network_is_called_by_what_tells_it_from_the_others():
    def named(*networks):
        return labels({"mode": mode, "own": own, "config": {"lr": own.get("lr", 1e-4)}} for mode, own in networks)

    assert named(("relu", {}), ("relu+pe+fr", {})) == ["ReLU", "ReLU + PE + FR"]
    assert named(("sin", {}), ("sin", {"lr": 5e-4}), ("sin+fr", {"alpha": 0.02, "hidden_lr": 1 / 3})) == [
        "SIREN, lr 0.0001", "SIREN, lr 0.0005", "SIREN + FR, lr 0.0001, α 0.02, hidden lr × 0.333"]
    assert length("2d", {"steps": 10_000, "batch": None}) == "10,000 steps"
    assert length("3d", {"epochs": 4, "batch": 10_000}) == "4 epochs, 10,000 voxels a step"
    assert length("dvgo", {"steps": 30, "batch": 8}) == "30 steps, 8 rays a step"
    assert length("ngp", {"epochs": 2, "iterations": 1000, "batch": 8}) == "2,000 steps, 8 rays a step"
