"""The 3D script as a user runs it."""

from importlib import import_module

import numpy as np
import pytest
import trimesh
from conftest import assert_same_run, ball, before_each_step, beside, ended_at_checkpoint, folders, record, stem

from data.volumes import load_volume
from harness.metrics import iou

FIT = "3D_occupance.py"
fitting = import_module("3D_occupance")


@pytest.fixture
def small_ball(tmp_path):
    """The path of a ball of 11 voxels across."""
    np.save(tmp_path / "ball.npy", ball(5, 12))
    return tmp_path / "ball.npy"


@pytest.mark.slow
def test_quick_run_needs_no_data_set(tmp_path, call):
    options = "quick,epochs=12,resolution=16"
    done = call(FIT, "--quick", "--resolution", 16, "--epochs", 12, "--chunk", 700, *folders(tmp_path), "--data",
                tmp_path / "none")
    assert done.returncode == 0, done.stderr
    values = {mode: record(tmp_path, "3d", "holed_sphere", mode, options)["metrics"]["iou"] for mode in fitting.MODES}
    for mode in ("relu+fr", "relu+pe+fr", "sin+fr"):
        assert values[mode] >= values[mode.removesuffix("+fr")], values
    assert values["sin+fr"] > 0.9 and values["relu+pe+fr"] > values["relu+pe"] + 0.02, values
    folder = tmp_path / "figures" / "3d" / "holed_sphere" / options
    assert {file.stem for file in folder.iterdir()} == {"close_ups", "iou", "errors"}
    _, truth = load_volume("holed_sphere", tmp_path, 16)
    run = stem(tmp_path, "3d", "holed_sphere", "sin+fr", options)
    arrays = np.load(beside(run, ".npz"))
    assert iou(arrays["output"] >= 128, truth) == values["sin+fr"] and arrays["iou"].shape == (12,)
    for mesh in (beside(run, ".ply"), run.with_name("ground-truth.ply")):  # smoothed a little
        assert np.ptp(trimesh.load(mesh).vertices, axis=0) == pytest.approx(truth.shape, abs=1)


@pytest.mark.slow
def test_networks_are_side_by_side_and_a_run_resumed_within_an_epoch_has_the_same_bits(
        tmp_path, call, small_ball, drawn):
    options, names = "epochs=2,batch=500", ("sin", "sin+fr", "sin+fr,lr=0.0005")
    arguments = ("--shape", small_ball, "--epochs", 2, "--batch", 500)
    rates = []
    with before_each_step(lambda adam: rates.append(adam.param_groups[0]["lr"])):
        done = call(FIT, *arguments, "--modes", *names, *folders(tmp_path / "whole"))
    assert done.returncode == 0, done.stderr
    steps = -(-11**3 // 500)  # the cut to what is full has 11 voxels a side
    assert rates == pytest.approx([rate * decay for rate in (5e-4, 5e-3, 5e-4) for decay in (1, 0.2**0.5)
                                   for _ in range(steps)])
    folder = tmp_path / "whole" / "figures" / "3d" / "ball" / options
    assert drawn.keys() == {folder / name for name in ("close_ups.png", "iou.png", "errors.png")}
    titles = [axis.get_title().split("\n")[0] for axis in drawn[folder / "errors.png"].axes if axis.get_title()]
    labels = ["SIREN, lr 0.0005", "SIREN + FR, lr 0.005", "SIREN + FR, lr 0.0005"]
    assert titles == labels
    table = done.stdout.split("\n\n")[-1].splitlines()[1:]
    assert [line.split("  ")[0] for line in table] == labels
    assert all(f"{record(tmp_path / 'whole', '3d', 'ball', name, options)['metrics']['iou']:.4f}" in line
               for name, line in zip(names, table))

    arguments = (*arguments, "--modes", "sin+fr", "--checkpoint-every", 2, *folders(tmp_path / "resumed"))
    with ended_at_checkpoint():  # after 2 of 3 steps of the first epoch
        assert call(FIT, *arguments).returncode == 9
    assert call(FIT, *arguments).returncode == 0
    assert_same_run(*(stem(tmp_path / name, "3d", "ball", "sin+fr", options) for name in ("resumed", "whole")))
    arguments = (*arguments[:-6], *folders(tmp_path / "chunks"), "--chunk", 150)
    assert call(FIT, *arguments).returncode == 0
    whole, chunks = (np.load(beside(stem(tmp_path / name, "3d", "ball", "sin+fr", options), ".npz"))["output"]
                     for name in ("whole", "chunks"))
    assert np.abs(whole.astype(int) - chunks).max() <= 1


def test_an_empty_prediction_is_reported_and_drawn_and_another_volume_refused(tmp_path, call, refused, small_ball):
    arguments = ("--shape", small_ball, "--modes", "relu", "--epochs", 1, "--lr", 1e-9, *folders(tmp_path))
    done = call(FIT, *arguments)
    assert done.returncode == 0 and "empty volume" in done.stdout, done.stderr
    made = record(tmp_path, "3d", "ball", "relu,lr=1e-09", "epochs=1")
    assert made["metrics"] == {"iou": 0.0, "chamfer": None, "f_score": None}
    folder = tmp_path / "figures" / "3d" / "ball" / "epochs=1"
    assert {file.stem for file in folder.iterdir()} == {"close_ups", "iou", "errors"}
    np.save(small_ball, ball(5, 12) & ~ball(2, 12))
    assert "was made with voxels" in refused(FIT, *arguments)


def test_downscale_divides_the_sides_of_a_stored_volume_and_of_a_solid(tmp_path):
    block = np.ones((40, 60, 80), bool)
    block[10:30, 10:50, 10:70] = False
    np.save(tmp_path / "block.npy", block)

    def shape(source, *more):
        args = fitting.parse(["--shape", source, "--data", str(tmp_path), *more])
        run = fitting.plan(args, fitting.load(args))[0]
        return run.config["shape"], run.options

    stored, solid = str(tmp_path / "block.npy"), "holed_sphere"
    assert shape(stored) == ([40, 60, 80], {}) and shape(stored, "--downscale", "1") == ([40, 60, 80], {})
    assert shape(stored, "--downscale", "4") == ([10, 15, 20], {"downscale": 4})
    assert shape(stored, "--quick", "--downscale", "2") == ([20, 30, 40], {"size": "quick", "downscale": 2})
    assert shape(solid, "--quick") == ([24] * 3, {"size": "quick"})  # what is full of 28
    (side, *_), options = shape(solid, "--resolution", "40")
    assert options == {"resolution": 40} and 32 < side <= 40
    assert shape(solid, "--resolution", "40", "--downscale", "2") == ([side // 2] * 3, {**options, "downscale": 2})


@pytest.mark.parametrize("arguments, said", [
    ("--shape nowhere.npy", "nowhere.npy"), ("--shape models", "folder"), ("--shape README.md", "README.md"),
    ("--resolution 4", "--resolution"),
    ("--shape {ball} --resolution 20", "has its own, which --downscale divides"),
])
def test_bad_input_gets_one_line_and_status_2(arguments, said, tmp_path, refused, small_ball):
    assert said in refused(FIT, *folders(tmp_path), *arguments.format(ball=small_ball).split())
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("worst, best, labels", [
    (1.0, 1e-4, ["0", "0.9", "0.7", "0.99", "0.97", "0.999", "0.997", "1"]),
    (0.031, 0.009, ["0.99", "0.985", "0.98", "0.97"]), (0.045, 0.032, ["0.956", "0.96", "0.964"]),
    (0.25, 0.22, ["0.752", "0.76", "0.768", "0.776"])])
def test_an_axis_of_iou_has_labels_wherever_its_curves_lie(worst, best, labels):
    assert list(fitting.iou_ticks(worst, best, 2.5e-4).values()) == labels
