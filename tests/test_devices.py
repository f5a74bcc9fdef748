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


IMAGE, VOLUME = np.linspace(0, 1, 13 * 12 * 3, dtype=np.float32).reshape(13, 12, 3), ball(4, side=10)


@pytest.mark.parametrize("script, arguments, cases, data, measured", [
    (FIT_1D, "--modes relu+fr --steps 10", (), (), "outputs"),
    (FIT_2D, "--modes sin+fr --steps 20 --chunk 90", ({"a": IMAGE},), (IMAGE,), "psnr"),
    (FIT_2D, "--modes relu+pe --steps 20 --chunk 90 --batch 100", ({"a": IMAGE},), (IMAGE,), "psnr"),
    (FIT_3D, "--modes relu+pe+fr --epochs 2", ({"a": (VOLUME, FIT_3D.QUICK)},), (VOLUME,), "iou"),
], ids=["1d", "2d", "2d in batches", "3d"])
def test_coordinate_networks(script, arguments, cases, data, measured, tmp_path):
    args = script.parse(options(tmp_path, *arguments.split()))
    run, = script.plan(args, *cases)
    script.train(run, *data, args)
    values = run.arrays()[measured]
    assert np.isfinite(values).all() and not np.array_equal(values[0], values[-1])
    assert measured != "psnr" or values[-1] > values[0]


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
