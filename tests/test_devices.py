"""A training of each kind on a pretended device: nothing that a GPU would need is left on the CPU."""

import contextlib
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ball
from pretended import DEVICE, PretendedDevice

import dvgo
import InstantNGP
from data.scenes import load_scene
from harness import nerf_views, training
from models.nerf import voxel_grid

CPU = torch.device("cpu")
FIT_1D, FIT_2D, FIT_3D = map(import_module, ("1d_function_fitting", "2d_image_fitting", "3D_occupance"))


@pytest.fixture(autouse=True)
def pretended(monkeypatch):
    """The pretended device is there, and what PyTorch itself does not take its name for takes it."""
    tensor, init = torch.tensor, torch.optim.Adam.__init__

    class Generator(torch.Generator):
        def __new__(cls, device=None):
            return super().__new__(cls)

    monkeypatch.setattr(torch, "tensor", lambda data, dtype=None, device=None, **options:
                        tensor(data, dtype=dtype, **options).to(device or CPU))
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch.optim.Adam, "__init__", lambda adam, params, fused=None, **options:
                        init(adam, params, **options))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(training, "choose_device", lambda _: DEVICE)
    with PretendedDevice():
        yield


def options(tmp_path, *more):
    return [*more, "--quick", "--device", "cpu", "--results", str(tmp_path), "--figures", str(tmp_path)]


def test_1d_with_its_kernel(tmp_path):
    args = FIT_1D.parse(options(tmp_path, "--modes", "relu+fr", "--steps", "10"))
    run, = FIT_1D.plan(args)
    FIT_1D.train(run, args)
    outputs = run.arrays()["outputs"]
    assert np.isfinite(outputs).all() and not np.array_equal(outputs[0], outputs[-1])


@pytest.mark.parametrize("mode, batch", [("sin+fr", ()), ("relu+pe", ("--batch", "100"))])
def test_2d(tmp_path, mode, batch):
    args = FIT_2D.parse(options(tmp_path, "--modes", mode, "--steps", "20", "--chunk", "90", *batch))
    image = np.linspace(0, 1, 13 * 12 * 3, dtype=np.float32).reshape(13, 12, 3)
    run, = FIT_2D.plan(args, {"a": image})
    FIT_2D.train(run, image, args)
    psnr = run.arrays()["psnr"]
    assert np.isfinite(psnr).all() and psnr[-1] > psnr[0]


def test_3d(tmp_path):
    args = FIT_3D.parse(options(tmp_path, "--modes", "relu+pe+fr", "--epochs", "2"))
    volume = ball(4, side=10)
    run, = FIT_3D.plan(args, {"a": (volume, FIT_3D.QUICK)})
    FIT_3D.train(run, volume, args)
    assert np.isfinite(run.arrays()["iou"]).all()


@pytest.fixture
def scene(monkeypatch):
    monkeypatch.setattr(nerf_views, "save_field", lambda *_, **__: None)  # which cannot be, of a pretended tensor
    return load_scene("toy", Path("nowhere"), 8)


def test_both_stages_of_dvgo(scene, tmp_path, monkeypatch):
    scatter = voxel_grid.scatter_sparse

    def scatter_made_dense(*arguments):  # autograd takes a sparse tensor of the pretended device for a dense one
        return [torch.zeros(gradient.shape, device=DEVICE).index_put_(tuple(gradient._indices()), gradient._values())
                for gradient in scatter(*arguments)]

    monkeypatch.setattr(voxel_grid, "scatter_sparse", scatter_made_dense)
    args = dvgo.parse(options(tmp_path, "--modes", "relu+fr", "--frames", "0"))
    run, = dvgo.plan(args, scene)
    small = {"steps": 3, "batch": 64, "voxels": 8**3, "renew_every": 2}
    run = replace(run, config={**run.config, **small, "voxels": 12**3, "scale_at": [2], "threshold": 1e-6,
                               "coarse": {**run.config["coarse"], **small}})
    coarse = dvgo.coarse_run(run)
    dvgo.train_coarse(coarse, scene, args)
    found = coarse.arrays()
    assert np.isfinite(found["mse"]).all() and found["mse"].all()
    coarse.write(coarse.record(), {}, {**found, "opacity": np.ones_like(found["opacity"])})  # something everywhere
    dvgo.train_fine(run, scene, args)
    arrays = run.arrays(images=(*scene.test.images.shape[:3], 3))
    assert np.isfinite(arrays["mse"]).all() and arrays["mse"].all() and arrays["images"].any()


def test_instant_ngp_and_a_buffer_left_on_the_cpu_is_found(scene, tmp_path, monkeypatch):
    scene, make = InstantNGP.normalize_poses(scene), InstantNGP.make_field
    args = InstantNGP.parse(options(tmp_path, "--modes", "relu+fr", "--chunk", "40", "--frames", "0"))
    run, = InstantNGP.plan(args, scene)
    small = {"epochs": 2, "iterations": 2, "batch": 64, "warm_up": 1, "update_every": 1,
             "field": {"levels": 4, "log2_size": 10, "finest": 32, "resolution": 8, "steps": 32}}
    run = replace(run, config={**run.config, **small})
    InstantNGP.train(run, scene, args)  # looks at all cells of the occupancy grid, then at some
    arrays = run.arrays(images=(*scene.test.images.shape[:3], 3))
    assert np.isfinite(arrays["mse"]).all() and arrays["mse"].all() and arrays["images"].any()

    def forgetful(*words):
        field = make(*words)
        field.occupancy.occupied = field.occupancy.occupied.cpu()
        return field

    monkeypatch.setattr(InstantNGP, "make_field", forgetful)
    with pytest.raises(RuntimeError, match="mixed devices"):
        InstantNGP.train(run, scene, args)
