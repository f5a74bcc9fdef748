"""The study of step size and its controls: what is trained, what is read from records, what the controls are."""

import dataclasses
from types import SimpleNamespace

import matplotlib
import pytest
import torch
from torch import nn

from experiment import figures
from experiment.records import read_record
from models import FourierReparamLinear, build_inr
from models.step_scale import step_scale
from studies import controls, step_size

NETWORK = {"in_features": 1, "out_features": 1, "hidden_features": 16, "hidden_layers": 2, "low_freq_num": 8,
           "high_freq_num": 8, "phase_num": 4, "alpha": 0.05}


@pytest.fixture
def options(tmp_path):
    """The options of the study, with folders below `tmp_path`."""
    return SimpleNamespace(only=["1d"], seeds=[0, 1], quick=False, draw=True, device="cpu", data=tmp_path / "data",
                           results=tmp_path / "results", reference=tmp_path / "reference", figures=tmp_path / "figures")


def finish(run, loss):
    run.finish(metrics={"loss": loss}, arrays={}, seconds=1, steps=1)


def test_kappa_is_that_of_the_layer():
    layer = FourierReparamLinear(16, 16, low_freq_num=8, high_freq_num=8, phase_num=4, alpha=0.05)
    assert step_size.kappa_of(NETWORK) == step_scale(layer)


def test_each_run_has_a_folder_of_its_step_and_the_rate_that_makes_it(options):
    _, (relu, sin) = step_size.plan("1d", options)
    assert [pair.backbone for pair in (relu, sin)] == ["relu", "sin"]
    assert relu.paper == pytest.approx(5.88, abs=0.01)
    steps = sorted({step for _, step in relu.runs})
    assert steps == pytest.approx([relu.paper / 64, relu.paper / 16, 1, relu.paper / 4, *(
        relu.paper * multiple for multiple in (1, 4, 16))])
    for (with_fr, step), runs in relu.runs.items():
        assert [run.seed for run in runs] == [0, 1]
        for run in runs:
            assert run.mode == "relu" + "+fr" * with_fr
            assert run.results == options.results / f"{step:.4g}"
            factor = step / (relu.paper if with_fr else 1)
            assert run.config.get("hidden_lr", 1) == pytest.approx(factor, rel=1e-3)
            assert f"--hidden-lr {run.config.get('hidden_lr', 1):g} " in run.command
    assert "hidden_lr" not in relu.runs[True, relu.paper][0].config, "the paper's own run is that of the script"


@pytest.mark.parametrize("name, found", [("1d", [0, 1, 2]), ("2d", [0, 1]), ("ngp toy", [0, 1, 2])])
def test_an_experiment_has_seeds_of_its_own_unless_others_are_asked_for(options, name, found):
    assert step_size.seeds_of(name, SimpleNamespace(seeds=None, quick=False)) == found
    assert step_size.seeds_of(name, SimpleNamespace(seeds=None, quick=True)) == [0]
    assert step_size.seeds_of(name, options) == [0, 1]


def test_gains_and_figure_are_those_of_the_records(options, drawn):
    _, (relu, sin) = step_size.plan("1d", options)
    for (with_fr, step), runs in relu.runs.items():
        for run in runs:  # FR is ahead by 1 ± √2 at equal steps, and at its best where plain is, too
            published = dataclasses.replace(run, results=options.reference / run.results.name)
            finish(published if with_fr else run, 10 + abs(step - 1) - 2 * (with_fr and run.seed))
    row = step_size.gains(relu, options)
    assert row[:3] == ["1D", "ReLU", "5.88"]
    assert row[3] == f"{1 - (relu.paper - 1):.4f} ± 1.4142".replace("-", "−")
    assert row[4:6] == ["1.0000 ± 1.4142"] * 2 and row[6] == "1.0000 ± 1.4142 (× 0.17 and × 1)"
    assert step_size.gains(sin, options)[3:6] == ["–"] * 3
    with matplotlib.rc_context(figures.STYLE):
        step_size.draw([relu, sin], options)
    (path, figure), = drawn.items()
    assert path.name == "step_size.png" and [axis.get_title() for axis in figure.axes] == ["1D: ReLU (2 seeds)"]
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert lines["FR"] == pytest.approx(lines["plain"] - 1)


@pytest.mark.parametrize("study", ["step_size", "controls"])
def test_there_is_nothing_to_draw_where_nothing_was_trained(refused, tmp_path, study):
    folders = [option for name in ("results", "reference", "figures") for option in (f"--{name}", tmp_path / name)]
    assert "without --draw" in refused(f"studies.{study}", "--only", "1d", "--draw", *folders)


def test_a_control_is_trained_by_the_script_and_not_twice(options, monkeypatch, one_process, capsys):
    monkeypatch.setitem(step_size.QUICK, "1d", ["--steps", "2"])
    options.quick, options.seeds = True, [0]
    _, pairs = step_size.plan("1d", options)
    run = next(run for run in controls.controls_of(pairs[0], pairs[0].paper, options) if run.mode == "relu")
    assert not run.finished() and "fr-start" in str(run)
    ours, _ = step_size.plan("1d", options)
    controls.sweep(controls.train, [[run]], ours, parallel=False)
    record = read_record(step_size.path_of(run, options))
    assert record["config"]["control"] == "fr-start" and record["config"]["hidden_lr"] == pytest.approx(5.884)
    assert record["metrics"]["loss"] > 0 and run.finished()


def hidden_weights(model):
    return [layer.weight.detach().double() for layer in model
            if isinstance(layer, (nn.Linear, FourierReparamLinear))][1:-1]


@pytest.mark.parametrize("mode", ["relu", "sin"])
def test_the_starts_are_those_of_the_other_network(mode):
    def built(build, name):
        torch.manual_seed(0)
        return build(name, **NETWORK)

    plain, with_fr = built(build_inr, mode), built(build_inr, f"{mode}+fr")
    from_fr, from_plain = built(controls.plain_with_fr_start, mode), built(controls.fr_with_plain_start, f"{mode}+fr")
    x = torch.linspace(-1, 1, 9)[:, None]
    assert from_fr(x).equal(with_fr(x)) and not any(isinstance(layer, FourierReparamLinear) for layer in from_fr)
    projection = controls.projection_onto(with_fr[2].basis)
    for found, wanted in zip(hidden_weights(from_plain), hidden_weights(plain)):
        torch.testing.assert_close(found, wanted @ projection, rtol=0, atol=1e-6)
    torch.testing.assert_close(from_plain(x), built(controls.projected, mode)(x), rtol=0, atol=1e-5)


def test_a_projected_weight_stays_in_the_row_space_of_the_basis():
    torch.manual_seed(0)
    model = controls.projected("relu", **NETWORK)
    basis = FourierReparamLinear(16, 16, **{name: NETWORK[name] for name in (
        "low_freq_num", "high_freq_num", "phase_num", "alpha")}).basis.double()
    projection = torch.linalg.pinv(basis, rtol=1e-6) @ basis
    assert round(projection.trace().item()) == 16 - 2
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    before = hidden_weights(model)
    model(torch.linspace(-1, 1, 9)[:, None]).square().mean().backward()
    optimizer.step()
    for layer, old in zip([i for i, layer in enumerate(model) if isinstance(layer, controls.Project)], before):
        weight = model[layer + 1].weight.detach().double() @ model[layer].projection.double()  # what the two compute
        torch.testing.assert_close(weight, weight @ projection, rtol=0, atol=1e-6)
        torch.testing.assert_close(weight[:, 0], weight[:, -1], rtol=0, atol=1e-6)
        assert not torch.allclose(weight, old @ projection)
