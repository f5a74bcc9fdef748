"""What the scripts of the two radiance fields share: options, cameras, evaluation, stored fields, their comparison."""

import argparse
import contextlib
import math
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from data.errors import UserError
from data.scenes import Scene, Views
from harness import figures, nerf_views
from harness.metrics import ssim
from harness.records import Run

RNG = np.random.default_rng(0)
VIEWS = Views(RNG.integers(0, 256, (3, 16, 20, 4), dtype=np.uint8),
              np.stack([np.column_stack([np.eye(3), [0, 0, distance]]) for distance in (1, 2, 3)]).astype(np.float32),
              np.array([[20.0, 20, 10, 8]] * 3), ["a", "b", "c"])
SCENE = Scene("toy", VIEWS, VIEWS)


def test_an_orbit_looks_at_the_origin():
    poses = nerf_views.orbit(8, 4.0)
    assert poses.shape == (8, 3, 4) and poses.dtype == np.float32 and nerf_views.orbit(0, 4.0).shape == (0, 3, 4)
    rotations, positions = poses[:, :, :3], poses[:, :, 3]
    assert np.allclose(rotations.transpose(0, 2, 1) @ rotations, np.eye(3), atol=1e-6)
    assert np.allclose(np.linalg.det(rotations), 1)
    assert np.allclose(positions - 4 * rotations[:, :, 2], 0, atol=1e-5)  # four ahead, along −z, is the origin
    assert np.allclose(positions[:, 2], 2) and np.allclose(rotations[:, 2, 0], 0) and (rotations[:, 2, 1] > 0.8).all()
    chords = np.linalg.norm(np.roll(positions, 1, axis=0) - positions, axis=1)
    assert np.allclose(chords, 2 * 4 * math.cos(math.radians(30)) * math.sin(math.pi / 8))


@pytest.mark.parametrize("bg_color", [1.0, 0.0])
def test_views_are_measured_and_written(bg_color, tmp_path):
    truth, cameras = VIEWS.colors(slice(None), bg_color), []
    shown = truth + np.array([0.1, 0.2, 0.05], np.float32)[:, None, None, None]  # some of it above 1

    def render(pose, camera, height, width):
        cameras.append((pose[:, 3], *camera, height, width))
        depth = np.tile(np.linspace(0, 2, width, dtype=np.float32), (height, 1))
        return shown[len(cameras) - 1] if len(cameras) <= 3 else shown[0] / len(cameras), depth

    run = Run(tmp_path, "ngp", "toy", "relu", 0, {"background": "white" if bg_color else "black"})
    metrics, images = nerf_views.evaluate(run, render, contextlib.nullcontext(), VIEWS, np.zeros(3),
                                               argparse.Namespace(frames=4))
    assert metrics["views"] == VIEWS.names and metrics["psnr_views"] == pytest.approx([20, 13.98, 26.02], abs=0.01)
    assert metrics["psnr"] == pytest.approx(20, abs=0.01)  # the mean of the views' own
    clamped = np.rint(255 * shown.clip(0, 1)).astype(np.uint8)
    errors = np.square(clamped / 255 - truth).mean((1, 2, 3))
    assert metrics["psnr_8bit"] == pytest.approx(-10 * np.log10(errors).mean(), abs=1e-6)
    assert metrics["psnr_8bit"] > metrics["psnr"] + 0.01  # what is above 1 is no error there
    assert metrics["ssim_views"] == [ssim(image.clip(0, 1), t) for image, t in zip(shown, truth)]
    assert metrics["ssim"] == pytest.approx(np.mean(metrics["ssim_views"]))
    folder = tmp_path / "ngp" / "toy" / "relu-seed0"
    assert {str(file.relative_to(folder)) for file in folder.rglob("*.*")} == {
        "turntable.gif", *(f"{kind}/{name}.png" for name in VIEWS.names for kind in ("views", "depths"))}
    assert np.array_equal(images, clamped)
    assert all(np.array_equal(iio.imread(folder / "views" / f"{name}.png"), image)
               for name, image in zip(VIEWS.names, images))
    depth = iio.imread(folder / "depths" / "b.png")
    assert depth.shape == (16, 20) and depth[0, 0] == 0 and depth[0, -1] == 255
    assert [camera[1:] for camera in cameras] == 7 * [(20.0, 20.0, 10.0, 8.0, 16, 20)]
    assert np.allclose([np.linalg.norm(position) for position, *_ in cameras[3:]], 2)  # the mean distance
    assert iio.imread(folder / "turntable.gif").shape == (4, 16, 20, 3)


def test_a_turntable_is_no_larger_than_400_pixels(tmp_path):
    large = Views(np.zeros((1, 600, 900, 4), np.uint8), VIEWS.poses[:1], np.array([[900.0, 900, 450, 300]]), ["a"])
    sizes = []

    def render(pose, camera, height, width):
        sizes.append((*camera, height, width))
        return np.zeros((height, width, 3)), np.zeros((height, width))

    nerf_views.write_turntable(Run(tmp_path, "ngp", "toy", "relu", 0, {}), render, large, np.zeros(3), 2)
    assert sizes == 2 * [(300.0, 300.0, 150.0, 100.0, 200, 300)]


def test_a_field_is_stored_with_its_settings(tmp_path):
    run = Run(tmp_path, "ngp", "toy", "relu", 0, {"batch": 8})
    with pytest.raises(UserError, match="relu-seed0.pt; train the run again with --force"):
        nerf_views.load_field(run)
    nerf_views.save_field(run, {"weight": torch.ones(2)})
    assert nerf_views.load_field(run)["weight"].equal(torch.ones(2))
    with pytest.raises(UserError, match="relu-seed0.pt was made with other settings"):
        nerf_views.load_field(Run(tmp_path, "ngp", "toy", "relu", 0, {"batch": 9}))
    content = run.path(".pt").read_bytes()
    for damaged in (b"", content[:200], b"junk"):
        run.path(".pt").write_bytes(damaged)
        with pytest.raises(UserError, match="relu-seed0.pt is damaged"):
            nerf_views.load_field(run)


@pytest.mark.parametrize("arguments, downscale, frames, scene, background", [
    ("", 1, 60, "lego", "white"), ("--quick", 2, 12, "toy", "white"), ("--quick --scene lego", 8, 12, "lego", "white"),
    ("--medium", 2, 60, "lego", "white"), ("--medium --scene toy", 2, 60, "toy", "white"),
    ("--quick --downscale 3 --frames 0 --background black", 3, 0, "toy", "black")])
@pytest.mark.parametrize("name", ["dvgo", "InstantNGP"])
def test_defaults_follow_the_scene_and_the_size(name, arguments, downscale, frames, scene, background, monkeypatch):
    script = import_module(name)
    args = script.parse(arguments.split())
    asked = []
    monkeypatch.setattr(nerf_views, "load_scene", lambda *words: asked.append(words) or SCENE)
    loaded = script.load(args)
    assert asked == [(scene, Path("data"), downscale)] and args.frames == frames
    for run in script.plan(args, loaded):
        assert (run.config["downscale"], run.config["background"]) == (downscale, background)
        assert nerf_views.bg_color(run.config) == (background == "white")


@pytest.mark.parametrize("name, fits", [("é" * 125 + "a", True), ("é" * 126, False)])
def test_a_name_that_no_rendering_can_have_is_refused_before_the_training(name, fits, monkeypatch, tmp_path):
    scene = Scene("a", VIEWS, replace(VIEWS, names=[f"folder/{name}", "b", "c"]))
    monkeypatch.setattr(nerf_views, "load_scene", lambda *_: scene)
    said = pytest.raises(UserError, match="name of a view is too long for a .png behind it: folder/éé")
    with contextlib.nullcontext() if fits else said:
        nerf_views.load(argparse.Namespace(scene="a", data=tmp_path, downscale=None, hold_out=None), {"downscale": 1})
    with contextlib.nullcontext() if fits else pytest.raises(OSError):
        (tmp_path / f"{name}.png").touch()


def trained(path, mode, psnr, own=None):
    """A finished run on VIEWS whose renderings are of one gray level."""
    run = Run(path, "ngp", "toy", mode, 0, {"lr": 1e-2, "batch": 8, "epochs": 2, "iterations": 5, "background": "white",
                                            "scene": {"test": list(VIEWS.images.shape)}, **(own or {})}, {}, own or {})
    run.finish(metrics={"psnr": psnr, "psnr_views": [psnr - 1, psnr + 1, psnr]}, seconds=1, steps=10,
               arrays={"images": np.full((3, 16, 20, 3), round(psnr), np.uint8), "mse": np.full(10, 0.01)})
    return run


def test_held_out_views_are_measured_and_not_trained_on(monkeypatch):
    monkeypatch.setattr(nerf_views, "load_scene", lambda *_: SCENE)
    options = argparse.Namespace(scene="toy", data=None, downscale=1, hold_out=2)
    scene = nerf_views.load(options, {})
    assert scene.train.names == ["a", "c"] and scene.test.names == ["b"]
    assert np.array_equal(scene.train.images, VIEWS.images[[0, 2]])
    assert np.array_equal(scene.test.poses, VIEWS.poses[[1]]) and len(scene.test.intrinsics) == 1
    options.hold_out = 4
    with pytest.raises(UserError, match="none of the 3 training views"):
        nerf_views.load(options, {})


def test_a_run_that_is_trained_again_or_of_other_test_views_is_not_rendered(tmp_path):
    run, nowhere = trained(tmp_path, "relu", 30.0), (SCENE, np.zeros(3), argparse.Namespace())
    with pytest.raises(UserError, match="another process"), run.locked():
        nerf_views.render_only([run], lambda *_: pytest.fail("was rendered"), *nowhere)
    other = Run(tmp_path, "ngp", "toy", "relu", 0, {**run.config, "scene": {"test": [1]}})
    with pytest.raises(UserError, match="was made with scene .*--force"):
        nerf_views.render_only([other], lambda *_: pytest.fail("was rendered"), *nowhere)


def test_a_test_view_is_shown_beside_its_renderings(tmp_path, drawn):
    runs = [trained(tmp_path, "relu", 30.1), trained(tmp_path, "relu+fr", 31.2),
            trained(tmp_path, "relu+fr", 33.3, {"lr": 0.005})]
    args = argparse.Namespace(figures=tmp_path / "figures", seeds=[0])
    for draw in nerf_views.drawings("Instant-NGP", [*runs, replace(runs[0], seed=1)], VIEWS, args):
        draw()
    folder = tmp_path / "figures" / "ngp" / "toy"
    assert list(drawn) == [folder / "close_ups.png", folder / "psnr.png"]
    views, curves = drawn.values()
    truth, names = VIEWS.colors(1, 1.0), ["ReLU, lr 0.01", "ReLU + FR, lr 0.01", "ReLU + FR, lr 0.005"]
    assert [axis.get_title() for axis in views.axes] == [
        "ground truth", names[0], names[2], "ground truth, enlarged", names[1],
        f"error: blue, where {names[1]} has less"]
    assert [axis.texts[0].get_text() for axis in views.axes if axis.texts][:3] == ["31.10 dB", "34.30 dB", "32.20 dB"]
    pictures = [axis.images[0].get_array() for axis in views.axes]
    assert np.array_equal(pictures[0], truth) and np.array_equal(pictures[3], truth[figures.busiest_window(truth)])
    assert np.allclose(pictures[1], 30 / 255) and np.allclose(pictures[4], 31 / 255)
    title = "Instant-NGP, toy, 20 × 16 pixels, 10 steps, 8 rays a step, seed 0"
    assert views.get_suptitle() == (f"{title}\nview b with its own PSNR; the means of all 3 views: "
                                    f"{names[0]} 30.10 dB, {names[1]} 31.20 dB, {names[2]} 33.30 dB")
    assert curves.get_suptitle() == f"PSNR over training\n{title}"
    assert [line.get_label() for line in curves.axes[0].lines] == [
        f"{name}\ntest views: {psnr} dB" for name, psnr in zip(names, ("30.10", "31.20", "33.30"))]
    assert all(np.allclose(line.get_ydata(), 20) for line in curves.axes[0].lines)
    drawn.clear()
    nerf_views.drawings("DVGO", runs[:1], VIEWS, args)[0]()
    assert len(next(iter(drawn.values())).axes) == 3  # one network: nothing to compare
