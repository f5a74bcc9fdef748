"""The 2D script as a user runs it, and its measures."""

import json
import math
import sys
from importlib import import_module

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from experiment import plots
from experiment.metrics import psnr, radial_spectrum, ssim

FIT = "2d_image_fitting.py"
fitting = import_module("2d_image_fitting")


def folders(path):
    return "--results", path / "results", "--figures", path / "figures", "--device", "cpu"


def record(path, case, mode):
    return json.loads((path / "results" / "quick" / "2d" / case / f"{mode}-seed0.json").read_text())


def test_measures():
    assert psnr(0.01) == pytest.approx(20)
    image = np.random.default_rng(0).random((32, 48, 3)).astype(np.float32)
    assert ssim(image, image) == pytest.approx(1) and ssim(1 - image, image) < 0
    frequency, power = radial_spectrum(np.sin(2 * np.pi * 8 / 64 * np.arange(64))[:, None, None] * np.ones((64, 64, 3)))
    assert frequency[power.argmax()] == pytest.approx(8 / 64) and frequency[-1] == 0.5
    noise = np.random.default_rng(0).normal(size=(128, 96, 3))
    assert radial_spectrum(noise)[1] == pytest.approx(1, abs=0.5)  # white noise of variance 1: flat, at 1


def test_the_crop_is_where_the_detail_is():
    image = np.zeros((40, 60, 3), np.float32)
    image[20:30, 30:45] = np.random.default_rng(0).random((10, 15, 3))
    rows, columns = plots.busiest_window(image)
    assert abs(rows.start - 20) <= 1 and abs(columns.start - 30) <= 1


def test_quick_run_of_a_bundled_picture(tmp_path, script):
    done = script(FIT, "--quick", "--image", "astronaut", "--steps", 10, *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    values = {mode: record(tmp_path, "astronaut", mode)["metrics"] for mode in fitting.MODES}
    for mode in ("relu+fr", "relu+pe+fr", "sin+fr"):
        assert values[mode]["psnr"] > values[mode.removesuffix("+fr")]["psnr"] + 0.3, values
    assert all(value["psnr_best"] >= value["psnr"] and 0 < value["ssim"] <= 1 for value in values.values())
    assert {file.name for file in (tmp_path / "figures" / "quick").iterdir()} == {
        "2d_astronaut.png", "2d_astronaut_psnr.png", "2d_astronaut_spectrum.png"}
    folder = tmp_path / "results" / "quick" / "2d" / "astronaut"
    arrays = np.load(folder / "sin+fr-seed0.npz")
    picture = iio.imread(folder / "sin+fr-seed0.png")
    assert arrays["psnr"].shape == (10,) and picture.shape == arrays["reconstruction"].shape == (72, 72, 3)
    assert np.abs(picture / 255 - arrays["reconstruction"].clip(0, 1)).max() < 0.51 / 255


def test_chunks_give_the_full_batch_step_and_a_resumed_run_the_same_bits(tmp_path, call, monkeypatch):
    picture = tmp_path / "picture.png"
    iio.imwrite(picture, np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    arguments = ("--image", picture, "--quick", "--modes", "sin+fr", "--steps", 12)
    curves = {}
    for name, more in {"whole": (), "chunks": ("--chunk", 100), "resumed": ("--checkpoint-every", 5)}.items():
        if name == "resumed":
            with monkeypatch.context() as patch:
                patch.setattr(fitting, "fold", lambda model: sys.exit(9))  # after the last step, before the record
                assert call(FIT, *arguments, *more, *folders(tmp_path / name)).returncode == 9
            assert (tmp_path / name / "results" / "quick" / "2d" / "picture" / "sin+fr-seed0.ckpt").exists()
        done = call(FIT, *arguments, *more, *folders(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert ("6 chunks" in done.stdout) == (name == "chunks")
        curves[name] = np.load(tmp_path / name / "results" / "quick" / "2d" / "picture" / "sin+fr-seed0.npz")["psnr"]
    assert np.allclose(curves["chunks"], curves["whole"], atol=1e-3)
    assert np.array_equal(curves["resumed"], curves["whole"])
    records = [record(tmp_path / name, "picture", "sin+fr")["metrics"] for name in ("whole", "resumed")]
    assert records[0] == records[1]


def test_the_learning_rate_falls_once(tmp_path, monkeypatch):
    monkeypatch.setitem(fitting.QUICK, "decay_at", 6)
    rates = []

    class Adam(torch.optim.Adam):
        def step(self, *arguments):
            rates.append(float(self.param_groups[0]["lr"]))
            return super().step(*arguments)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    monkeypatch.setattr(sys, "argv", [FIT, "--image", "camera", "--quick", "--downscale", "16", "--modes", "relu",
                                      "--steps", "10", *map(str, folders(tmp_path))])
    fitting.main()
    assert rates == pytest.approx([1e-4] * 6 + [1e-5] * 4)
    assert record(tmp_path, "camera", "relu")["config"]["shape"] == [32, 32, 3]


def test_memory_decides_the_chunk(monkeypatch):
    config = fitting.PAPER["sin"]
    device = torch.device("cpu")
    for gigabytes in (1, 4, 64):
        monkeypatch.setattr(fitting, "memory_bytes", lambda device, gigabytes=gigabytes: gigabytes * 2**30)
        chunk = fitting.fitting_chunk(512 * 768, config, device)
        assert chunk * 3 * 4 * 256 * 4 <= gigabytes * 2**30 / 2 * 1.01
        assert math.ceil(512 * 768 / chunk) == {1: 9, 4: 3, 64: 1}[gigabytes]


@pytest.mark.parametrize("arguments, said", [
    (["--image", "0"], "1 to 24"), (["--image", "25"], "1 to 24"), (["--image", "nowhere.png"], "nowhere.png"),
    (["--image", "models"], "folder"), (["--image", "README.md"], "README.md"), (["--steps", "0"], "--steps"),
    (["--lr", "nan"], "nan"), (["--chunk", "0"], "--chunk"), (["--image", "camera", "camera", "--modes", "x"], "x"),
])
def test_bad_input_gets_one_line_and_status_2(arguments, said, tmp_path, refused):
    line = refused(FIT, *folders(tmp_path), *arguments)
    assert said in line
    assert not list(tmp_path.rglob("*.json"))
