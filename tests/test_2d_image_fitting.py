"""The 2D script as a user runs it."""

import math
from importlib import import_module

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from conftest import assert_same_run, before_each_step, ended_at_checkpoint, folders, record, run_script, stem

FIT = "2d_image_fitting.py"
fitting = import_module("2d_image_fitting")


@pytest.fixture
def picture(tmp_path):
    """The path of a small picture of noise."""
    path = tmp_path / "picture.png"
    iio.imwrite(path, np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    return path


@pytest.mark.slow
def test_quick_run_of_a_bundled_picture(tmp_path):
    done = run_script(FIT, "--quick", "--image", "astronaut", "--steps", 10, *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    values = {mode: record(tmp_path, "2d", "astronaut", mode)["metrics"] for mode in fitting.MODES}
    for mode in ("relu+fr", "relu+pe+fr", "sin+fr"):
        assert values[mode]["psnr"] > values[mode.removesuffix("+fr")]["psnr"] + 0.3, values
    assert all(value["psnr_best"] >= value["psnr"] and 0 < value["ssim"] <= 1 for value in values.values())
    assert {file.name for file in (tmp_path / "figures" / "quick").iterdir()} == {
        "2d_astronaut_images.png", "2d_astronaut_psnr.png", "2d_astronaut_spectrum.png"}


def test_a_short_run_leaves_its_record_reconstruction_and_figures(tmp_path, picture, call):
    done = call(FIT, "--image", picture, "--modes", "sin+fr", "--steps", 5, *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    path = stem(tmp_path, "2d", "picture", "sin+fr", quick=False)
    arrays, written = np.load(path.with_suffix(".npz")), iio.imread(path.with_suffix(".png"))
    assert arrays["psnr"].shape == (5,) and written.shape == arrays["reconstruction"].shape == (20, 30, 3)
    assert np.abs(written / 255 - arrays["reconstruction"].clip(0, 1)).max() < 0.51 / 255
    error = np.square(arrays["reconstruction"] - iio.imread(picture) / 255).mean()
    metrics = record(tmp_path, "2d", "picture", "sin+fr", quick=False)["metrics"]
    assert metrics["psnr"] == pytest.approx(-10 * math.log10(error), abs=1e-5)
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {
        "2d_picture_images.png", "2d_picture_psnr.png", "2d_picture_spectrum.png"}


@pytest.mark.slow
def test_chunks_give_the_full_batch_step_and_a_resumed_run_the_same_bits(tmp_path, picture, call):
    arguments = ("--image", picture, "--quick", "--modes", "sin+fr", "--steps", 12)
    paths = {name: stem(tmp_path / name, "2d", "picture", "sin+fr") for name in ("whole", "chunks", "resumed")}
    for name, more in {"whole": (), "chunks": ("--chunk", 100), "resumed": ("--checkpoint-every", 5)}.items():
        if name == "resumed":
            with ended_at_checkpoint(2):
                assert call(FIT, *arguments, *more, *folders(tmp_path / name)).returncode == 9
            assert paths[name].with_suffix(".ckpt").exists()
        done = call(FIT, *arguments, *more, *folders(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert ("6 chunks" in done.stdout) == (name == "chunks")
    whole, chunks = (np.load(paths[name].with_suffix(".npz"))["psnr"] for name in ("whole", "chunks"))
    assert np.allclose(chunks, whole, atol=1e-3)
    assert_same_run(paths["resumed"], paths["whole"])


def test_an_epoch_draws_every_pixel_once_and_follows_from_its_seed():
    def drawn(seed, *blocks):
        batches, found = fitting.PixelBatches(50, 7, seed, torch.device("cpu")), []
        for block in blocks:
            batches.draw(block)
            found += [batches.next().clone() for _ in block]
        return torch.stack(found)

    steps = drawn(0, range(20))
    for epoch in (steps[:7], steps[7:14]):  # 50 = 7 · 7 + 1: a pixel of each is left out
        assert len(epoch.unique()) == 49
    assert not steps[:7].equal(steps[7:14]) and not steps.equal(drawn(1, range(20)))
    assert steps[5:].equal(drawn(0, range(5, 13), range(13, 20)))  # whatever the blocks
    whole = fitting.PixelBatches(50, None, 0, torch.device("cpu"))
    whole.draw(range(3))
    assert whole.size == 50 and whole.next().equal(torch.arange(50)) and whole.next().equal(torch.arange(50))


def test_a_training_in_batches_is_of_the_whole_image_in_the_end_and_resumes_to_the_bit(tmp_path, picture, call):
    arguments = ("--image", picture, "--modes", "relu+fr", "--steps", 40, "--batch", 100, "--checkpoint-every", 7)
    paths = {name: stem(tmp_path / name, "2d", "picture", "relu+fr", quick=False) for name in ("whole", "resumed")}
    with ended_at_checkpoint(3):
        assert call(FIT, *arguments, *folders(tmp_path / "resumed")).returncode == 9
    for name in paths:
        done = call(FIT, *arguments, *folders(tmp_path / name))
        assert done.returncode == 0 and "30 × 20, 40 steps of 100 pixels" in done.stdout, done.stderr
    assert_same_run(paths["resumed"], paths["whole"])
    arrays = np.load(paths["whole"].with_suffix(".npz"))
    made = record(tmp_path / "whole", "2d", "picture", "relu+fr", quick=False)
    error = np.square(arrays["reconstruction"] - iio.imread(picture) / 255).mean()
    psnr = made["metrics"]["psnr"]
    assert made["config"]["batch"] == 100 and psnr == pytest.approx(-10 * math.log10(error), abs=1e-5)
    looks = made["metrics"]["psnr_at"]
    assert list(looks) == [str(step) for step in range(2, 41, 2)] and looks["40"] == pytest.approx(psnr, abs=1e-3)
    assert looks["2"] < looks["40"] and made["metrics"]["psnr_best"] == max(psnr, *looks.values())


def test_the_learning_rate_falls_once(tmp_path, call, monkeypatch):
    monkeypatch.setitem(fitting.QUICK, "decay_at", 6)
    rates = []
    with before_each_step(lambda adam: rates.append(float(adam.param_groups[0]["lr"]))):
        done = call(FIT, "--image", "camera", "--quick", "--downscale", 16, "--modes", "relu", "--steps", 10,
                    *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    assert rates == pytest.approx([1e-4] * 6 + [1e-5] * 4)
    assert record(tmp_path, "2d", "camera", "relu")["config"]["shape"] == [32, 32, 3]


def test_memory_decides_the_chunk_and_on_a_cpu_its_cache(monkeypatch):
    network, device = fitting.PAPER["sin"]["network"], torch.device("cuda")
    for gigabytes in (1, 4, 64):
        monkeypatch.setattr(fitting, "memory_bytes", lambda device, gigabytes=gigabytes: gigabytes * 2**30)
        chunk = fitting.fitting_chunk(512 * 768, network, device)
        assert chunk * 3 * 4 * 256 * 4 <= gigabytes * 2**30 / 2 * 1.01
        assert math.ceil(512 * 768 / chunk) == {1: 9, 4: 3, 64: 1}[gigabytes]
        assert fitting.fitting_chunk(512 * 768, network, torch.device("cpu")) == fitting.IN_CACHE < chunk
    assert fitting.fitting_chunk(100, network, torch.device("cpu")) == 100


@pytest.mark.parametrize("arguments, said", [
    ("--image 0", "1 to 24"), ("--image 25", "1 to 24"), ("--image nowhere.png", "nowhere.png"),
    ("--image models", "folder"), ("--image README.md", "README.md"), ("--chunk 0", "--chunk"),
    ("--downscale 0", "--downscale"), ("--image camera {folder}/camera.png", "two images"),
    ("--image {folder}/narrow.png", "30 × 10 pixels; the SSIM needs 11"), ("--batch 0", "--batch"),
    ("--batch 601 --image {folder}/camera.png", "--batch 601 is more than the 600 pixels of camera"),
])
def test_bad_input_gets_one_line_and_status_2(arguments, said, tmp_path, picture, refused):
    picture.rename(tmp_path / "camera.png")
    iio.imwrite(tmp_path / "narrow.png", np.zeros((10, 30, 3), np.uint8))
    assert said in refused(FIT, *folders(tmp_path), *arguments.format(folder=tmp_path).split())
    assert not list(tmp_path.rglob("*.json"))
