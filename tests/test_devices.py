"""A training step of each kind on a pretended device: nothing that a GPU would need is left on the CPU."""

import contextlib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ball
from pretended import DEVICE, Elsewhere, PretendedDevice

import dvgo
import InstantNGP
from data.scenes import load_scene, near_far
from experiment import training
from models import fold
from models.nerf import masked_adam, voxel_grid
from models.nerf.dvgo import coarse_field, fine_field, pixels_in_sight
from models.nerf.rays import RayDataset
from models.nerf.volume_rendering import render_image

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def pretended(monkeypatch):
    """The pretended device is there, and what PyTorch itself does not take its name for takes it."""
    tensor = torch.tensor

    class Generator(torch.Generator):
        def __new__(cls, device=None):
            return super().__new__(cls)

    class Adam(torch.optim.Adam):
        def __init__(self, params, fused=None, **options):
            super().__init__(params, **options)

    monkeypatch.setattr(torch, "tensor", lambda data, dtype=None, device=None, **options:
                        tensor(data, dtype=dtype, **options).to(device or CPU))
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch.optim, "Adam", Adam)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(training, "choose_device", lambda _: DEVICE)
    threads = torch.get_num_threads()
    with PretendedDevice():
        yield
    torch.set_num_threads(threads)


def train(name, tmp_path, *options):
    """The record of one run of a script, trained and evaluated on the pretended device."""
    script = import_module(name)
    args = script.parse([*options, "--quick", "--results", str(tmp_path), "--figures", str(tmp_path)])
    run, = script.plan(args)
    script.train(run, args)
    return run.arrays()


def test_a_mixed_operation_is_found():
    there, here = torch.rand(4, 3, device=DEVICE), torch.rand(4, 3)
    assert isinstance(there, Elsewhere) and isinstance(here.to(there), Elsewhere) and type(there.cpu()) is torch.Tensor
    (there * torch.tensor(2.0)).copy_(here)  # what CUDA allows
    for mixed in (lambda: there + here, lambda: here + there, lambda: there @ here.T, lambda: there[torch.arange(2)],
                  lambda: torch.cat([there[0, 0][None], torch.zeros(1)]), lambda: here.index_add_(0, there[:, 0].int(),
                                                                                                  there)):
        with pytest.raises(RuntimeError, match="mixed devices"):
            mixed()


def test_1d_with_its_kernel(tmp_path):
    outputs = train("1d_function_fitting", tmp_path, "--modes", "relu+fr", "--steps", "10")["outputs"]
    assert np.isfinite(outputs).all() and not np.array_equal(outputs[0], outputs[-1])


@pytest.mark.parametrize("mode, batch", [("sin+fr", ()), ("relu+pe", ("--batch", "100"))])
def test_2d(tmp_path, mode, batch):
    arrays = train("2d_image_fitting", tmp_path, "--image", "astronaut", "--downscale", "40", "--modes", mode,
                   "--steps", "20", *batch)
    assert np.isfinite(arrays["psnr"]).all() and arrays["psnr"][-1] > arrays["psnr"][0]


def test_3d(tmp_path):
    np.save(tmp_path / "ball.npy", ball(4, side=10))
    curve = train("3D_occupance", tmp_path, "--shape", str(tmp_path / "ball.npy"), "--modes", "relu+pe+fr",
                  "--epochs", "2")["iou"]
    assert np.isfinite(curve).all()


@pytest.fixture(scope="module")
def scene():
    return load_scene("toy", Path("nowhere"), 8)


def assert_renders(field, views):
    """That a view is rendered, on the host, by the field with its FR layer folded."""
    color, depth = render_image(fold(field), views.poses[0], views.intrinsics[0], 4, 4, DEVICE, chunk=8)
    assert color.shape == (4, 4, 3) and np.isfinite(color).all() and np.isfinite(depth).all()


def test_both_stages_of_dvgo(scene, monkeypatch):
    scatter, sparse = voxel_grid.scatter_sparse, []

    def scatter_made_dense(*arguments):  # autograd takes a sparse tensor of the pretended device for a dense one
        sparse[:] = scatter(*arguments)
        return [torch.zeros(gradient.shape, device=DEVICE).index_put_(tuple(gradient._indices()), gradient._values())
                for gradient in sparse]

    monkeypatch.setattr(voxel_grid, "scatter_sparse", scatter_made_dense)
    config = {**dvgo.PAPER["relu+fr"], **dvgo.QUICK, "voxels": 12**3, "scale_at": [1], "threshold": 1e-6}
    coarse = {**config["coarse"], "voxels": 8**3}
    dataset = RayDataset.from_views(scene.train, 1.0, DEVICE)
    near, far = near_far(scene.train.poses)
    field, factors = coarse_field(dataset, coarse, near, far)
    pixels = torch.randint(dataset.pixels, (64,), device=DEVICE)
    assert dvgo.training_iteration(field, dvgo.make_optimizer(field, coarse, factors), dataset, pixels, coarse,
                                   contextlib.nullcontext()).isfinite()
    field.renew_mask()

    everywhere = torch.ones_like(field.node_opacity())
    field = fine_field(everywhere, field.density.lower, field.density.upper, "relu+fr", config, near, 1.0)
    for voxels in (None, config["voxels"]):
        if voxels:
            field.resize(voxels)
            field.renew_mask()
        optimizer = dvgo.make_optimizer(field, config, None)
        for _ in range(2):
            pixels = pixels_in_sight(field, dataset)[:64]
            before = field.features.values.detach().clone()
            assert dvgo.training_iteration(field, optimizer, dataset, pixels, config,
                                           contextlib.nullcontext()).isfinite()
            assert not field.features.values.equal(before)
        before, state = field.features.values.detach().clone(), optimizer.state[field.features.values]
        masked_adam._sparse_step(field.features.values.data, sparse[1], state["m"], state["v"], 0.1,
                                 optimizer.param_groups[0])
        assert 0 < (field.features.values != before).any(-1).sum() < len(sparse[1]._values()) + 1
    assert_renders(field, scene.test)


def instant_ngp(scene):
    """A field on the pretended device, its data, optimizer and settings."""
    config = {**InstantNGP.PAPER["relu+fr"], **InstantNGP.QUICK, "rays": 64, "warm_up": 1, "update_every": 1,
              "field": {"levels": 4, "log2_size": 10, "finest": 32, "resolution": 8, "steps": 32}}
    dataset = RayDataset.from_views(InstantNGP.normalize_poses(scene).train, 1.0, DEVICE)
    field = InstantNGP.make_field("relu+fr", config, dataset)
    return field, dataset, torch.optim.Adam(field.parameters(), lr=1e-2, fused=True), config


def test_instant_ngp(scene):
    field, dataset, optimizer, config = instant_ngp(scene)
    assert field.encoding.batches() == [slice(0, 4)]  # as on a GPU
    for step in range(3):  # looks at all cells of the occupancy grid, then at some
        before = field.encoding.table.detach().clone()
        assert InstantNGP.training_iteration(field, optimizer, dataset, step, config, contextlib.nullcontext(),
                                             chunk=40).isfinite()
        assert not field.encoding.table.equal(before)
    assert_renders(field, InstantNGP.normalize_poses(scene).test)


@pytest.mark.parametrize("module, buffer", [("occupancy", "occupied"), ("encoding", "_steps")])
def test_a_buffer_left_on_the_cpu_is_found(scene, module, buffer):
    field, dataset, optimizer, config = instant_ngp(scene)
    part = getattr(field, module)
    setattr(part, buffer, getattr(part, buffer).cpu())
    with pytest.raises(RuntimeError, match="mixed devices"):
        InstantNGP.training_iteration(field, optimizer, dataset, 0, config, contextlib.nullcontext())
