"""DirectVoxGO's script as a user runs it, and its two stages before training, at a small size."""

import contextlib
import io
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import dvgo
from data.scenes import FAR, NEAR, load_scene, on_background
from experiment.errors import UserError
from experiment.rendering import orbit
from models.nerf.dvgo import DVGOField
from models.nerf.masked_adam import MaskedAdam
from models.nerf.rays import RayDataset, box_intersection
from models.nerf.voxel_grid import grid_points

SCRIPT = "dvgo.py"
STEPS, SCALE_AT, VOXELS = 40, [15, 30], 24**3


@pytest.fixture(scope="module", autouse=True)
def small():
    """A size at which a run takes seconds, the runs one after another in this process."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        coarse = {**dvgo.QUICK["coarse"], "steps": 60, "rays": 256, "voxels": 16**3, "renew_every": 20}
        patch.setattr(dvgo, "QUICK", {**dvgo.QUICK, "steps": STEPS, "rays": 128, "voxels": VOXELS, "scale_at": SCALE_AT,
                                      "decay_steps": 60, "renew_every": 20, "coarse": coarse})
        patch.setattr("experiment.sweep.cpu_count", lambda: 1)
        yield
    torch.set_num_threads(threads)


def options(path, *more):
    return ["--scene", "toy", "--quick", "--downscale", "4", "--device", "cpu", "--results", str(path / "results"),
            "--figures", str(path / "figures"), *map(str, more)]


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """One run of both modes, with the optimizers it made."""
    path, optimizers = tmp_path_factory.mktemp("finished"), []

    class Seen(MaskedAdam):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            optimizers.append(self)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(dvgo, "MaskedAdam", Seen)
        patch.setattr(sys, "argv", [SCRIPT, *options(path, "--frames", 2)])
        dvgo.main()
    return SimpleNamespace(path=path, folder=path / "results" / "quick" / "dvgo" / "toy", optimizers=optimizers,
                           stdout=printed.getvalue())


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_run_leaves_its_record_field_pictures_and_figures(finished):
    scene = load_scene("toy", Path("nowhere"), 4)
    truth = on_background(scene.test.images, 1.0)
    for mode in dvgo.COLOR_MODES:
        stem = finished.folder / f"{mode}-seed0"
        record = json.loads(stem.with_suffix(".json").read_text())
        metrics = record["metrics"]
        # Blank views have 8.4 dB, views of one color 10.3, an untrained field in the box found 10.8.
        assert metrics["psnr"] > 15 and metrics["ssim"] > 0.4, metrics
        assert metrics["psnr"] == pytest.approx(np.mean(metrics["psnr_views"]))
        assert metrics["views"] == scene.test.names and len(set(metrics["psnr_views"])) == len(truth)
        assert record["config"]["scene"]["train"] == [60, 32, 32, 4] and record["config"]["background"] == "white"
        arrays = np.load(stem.with_suffix(".npz"))
        assert arrays["mse"].shape == (STEPS,) and arrays["images"].shape == truth.shape
        psnr = [-10 * math.log10(np.square(image / 255 - t).mean()) for image, t in zip(arrays["images"], truth)]
        assert metrics["psnr_8bit"] == pytest.approx(np.mean(psnr)) == pytest.approx(metrics["psnr"], abs=0.05)
        for image, name in zip(arrays["images"], scene.test.names):
            assert np.array_equal(iio.imread(stem / f"{name}.png"), image)
            depth = iio.imread(stem / f"{name}-depth.png")
            assert depth.shape == (32, 32) and depth[0, 0] == 0 and depth[16, 16] > 100
        assert iio.imread(stem / "turntable.gif").shape[:3] == (2, 32, 32)
        assert not stem.with_suffix(".ckpt").exists()
    assert {file.name for file in (finished.path / "figures" / "quick").iterdir()} == {"dvgo_toy.png",
                                                                                      "dvgo_toy_psnr.png"}


def test_both_modes_go_on_from_one_coarse_field(finished):
    assert [line.split(":")[0] for line in finished.stdout.splitlines() if " seed 0:" in line] == [
        "dvgo toy coarse seed 0", "dvgo toy relu seed 0", "dvgo toy relu+fr seed 0"]
    boxes = [torch.load(finished.folder / f"{mode}-seed0.pt", weights_only=True) for mode in dvgo.COLOR_MODES]
    assert torch.equal(boxes[0]["lower"], boxes[1]["lower"]) and torch.equal(boxes[0]["upper"], boxes[1]["upper"])


def test_optimizer_and_shift_begin_anew_with_each_scaling(finished):
    coarse, *fine = finished.optimizers
    assert len(fine) == 2 * (1 + len(SCALE_AT))
    factor = coarse.param_groups[0]["lr_factor"]
    assert [group["skip_zero_grad"] for group in coarse.param_groups] == [False, False]
    assert factor.shape == coarse.param_groups[0]["params"][0].shape and factor.max() == 1 and factor.min() < 1
    assert coarse.param_groups[1]["lr_factor"] is None
    for optimizer, steps in zip(fine, 2 * (SCALE_AT[0] - 1, SCALE_AT[1] - SCALE_AT[0], STEPS - SCALE_AT[1] + 1)):
        density, features, color = optimizer.param_groups
        assert density["skip_zero_grad"] and features["skip_zero_grad"] and not color["skip_zero_grad"]
        assert density["lr_factor"] is None and optimizer.state[density["params"][0]]["step"] == steps
        for group, lr in ((density, 0.4), (features, 0.4), (color, 1e-3)):
            assert group["lr"] == pytest.approx(lr * 0.1 ** (steps / 60))
    for optimizer, voxels in zip(fine, 2 * (VOXELS / 4, VOXELS / 2, VOXELS)):
        assert 0.75 < optimizer.param_groups[0]["params"][0].numel() / voxels <= 1
    field = torch.load(finished.folder / "relu+fr-seed0.pt", weights_only=True)["field"]
    assert field["_extra_state"]["act_shift"] == pytest.approx(math.log(1 / 0.99 - 1) - len(SCALE_AT))
    assert not any("coefficients" in name for name in field)  # the FR layer is folded


def test_rendering_again_trains_nothing_and_shows_the_same(finished, call, monkeypatch):
    before = contents(finished.path)
    pictures = [file for file in before if file.suffix in (".png", ".gif") and "results" in file.parts]
    assert len(pictures) == 2 * (2 * 8 + 1)
    for file in pictures:
        file.unlink()
    monkeypatch.setattr(dvgo, "sweep", None)
    done = call(SCRIPT, *options(finished.path, "--frames", 2, "--render-only"))
    assert done.returncode == 0, done.stderr
    after = contents(finished.path)
    assert after.keys() == before.keys() and all(after[file] == before[file] for file in before.keys() - set(pictures))
    for file in pictures:
        assert np.abs(iio.imread(file).astype(int) - iio.imread(before[file])).max() <= 1
    for mode in dvgo.COLOR_MODES:
        record = json.loads((finished.folder / f"{mode}-seed0.json").read_text())
        assert f"dvgo toy {mode} seed 0: {record['metrics']['psnr']:.2f} dB on 8 test views" in done.stdout


def test_what_cannot_be_rendered_again_gets_one_line(finished, call, tmp_path):
    arguments = options(tmp_path, "--render-only", "--modes", "relu")
    missing = tmp_path / "results" / "quick" / "dvgo" / "toy" / "relu-seed0.pt"
    done = [call(SCRIPT, *arguments), call(SCRIPT, *options(finished.path, "--render-only", "--background", "black"))]
    missing.parent.mkdir(parents=True)
    missing.write_bytes((finished.folder / missing.name).read_bytes()[:2000])
    done.append(call(SCRIPT, *arguments))
    for result, said in zip(done, ("without --render-only", "other settings", "damaged")):
        assert result.returncode == 2
        line, = result.stderr.strip().splitlines()
        assert line.startswith("error: ") and said in line and ".pt" in line
    assert not list(tmp_path.rglob("*.json"))


def test_a_run_resumed_in_either_stage_has_the_same_bits(finished, call, monkeypatch, tmp_path):
    arguments = options(tmp_path, "--modes", "relu+fr", "--frames", 0, "--checkpoint-every", 21)
    checkpoint, steps = dvgo.Run.checkpoint, []

    def interrupted(run, step, **state):
        checkpoint(run, step, **state)
        steps.append((run.mode, step))
        if len(steps) in (2, 3):  # the second of the coarse stage; that of the fine one, between two scalings
            sys.exit(9)

    monkeypatch.setattr(dvgo.Run, "checkpoint", interrupted)
    done = [call(SCRIPT, *arguments) for _ in range(3)]
    assert [result.returncode for result in done] == [9, 9, 0], done[-1].stderr
    assert steps == [("coarse", 21), ("coarse", 42), ("relu+fr", 21)] and SCALE_AT[0] < 21 < SCALE_AT[1]
    assert "coarse seed 0: finished before" in done[2].stdout
    folder = tmp_path / "results" / "quick" / "dvgo" / "toy"
    for name in ("coarse-seed0", "relu+fr-seed0"):
        found, expected = (np.load((parent / name).with_suffix(".npz")) for parent in (folder, finished.folder))
        assert found.files == expected.files and all(np.array_equal(found[key], expected[key]) for key in found.files)
        found, expected = (json.loads((parent / name).with_suffix(".json").read_text())
                           for parent in (folder, finished.folder))
        assert found["metrics"] == expected["metrics"] and found["config"] == expected["config"]
    found, expected = (torch.load(parent / "relu+fr-seed0.pt", weights_only=True)["field"]
                       for parent in (folder, finished.folder))
    assert found.keys() == expected.keys()
    assert all(found[key].equal(expected[key]) for key in found if not key.endswith("_extra_state"))
    assert found["_extra_state"] == expected["_extra_state"]


def test_a_coarse_field_with_nothing_in_it_is_reported(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(dvgo.QUICK["coarse"], "steps", 1)
    line = refused(SCRIPT, *options(tmp_path, "--modes", "relu"))
    assert "coarse field is empty" in line
    assert [file.name for file in tmp_path.rglob("*.json")] == ["coarse-seed0.json"]


@pytest.mark.parametrize("arguments, said", [
    (["--scene", "nowhere"], "nowhere is not there; --scene takes toy, lego"),
    (["--scene", "lego", "--data", "{path}"], "--scene toy"),
    (["--scene", "{path}/broken"], "transforms_train.json cannot be read as JSON"),
    (["--downscale", "0"], "--downscale"), (["--downscale", "1.5"], "--downscale"), (["--modes", "sin"], "'sin'"),
    (["--frames", "-1"], "--frames"), (["--steps", "0"], "--steps"), (["--tv-density", "0"], "--tv-density"),
    (["--background", "grey"], "--background"), (["--precision", "tf32"], "tf32"),
])
def test_bad_input_gets_one_line_and_status_2(arguments, said, refused, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "transforms_train.json").write_text('{"camera_angle_x": 0.7,')
    line = refused(SCRIPT, *options(tmp_path, *(argument.format(path=tmp_path) for argument in arguments)))
    assert said in line
    assert not (tmp_path / "results").exists()


def test_an_orbit_looks_at_the_origin():
    poses = orbit(8, 4.0, elevation=30)
    assert poses.shape == (8, 3, 4) and poses.dtype == np.float32 and orbit(0, 4.0).shape == (0, 3, 4)
    rotations, positions = poses[:, :, :3], poses[:, :, 3]
    assert np.allclose(rotations.transpose(0, 2, 1) @ rotations, np.eye(3), atol=1e-6)
    assert np.allclose(np.linalg.det(rotations), 1)
    assert np.allclose(positions - 4 * rotations[:, :, 2], 0, atol=1e-5)  # four ahead, along −z, is the origin
    assert np.allclose(positions[:, 2], 2) and np.allclose(rotations[:, 2, 0], 0) and (rotations[:, 2, 1] > 0.8).all()
    chords = np.linalg.norm(np.roll(positions, 1, axis=0) - positions, axis=1)
    assert np.allclose(chords, 2 * 4 * math.cos(math.radians(30)) * math.sin(math.pi / 8))


@pytest.fixture(scope="module")
def dataset():
    """The toy scene at 16 × 16 pixels."""
    views = load_scene("toy", Path("nowhere"), 8).train
    return RayDataset(torch.from_numpy(views.images), torch.from_numpy(views.poses), views.focal, 1.0)


def test_the_coarse_box_holds_all_that_the_cameras_see(dataset):
    across = (np.arange(16) + 0.5 - 8) / dataset.focal
    x, y = np.meshgrid(across, -across)
    in_camera = np.stack([x, y, -np.ones_like(x)], axis=-1)
    in_camera /= np.linalg.norm(in_camera, axis=-1, keepdims=True)
    poses = dataset.poses.double().numpy()
    directions = np.einsum("nij,rcj->nrci", poses[:, :, :3], in_camera)
    ends = np.stack([poses[:, None, None, :, 3] + distance * directions for distance in (NEAR, FAR)]).reshape(-1, 3)
    lower, upper = dvgo.frustum_bounds(dataset)
    assert np.allclose(lower, ends.min(axis=0), atol=1e-5) and np.allclose(upper, ends.max(axis=0), atol=1e-5)


def test_the_coarse_field_is_empty_around_the_cameras_and_where_few_look(dataset):
    config = {**dvgo.COARSE, "voxels": 1500}
    field, factors = dvgo.coarse_stage(dataset, config)
    shape, cameras = field.mask.mask.shape, dataset.poses[:, :, 3]
    nodes = grid_points(shape, *dvgo.corners_of(field))
    near = torch.cdist(nodes.reshape(-1, 3), cameras).amin(1).reshape(shape) <= NEAR
    assert 0.1 < near.float().mean() < 0.9
    assert torch.equal(field.density.values[0], torch.where(near, -100.0, 0.0)) and not field.features.values.any()
    views = (factors * 60).round()  # the voxels in the middle are seen by all
    assert factors.shape == field.density.values.shape and torch.allclose(views, factors * 60, atol=1e-4)
    assert factors.max() == 1 and torch.equal(field.mask.mask, views[0] > 2) and 0.2 < field.mask.mask.float().mean()
    assert not field.mask.mask.all() and field.features.values.shape[0] == 3 and field.color is None
    assert (field.act_shift, field.threshold) == (pytest.approx(-13.8155, abs=1e-4), 1e-7)


def test_the_fine_field_stands_where_the_coarse_one_found_something(dataset):
    lower, upper, shape = torch.tensor([-2.0, -1.5, -1]), torch.tensor([2.0, 1.5, 1]), (13, 11, 9)
    opacity = torch.full(shape, 1e-6)
    opacity[4:7, 3, 2:6], opacity[9, 8, 4], opacity[1, 1, 1] = 0.5, 1.1e-3, 0.9e-3
    coarse = {"opacity": opacity.numpy(), "lower": lower.numpy(), "upper": upper.numpy()}
    config = {**dvgo.PAPER["relu+fr"], "voxels": 32_000, "phase_num": 2}
    field = dvgo.fine_stage(dataset, coarse, "relu+fr", config)
    nodes = grid_points(shape, lower, upper)
    corners = nodes[4, 3, 2], nodes[9, 8, 5]
    margin = 0.025 * (corners[1] - corners[0])
    for found, expected in zip(dvgo.corners_of(field), (corners[0] - margin, corners[1] + margin)):
        assert torch.allclose(found, expected)
    edge = (math.prod((corners[1] - corners[0]).tolist()) * 1.05**3 / 2000) ** (1 / 3)  # 32,000 / 2⁴
    assert field.voxel_size == pytest.approx(edge) and field.final_voxel_size == pytest.approx(edge / 16 ** (1 / 3))
    assert field.features.values.shape[0] == 12 and field.act_shift == pytest.approx(-4.5951, abs=1e-4)

    around = torch.zeros(shape, dtype=torch.bool)  # a node further than what is full
    around[3:8, 2:5, 1:7] = around[8:11, 7:10, 3:6] = True
    where = (grid_points(field.mask.mask.shape, *dvgo.corners_of(field)) - lower) / (upper - lower)
    x, y, z = (where * (torch.tensor(shape) - 1)).round().long().unbind(-1)
    assert torch.equal(field.mask.mask, around[x, y, z]) and 0.1 < field.mask.mask.float().mean() < 0.9

    opacity[4:7, 3, 2:6] = 1e-6  # a single voxel is left
    field = dvgo.fine_stage(dataset, {**coarse, "opacity": opacity.numpy()}, "relu", config)
    assert field.mask.mask.any() and min(field.mask.mask.shape) > 5
    with pytest.raises(UserError, match="coarse field is empty"):
        dvgo.fine_stage(dataset, {**coarse, "opacity": np.full(shape, 1e-6, np.float32)}, "relu", config)


def test_the_pixels_trained_on_are_those_whose_ray_meets_the_mask(dataset):
    lower, upper = torch.tensor([-0.4, -0.3, -0.2]), torch.tensor([0.5, 0.4, 0.3])
    field = DVGOField(lower, upper, 1000, final_voxels=1000, alpha_init=1e-2, threshold=1e-4, near=NEAR)
    field.mask.mask[6:], field.density.values.data[:] = False, 50
    found = dvgo.pixels_that_see(field, dataset)
    origins, directions, _ = dataset.rays(torch.arange(dataset.pixels))
    edges = [*dvgo.corners_of(field)]
    middle = (6 - 0.5) / (field.mask.mask.shape[0] - 1)  # up to where the nearest node is not masked
    edges[1] = edges[1].clone()
    edges[1][0] = torch.lerp(lower[0], upper[0], middle)
    t_min, t_max = box_intersection(origins, directions, *edges, NEAR)
    crossed = (t_max - t_min) * directions.norm(dim=1)
    seen = torch.zeros(dataset.pixels, dtype=torch.bool).index_fill(0, found, True)
    assert seen[crossed > 0.6 * field.voxel_size].all() and not seen[crossed <= 0].any()
    assert len(found.unique()) == len(found) and 0.01 < seen.float().mean() < 0.3
    rest = (~seen).nonzero().squeeze(1)
    assert (field(origins[rest], directions[rest]).color == 1).all()  # exactly the background


def test_total_variation_is_weighted_by_the_grid_and_the_batch():
    field = DVGOField(torch.zeros(3), torch.tensor([3.0, 2, 1]), 750, final_voxels=750, alpha_init=1e-2,
                       threshold=1e-4, near=0.0)
    for grid in (field.density, field.features):
        torch.nn.init.normal_(grid.values, std=0.1)
        grid.values.grad = torch.ones_like(grid.values)
    dvgo.add_total_variation(field, {"tv_density": 0.0, "tv_features": 5.0}, 64)
    assert field.density.values.grad.eq(1).all() and field.features.values.shape == (3, 15, 10, 5)
    values = field.features.values.detach()[1]
    neighbors = values[[3, 5, 4, 4, 4, 4], [4, 4, 3, 5, 4, 4], [2, 2, 2, 2, 1, 3]]
    expected = 5 / 64 * 15 / 128 / 6 * (values[4, 4, 2] - neighbors).sum().item()
    assert field.features.values.grad[1, 4, 4, 2].item() - 1 == pytest.approx(expected, abs=1e-6)
