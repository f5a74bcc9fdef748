"""What the scripts of the two radiance fields share: options, cameras, evaluation, stored fields, their comparison."""

import argparse
import contextlib
import math
import sys

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from conftest import folders

from data.scenes import Views, on_background
from experiment import cli, figures, radiance_fields
from experiment.errors import UserError
from experiment.metrics import ssim
from experiment.records import Run

RNG = np.random.default_rng(0)
VIEWS = Views(RNG.integers(0, 256, (3, 16, 20, 4), dtype=np.uint8),
              np.stack([np.column_stack([np.eye(3), [0, 0, distance]]) for distance in (1, 2, 3)]).astype(np.float32),
              np.array([[20.0, 20, 10, 8]] * 3), ["a", "b", "c"])


def test_an_orbit_looks_at_the_origin():
    poses = radiance_fields.orbit(8, 4.0, elevation=30)
    assert poses.shape == (8, 3, 4) and poses.dtype == np.float32
    assert radiance_fields.orbit(0, 4.0).shape == (0, 3, 4)
    rotations, positions = poses[:, :, :3], poses[:, :, 3]
    assert np.allclose(rotations.transpose(0, 2, 1) @ rotations, np.eye(3), atol=1e-6)
    assert np.allclose(np.linalg.det(rotations), 1)
    assert np.allclose(positions - 4 * rotations[:, :, 2], 0, atol=1e-5)  # four ahead, along −z, is the origin
    assert np.allclose(positions[:, 2], 2) and np.allclose(rotations[:, 2, 0], 0) and (rotations[:, 2, 1] > 0.8).all()
    chords = np.linalg.norm(np.roll(positions, 1, axis=0) - positions, axis=1)
    assert np.allclose(chords, 2 * 4 * math.cos(math.radians(30)) * math.sin(math.pi / 8))


@pytest.mark.parametrize("bg_color", [1.0, 0.0])
def test_views_are_measured_and_written(bg_color, tmp_path):
    truth, cameras = on_background(VIEWS.images, bg_color), []
    shown = truth + np.array([0.1, 0.2, 0.05], np.float32)[:, None, None, None]  # some of it above 1

    def render(pose, camera, height, width):
        cameras.append((pose[:, 3], *camera, height, width))
        depth = np.tile(np.linspace(0, 2, width, dtype=np.float32), (height, 1))
        return shown[len(cameras) - 1] if len(cameras) <= 3 else shown[0] / len(cameras), depth

    run = Run(tmp_path, "ngp", "toy", "relu", 0, {})
    metrics, images = radiance_fields.evaluate(run, render, contextlib.nullcontext(), VIEWS, np.zeros(3),
                                               argparse.Namespace(bg_color=bg_color, frames=4))
    assert metrics["views"] == VIEWS.names and metrics["psnr_views"] == pytest.approx([20, 13.98, 26.02], abs=0.01)
    assert metrics["psnr"] == pytest.approx(20, abs=0.01)  # the mean of the views' own
    clamped = np.rint(255 * shown.clip(0, 1)).astype(np.uint8)
    errors = np.square(clamped / 255 - truth).mean((1, 2, 3))
    assert metrics["psnr_8bit"] == pytest.approx(-10 * np.log10(errors).mean(), abs=1e-6)
    assert metrics["psnr_8bit"] > metrics["psnr"] + 0.01  # what is above 1 is no error there
    assert metrics["ssim_views"] == [ssim(image.clip(0, 1), t) for image, t in zip(shown, truth)]
    assert metrics["ssim"] == pytest.approx(np.mean(metrics["ssim_views"]))
    folder = radiance_fields.rendering_folder(run)
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
    camera, sizes = np.array([[900.0, 900, 450, 300]]), []
    large = Views(np.zeros((1, 600, 900, 4), np.uint8), VIEWS.poses[:1], camera, ["a"])

    def render(pose, camera, height, width):
        sizes.append((*camera, height, width))
        return np.zeros((height, width, 3)), np.zeros((height, width))

    radiance_fields.write_turntable(Run(tmp_path, "ngp", "toy", "relu", 0, {}), render, large, np.zeros(3), 2)
    assert sizes == 2 * [(300.0, 300.0, 150.0, 100.0, 200, 300)]


def test_a_field_is_stored_with_its_settings(tmp_path):
    run = Run(tmp_path, "ngp", "toy", "relu", 0, {"rays": 8})
    with pytest.raises(UserError, match="relu-seed0.pt; run without --render-only first"):
        radiance_fields.load_field(run)
    radiance_fields.save_field(run, field={"weight": torch.ones(2)}, lower=torch.zeros(3))
    saved = radiance_fields.load_field(run)
    assert saved["field"]["weight"].equal(torch.ones(2)) and saved["lower"].equal(torch.zeros(3))
    with pytest.raises(UserError, match="relu-seed0.pt was made with other settings"):
        radiance_fields.load_field(Run(tmp_path, "ngp", "toy", "relu", 0, {"rays": 9}))
    content = run.path(".pt").read_bytes()
    for damaged in (b"", content[:200], b"junk"):
        run.path(".pt").write_bytes(damaged)
        with pytest.raises(UserError, match="relu-seed0.pt is damaged"):
            radiance_fields.load_field(run)


@pytest.mark.parametrize("arguments, downscale, frames, bg_color", [
    ("", 1, 60, 1.0), ("--quick", 8, 12, 1.0), ("--quick --scene toy", 2, 12, 1.0), ("--medium", 2, 60, 1.0),
    ("--quick --downscale 3 --frames 0 --background black", 3, 0, 0.0)])
def test_defaults_follow_the_scene_and_quick(arguments, downscale, frames, bg_color, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ngp.py", *arguments.split()])
    parser = cli.options("", modes=("relu",), default_modes=("relu",), checkpoint_every=1)
    radiance_fields.add_options(parser)
    args = radiance_fields.parse(parser)
    assert (args.downscale, args.frames, args.bg_color) == (downscale, frames, bg_color)


@pytest.mark.parametrize("arguments, said", [
    ("--scene nowhere", "nowhere is not there; --scene takes toy, lego"),
    ("--scene lego --data {path}", "--scene toy"),
    ("--scene {path}/broken", "transforms_train.json cannot be read as JSON"),
    ("--scene toy --downscale 16", "8 × 8 pixels; at least 11"), ("--downscale 0", "--downscale"),
    ("--downscale 1.5", "--downscale"), ("--medium --quick", "give one"),
    ("--modes sin", "'sin'"), ("--frames -1", "--frames"),
    ("--background gray", "--background"), ("--scene toy --downscale 8 --precision tf32", "tf32"),
    ("--scene toy --downscale 8 --render-only", "relu-seed0.pt; run without --render-only first"),
])
@pytest.mark.parametrize("name", ["dvgo.py", "InstantNGP.py"])
def test_bad_input_gets_one_line_and_status_2(name, arguments, said, refused, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "transforms_train.json").write_text('{"camera_angle_x": 0.7,')
    assert said in refused(name, *folders(tmp_path), *arguments.format(path=tmp_path).split())
    assert not (tmp_path / "results").exists()


class TestComparison:
    """The figure of both radiance fields."""

    truth = on_background(VIEWS.images[1], 1.0)

    @staticmethod
    def finish(path, experiment, mode, psnr, seed=0, **changed):
        run = Run(path, experiment, "toy", mode, seed, {"scene": {"digest": "1"}, "background": "white", **changed})
        run.finish(metrics={"psnr": psnr}, seconds=1, steps=1,
                   arrays={"images": np.full((3, 16, 20, 3), round(psnr), np.uint8)})
        return run

    @staticmethod
    def draw(path, runs, seeds=(0,)):
        args = argparse.Namespace(results=path, figures=path / "figures", seeds=list(seeds), quick=True, medium=False,
                                  bg_color=1.0)
        radiance_fields.draw_comparison(runs, VIEWS, args)

    def test_it_shows_all_four_fields(self, tmp_path, drawn):
        runs = [self.finish(tmp_path, "ngp", mode, psnr) for mode, psnr in (("relu", 30.1), ("relu+fr", 31.2))]
        for mode, psnr in (("relu", 32.3), ("relu+fr", 33.4)):
            self.finish(tmp_path, "dvgo", mode, psnr, lr=1)
        self.draw(tmp_path, runs)
        (path, figure), = drawn.items()
        assert path == tmp_path / "figures" / "radiance_fields_toy.png"
        assert [axis.get_title() for axis in figure.axes] == [
            "ground truth\n", "DVGO\nReLU", "DVGO\nReLU + FR", "Instant-NGP\nReLU", "Instant-NGP\nReLU + FR", "",
            "32.30 dB", "33.40 dB", "30.10 dB", "31.20 dB"]
        pictures = [axis.images[0].get_array() for axis in figure.axes]
        assert np.array_equal(pictures[0], self.truth) and np.allclose(pictures[3], 30 / 255)
        assert np.array_equal(pictures[5], self.truth[figures.busiest_window(self.truth)])
        assert pictures[6].shape == pictures[5].shape

    def test_a_mode_without_its_counterpart_is_shown(self, tmp_path, drawn):
        run = self.finish(tmp_path, "ngp", "relu", 30.1)
        self.finish(tmp_path, "dvgo", "relu", 32.3)
        self.finish(tmp_path, "dvgo", "relu+fr", 33.4)  # of a mode not asked for
        self.draw(tmp_path, [run])
        figure, = drawn.values()
        assert len(figure.axes) == 6

    @pytest.mark.parametrize("changed", [None, {"background": "black"}, {"scene": {"digest": "2"}}, {"seed": 1}])
    def test_it_needs_both_methods_on_the_same_views(self, changed, tmp_path, drawn):
        runs = [self.finish(tmp_path, "ngp", mode, 30.1) for mode in ("relu", "relu+fr")]
        if changed:
            self.finish(tmp_path, "dvgo", "relu", 32.3, **changed)
        self.draw(tmp_path, runs)
        assert not drawn

    def test_it_is_of_the_first_seed(self, tmp_path, drawn):
        runs = [self.finish(tmp_path, "ngp", "relu", 30 + seed, seed) for seed in (1, 0)]
        for seed in (0, 1):
            self.finish(tmp_path, "dvgo", "relu", 40 + seed, seed)
        self.draw(tmp_path, runs, seeds=(1, 0))
        figure, = drawn.values()
        assert [axis.get_title() for axis in figure.axes[4:]] == ["41.00 dB", "31.00 dB"]
