"""DirectVoxGO's script as a user runs it, at a size at which a run takes seconds."""

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
from conftest import assert_same_run, before_each_step, beside, ended_at_checkpoint, record, run_main, stem, toy_options

import dvgo
from data.scenes import load_scene
from models.nerf.dvgo import DVGOField

SCRIPT = "dvgo.py"
STEPS, SCALE_AT, VOXELS = 40, [15, 30], 24**3
TINY: dict = {**dvgo.QUICK, "steps": STEPS, "batch": 128, "voxels": VOXELS, "scale_at": SCALE_AT, "decay_steps": 60,
              "renew_every": 20, "coarse": {**dvgo.COARSE, "steps": 60, "batch": 256, "voxels": 16**3,
                                            "alpha_init": 1e-5, "grid_lr": 0.4, "renew_every": 20}}
RUN, FOLDER = ("dvgo", "toy"), "quick,downscale=4"


@pytest.fixture(autouse=True)
def tiny(one_process, monkeypatch):
    monkeypatch.setattr(dvgo, "QUICK", TINY)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of both modes, with the optimizers it made."""
    path, optimizers = tmp_path_factory.mktemp("finished"), {}
    with (contextlib.redirect_stdout(io.StringIO()) as printed,
          before_each_step(lambda optimizer: optimizers.setdefault(id(optimizer), optimizer))):
        run_main(dvgo, TINY, toy_options(path, "--frames", 2))
    return SimpleNamespace(path=path, folder=stem(path, *RUN, "relu", FOLDER).parent, stdout=printed.getvalue(),
                           optimizers=list(optimizers.values()))


def test_a_run_leaves_its_record_field_pictures_and_figures(finished):
    scene = load_scene("toy", Path("nowhere"), 4)
    truth = scene.test.colors(slice(None), 1.0)
    for mode in dvgo.COLOR_MODES:
        path, made = stem(finished.path, *RUN, mode, FOLDER), record(finished.path, *RUN, mode, FOLDER)
        metrics = made["metrics"]
        # Blank views have 8.4 dB, views of one color 10.3, an untrained field in the box found 10.8.
        assert metrics["psnr"] > 15 and metrics["ssim"] > 0.4, metrics
        assert metrics["views"] == scene.test.names and len(set(metrics["psnr_views"])) == len(truth)
        assert made["config"]["scene"]["train"] == [60, 32, 32, 4] and made["config"]["background"] == "white"
        arrays = np.load(path.with_suffix(".npz"))
        assert arrays["mse"].shape == (STEPS,) and arrays["images"].shape == truth.shape
        psnr = [-10 * math.log10(np.square(image / 255 - t).mean()) for image, t in zip(arrays["images"], truth)]
        assert metrics["psnr_8bit"] == pytest.approx(np.mean(psnr)) == pytest.approx(metrics["psnr"], abs=0.05)
        depth = iio.imread(path / "depths" / f"{scene.test.names[0]}.png")
        assert depth.shape == (32, 32) and depth[0, 0] == 0 and depth[16, 16] > 100
        assert iio.imread(path / "turntable.gif").shape[:3] == (2, 32, 32)
        assert not path.with_suffix(".ckpt").exists()
    figures = finished.path / "figures" / "dvgo" / "toy" / FOLDER
    assert {file.name for file in figures.iterdir()} == {"close_ups.png", "psnr.png"}
    for label, mode in {"ReLU": "relu", "ReLU + FR": "relu+fr"}.items():
        psnr = record(finished.path, *RUN, mode, FOLDER)["metrics"]["psnr"]
        assert [label, f"{psnr:.2f}", "–"] in [line.rsplit(maxsplit=3)[:3] for line in finished.stdout.splitlines()]


def test_both_modes_go_on_from_one_coarse_field(finished):
    assert [line.split(":")[0] for line in finished.stdout.splitlines() if " seed 0:" in line] == [
        "dvgo toy coarse seed 0", "dvgo toy relu seed 0", "dvgo toy relu+fr seed 0"]
    boxes = [torch.load(finished.folder / f"{mode}-seed0.pt", weights_only=True) for mode in dvgo.COLOR_MODES]
    assert torch.equal(boxes[0]["lower"], boxes[1]["lower"]) and torch.equal(boxes[0]["upper"], boxes[1]["upper"])


def test_optimizer_and_shift_begin_anew_with_each_scaling(finished):
    coarse, *fine = finished.optimizers
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
    saved = torch.load(finished.folder / "relu+fr-seed0.pt", weights_only=True)
    assert not any("coefficients" in name for name in saved["field"])  # the FR layer is folded
    field = DVGOField(saved["lower"], saved["upper"], 8, final_voxels=VOXELS, alpha_init=0.5, threshold=0.1, near=0.0,
                      mode="relu")
    field.load_state_dict(saved["field"])
    assert field.act_shift == pytest.approx(math.log(1 / 0.99 - 1) - len(SCALE_AT))


def test_rendering_again_trains_nothing_and_records_what_it_measured(finished, call, refused, tmp_path):
    shutil.copytree(finished.path, tmp_path / "again")
    paths = {mode: stem(tmp_path / "again", *RUN, mode, FOLDER) for mode in dvgo.COLOR_MODES}
    made = {mode: json.loads(beside(path, ".json").read_text()) for mode, path in paths.items()}
    for mode, path in paths.items():
        shutil.rmtree(path)
        beside(path, ".json").write_text(json.dumps({**made[mode], "metrics": {"psnr": 1.0}}))
    done = call(SCRIPT, *toy_options(tmp_path / "again", "--frames", 2, "--render-only"))
    assert done.returncode == 0, done.stderr
    for mode, path in paths.items():
        before, again = np.load(finished.folder / f"{mode}-seed0.npz"), np.load(beside(path, ".npz"))
        record = json.loads(beside(path, ".json").read_text())
        assert record["metrics"].pop("psnr_views") == pytest.approx(made[mode]["metrics"].pop("psnr_views"), abs=1e-4)
        assert record["metrics"]["psnr"] == pytest.approx(made[mode]["metrics"]["psnr"], abs=1e-4)
        assert {**record, "metrics": 0} == {**made[mode], "metrics": 0} and np.array_equal(again["mse"], before["mse"])
        assert np.abs(again["images"].astype(int) - before["images"]).max() <= 1
        assert all(np.array_equal(iio.imread(path / "views" / f"{name}.png"), image)
                   for name, image in zip(record["metrics"]["views"], again["images"]))
        assert len(iio.imread(path / "turntable.gif")) == 2
        assert f"{mode} seed 0: {record['metrics']['psnr']:.2f} dB on 8 views, written to {path}" in done.stdout
    line = refused(SCRIPT, *toy_options(tmp_path / "again", "--render-only", "--background", "black"))
    assert "downscale=4,background=black/relu-seed0.json is not there; run without --render-only first" in line


@pytest.mark.slow
def test_a_run_resumed_in_either_stage_has_the_same_bits(finished, call, tmp_path):
    arguments = toy_options(tmp_path, "--modes", "relu+fr", "--frames", 0, "--checkpoint-every", 21)
    # The second of the coarse stage; that of the fine one, between two scalings; and on to the end.
    for number, steps in ((2, [("coarse", 21), ("coarse", 42)]), (1, [("relu+fr", 21)])):
        with ended_at_checkpoint(number) as written:
            assert call(SCRIPT, *arguments).returncode == 9 and written == steps
    assert SCALE_AT[0] < 21 < SCALE_AT[1]
    done = call(SCRIPT, *arguments)
    assert done.returncode == 0 and "coarse seed 0: finished before" in done.stdout, done.stderr
    for mode in ("coarse", "relu+fr"):
        assert_same_run(stem(tmp_path, *RUN, mode, FOLDER), stem(finished.path, *RUN, mode, FOLDER))


def test_a_coarse_field_with_nothing_in_it_is_reported(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(dvgo.QUICK["coarse"], "steps", 1)
    line = refused(SCRIPT, *toy_options(tmp_path, "--modes", "relu"))
    assert "coarse field is empty" in line
    assert [file.name for file in tmp_path.rglob("*.json")] == ["coarse-seed0.json"]


def test_the_mask_is_renewed_in_the_middle_of_each_interval():
    assert [step + 1 for step in range(100) if dvgo.mask_renewal_due(step, {"renew_every": 40})] == [20, 60, 100]
