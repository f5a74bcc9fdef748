"""The Instant-NGP script as a user runs it, its objective and its schedule."""

import functools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from conftest import assert_same_run, before_each_step, beside, ended_at_checkpoint, record, run_main, stem, toy_options

import InstantNGP
from data.scenes import load_scene, normalize_poses
from harness.records import Run
from models.nerf.instant_ngp import InstantNGPField
from models.nerf.occupancy_grid import visible_cells
from models.nerf.rays import RayDataset

NGP, RUN, FOLDER = "InstantNGP.py", ("ngp", "toy"), "quick,downscale=4"
TINY: dict = {"epochs": 3, "iterations": 14, "batch": 192, "lr": 1.4e-2, "warm_up": 8, "update_every": 4,
              "downscale": 8, "field": {"levels": 3, "log2_size": 15, "finest": 32, "resolution": 16, "steps": 64}}
FEW: dict = {**TINY, "iterations": 4, "batch": 32, "warm_up": 4, "field": {**TINY["field"], "steps": 512}}


@pytest.fixture(autouse=True)
def tiny(one_process, monkeypatch):
    monkeypatch.setattr(InstantNGP, "QUICK", TINY)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with results and figures of both modes."""
    path = tmp_path_factory.mktemp("ngp")
    run_main(InstantNGP, TINY, toy_options(path, "--frames", 3))
    return path


@functools.cache
def toy():
    """The toy scene at 16 × 16 pixels, as the script moves it."""
    return normalize_poses(load_scene("toy", Path("nowhere"), 8))


def train(path, mode="relu", seed=0, chunk=None, checkpoint_every=1000, **settings):
    """Train a field for a few steps, without figures; the path, but for the suffix, of its files."""
    config = {**InstantNGP.PAPER, **FEW, "network": InstantNGP.NETWORKS[mode], "hidden_lr": 1.0, **settings}
    run = Run(path, *RUN, mode, seed, config)
    InstantNGP.train(run, toy(), SimpleNamespace(device="cpu", precision="fp32", frames=0, chunk=chunk,
                                                 checkpoint_every=checkpoint_every))
    return run.path("")


def small_field(bg_color=1.0):
    torch.manual_seed(0)
    field = InstantNGPField("relu+fr", levels=3, log2_size=9, finest=40, resolution=16, steps=64,
                            hidden_features=16, low_freq_num=3, high_freq_num=4, phase_num=5, alpha=0.01,
                            bg_color=bg_color).double()
    torch.nn.init.uniform_(field.encoding.table, -1, 1)
    torch.nn.init.constant_(field.density_mlp[2].bias, 2)
    field.occupancy.occupied[4:12, 5:13, 3:12] = True
    return field


def small_batch(count=60):
    """Rays towards the cube, some of them past the cells that are occupied, and colors."""
    generator = torch.Generator().manual_seed(1)
    origins = 2 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)
    directions = 0.8 * (torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.5) - origins
    return origins, directions, torch.rand(count, 3, generator=generator, dtype=torch.float64)


def test_the_learning_rate_is_that_of_cosine_annealing():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=1e-2 / 30)
    for epoch in range(30):
        assert 1e-2 * InstantNGP.cosine(epoch, 30) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_the_field_stays_empty_where_no_camera_sees(toy_rays):
    two_views = RayDataset(toy_rays.images[:2], toy_rays.poses[:2] * torch.tensor([1, 1, 1, 1.5 / 4]),
                           toy_rays.intrinsics[:2], 1.0)
    config = {**InstantNGP.PAPER, **FEW, "network": InstantNGP.NETWORKS["relu"]}
    field = InstantNGP.make_field("relu", config, two_views)
    hidden = ~visible_cells(16, 0.5, two_views.poses, two_views.intrinsics, 16, 16)
    for everywhere in (True, False):
        field.update_occupancy(everywhere)
    assert (field.occupancy.density[hidden] == -1).all() and not field.occupancy.occupied[hidden].any()
    assert field.occupancy.occupied.any() and 0.01 < hidden.float().mean() < 0.9


@pytest.mark.parametrize("bg_color", [1.0, 0.0])
def test_the_objective_is_the_squared_error_and_the_opacity_term(bg_color):
    field, (origins, directions, target) = small_field(bg_color), small_batch()
    torch.manual_seed(5)
    error, loss = InstantNGP.objective(field(origins, directions, jitter=True), target, 0.02)
    torch.manual_seed(5)
    shown = field(origins, directions, jitter=True)
    expected_error = expected = 0.0
    for ray in range(len(origins)):
        squares = (shown.color[ray] - target[ray]).pow(2).mean().item()
        opacity = shown.weights[shown.ray_index == ray].sum().item() + 1e-10
        expected_error += squares
        expected += squares - 0.02 * opacity * math.log(opacity)
    assert error.item() == pytest.approx(expected_error, rel=1e-9)
    assert loss.item() == pytest.approx(expected, rel=1e-9) and loss - error > 0.01
    assert (shown.final_transmittance == 1).any() and (shown.final_transmittance < 0.9).any()
    assert InstantNGP.objective(field(origins, directions, jitter=True), target, 0.02)[0] != error  # another jitter


def test_the_gradient_is_finite_where_nothing_is_seen():
    field, (origins, directions, target) = small_field(), small_batch()
    torch.nn.init.zeros_(field.density_mlp[2].weight)
    torch.nn.init.constant_(field.density_mlp[2].bias, -200)  # samples, but nothing in them
    error, loss = InstantNGP.objective(field(origins, directions, jitter=True), target, 1e-3)
    loss.backward()
    assert error.item() == pytest.approx((1 - target).square().mean(1).sum().item())
    assert (loss - error).item() == pytest.approx(-60 * 1e-3 * 1e-10 * math.log(1e-10), abs=1e-12)
    assert all(parameter.grad.isfinite().all() for parameter in field.parameters())
    assert field.density_mlp[2].bias.grad[0] != 0
    field.occupancy.occupied.zero_()  # no samples at all
    assert InstantNGP.objective(field(origins, directions, jitter=True), target, 1e-3)[1].isfinite()


def test_parts_of_a_batch_add_up_to_the_step_of_the_whole(tmp_path):
    # On the CPU the random numbers are the same however many are drawn at a time, and so is the jitter.
    found = []
    for name, chunk in {"whole": None, "parts": 23}.items():
        steps = []
        with before_each_step(lambda adam, steps=steps: steps.append(
                [parameter.grad.clone() for group in adam.param_groups for parameter in group["params"]])):
            path = train(tmp_path / name, "relu+fr", epochs=1, chunk=chunk)
        found.append((steps, np.load(beside(path, ".npz"))["mse"]))
    (whole, whole_mse), (parts, parts_mse) = found
    assert len(whole) == len(parts) == 4
    for expected, got in zip(whole[0], parts[0], strict=True):
        assert torch.allclose(got, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
        assert expected.abs().max() > 0
    assert parts_mse == pytest.approx(whole_mse, rel=1e-3) and whole_mse.min() > 0


def test_a_run_leaves_a_record_and_all_that_it_tells_of(trained):
    truth = load_scene("toy", trained, 4).test.colors(slice(None), 1.0)
    for mode in InstantNGP.NETWORKS:
        path, made = stem(trained, *RUN, mode, FOLDER), record(trained, *RUN, mode, FOLDER)
        metrics, arrays = made["metrics"], np.load(beside(path, ".npz"))
        # A field that is not trained has 11.1 dB here, a plain picture of the mean color 10.8 dB.
        assert metrics["psnr"] > 15.5 and metrics["psnr_8bit"] == pytest.approx(metrics["psnr"], abs=0.1)
        assert 0.3 < metrics["ssim"] < 1 and metrics["views"] == [f"test_{view:02d}" for view in range(8)]
        assert made["config"]["scene"]["train"] == [60, 32, 32, 4] and made["config"]["background"] == "white"
        errors = np.square(arrays["images"] / 255 - truth).mean((1, 2, 3))
        assert metrics["psnr_8bit"] == pytest.approx(-10 * np.log10(errors).mean(), abs=1e-6)
        assert arrays["mse"].shape == (42,) and arrays["mse"][-10:].mean() < 0.5 * arrays["mse"][:5].mean()
        depth = iio.imread(path / "depths" / "test_03.png")
        assert depth.shape == (32, 32) and depth.max() == 255
        assert iio.imread(path / "turntable.gif").shape == (3, 32, 32, 3)
        weights = torch.load(beside(path, ".pt"), weights_only=True)["field"]
        assert weights["color.2.weight"].shape == (64, 64) and not any("coefficients" in name for name in weights)
    assert not list(trained.rglob("*.ckpt"))
    figures = trained / "figures" / "ngp" / "toy" / FOLDER
    assert {file.name for file in figures.iterdir()} == {"close_ups.png", "psnr.png"}


@pytest.mark.parametrize("background", ["white", "black"])
def test_the_background_is_that_of_the_option(background, tmp_path):
    bg_color = float(background == "white")
    path = train(tmp_path, epochs=1, lr=1e-9, background=background)
    arrays, metrics = np.load(beside(path, ".npz")), json.loads(beside(path, ".json").read_text())["metrics"]
    # A field of density 1, and gray, hides less than 80 % of what is behind it.
    assert np.abs(arrays["images"][:, 0, 0] / 255 - bg_color).mean() < 0.25
    errors = np.square(arrays["images"] / 255 - toy().test.colors(slice(None), bg_color)).mean((1, 2, 3))
    assert metrics["psnr_8bit"] == pytest.approx(-10 * np.log10(errors).mean(), abs=1e-6)
    # As it is hardly trained, the training views are no better; were they on the other gray they would be far off.
    assert 0.6 * errors.mean() < arrays["mse"].mean() < 1.6 * errors.mean()


def test_a_seed_draws_pixels_of_its_own_from_all_views(tmp_path, monkeypatch):
    drawn, rays = [], RayDataset.rays
    monkeypatch.setattr(RayDataset, "rays", lambda views, pixels: (drawn.append(pixels), rays(views, pixels))[1])
    first, second = (np.load(beside(train(tmp_path, seed=seed, epochs=1), ".npz")) for seed in (1, 2))
    assert not np.isclose(first["mse"], second["mse"], rtol=1e-6).any()
    parts = torch.stack(drawn) / (60 * 16 * 16)
    assert parts.shape == (8, 32) and parts.unique().numel() > 240
    assert 0 <= parts.min() < 0.05 and 0.95 < parts.max() < 1 and 0.4 < parts.mean() < 0.6


def test_a_resumed_run_has_the_same_bits(tmp_path, monkeypatch):
    rates, looks, update = [], [], InstantNGPField.update_occupancy
    monkeypatch.setattr(InstantNGPField, "update_occupancy", lambda field, everywhere: (
        looks.append((len(rates), everywhere)), update(field, everywhere)))
    with before_each_step(lambda adam: rates.append(*{group["lr"] for group in adam.param_groups})):
        whole = train(tmp_path / "whole", "relu+fr")
        assert looks == [(0, True), (4, False), (8, False)]  # after so many steps, in all cells or in some
        with ended_at_checkpoint(), pytest.raises(SystemExit):
            train(tmp_path / "resumed", "relu+fr", checkpoint_every=6)
        assert len(rates) == 12 + 6 and not list(tmp_path.glob("resumed/**/*.json"))
        resumed = train(tmp_path / "resumed", "relu+fr", checkpoint_every=6)
    assert_same_run(resumed, whole)
    expected = [FEW["lr"] * InstantNGP.cosine(epoch, 3) for epoch in range(3) for _ in range(4)]
    assert rates == expected + expected
    assert looks[3:] == [(12 + steps, everywhere) for steps, everywhere in looks[:3]]
    mse = np.load(beside(whole, ".npz"))["mse"]
    assert (mse > 0).all() and mse.shape == (12,)
    occupied = torch.load(beside(whole, ".pt"), weights_only=True)["field"]["occupancy.occupied"]
    assert 0.01 < occupied.float().mean() < 0.99


def test_a_second_run_trains_nothing_and_rendering_again_records_what_it_measured(trained, tmp_path, call):
    shutil.copytree(trained / "results", tmp_path / "results")
    done = call(NGP, *toy_options(tmp_path))
    assert done.returncode == 0 and done.stdout.count("finished before") == 2, done.stderr
    assert (tmp_path / "figures" / "ngp" / "toy" / FOLDER / "close_ups.png").exists()
    path = stem(tmp_path, *RUN, "relu+fr", FOLDER)
    made = json.loads(beside(path, ".json").read_text())
    beside(path, ".json").write_text(json.dumps({**made, "metrics": {}}))
    assert call(NGP, *toy_options(tmp_path, "--frames", 2, "--modes", "relu+fr", "--render-only")).returncode == 0
    again = json.loads(beside(path, ".json").read_text())
    assert again["metrics"]["psnr"] == pytest.approx(made["metrics"]["psnr"], abs=1e-4)
    assert {**again, "metrics": 0} == {**made, "metrics": 0} and len(iio.imread(path / "turntable.gif")) == 2


@pytest.mark.parametrize("arguments, said", [
    ("--chunk 0", "--chunk"), ("--batch 0", "--batch"), ("--epochs 1 --modes relu --lr 1e30", "smaller --lr")])
def test_bad_input_gets_one_line_and_status_2(arguments, said, refused, tmp_path):
    assert said in refused(NGP, *toy_options(tmp_path, *arguments.split()))
    assert not list(tmp_path.rglob("*.json"))
