"""The 3D script as a user runs it."""

from importlib import import_module

import numpy as np
import pytest
import trimesh
from conftest import assert_same_run, ball, ended_at_checkpoint, folders, record, run_script, stem

from data.volumes import load_volume
from experiment.meshes import extract_mesh, unpack_voxels
from experiment.metrics import iou

FIT = "3D_occupance.py"
fitting = import_module("3D_occupance")


@pytest.fixture
def small_ball(tmp_path):
    """The path of a ball of 11 voxels across."""
    np.save(tmp_path / "ball.npy", ball(5, 12))
    return tmp_path / "ball.npy"


@pytest.mark.slow
def test_quick_run_of_a_solid(tmp_path):
    done = run_script(FIT, "--quick", "--resolution", 16, "--epochs", 12, "--chunk", 700, *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    values = {mode: record(tmp_path, "3d", "holed_sphere", mode)["metrics"]["iou"] for mode in fitting.MODES}
    for mode in ("relu+fr", "relu+pe+fr", "sin+fr"):
        assert values[mode] >= values[mode.removesuffix("+fr")], values
    assert values["sin+fr"] > 0.9 and values["relu+pe+fr"] > values["relu+pe"] + 0.02, values
    assert {file.name for file in (tmp_path / "figures" / "quick").iterdir()} == {
        "3d_holed_sphere_surfaces.png", "3d_holed_sphere_iou.png", "3d_holed_sphere_errors.png"}
    _, truth = load_volume("holed_sphere", tmp_path, 16)
    path = stem(tmp_path, "3d", "holed_sphere", "sin+fr")
    arrays = np.load(path.with_suffix(".npz"))
    predicted = unpack_voxels(arrays["predicted"], truth.shape)
    assert iou(predicted, truth) == values["sin+fr"] and arrays["iou"].shape == (12,)
    mesh = trimesh.load(path.with_suffix(".ply"))
    assert len(mesh.faces) == len(extract_mesh(predicted).faces)
    assert np.ptp(trimesh.load(path.with_name("ground-truth.ply")).vertices, axis=0) == pytest.approx(truth.shape)


@pytest.mark.slow
def test_a_run_resumed_within_an_epoch_has_the_same_bits(tmp_path, call, small_ball):
    arguments = ("--shape", small_ball, "--quick", "--modes", "sin+fr", "--chunk", 300, "--epochs", 2)
    for name, more in {"whole": (), "resumed": ("--checkpoint-every", 3)}.items():
        if more:
            with ended_at_checkpoint():  # after 3 of 5 steps of the first epoch
                assert call(FIT, *arguments, *more, *folders(tmp_path / name)).returncode == 9
        done = call(FIT, *arguments, *more, *folders(tmp_path / name))
        assert done.returncode == 0, done.stderr
    assert_same_run(*(stem(tmp_path / name, "3d", "ball", "sin+fr") for name in ("resumed", "whole")))


def test_an_empty_prediction_is_reported_and_drawn(tmp_path, call, small_ball):
    done = call(FIT, "--shape", small_ball, "--quick", "--modes", "relu", "--epochs", 1, "--lr", 1e-9,
                *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "empty volume" in done.stdout
    assert record(tmp_path, "3d", "ball", "relu")["metrics"] == {"iou": 0.0, "chamfer": None, "f_score": None}
    assert {file.name for file in (tmp_path / "figures" / "quick").iterdir()} == {
        "3d_ball_surfaces.png", "3d_ball_iou.png", "3d_ball_errors.png"}


@pytest.mark.parametrize("arguments, said", [
    ("--chunk 0", "--chunk"), ("--scale 2", "--scale"), ("--scale 0", "--scale"), ("--epochs 0", "--epochs"),
    ("--shape nowhere.npy", "nowhere.npy"), ("--shape models", "folder"), ("--shape README.md", "README.md"),
    ("--shape gyroid --scale 0.001", "scale of 0.001"), ("--smooth -1", "--smooth"),
    ("--resolution 4", "--resolution"),
])
def test_bad_input_gets_one_line_and_status_2(arguments, said, tmp_path, refused):
    assert said in refused(FIT, *folders(tmp_path), *arguments.split())
    assert not list(tmp_path.rglob("*.json"))
