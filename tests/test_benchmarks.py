"""The benchmarks time what they say they do."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import radiance_fields, step
from models import FourierReparamLinear
from models.nerf import hash_grid
from models.nerf.hash_grid import HashGrid

CPU = torch.device("cpu")


def test_full_products_are_of_all_rows_of_the_basis():
    layer = FourierReparamLinear(16, 16, low_freq_num=4, high_freq_num=4, phase_num=4, alpha=0.05)
    step.with_full_products(layer)
    with FlopCounterMode(display=False) as counter:
        assert layer.weight.shape == (16, 16)
    assert counter.get_total_flops() == 2 * 16 * (8 * 4) * 16  # operations, rows, M, columns


def test_the_simple_encoding_is_the_same_function(monkeypatch):
    monkeypatch.setattr(hash_grid, "CPU_CHUNK", 16)
    grid = HashGrid(levels=4, log2_size=10, coarsest=4, finest=32)
    assert 0 < grid.dense_levels < grid.levels
    x, above, found = torch.rand(50, 3), torch.rand(50, grid.out_features), []
    for kind in (HashGrid, radiance_fields.SimpleHashGrid):
        grid.__class__, grid.table.grad = kind, None
        encoded = grid(x)
        encoded.backward(above)
        found.append((encoded.detach(), grid.table.grad))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("fine", [False, True])
def test_the_simple_dvgo_does_the_same_steps(fine):
    torch.manual_seed(0)
    field = radiance_fields.make_dvgo(16**3, fine, CPU)
    other = radiance_fields.SimpleDVGOField(field)
    assert len(field.samples(*radiance_fields.camera_rays(40, 4.0, CPU)[:2])[1]) > 400
    losses = [[advance(1) for _ in range(4)] for advance in (radiance_fields.dvgo_steps(one, fine, 40)
                                                             for one in (field, other))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(set(losses[0])) == 4
    torch.testing.assert_close(field.features.values.permute(3, 0, 1, 2), other.features, rtol=1e-3, atol=1e-4)


def test_the_radiance_fields_are_timed(monkeypatch, capsys):
    monkeypatch.setattr(radiance_fields.DVGO, "MEDIUM", {"batch": 20, "voxels": 8**3, "coarse": {"voxels": 8**3}})
    monkeypatch.setattr(radiance_fields.NGP, "MEDIUM", {"field": {
        "levels": 2, "log2_size": 8, "finest": 32, "resolution": 8, "steps": 32}})
    monkeypatch.setattr(radiance_fields, "keep_freed_memory", lambda: None)
    monkeypatch.setattr("sys.argv", "radiance_fields --small --rounds 1 --device cpu".split())
    radiance_fields.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:-4] for row in rows] == [["DVGO", "coarse"], ["DVGO", "fine"], ["Instant-NGP"]]
    assert all(float(row[-1]) < 1e-5 for row in rows)  # the difference of the losses


@pytest.mark.parametrize("experiment", ["2d", "3d"])
def test_the_published_way_does_the_same_steps_as_ours_in_chunks(experiment, monkeypatch):
    monkeypatch.setattr(step, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(step.training, "CPU_CHUNK", 24)
    losses = []
    for as_published in (False, True):
        settings = torch.get_num_threads(), experiment, "sin+fr", 64, CPU, as_published
        losses.append((step.advance(1, *settings), step.advance(2, *settings)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0][0] != losses[0][1]


@pytest.mark.slow
def test_one_of_them_runs(monkeypatch, capsys):
    monkeypatch.setattr(step, "MODES", ("sin", "sin+fr"))
    monkeypatch.setattr("sys.argv", ["step", "--only", "1d", "--rounds", "1", "--block", "1", "--device", "cpu"])
    step.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("1D")]
    assert [row[1] for row in rows] == ["sin", "sin+fr"]
    assert all(float(row[3]) > 0 and float(row[5]) > 0 and float(row[6]) < 1e-4 for row in rows)
