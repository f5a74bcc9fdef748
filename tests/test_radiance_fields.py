"""The scripts of the two radiance fields as a user runs them, at a size at which a run takes seconds."""

import contextlib
import io
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from conftest import (
    assert_same_run,
    before_each_step,
    beside,
    ended_at_checkpoint,
    folders,
    record,
    run_main,
    stem,
    toy_options,
    toy_scene,
)
from torch.optim.lr_scheduler import CosineAnnealingLR

import dvgo
import InstantNGP
from data.scenes import load_scene, normalize_poses
from harness.records import Run
from models.nerf.color_mlp import COLOR_MODES
from models.nerf.dvgo import DVGOField
from models.nerf.instant_ngp import InstantNGPField
from models.nerf.rays import RayDataset

STEPS, SCALE_AT, VOXELS = 40, [15, 30], 24**3
TINY_DVGO: dict = {
    **dvgo.QUICK, "steps": STEPS, "batch": 128, "voxels": VOXELS, "scale_at": SCALE_AT, "decay_steps": 60,
    "renew_every": 20, "coarse": {**dvgo.COARSE, "steps": 60, "batch": 256, "voxels": 16**3, "alpha_init": 1e-5,
                                  "grid_lr": 0.4, "renew_every": 20}}
TINY_NGP: dict = {
    "epochs": 3, "iterations": 14, "batch": 192, "lr": 1.4e-2, "warm_up": 8, "update_every": 4, "downscale": 8,
    "field": {"levels": 3, "log2_size": 15, "finest": 32, "resolution": 16, "steps": 64}}
FEW: dict = {**TINY_NGP, "iterations": 4, "batch": 32, "warm_up": 4, "field": {**TINY_NGP["field"], "steps": 512}}
SCRIPTS = {dvgo: TINY_DVGO, InstantNGP: TINY_NGP}
EXPERIMENTS, FOLDER = {dvgo: "dvgo", InstantNGP: "ngp"}, "quick,downscale=4"


@pytest.fixture(autouse=True)
def tiny(one_process, monkeypatch):
    for script, settings in SCRIPTS.items():
        monkeypatch.setattr(script, "QUICK", settings)


@pytest.fixture(scope="module", params=SCRIPTS, ids=["dvgo", "ngp"])
def finished(request, tmp_path_factory):
    """One run of both modes of a script, with the optimizers it made."""
    script, path, optimizers = request.param, tmp_path_factory.mktemp("finished"), {}
    with (contextlib.redirect_stdout(io.StringIO()) as printed,
          before_each_step(lambda optimizer: optimizers.setdefault(id(optimizer), optimizer))):
        run_main(script, SCRIPTS[script], toy_options(path, "--frames", 2))
    run = EXPERIMENTS[script], "toy"
    return SimpleNamespace(path=path, script=f"{script.__name__}.py", run=run, stdout=printed.getvalue(),
                           folder=stem(path, *run, "relu", FOLDER).parent, optimizers=list(optimizers.values()))


of_dvgo = pytest.mark.parametrize("finished", [dvgo], indirect=True, ids=["dvgo"])


def test_a_run_leaves_its_record_field_pictures_and_figures(finished):
    scene = load_scene("toy", Path("nowhere"), 4)
    truth = scene.test.colors(slice(None), 1.0)
    for mode in COLOR_MODES:
        path, made = finished.folder / f"{mode}-seed0", record(finished.path, *finished.run, mode, FOLDER)
        metrics, arrays = made["metrics"], np.load(beside(path, ".npz"))
        # Blank views have 8.4 dB, views of one color 10.8, an untrained field at most 11.1.
        assert metrics["psnr"] > 15 and 0.3 < metrics["ssim"] < 1, metrics
        assert metrics["views"] == scene.test.names and len(set(metrics["psnr_views"])) == len(truth)
        assert made["config"]["scene"]["train"] == [60, 32, 32, 4] and made["config"]["background"] == "white"
        errors = np.square(arrays["images"] / 255 - truth).mean((1, 2, 3))
        assert metrics["psnr_8bit"] == pytest.approx(-10 * np.log10(errors).mean(), abs=1e-6)
        assert metrics["psnr_8bit"] == pytest.approx(metrics["psnr"], abs=0.1)
        assert len(arrays["mse"]) in (STEPS, 3 * 14) and arrays["mse"][-10:].mean() < 0.6 * arrays["mse"][:5].mean()
        depth = iio.imread(path / "depths" / f"{scene.test.names[0]}.png")
        assert depth.shape == (32, 32) and depth[16, 16] > 100 and depth.max() == 255
        assert iio.imread(path / "turntable.gif").shape == (2, 32, 32, 3)
        weights = torch.load(beside(path, ".pt"), weights_only=True)["field"]
        assert "color.2.weight" in weights and not any("coefficients" in name for name in weights)  # FR is folded
        label = {"relu": "ReLU", "relu+fr": "ReLU + FR"}[mode]
        assert [label, f"{metrics['psnr']:.2f}", "–"] in [line.rsplit(maxsplit=3)[:3]
                                                          for line in finished.stdout.splitlines()]
    assert not list(finished.path.rglob("*.ckpt"))
    figures = finished.path / "figures" / finished.folder.relative_to(finished.path / "results")
    assert {file.stem for file in figures.iterdir()} == {"close_ups", "psnr"}


def test_a_second_run_trains_nothing_and_rendering_again_records_what_it_measured(finished, call, refused, tmp_path):
    shutil.copytree(finished.path / "results", tmp_path / "results")
    done = call(finished.script, *toy_options(tmp_path))
    assert done.returncode == 0 and done.stdout.count("finished before") == 2, done.stderr
    assert len(list((tmp_path / "figures").rglob("close_ups.png"))) == 1
    paths = {mode: stem(tmp_path, *finished.run, mode, FOLDER) for mode in COLOR_MODES}
    made = {mode: json.loads(beside(path, ".json").read_text()) for mode, path in paths.items()}
    for mode, path in paths.items():
        shutil.rmtree(path)
        beside(path, ".json").write_text(json.dumps({**made[mode], "metrics": {"psnr": 1.0}}))
    done = call(finished.script, *toy_options(tmp_path, "--frames", 2, "--render-only"))
    assert done.returncode == 0, done.stderr
    for mode, path in paths.items():
        before, again = np.load(finished.folder / f"{mode}-seed0.npz"), np.load(beside(path, ".npz"))
        record = json.loads(beside(path, ".json").read_text())
        assert record["metrics"]["psnr_views"] == pytest.approx(made[mode]["metrics"]["psnr_views"], abs=1e-4)
        assert record["metrics"]["psnr"] == pytest.approx(made[mode]["metrics"]["psnr"], abs=1e-4)
        assert {**record, "metrics": 0} == {**made[mode], "metrics": 0} and np.array_equal(again["mse"], before["mse"])
        assert np.abs(again["images"].astype(int) - before["images"]).max() <= 1
        assert all(np.array_equal(iio.imread(path / "views" / f"{name}.png"), image)
                   for name, image in zip(record["metrics"]["views"], again["images"]))
        assert len(iio.imread(path / "turntable.gif")) == 2
        assert f"{mode} seed 0: {record['metrics']['psnr']:.2f} dB on 8 views, written to {path}" in done.stdout
    line = refused(finished.script, *toy_options(tmp_path, "--render-only", "--background", "black"))
    assert "downscale=4,background=black/relu-seed0.json is not there; run without --render-only first" in line


@pytest.mark.slow
def test_a_resumed_run_has_the_same_bits(finished, call, tmp_path):
    arguments = toy_options(tmp_path, "--modes", "relu+fr", "--frames", 0, "--checkpoint-every", 21)
    # DVGO: the second checkpoint of the coarse stage; that of the fine one, between two scalings; and on to the end.
    stops = [["coarse", "coarse"], ["relu+fr"]] if finished.run[0] == "dvgo" else [["relu+fr"]]
    for modes in stops:
        with ended_at_checkpoint(len(modes)) as written:
            assert call(finished.script, *arguments).returncode == 9
        assert written == [(mode, 21 * (i + 1)) for i, mode in enumerate(modes)]
    done = call(finished.script, *arguments)
    assert done.returncode == 0 and SCALE_AT[0] < 21 < SCALE_AT[1], done.stderr
    assert done.stdout.count("finished before") == len(stops) - 1
    for mode in {"relu+fr", stops[0][0]}:
        assert_same_run(stem(tmp_path, *finished.run, mode, FOLDER), finished.folder / f"{mode}-seed0")


@pytest.mark.parametrize("script", SCRIPTS, ids=["dvgo", "ngp"])
def test_a_black_background_is_trained_on_and_shown(script, call, tmp_path):
    arguments = "--modes", "relu", "--background", "black", "--frames", 0, "--downscale", 8
    done = call(f"{script.__name__}.py", *toy_options(tmp_path, *arguments))
    assert done.returncode == 0, done.stderr
    path = stem(tmp_path, EXPERIMENTS[script], "toy", "relu", "quick,downscale=8,background=black")
    arrays, truth = np.load(beside(path, ".npz")), load_scene("toy", Path("nowhere"), 8).test.colors(slice(None), 0.0)
    error = np.square(arrays["images"] / 255 - truth).mean()
    assert arrays["images"][:, 0, 0].mean() < 0.25 * 255 and error < 0.8 * np.square(truth - truth.mean()).mean()
    assert arrays["mse"][-10:].mean() == pytest.approx(error, rel=0.5)


@pytest.mark.parametrize("script, arguments, said", [*((script, *row) for script in SCRIPTS for row in (
    ("--scene nowhere", "nowhere is not there; --scene takes toy, lego"),
    ("--scene lego --data {path}", "--scene toy"),
    ("--scene {path}/broken", "transforms_train.json cannot be read as JSON"),
    ("--scene toy --downscale 16", "8 × 8 pixels; at least 11"),
    ("--medium --quick", "not allowed with argument --medium"), ("--modes sin", "'sin'"), ("--frames -1", "--frames"),
    ("--background gray", "--background"), ("--scene toy --downscale 8 --precision tf32", "tf32"),
    ("--scene toy --downscale 8 --render-only", "relu-seed0.json is not there; run without --render-only first"),
))])
def test_bad_input_gets_one_line_and_status_2(script, arguments, said, refused, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "transforms_train.json").write_text('{"camera_angle_x": 0.7,')
    assert said in refused(f"{script.__name__}.py", *folders(tmp_path), *arguments.format(path=tmp_path).split())
    assert not list(tmp_path.rglob("results/**/*.json"))


@of_dvgo
def test_dvgo_s_modes_go_on_from_one_coarse_field_and_optimizer_and_shift_begin_anew_with_each_scaling(finished):
    coarse, *fine = finished.optimizers
    fields = [torch.load(finished.folder / f"{mode}-seed0.pt", weights_only=True)["field"] for mode in COLOR_MODES]
    assert all(fields[0][corner].equal(fields[1][corner]) for corner in ("density.lower", "density.upper"))
    assert len(fine) == 2 * (1 + len(SCALE_AT))
    factor = coarse.param_groups[0]["lr_factor"]
    assert factor.shape == coarse.param_groups[0]["params"][0].shape and factor.max() == 1 and factor.min() < 1
    assert coarse.param_groups[1]["lr_factor"] is None
    lengths = SCALE_AT[0] - 1, SCALE_AT[1] - SCALE_AT[0], STEPS - SCALE_AT[1] + 1
    sizes = VOXELS / 4, VOXELS / 2, VOXELS
    for optimizer, steps, voxels in zip(fine, 2 * lengths, 2 * sizes):
        grids, *color = optimizer.param_groups
        density, features = grids["params"]
        assert density.grad.is_sparse and density.shape[3] == 1 and features.shape[3] == 12 and color
        assert grids["lr_factor"] is None and 0.75 < density.numel() / voxels <= 1
        assert all(optimizer.state[values]["step"] == steps for values in (density, features))
        for group, lr in ((grids, 0.4), *((group, 1e-3) for group in color)):
            assert group["lr"] == pytest.approx(lr * 0.1 ** (steps / 60))
    field = DVGOField(fields[1]["density.lower"], fields[1]["density.upper"], 8, final_voxels=VOXELS, alpha_init=0.5,
                      threshold=0.1, near=0.0, mode="relu")
    field.load_state_dict(fields[1])
    assert field.act_shift == pytest.approx(math.log(1 / 0.99 - 1) - len(SCALE_AT))


def test_a_coarse_field_with_nothing_in_it_is_reported(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(dvgo.QUICK["coarse"], "steps", 1)
    assert "coarse field is empty" in refused("dvgo.py", *toy_options(tmp_path, "--modes", "relu"))
    assert [file.name for file in tmp_path.rglob("*.json")] == ["coarse-seed0.json"]


def test_dvgo_s_mask_is_renewed_in_the_middle_of_each_interval():
    assert [step + 1 for step in range(100) if dvgo.mask_renewal_due(step, {"renew_every": 40})] == [20, 60, 100]


def train_instant_ngp(path, mode="relu", seed=0, chunk=None, **settings):
    """Train a field for a few steps, without figures; the path, but for the suffix, of its files."""
    config = {**InstantNGP.PAPER, **FEW, "network": InstantNGP.NETWORKS[mode], "hidden_lr": 1.0, **settings}
    run = Run(path, "ngp", "toy", mode, seed, config)
    args = SimpleNamespace(device="cpu", precision="fp32", frames=0, chunk=chunk, checkpoint_every=1000)
    InstantNGP.train(run, normalize_poses(toy_scene()), args)
    return run.path("")


def test_instant_ngp_s_rate_follows_a_cosine_and_its_grid_is_renewed_everywhere_then_in_places(tmp_path, monkeypatch):
    rates, looks, update = [], [], InstantNGPField.update_occupancy
    monkeypatch.setattr(InstantNGPField, "update_occupancy", lambda field, everywhere: (
        looks.append((len(rates), everywhere)), update(field, everywhere)))
    with before_each_step(lambda adam: rates.append(*{group["lr"] for group in adam.param_groups})):
        path = train_instant_ngp(tmp_path, "relu+fr")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=FEW["lr"])
    scheduler = CosineAnnealingLR(optimizer, T_max=3, eta_min=FEW["lr"] / 30)
    for epoch in range(3):
        assert rates[4 * epoch:4 * epoch + 4] == pytest.approx(4 * scheduler.get_last_lr(), rel=1e-9)
        optimizer.step()
        scheduler.step()
    assert len(rates) == 12 and looks == [(0, True), (4, False), (8, False)]  # after so many steps
    occupied = torch.load(beside(path, ".pt"), weights_only=True)["field"]["occupancy.occupied"]
    assert 0.01 < occupied.float().mean() < 0.99


def test_parts_of_instant_ngp_s_batch_add_up_to_the_step_of_the_whole(tmp_path):
    # On the CPU the random numbers are the same however many are drawn at a time, and so is the jitter.
    found = []
    for name, chunk in {"whole": None, "parts": 23}.items():
        steps = []
        with before_each_step(lambda adam, steps=steps: steps.append(
                [parameter.grad.clone() for group in adam.param_groups for parameter in group["params"]])):
            path = train_instant_ngp(tmp_path / name, "relu+fr", epochs=1, chunk=chunk)
        found.append((steps, np.load(beside(path, ".npz"))["mse"]))
    (whole, whole_mse), (parts, parts_mse) = found
    assert len(whole) == len(parts) == 4
    for expected, got in zip(whole[0], parts[0], strict=True):
        assert torch.allclose(got, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
        assert expected.abs().max() > 0
    assert parts_mse == pytest.approx(whole_mse, rel=1e-3) and whole_mse.min() > 0


def test_a_seed_of_instant_ngp_draws_pixels_of_its_own_from_all_views(tmp_path, monkeypatch):
    drawn, rays = [], RayDataset.rays
    monkeypatch.setattr(RayDataset, "rays", lambda views, pixels: (drawn.append(pixels), rays(views, pixels))[1])
    first, second = (np.load(beside(train_instant_ngp(tmp_path, seed=seed, epochs=1), ".npz")) for seed in (1, 2))
    assert not np.isclose(first["mse"], second["mse"], rtol=1e-6).any()
    parts = torch.stack(drawn) / (60 * 16 * 16)
    assert parts.shape == (8, 32) and parts.unique().numel() > 240
    assert 0 <= parts.min() < 0.05 and 0.95 < parts.max() < 1 and 0.4 < parts.mean() < 0.6
