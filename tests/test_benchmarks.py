"""The benchmarks time what they say they do; the figures that they print are theirs to show."""

import contextlib
from importlib import import_module

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import common, radiance_fields, radiance_parts
from benchmarks.__main__ import ARGUMENTS
from experiment.radiance_fields import orbit
from models import FourierReparamLinear, build_inr
from models.nerf.dvgo import fine_field
from models.nerf.hash_grid import HashGrid
from models.nerf.masked_adam import MaskedAdam
from models.nerf.rays import RayDataset

CPU = torch.device("cpu")


@pytest.mark.parametrize("experiment, script", [("1d", "1d_function_fitting"), ("2d", "2d_image_fitting"),
                                                ("3d", "3D_occupance")])
@pytest.mark.parametrize("mode", ["relu", "relu+fr", "sin", "sin+fr"])
def test_the_networks_of_the_records_are_those_of_the_scripts(experiment, script, mode):
    assert common.paper_network(experiment, mode) == import_module(script).PAPER[mode]["network"]


@pytest.mark.parametrize("mode, encoding", [("relu", {}), ("relu+pe", {"pe_frequencies": 4})])
def test_the_floor_counts_the_products_of_a_step(mode, encoding):
    network = {"in_features": 2, "out_features": 3, "hidden_features": 16, "hidden_layers": 2, **encoding}
    with FlopCounterMode(display=False) as counter:
        build_inr(mode, **network)(torch.rand(10, 2)).sum().backward()
    assert common.floor(10, network)[0] == counter.get_total_flops()


def test_full_products_are_the_same_network():
    network = {"in_features": 1, "out_features": 1, "hidden_features": 16, "hidden_layers": 2, "low_freq_num": 4,
               "high_freq_num": 4, "phase_num": 4, "alpha": 0.05}
    model, x = build_inr("relu+fr", **network), torch.linspace(-1, 1, 9)[:, None]
    ours = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    common.with_full_products(model)
    theirs = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    torch.testing.assert_close(theirs, ours)
    with FlopCounterMode(display=False) as counter:
        [layer.weight for layer in model if isinstance(layer, FourierReparamLinear)]
    assert counter.get_total_flops() == 2 * 2 * 16 * (8 * 4) * 16  # layers, operations, rows, M, columns


@pytest.mark.parametrize("method", ["dvgo", "ngp"])
def test_every_stage_of_a_training_is_found(method):
    torch.manual_seed(0)
    script = getattr(radiance_fields, method)
    config = {**script.PAPER["relu+fr"], **script.QUICK, "rays": 64}
    radius = 4.0 if method == "dvgo" else 1.5
    dataset = RayDataset(torch.randint(256, (3, 8, 8, 4), dtype=torch.uint8), torch.from_numpy(orbit(3, radius)),
                         torch.tensor([[11.0, 11, 4, 4]] * 3), bg_color=1.0)
    if method == "dvgo":
        config.update(scale_at=[2], voxels=1_000, renew_every=2, threshold=1e-6)
        field = fine_field(torch.ones(4, 4, 4), -torch.ones(3), torch.ones(3), "relu+fr", config, 2.0, 1.0)
        advance = radiance_fields.dvgo_iterations(field, dataset, config, contextlib.nullcontext())
    else:
        config["field"] = {"levels": 2, "log2_size": 8, "finest": 32, "resolution": 8, "steps": 32}
        field = script.make_field("relu+fr", config, dataset)
        advance = radiance_fields.ngp_iterations(field, dataset, config, contextlib.nullcontext())
    before = [parameter.clone() for parameter in field.parameters()]
    shares = radiance_fields.shares_of_stages(advance, 4, CPU)
    assert list(shares) == [*radiance_fields.STAGES, "other"]
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) > 0
    assert not any(old.equal(new) for old, new in zip(before, field.parameters()))
    samples, decibels = radiance_fields.quality(field, dataset)
    assert samples > 0 and 0 < decibels < 100


def test_the_plain_encoding_is_the_same_function():
    grid = HashGrid(levels=4, log2_size=10, coarsest=4, finest=32)
    assert 0 < grid.dense_levels < grid.levels
    x, above = torch.rand(50, 3), torch.rand(50, grid.out_features)
    found = {}
    for encode in (grid, lambda x: radiance_parts.plain_encoding(grid, x)):
        grid.table.grad = None
        encoded = encode(x)
        encoded.backward(above)
        found[encode] = encoded.detach(), grid.table.grad
    ours, plain = found.values()
    torch.testing.assert_close(ours, plain)


def test_the_dense_adam_does_the_same_steps():
    gradient = radiance_parts.touched_gradient((2, 10, 10, 10), 0.03, CPU)
    assert 0.01 < gradient.count_nonzero() / gradient.numel() < 0.05
    p = torch.nn.Parameter(torch.zeros_like(gradient))
    optimizer = MaskedAdam([{"params": [p], "skip_zero_grad": True}], lr=0.1)
    plain, m, v = (torch.zeros_like(gradient) for _ in range(3))
    for t, part in enumerate((gradient, gradient.roll(1, dims=1), -gradient), start=1):
        p.grad = part.clone()
        optimizer.step()
        radiance_parts.dense_step(plain, part, m, v, t, lr=0.1)
        torch.testing.assert_close(p.detach(), plain)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_benchmark_can_be_imported(name):
    assert callable(import_module(f"benchmarks.{name}").main)


def test_the_parts_are_timed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["radiance_parts", *"--rounds 1 --block 1 --points 50 --levels 2 --voxels 8 "
                                     "--device cpu".split()])
    monkeypatch.setattr(radiance_parts, "machine_rates", lambda _: (1e9, 1e9))
    radiance_parts.main()
    output = capsys.readouterr().out
    assert "\nencoding of 50 points " in output and "\nAdam of 6,144, " in output


def test_one_of_them_runs(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["step_1d", "--rounds", "1", "--block", "1", "--device", "cpu"])
    import_module("benchmarks.step_1d").main()
    output = capsys.readouterr().out
    assert all(f"\n{mode} " in output for mode in ("relu", "relu+fr", "sin", "sin+fr"))
