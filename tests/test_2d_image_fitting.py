"""The 2D script as a user runs it."""

import math
from importlib import import_module

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import assert_same_run, before_each_step, beside, ended_at_checkpoint, folders, record, run_script, stem

FIT = "2d_image_fitting.py"
fitting = import_module("2d_image_fitting")
FIGURES = {"close_ups", "psnr", "spectrum"}


@pytest.fixture
def picture(tmp_path):
    """The path of a small picture of noise."""
    path = tmp_path / "picture.png"
    iio.imwrite(path, np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    return path


@pytest.mark.slow
def test_quick_run_needs_no_data_set(tmp_path):
    done = run_script(FIT, "--quick", "--steps", 10, *folders(tmp_path), "--data", tmp_path / "none")
    assert done.returncode == 0 and "; made smaller, to 64 × 64\n" in done.stdout, done.stderr
    values = {mode: record(tmp_path, "2d", "astronaut", mode, "quick,steps=10")["metrics"] for mode in fitting.MODES}
    for mode in ("relu+fr", "relu+pe+fr", "sin+fr"):
        assert values[mode]["psnr"] > values[mode.removesuffix("+fr")]["psnr"] + 0.3, values
    assert all(value["psnr_best"] >= value["psnr"] and 0 < value["ssim"] <= 1 for value in values.values())
    folder = tmp_path / "figures" / "2d" / "astronaut" / "quick,steps=10"
    assert {file.stem for file in folder.iterdir()} == FIGURES


def test_a_short_run_leaves_its_record_reconstruction_and_figures_and_is_of_its_image_alone(
        tmp_path, picture, call, refused, one_process):
    arguments = ("--image", picture, "--modes", "sin+fr", "sin+fr,lr=1e-3", "--steps", 5, *folders(tmp_path))
    done = call(FIT, *arguments)
    assert done.returncode == 0, done.stderr
    for name in ("sin+fr", "sin+fr,lr=0.001"):
        run = stem(tmp_path, "2d", "picture", name, "steps=5")
        arrays, written = np.load(beside(run, ".npz")), iio.imread(beside(run, ".png"))
        assert arrays["psnr"].shape == (5,) and written.shape == arrays["reconstruction"].shape == (20, 30, 3)
        assert np.abs(written / 255 - arrays["reconstruction"].clip(0, 1)).max() < 0.51 / 255
        error = np.square(arrays["reconstruction"] - iio.imread(picture) / 255).mean()
        metrics = record(tmp_path, "2d", "picture", name, "steps=5")["metrics"]
        assert metrics["psnr"] == pytest.approx(-10 * math.log10(error), abs=1e-5)
        assert f"{metrics['psnr']:.2f}" in next(
            line for line in done.stdout.splitlines() if f"lr {0.001 if 'lr' in name else 0.0001}  " in line)
    folder = tmp_path / "figures" / "2d" / "picture" / "steps=5"
    assert {file.stem for file in folder.iterdir()} == FIGURES
    again = call(FIT, *arguments)
    assert again.stdout.count("finished before") == 2
    iio.imwrite(picture, 255 - iio.imread(picture))
    assert "was made with pixels" in refused(FIT, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 100])
def test_chunks_give_the_step_of_the_whole_batch_and_a_resumed_run_the_same_bits(
        tmp_path, picture, call, drawn, batch):
    options = f"steps=6,batch={batch}" if batch else "steps=6"
    arguments = ("--image", picture, "--modes", "relu+fr", "--steps", 6, *(["--batch", batch] if batch else []))
    runs = {name: stem(tmp_path / name, "2d", "picture", "relu+fr", options) for name in ("whole", "chunks", "resumed")}
    for name, more in {"whole": (), "chunks": ("--chunk", 30), "resumed": ("--checkpoint-every", 2)}.items():
        if name == "resumed":
            with ended_at_checkpoint(2):
                assert call(FIT, *arguments, *more, *folders(tmp_path / name)).returncode == 9
            assert beside(runs[name], ".ckpt").exists()
        done = call(FIT, *arguments, *more, *folders(tmp_path / name))
        assert done.returncode == 0, done.stderr
    whole, chunks = (np.load(beside(runs[name], ".npz")) for name in ("whole", "chunks"))
    assert np.allclose(chunks["psnr"], whole["psnr"], atol=1e-3)
    assert_same_run(runs["resumed"], runs["whole"])

    metrics = record(tmp_path / "whole", "2d", "picture", "relu+fr", options)["metrics"]
    psnr, of_image = metrics["psnr"], metrics["psnr_at"]
    assert psnr == pytest.approx(of_image["6"], abs=1e-3)
    assert list(of_image) == [str(step) for step in range(1, 7)] and of_image["2"] < of_image["6"]
    assert metrics["psnr_best"] == max(psnr, *(of_image.values() if batch else whole["psnr"].tolist()))


def test_the_learning_rate_falls_once(tmp_path, call, monkeypatch):
    monkeypatch.setitem(fitting.QUICK, "decay_at", 6)
    rates = []
    with before_each_step(lambda adam: rates.append(float(adam.param_groups[0]["lr"]))):
        done = call(FIT, "--image", "camera", "--quick", "--downscale", 16, "--modes", "relu", "--steps", 10,
                    *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    assert rates == pytest.approx([1e-4] * 6 + [1e-5] * 4)
    made = record(tmp_path, "2d", "camera", "relu", "quick,steps=10,downscale=16")
    assert made["config"]["shape"] == [32, 32, 3]


@pytest.mark.parametrize("arguments, said", [
    *((f"--image={number}", "1 to 24") for number in (0, 25, -1)), ("--image nowhere.png", "nowhere.png"),
    ("--image models", "folder"), ("--image README.md", "README.md"),
    ("--image camera {folder}/camera.png", "two images"),
    ("--image {folder}/narrow.png", "30 × 10 pixels; the SSIM needs 11"),
    ("--batch 601 --image {folder}/camera.png", "--batch 601 is more than the 600 pixels of camera"),
])
def test_bad_input_gets_one_line_and_status_2(arguments, said, tmp_path, picture, refused):
    picture.rename(tmp_path / "camera.png")
    iio.imwrite(tmp_path / "narrow.png", np.zeros((10, 30, 3), np.uint8))
    assert said in refused(FIT, *folders(tmp_path), *arguments.format(folder=tmp_path).split())
    assert not list(tmp_path.rglob("*.json"))
