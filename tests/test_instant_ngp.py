"""The Instant-NGP script as a user runs it, its objective and schedule, and the figure that compares two renderers."""

import json
import math
import shutil
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import InstantNGP
from data.scenes import load_scene, on_background
from experiment import rendering
from experiment.records import Run
from models import FourierReparamLinear
from models.nerf.instant_ngp import InstantNGPField
from models.nerf.rays import RayDataset

NGP = "InstantNGP.py"
TOY = ("--scene", "toy", "--quick", "--device", "cpu")
TINY = {"epochs": 3, "iterations": 14, "rays": 192, "lr": 1.4e-2, "levels": 3, "log2_size": 15, "finest": 32,
        "resolution": 16, "march_steps": 64, "warm_up": 8, "update_every": 4}
FEW = {**TINY, "iterations": 4, "rays": 32, "march_steps": 512, "warm_up": 4}


def folders(path):
    return "--results", path / "results", "--figures", path / "figures"


def folder_of(path, experiment="ngp"):
    return path / "results" / "quick" / experiment / "toy"


@pytest.fixture
def few(monkeypatch):
    """A few steps in this process, and none of the figures that are not looked at."""
    monkeypatch.setattr(InstantNGP, "QUICK", FEW)
    monkeypatch.setattr("experiment.sweep.cpu_count", lambda: 1)
    for name in ("draw_views", "draw_curves"):
        monkeypatch.setattr(rendering, name, lambda *arguments: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with results and figures of both modes."""
    path = tmp_path_factory.mktemp("ngp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InstantNGP, "QUICK", TINY)
        patch.setattr("experiment.sweep.cpu_count", lambda: 1)
        arguments = (NGP, *TOY, "--downscale", 4, "--frames", 3, *folders(path))
        patch.setattr(sys, "argv", list(map(str, arguments)))
        InstantNGP.main()
    return path


@contextmanager
def recorded_steps():
    """The learning rate and the gradients of each step that an optimizer takes."""
    steps = []

    def record(optimizer, *_):
        group, = optimizer.param_groups
        steps.append((group["lr"], [parameter.grad.clone() for parameter in group["params"]]))
    handle = register_optimizer_step_pre_hook(record)
    try:
        yield steps
    finally:
        handle.remove()


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


def test_cameras_move_to_one_distance_and_keep_looking_where_they_did():
    poses = np.random.default_rng(0).normal(size=(7, 3, 4)).astype(np.float32)
    before = poses.copy()
    moved = InstantNGP.normalize_poses(poses, 4.0)
    assert moved.dtype == np.float32 and np.array_equal(poses, before)
    assert np.array_equal(moved[:, :, :3], poses[:, :, :3])
    assert np.allclose(moved[:, :, 3], poses[:, :, 3] * 1.5 / 4)  # one scale for all, so that the rays still meet


def test_the_learning_rate_is_that_of_cosine_annealing_once_an_epoch():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=1e-2 / 30)
    for epoch in range(30):
        assert InstantNGP.learning_rate(epoch, 30, 1e-2) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()
    assert InstantNGP.learning_rate(0, 110, 1e-2) == 1e-2
    assert InstantNGP.learning_rate(55, 110, 1e-2) == pytest.approx((1e-2 + 1e-2 / 30) / 2)
    assert 1 / 30 < InstantNGP.learning_rate(109, 110, 1) < 1 / 30 + 3e-4


def test_the_settings_are_those_of_the_published_recipe():
    for mode, settings in InstantNGP.PAPER.items():
        field = InstantNGP.make_field(mode, settings, 1.0)
        assert field.encoding.table.shape == (5_710_032, 2) and field.occupancy.resolution == 128
        assert field.occupancy.step == pytest.approx(math.sqrt(3) / 1024)
        assert [layer.basis.shape for layer in field.modules() if isinstance(layer, FourierReparamLinear)] == (
            [(4096, 64)] if mode == "relu+fr" else [])


@pytest.mark.parametrize("bg_color", [1.0, 0.0])
def test_the_objective_is_the_squared_error_and_the_opacity_term(bg_color):
    field, (origins, directions, target) = small_field(bg_color), small_batch()
    torch.manual_seed(5)
    error, loss = InstantNGP.loss_of(field, (origins, directions, target), 0.02)
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
    torch.manual_seed(6)
    assert InstantNGP.loss_of(field, (origins, directions, target), 0.02)[0] != error  # the jitter is another


def test_the_gradient_is_finite_where_nothing_is_seen():
    field, (origins, directions, target) = small_field(), small_batch()
    torch.nn.init.zeros_(field.density_mlp[2].weight)
    torch.nn.init.constant_(field.density_mlp[2].bias, -200)  # samples, but nothing in them
    error, loss = InstantNGP.loss_of(field, (origins, directions, target), 1e-3)
    loss.backward()
    assert error.item() == pytest.approx((1 - target).square().mean(1).sum().item())
    assert (loss - error).item() == pytest.approx(-60 * 1e-3 * 1e-10 * math.log(1e-10), abs=1e-12)
    assert all(parameter.grad.isfinite().all() for parameter in field.parameters())
    assert field.density_mlp[2].bias.grad[0] != 0

    field.occupancy.occupied.zero_()  # no samples at all
    _, loss = InstantNGP.loss_of(field, (origins, directions, target), 1e-3)
    field.zero_grad()
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is None or (parameter.grad == 0).all() for parameter in field.parameters())


def test_parts_of_a_batch_add_up_to_the_step_of_the_whole(tmp_path, call, few):
    # On the CPU the random numbers are the same however many are drawn at a time, and so is the jitter.
    found = []
    for name, more in {"whole": (), "parts": ("--chunk", 23)}.items():
        with recorded_steps() as steps:
            done = call(NGP, *TOY, "--downscale", 8, "--modes", "relu+fr", "--epochs", 1, "--frames", 0, *more,
                        *folders(tmp_path / name))
        assert done.returncode == 0, done.stderr
        found.append((steps, np.load(folder_of(tmp_path / name) / "relu+fr-seed0.npz")["mse"]))
    (whole, whole_mse), (parts, parts_mse) = found
    assert len(whole) == len(parts) == 4
    for expected, got in zip(whole[0][1], parts[0][1], strict=True):
        assert torch.allclose(got, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
        assert expected.abs().max() > 0
    assert parts_mse == pytest.approx(whole_mse, rel=1e-3) and whole_mse.min() > 0


def test_a_run_leaves_a_record_and_all_that_it_tells_of(trained):
    folder = folder_of(trained)
    names = [f"test_{view:02d}" for view in range(8)]
    records = {mode: json.loads((folder / f"{mode}-seed0.json").read_text()) for mode in InstantNGP.PAPER}
    truth = on_background(load_scene("toy", trained, 4).test.images, 1.0)
    for mode, record in records.items():
        metrics = record["metrics"]
        # A field that is not trained has 11.1 dB here, a plain picture of the mean color 10.8 dB.
        assert metrics["psnr"] > 15.5 and metrics["psnr_8bit"] == pytest.approx(metrics["psnr"], abs=0.1)
        assert metrics["psnr"] == pytest.approx(np.mean(metrics["psnr_views"])) and 0.3 < metrics["ssim"] < 1
        assert metrics["views"] == names and len(metrics["ssim_views"]) == 8
        assert record["experiment"] == "ngp" and record["config"]["background"] == "white"
        assert record["config"]["scene"]["train"] == [60, 32, 32, 4]

        arrays = np.load(folder / f"{mode}-seed0.npz")
        errors = np.square(arrays["images"] / 255 - truth).mean((1, 2, 3))
        assert metrics["psnr_8bit"] == pytest.approx(-10 * np.log10(errors).mean(), abs=1e-6)
        assert arrays["mse"].shape == (42,) and arrays["mse"][-10:].mean() < 0.5 * arrays["mse"][:5].mean()
        pictures = folder / f"{mode}-seed0"
        assert {file.name for file in pictures.iterdir()} == {
            "turntable.gif", *(f"{name}{end}.png" for name in names for end in ("", "-depth"))}
        assert all(np.array_equal(iio.imread(pictures / f"{name}.png"), image)
                   for name, image in zip(names, arrays["images"]))
        depth = iio.imread(pictures / "test_03-depth.png")
        assert depth.shape == (32, 32) and depth.max() == 255
        assert iio.imread(pictures / "turntable.gif").shape == (3, 32, 32, 3)
        weights = torch.load(folder / f"{mode}-seed0.pt", weights_only=True)["field"]
        assert weights["color.2.weight"].shape == (64, 64) and not any("coefficients" in name for name in weights)
    assert records["relu"]["metrics"] != records["relu+fr"]["metrics"]
    assert not list(folder.glob("*.ckpt"))
    assert {file.name for file in (trained / "figures" / "quick").iterdir()} == {"ngp_toy.png", "ngp_toy_psnr.png"}


def test_the_background_is_that_of_the_option(tmp_path, call, few):
    views = load_scene("toy", tmp_path, 8).test.images
    for background, level in (("white", 1.0), ("black", 0.0)):
        done = call(NGP, *TOY, "--downscale", 8, "--modes", "relu", "--epochs", 1, "--lr", 1e-9, "--frames", 0,
                    "--background", background, *folders(tmp_path / background))
        assert done.returncode == 0, done.stderr
        record = json.loads((folder_of(tmp_path / background) / "relu-seed0.json").read_text())
        arrays = np.load(folder_of(tmp_path / background) / "relu-seed0.npz")
        assert record["config"]["background"] == background and record["config"]["lr"] == 1e-9
        # A field of density 1, and grey, hides less than 80 % of what is behind it.
        assert np.abs(arrays["images"][:, 0, 0] / 255 - level).mean() < 0.25
        errors = np.square(arrays["images"] / 255 - on_background(views, level)).mean((1, 2, 3))
        assert record["metrics"]["psnr_8bit"] == pytest.approx(-10 * np.log10(errors).mean(), abs=1e-6)
        # As it is hardly trained, the training views are no better; were they on the other grey they would be far off.
        assert 0.6 * errors.mean() < arrays["mse"].mean() < 1.6 * errors.mean()


def test_a_seed_draws_pixels_of_its_own_from_all_views(tmp_path, call, few, monkeypatch):
    drawn, rays = [], RayDataset.rays
    monkeypatch.setattr(RayDataset, "rays", lambda views, pixels: (drawn.append(pixels), rays(views, pixels))[1])
    done = call(NGP, *TOY, "--downscale", 8, "--modes", "relu", "--seeds", 1, 2, "--epochs", 1, "--frames", 0,
                *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    first, second = (np.load(folder_of(tmp_path) / f"relu-seed{seed}.npz") for seed in (1, 2))
    assert not np.isclose(first["mse"], second["mse"], rtol=1e-6).any()
    parts = torch.stack(drawn) / (60 * 16 * 16)
    assert parts.shape == (8, 32) and parts.unique().numel() > 240
    assert 0 <= parts.min() < 0.05 and 0.95 < parts.max() < 1 and 0.4 < parts.mean() < 0.6


def test_a_resumed_run_has_the_same_bits(tmp_path, call, few, monkeypatch):
    arguments = (*TOY, "--downscale", 8, "--modes", "relu+fr", "--frames", 0)
    found, rates, looks = [], [], []
    update = InstantNGPField.update_occupancy
    monkeypatch.setattr(InstantNGPField, "update_occupancy", lambda field, everywhere: (
        looks.append((len(steps), everywhere)), update(field, everywhere)))
    checkpoint = Run.checkpoint
    for name, more in {"whole": (), "resumed": ("--checkpoint-every", 6)}.items():
        with recorded_steps() as steps:
            if more:
                with monkeypatch.context() as patch:
                    patch.setattr(Run, "checkpoint",
                                  lambda run, step, **state: (checkpoint(run, step, **state), sys.exit(9)))
                    assert call(NGP, *arguments, *more, *folders(tmp_path / name)).returncode == 9  # after 6 of 12
                assert len(steps) == 6 and not (folder_of(tmp_path / name) / "relu+fr-seed0.json").exists()
            done = call(NGP, *arguments, *more, *folders(tmp_path / name))
        assert done.returncode == 0, done.stderr
        path = folder_of(tmp_path / name) / "relu+fr-seed0"
        rates.append([rate for rate, _ in steps])
        found.append((json.loads(path.with_suffix(".json").read_text())["metrics"], np.load(path.with_suffix(".npz")),
                      torch.load(path.with_suffix(".pt"), weights_only=True)["field"]))
    (metrics, arrays, weights), resumed = found
    assert metrics == resumed[0]
    assert all(np.array_equal(arrays[key], resumed[1][key]) for key in ("images", "mse"))
    assert (arrays["mse"] > 0).all() and arrays["mse"].shape == (12,)
    assert all(torch.equal(value, resumed[2][key]) for key, value in weights.items())
    assert 0.01 < weights["occupancy.occupied"].float().mean() < 0.99
    expected = [InstantNGP.learning_rate(epoch, 3, FEW["lr"]) for epoch in range(3) for _ in range(4)]
    assert rates == [expected, expected] and expected[0] == FEW["lr"]
    assert looks == 2 * [(0, True), (4, False), (8, False)]  # after so many steps, in all cells or in some


def test_a_cell_that_no_camera_sees_stays_empty(tmp_path, call, few, monkeypatch):
    hidden = torch.zeros(16, 16, 16, dtype=torch.bool)
    hidden[:, :, 9:] = True
    monkeypatch.setattr(InstantNGP, "visible_cells", lambda *arguments: ~hidden)
    done = call(NGP, *TOY, "--downscale", 8, "--modes", "relu", "--epochs", 2, "--frames", 0, *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    weights = torch.load(folder_of(tmp_path) / "relu-seed0.pt", weights_only=True)["field"]
    assert (weights["occupancy.density"][hidden] == -1).all() and not weights["occupancy.occupied"][hidden].any()
    assert weights["occupancy.occupied"].any()


def test_a_training_that_diverges_says_so(tmp_path, refused, few):
    line = refused(NGP, *TOY, "--downscale", 8, "--modes", "relu", "--epochs", 2, "--lr", 1e30, *folders(tmp_path))
    assert "diverged" in line and "--lr" in line
    assert not list(tmp_path.rglob("*.json"))


def test_render_only_trains_nothing(trained, tmp_path, call, monkeypatch):
    shutil.copytree(trained / "results", tmp_path / "results")
    monkeypatch.setattr(InstantNGP, "QUICK", TINY)
    monkeypatch.setattr(InstantNGP, "sweep", None)
    folder = folder_of(tmp_path)
    shutil.rmtree(folder / "relu+fr-seed0")
    before = {file: file.read_bytes() for file in folder.glob("*.*")}
    done = call(NGP, *TOY, "--downscale", 4, "--frames", 2, "--modes", "relu+fr", "--render-only", *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    stored = np.load(folder / "relu+fr-seed0.npz")["images"].astype(int)
    for view, image in enumerate(stored):
        again = iio.imread(folder / "relu+fr-seed0" / f"test_{view:02d}.png").astype(int)
        assert np.abs(again - image).max() <= 1  # the number of threads is another
    assert len(iio.imread(folder / "relu+fr-seed0" / "turntable.gif")) == 2
    value = json.loads((folder / "relu+fr-seed0.json").read_text())["metrics"]["psnr"]
    measured = float(done.stdout.split(" dB")[0].split()[-1])
    assert measured == pytest.approx(value, abs=0.011) and str(folder / "relu+fr-seed0") in done.stdout
    assert {file: file.read_bytes() for file in folder.glob("*.*")} == before
    assert not (tmp_path / "figures").exists()

    done = call(NGP, *TOY, "--downscale", 4, "--modes", "relu", "--epochs", 2, "--render-only", *folders(tmp_path))
    assert done.returncode == 2 and "other settings" in done.stderr and len(done.stderr.splitlines()) == 1


def test_render_only_needs_a_trained_field(tmp_path, refused):
    line = refused(NGP, *TOY, "--downscale", 8, "--render-only", *folders(tmp_path))
    assert "relu-seed0.pt" in line and "--render-only" in line
    assert not list(tmp_path.rglob("*.*"))


class TestRenderers:
    """The figure of both renderers."""

    truth = np.random.default_rng(0).random((3, 16, 20, 3)).astype(np.float32)
    names = ("a", "b", "c")

    def finish(self, path, experiment, mode, psnr, seed=0, **changed):
        run = Run(path, experiment, "toy", mode, seed, {"scene": {"digest": "1"}, "background": "white", **changed})
        run.finish(metrics={"psnr": psnr}, seconds=1, steps=1, environment={"precision": "fp32"},
                   arrays={"images": np.full(self.truth.shape, round(psnr), np.uint8)})
        return run

    def drawn(self, path, runs, monkeypatch, seeds=(0,)):
        """The figures drawn: their paths and panels."""
        figures = []
        with monkeypatch.context() as patch:
            patch.setattr(rendering.plots, "save", lambda figure, path: figures.append((path, figure.axes)))
            args = SimpleNamespace(results=path, figures=path / "figures", seeds=list(seeds), quick=True)
            rendering.draw_renderers(runs, args, self.truth, self.names)
        rendering.plt.close("all")
        return figures

    def test_it_shows_all_four_fields(self, tmp_path, monkeypatch):
        runs = [self.finish(tmp_path, "ngp", mode, psnr) for mode, psnr in (("relu", 30.1), ("relu+fr", 31.2))]
        for mode, psnr in (("relu", 32.3), ("relu+fr", 33.4)):
            self.finish(tmp_path, "dvgo", mode, psnr, lr=1)
        (path, axes), = self.drawn(tmp_path, runs, monkeypatch)
        assert path == tmp_path / "figures" / "renderers_toy.png"
        titles = [axis.get_title() for axis in axes]
        assert titles == ["ground truth\n", "DVGO\nReLU", "DVGO\nReLU + FR", "Instant-NGP\nReLU",
                          "Instant-NGP\nReLU + FR", "", "32.30 dB", "33.40 dB", "30.10 dB", "31.20 dB"]
        pictures = [axis.images[0].get_array() for axis in axes]
        assert np.array_equal(pictures[0], self.truth[1]) and np.allclose(pictures[3], 30 / 255)
        rows, columns = rendering.plots.busiest_window(self.truth[1])
        assert np.array_equal(pictures[5], self.truth[1][rows, columns]) and pictures[6].shape == pictures[5].shape

    def test_a_mode_without_its_counterpart_is_shown(self, tmp_path, monkeypatch):
        run = self.finish(tmp_path, "ngp", "relu", 30.1)
        self.finish(tmp_path, "dvgo", "relu", 32.3)
        self.finish(tmp_path, "dvgo", "relu+fr", 33.4)  # of a mode not asked for
        (_, axes), = self.drawn(tmp_path, [run], monkeypatch)
        assert len(axes) == 6

    @pytest.mark.parametrize("changed", [None, {"background": "black"}, {"scene": {"digest": "2"}}, {"seed": 1}])
    def test_it_needs_both_renderers_on_the_same_views(self, changed, tmp_path, monkeypatch):
        runs = [self.finish(tmp_path, "ngp", mode, 30.1) for mode in ("relu", "relu+fr")]
        if changed:
            self.finish(tmp_path, "dvgo", "relu", 32.3, **changed)
        assert self.drawn(tmp_path, runs, monkeypatch) == []

    def test_it_is_of_the_first_seed(self, tmp_path, monkeypatch):
        runs = [self.finish(tmp_path, "ngp", "relu", 30 + seed, seed) for seed in (1, 0)]
        for seed in (0, 1):
            self.finish(tmp_path, "dvgo", "relu", 40 + seed, seed)
        (_, axes), = self.drawn(tmp_path, runs, monkeypatch, seeds=(1, 0))
        assert [axis.get_title() for axis in axes[4:]] == ["41.00 dB", "31.00 dB"]


def test_the_script_draws_both_renderers(trained, tmp_path, call, few, monkeypatch):
    monkeypatch.setattr(InstantNGP, "QUICK", TINY)
    shutil.copytree(trained / "results", tmp_path / "results")
    arguments = (*TOY, "--downscale", 4, *folders(tmp_path))
    picture = tmp_path / "figures" / "quick" / "renderers_toy.png"
    done = call(NGP, *arguments)
    assert done.returncode == 0 and done.stdout.count("finished before") == 2 and not picture.exists()
    shutil.copytree(folder_of(tmp_path), folder_of(tmp_path, "dvgo"))
    done = call(NGP, *arguments)
    assert done.returncode == 0 and f"wrote {picture}" in done.stdout
    assert iio.imread(picture).shape[1] > 1000


@pytest.mark.parametrize("arguments, said", [
    (["--scene", "nowhere"], "nowhere"), (["--scene", "lego"], "toy"), (["--scene", "broken"], "transforms_train.json"),
    (["--downscale", "0"], "--downscale"), (["--modes", "sin"], "--modes"), (["--chunk", "0"], "--chunk"),
    (["--epochs", "0"], "--epochs"), (["--lr", "-1"], "--lr"), (["--background", "grey"], "--background"),
    (["--frames", "-1"], "--frames"), (["--precision", "tf32", "--scene", "toy"], "tf32"),
])
def test_bad_input_gets_one_line_and_status_2(arguments, said, tmp_path, refused):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "transforms_train.json").write_text('{"frames": ')
    arguments = [tmp_path / "broken" if argument == "broken" else argument for argument in arguments]
    line = refused(NGP, "--device", "cpu", "--data", tmp_path, *folders(tmp_path), *arguments)
    assert said in line
    assert not (tmp_path / "results").exists()
