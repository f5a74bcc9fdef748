"""The overview figure: of each experiment the largest that is there."""

import numpy as np
import pytest

from experiment.records import Run


def finish(folder, experiment, case, mode, config, metrics, **arrays):
    Run(folder, experiment, case, mode, 0, config).finish(metrics=metrics, seconds=1, steps=1, arrays=arrays)


@pytest.fixture
def results(tmp_path):
    solid = np.zeros((8, 9, 10), bool)
    solid[2:6, 2:6, 2:6] = True
    for mode in ("relu", "relu+fr"):
        finish(tmp_path, "1d", "function", mode, {}, {}, outputs=np.ones((20, 300), np.float32))
        finish(tmp_path / "quick", "ngp", "toy", mode, {"scene": {"train": [9, 16, 16, 4]}}, {"psnr": 25.0},
               images=np.zeros((3, 16, 16, 3), np.uint8))
    for mode in ("relu+pe", "relu+pe+fr"):
        for folder, side, config, psnr in (("batch", 40, {"steps": 100, "batch": 10}, 10.0),
                                           ("quick", 20, {"steps": 200}, 20.0), ("reduced", 40, {"steps": 100}, 40.0),
                                           ("short", 40, {"steps": 90}, 50.0),
                                           ("step", 40, {"steps": 100, "hidden_lr": 2.0}, 60.0)):
            finish(tmp_path / folder, "2d", "kodim05", mode, {"shape": [side, side, 3], **config}, {"psnr": psnr},
                   reconstruction=np.random.default_rng(0).random((side, side, 3)))
        finish(tmp_path / "reduced", "3d", "dragon", mode, {"shape": list(solid.shape), "epochs": 4, "chunk": 100},
               {"iou": 0.75}, predicted=np.packbits(solid))
    return tmp_path


def test_it_draws_the_largest_of_each(results, call, drawn):
    done = call("studies.overview", "--results", results, "--figures", results / "figures")
    assert done.returncode == 0, done.stderr
    (path, figure), = drawn.items()
    titles = [axis.get_title() for axis in figure.axes[:8]]
    assert path == results / "figures" / "overview.png"
    assert titles[0] == "a 1D function, 20 steps\nReLU" and titles[4] == "ReLU + FR"
    assert titles[1] == "kodim05, 40 × 40\n100 steps\nReLU + PE: 40.00 dB" and titles[5] == "ReLU + PE + FR: 40.00 dB"
    assert titles[2:4] == ["dragon, 8 × 9 × 10\n4 epochs, 100 points a step\nReLU + PE: IoU 0.7500",
                           "Instant-NGP, toy\n16 × 16 pixels\nReLU: 25.00 dB"]


def test_what_is_missing_is_named(results, refused):
    for file in results.rglob("3d/dragon/*+fr*"):
        file.unlink()
    line = refused("studies.overview", "--results", results, "--figures", results / "figures")
    assert "python 3D_occupance.py --quick" in line
