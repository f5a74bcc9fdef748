"""The 3D script as a user runs it, its surfaces and its measures."""

import json
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
import trimesh

from data.volumes import load_volume
from experiment.meshes import extract_mesh, look_at, render, surface_distance
from experiment.metrics import iou
from experiment.runtime import random_order

FIT = "3D_occupance.py"
fitting = import_module("3D_occupance")


def folders(path):
    return "--results", path / "results", "--figures", path / "figures", "--device", "cpu"


def ball(radius, side=40, center=None):
    axes = np.meshgrid(*[np.arange(side)] * 3, indexing="ij")
    return sum((axis - place) ** 2 for axis, place in zip(axes, center or [side // 2] * 3)) <= radius**2


def test_iou():
    assert iou(np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)) == pytest.approx(1 / 3)
    assert iou(np.zeros(3, bool), np.ones(3, bool)) == 0


def test_coordinates():
    shape = (3, 4, 5)
    found = fitting.coordinates(torch.arange(60), shape).reshape(3, 4, 5, 3)
    assert found.dtype == torch.float32
    rows, columns, slices = (torch.linspace(-1, 1, side) for side in shape)
    expected = torch.stack(torch.meshgrid(rows, columns, slices, indexing="ij"), -1)[..., [1, 0, 2]]
    assert torch.allclose(found, expected, atol=1e-6)
    last = 512**3 - 1  # beyond what a float32 counts
    assert fitting.coordinates(torch.tensor([last]), (512,) * 3).equal(torch.ones(1, 3))


def test_an_epoch_goes_through_every_voxel_once_in_an_order_of_its_own():
    orders = [random_order(1000, seed, epoch, torch.device("cpu")) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(order.sort().values.equal(torch.arange(1000)) for order in orders)
    assert not orders[0].equal(orders[1]) and not orders[0].equal(orders[2])
    assert orders[0].equal(random_order(1000, 0, 0, torch.device("cpu")))


def test_a_surface_is_closed_and_where_the_voxels_are():
    volume = ball(12)
    mesh = extract_mesh(volume)
    assert mesh.is_watertight and mesh.volume == pytest.approx(volume.sum(), rel=0.02)
    assert mesh.centroid == pytest.approx([20, 20, 20], abs=0.01)
    assert ((mesh.face_normals * (mesh.triangles_center - 20)).sum(1) > 0).all()  # outward
    box = extract_mesh(np.ones((4, 5, 6), bool))  # touches every face of its volume
    assert box.is_watertight and box.bounds == pytest.approx(np.array([[-0.5] * 3, [3.5, 4.5, 5.5]]))
    assert len(extract_mesh(np.zeros((4, 4, 4), bool)).faces) == 0

    def roughness(mesh):
        return np.linalg.norm(mesh.vertices - 20, axis=1).std()
    smooth = extract_mesh(volume, smooth=1.0)
    assert smooth.is_watertight and roughness(smooth) < roughness(mesh) / 2


def test_the_distance_of_surfaces():
    truth = extract_mesh(ball(12))
    assert surface_distance(truth, truth) == (0, 1)
    chamfer, f_score = surface_distance(extract_mesh(ball(15)), truth)
    assert chamfer == pytest.approx(3, abs=0.2) and f_score == 0
    chamfer, f_score = surface_distance(extract_mesh(ball(12, center=(21, 20, 20))), truth)
    assert 0.2 < chamfer < 0.8 and f_score == 1
    assert surface_distance(trimesh.Trimesh(), truth) is None


def test_a_rendering_shows_the_nearest_face_without_holes():
    mesh = extract_mesh(ball(10))
    camera = look_at(30, 20)
    assert np.allclose(camera @ camera.T, np.eye(3)) and np.linalg.det(camera) == pytest.approx(1)
    picture = render(mesh, camera, np.array([20.0, 20, 20]), 30, 24, 3)
    assert picture.shape == (72, 90, 3)
    rows, columns = np.meshgrid(np.arange(72) - 35.5, np.arange(90) - 44.5, indexing="ij")
    radius = np.hypot(rows, columns) / 3
    assert (picture[radius < 9.5] < 0.99).all() and (picture[radius > 11.5] == 1).all()
    # A small ball in front of a large one is seen, one behind it is not.
    front, behind = (extract_mesh(ball(14, 60) | ball(4, 60, tuple(np.rint(30 + side * 22 * camera[2]).astype(int))))
                     for side in (1, -1))
    alone, with_front, with_behind = (render(mesh, camera, np.array([30.0, 30, 30]), 30, 30, 3)
                                      for mesh in (extract_mesh(ball(14, 60)), front, behind))
    assert np.abs(with_front - alone).max() > 0.2 and np.abs(with_behind - alone).max() < 1e-6
    for up in range(3):  # the axis upward is upward in the picture
        assert look_at(120, 15, up)[1, up] > 0.9


def test_quick_run_of_a_solid(tmp_path, script):
    done = script(FIT, "--quick", "--resolution", 16, "--epochs", 12, "--chunk", 700, *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "quick" / "3d" / "holed_sphere"
    records = {mode: json.loads((folder / f"{mode}-seed0.json").read_text()) for mode in fitting.MODES}
    values = {mode: record["metrics"]["iou"] for mode, record in records.items()}
    for mode in ("relu+fr", "relu+pe+fr", "sin+fr"):
        assert values[mode] >= values[mode.removesuffix("+fr")], values
    assert values["sin+fr"] > 0.9 and values["relu+pe+fr"] > values["relu+pe"] + 0.02, values
    assert {file.name for file in (tmp_path / "figures" / "quick").iterdir()} == {
        "3d_holed_sphere.png", "3d_holed_sphere_iou.png", "3d_holed_sphere_errors.png"}
    _, truth = load_volume("holed_sphere", tmp_path, 16)
    arrays = np.load(folder / "sin+fr-seed0.npz")
    predicted = np.unpackbits(arrays["predicted"], count=truth.size).reshape(truth.shape).astype(bool)
    assert iou(predicted, truth) == values["sin+fr"] and arrays["iou"].shape == (12,)
    mesh = trimesh.load(folder / "sin+fr-seed0.ply")
    assert len(mesh.faces) == len(extract_mesh(predicted).faces)
    assert np.ptp(trimesh.load(folder / "ground-truth.ply").vertices, axis=0) == pytest.approx(truth.shape)


def test_a_run_resumed_within_an_epoch_has_the_same_bits(tmp_path, call, monkeypatch):
    volume = ball(5, 12)
    np.save(tmp_path / "ball.npy", volume)
    arguments = ("--shape", tmp_path / "ball.npy", "--quick", "--modes", "sin+fr", "--chunk", 300, "--epochs", 2)
    monkeypatch.setattr(fitting, "draw_surfaces", lambda *_: None)  # a second each
    found = []
    checkpoint = fitting.Run.checkpoint
    for name, more in {"whole": (), "resumed": ("--checkpoint-every", 3)}.items():
        if more:
            with monkeypatch.context() as patch:
                patch.setattr(fitting.Run, "checkpoint",
                              lambda run, step, **state: (checkpoint(run, step, **state), sys.exit(9)))
                assert call(FIT, *arguments, *more, *folders(tmp_path / name)).returncode == 9  # after 3 of 5 steps
        done = call(FIT, *arguments, *more, *folders(tmp_path / name))
        assert done.returncode == 0, done.stderr
        path = tmp_path / name / "results" / "quick" / "3d" / "ball" / "sin+fr-seed0"
        found.append((json.loads(path.with_suffix(".json").read_text())["metrics"], np.load(path.with_suffix(".npz"))))
    assert found[0][0] == found[1][0]
    assert all(np.array_equal(found[0][1][key], found[1][1][key]) for key in ("predicted", "iou"))


def test_an_empty_prediction_is_reported_and_drawn(tmp_path, call):
    np.save(tmp_path / "ball.npy", ball(4, 12))
    done = call(FIT, "--shape", tmp_path / "ball.npy", "--quick", "--modes", "relu", "--epochs", 1, "--lr", 1e-9,
                *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "empty volume" in done.stdout
    record = json.loads((tmp_path / "results" / "quick" / "3d" / "ball" / "relu-seed0.json").read_text())
    assert record["metrics"] == {"iou": 0.0, "chamfer": None, "f_score": None}


@pytest.mark.parametrize("arguments, said", [
    (["--chunk", "0"], "--chunk"), (["--scale", "2"], "--scale"), (["--scale", "0"], "--scale"),
    (["--epochs", "0"], "--epochs"), (["--shape", "nowhere.npy"], "nowhere.npy"), (["--shape", "models"], "folder"),
    (["--shape", "README.md"], "README.md"), (["--shape", "gyroid", "--scale", "0.001"], "scale of 0.001"),
    (["--smooth", "-1"], "--smooth"), (["--resolution", "4"], "--resolution"),
])
def test_bad_input_gets_one_line_and_status_2(arguments, said, tmp_path, refused):
    line = refused(FIT, *folders(tmp_path), *arguments)
    assert said in line
    assert not list(tmp_path.rglob("*.json"))
