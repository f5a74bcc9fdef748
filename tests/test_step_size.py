"""The study of step size and its controls: what is trained, what is read from records, what the controls are."""

import copy
from types import SimpleNamespace

import matplotlib
import pytest
import torch
from conftest import ROOT, plan_runs
from torch import nn

from harness import figures, training
from harness.records import read_record
from models import FourierReparamLinear, build_inr
from models.step_scale import step_scale
from studies import controls, step_size
from studies.step_size import EXPERIMENTS

NETWORK = {"in_features": 1, "out_features": 1, "hidden_features": 16, "hidden_layers": 2, "low_freq_num": 8,
           "high_freq_num": 8, "phase_num": 4, "alpha": 0.05}


@pytest.fixture
def options(tmp_path):
    """The options of the study, with folders below `tmp_path`."""
    return SimpleNamespace(data=tmp_path / "data", results=tmp_path / "results",
                           records=tmp_path / "records", figures=tmp_path / "figures")


@pytest.fixture
def published(tmp_path):
    """The options that read what is published alone."""
    return SimpleNamespace(results=tmp_path, records=ROOT / "records")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_everything_has_a_published_record_where_its_script_puts_it_so_that_nothing_is_trained(name, published):
    for experiment in (EXPERIMENTS[name], step_size.choosing(EXPERIMENTS[name])):
        step_size.train(experiment, published)  # there is no data
        runs = plan_runs(experiment.script, *experiment.options.split(), case=experiment.folder.split("/")[1])
        assert {str(run.folder) for run in runs} == {experiment.folder}
    assert all(len(step_size.measured(EXPERIMENTS[name], backbone, published).values) == 14
               for backbone in EXPERIMENTS[name].backbones)


def test_what_was_not_trained_is_neither_shown_nor_chosen(options):
    pair = step_size.measured(EXPERIMENTS["dvgo toy"], "relu", options)
    assert step_size.gains(pair)[2:] == ["23.4", "–", "–", "–", "not chosen"]


def test_means_are_lines_and_a_failure_is_an_arrow_with_its_value(published, drawn):
    pairs = [step_size.measured(EXPERIMENTS[name], backbone, published) for name, backbone in (
        ("1d", "relu"), ("3d", "sin"))]
    with matplotlib.rc_context(figures.STYLE):
        step_size.draw(pairs, SimpleNamespace(figures=ROOT))
    of_loss, of_iou = drawn[ROOT / "step_size.png"].axes
    for pair, axis in zip(pairs, (of_loss, of_iou)):
        lines = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
        for label, with_fr in (("plain", False), ("FR", True)):
            assert lines[label] == [pair.values[with_fr, step].mean()
                                    for step in step_size.steps(pair.experiment, pair.backbone)]
    assert of_loss.get_title().startswith("1D: ReLU\n300 points, 3 seeds") and of_loss.get_yscale() == "log"
    assert of_iou.get_title().startswith("3D: SIREN\n44 × 62 × 27 voxels, 3 seeds")
    assert of_iou.get_ylim()[0] > 0.75
    assert [text.get_text() for text in of_iou.texts] == ["0.00", "0.00", "FR 0.00", "FR 0.00"]


@pytest.mark.parametrize("study", [step_size, controls])
def test_the_pages_table_is_that_of_the_records(study, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["study", "--draw", "--results", str(tmp_path), "--figures", str(tmp_path),
                                     "--records", str(ROOT / "records")])
    monkeypatch.setattr(figures, "draw_each", lambda *_: None)
    study.main()
    assert capsys.readouterr().out in (ROOT / "docs" / "step_size.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("study", ["step_size", "controls"])
def test_there_is_nothing_to_draw_where_nothing_was_trained(refused, tmp_path, study):
    folders = [option for name in ("results", "records", "figures") for option in (f"--{name}", tmp_path / name)]
    assert "without --draw" in refused(f"studies.{study}", "--only", "1d", "--draw", *folders)


def test_both_train_through_the_script_and_not_twice(options, monkeypatch, one_process, capsys, drawn):
    short = EXPERIMENTS["1d"]._replace(options="--steps 2", folder="1d/function/steps=2", backbones=("relu",),
                                         seeds=(0,))
    monkeypatch.setattr(step_size, "MULTIPLES", (1,))
    for study in (step_size, controls):
        study.train(short, options)
    names = {path.name for path in (options.results / short.folder).glob("*.json")}
    assert names == {f"{name}-seed0.json" for name in (
        "relu", "relu,hidden_lr=5.884", "relu+fr", "relu+fr,hidden_lr=0.17", "relu,control=fr-start",
        "relu,control=fr-start,hidden_lr=5.884", "relu,control=projected", "relu,control=projected,hidden_lr=5.884",
        "relu,control=projected-fr-start", "relu,control=projected-fr-start,hidden_lr=5.884",
        "relu+fr,control=plain-start", "relu+fr,control=plain-start,hidden_lr=0.17",
        "relu+fr,control=random,hidden_lr=0.1865", "relu+fr,control=random,hidden_lr=1.097",
        "relu+fr,control=random-in-b,hidden_lr=0.1852", "relu+fr,control=random-in-b,hidden_lr=1.089",
        "relu,control=muon,hidden_lr=11.31", "relu,control=muon,hidden_lr=66.57")}
    made = read_record(options.results / short.folder / "relu,hidden_lr=5.884-seed0.json")
    assert made["command"] == ("python 1d_function_fitting.py --steps 2 --modes relu relu+fr,hidden_lr=0.17 "
                               "relu,hidden_lr=5.884 relu+fr --seeds 0")
    of_names = controls.measured(short, "relu", options)
    at_rate = step_size.fr_step(short, "relu")
    losses = {name: values[at_rate].item() for name, values in of_names.items()}
    # Muon goes another way from the plain network's start, and after two steps the loss has hardly seen it.
    assert len(set(losses.values())) == 9
    assert controls.cell(short, "relu", of_names["FR"]) == "/".join(
        [f"{of_names['FR'][step].item():.4f}" for step in (1.0, at_rate)] + ["–"])
    with matplotlib.rc_context(figures.STYLE):
        controls.draw({(short, "relu"): of_names}, options)
    axis = drawn[options.figures / "controls.png"].axes[0]
    assert axis.get_title() == "1D: ReLU, 1 seed"
    assert {line.get_label(): list(line.get_ydata()) for line in axis.lines}["random basis"] == [
        of_names["random"][step].item() for step in (1.0, at_rate)]
    capsys.readouterr()
    for study in (step_size, controls):
        study.train(short, options)
    assert not capsys.readouterr().out


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
    assert sum(isinstance(layer, FourierReparamLinear) for layer in from_plain) == NETWORK["hidden_layers"]
    basis = with_fr[2].basis.double()
    projection = torch.linalg.pinv(basis, rtol=1e-6) @ basis
    assert round(projection.trace().item()) == 16 - 2
    for found, wanted in zip(hidden_weights(from_plain), hidden_weights(plain)):
        torch.testing.assert_close(found, wanted @ projection, rtol=0, atol=1e-6)
    torch.testing.assert_close(from_plain(x), built(controls.projected, mode)(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("in_row_space", [False, True])
def test_a_random_basis_has_the_norms_of_b_and_its_ranks_if_asked_for(in_row_space):
    torch.manual_seed(0)
    with_fr = build_inr("relu+fr", **NETWORK)
    model = controls.with_random_basis("relu+fr", in_row_space=in_row_space, **NETWORK)
    first, second = (layer for layer in model if isinstance(layer, controls.RandomBasisLinear))
    basis = with_fr[2].basis
    torch.testing.assert_close(first.basis.norm(dim=1), basis.norm(dim=1))
    assert controls.step_scale_of(basis) == pytest.approx(step_scale(with_fr[2]), rel=1e-5)
    assert not torch.allclose(first.basis, second.basis) and not torch.allclose(first.basis, basis)
    assert torch.linalg.matrix_rank(first.basis.double(), rtol=1e-5) == (14 if in_row_space else 16)
    torch.testing.assert_close(first.weight, first.coefficients @ first.basis)
    # It starts at the scale of the others, and its W is what the layer computes.
    assert first.weight.std().item() == pytest.approx(with_fr[2].weight.std().item(), rel=0.2)
    x = torch.rand(3, 16)
    torch.testing.assert_close(first(x), x @ first.weight.T + first.bias)


def test_muon_trains_the_hidden_weights_alone_and_resumes(tmp_path):
    def trained(steps, state=None):
        torch.manual_seed(0)
        model = build_inr("relu", **NETWORK)
        optimizer = controls.MuonForHidden(training.parameter_groups(model, 1e-3, 8.0), fused=True)
        for step in range(steps):
            if step == 1 and state:
                model.load_state_dict(state[0])
                optimizer.load_state_dict(state[1])
            optimizer.zero_grad()
            model(torch.linspace(-1, 1, 9)[:, None]).square().mean().backward()
            optimizer.step()
        return [copy.deepcopy(part.state_dict()) for part in (model, optimizer)]

    start, once, twice = (trained(steps) for steps in (0, 1, 2))
    moved = once[0]["2.weight"] - start[0]["2.weight"]
    singular_values = torch.linalg.svdvals(moved)  # those of an orthogonal matrix, as far as the gradient has ranks
    assert 0.6 < singular_values[0] / 8e-3 < 1.3 and singular_values[0] < 2 * singular_values[2]
    assert (once[0]["0.weight"] - start[0]["0.weight"]).abs().max() == pytest.approx(1e-3, rel=1e-3)  # Adam's
    resumed = trained(2, once)
    assert all(value.equal(resumed[0][name]) for name, value in twice[0].items())
