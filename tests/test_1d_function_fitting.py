"""The 1D scripts as a user runs them."""

import json

import numpy as np
import pytest
from conftest import assert_same_run, beside, ended_at_checkpoint, folders, record, run_script, stem

FIT, DRAW = "1d_function_fitting.py", "1d_relative_error_in_frequency.py"
RUN = ("1d", "function")
# The released code's relative error after 1,000 steps at 1.5, 2.5, 3.5 and 4.5.
RELEASED = {"relu": [.97, .99, .99, .99], "relu+fr": [.54, .83, .88, .86], "sin": [.37, .75, .87, .87],
            "sin+fr": [.18, .20, .30, .43]}


@pytest.mark.slow
def test_quick_run_trains_records_and_draws(tmp_path):
    done = [run_script(FIT, "--quick", "--steps", 1100, *folders(tmp_path)),  # as long as `RELEASED` needs
            run_script(DRAW, "--options", "quick,steps=1100", *folders(tmp_path)[:4])]
    assert [process.returncode for process in done] == [0, 0], done
    assert all(label in process.stdout for process in done for label in ("ReLU + FR", "SIREN + FR"))
    assert {file.stem for file in (tmp_path / "figures" / "1d" / "function" / "quick,steps=1100").iterdir()} == {
        "fit", "ntk", "layer", "relative_error"}
    metrics = {mode: record(tmp_path, *RUN, mode, options="quick,steps=1100")["metrics"] for mode in RELEASED}
    assert metrics["relu+fr"]["loss"] < metrics["relu"]["loss"] - 0.3  # measured: 1.42 and 2.08
    assert metrics["sin+fr"]["loss"] < metrics["sin"]["loss"] - 0.3  # 0.20 and 0.90
    for mode, values in metrics.items():
        shares = values["ntk_eigenvalue_shares"]
        assert list(shares) == [str(step) for step in range(0, 1101, 110)]
        assert all(sum(share) == pytest.approx(1) and share[:4] == sorted(share[:4], reverse=True)
                   for share in shares.values())
        assert list(values["relative_error_at"]["1000"].values()) == pytest.approx(RELEASED[mode], abs=0.05)


def test_networks_with_settings_of_their_own_are_side_by_side(tmp_path, call, one_process, drawn):
    arguments = ("--modes", "sin", "sin+fr", "sin+fr,lr=5e-4", "--seeds", 0, 1, "--steps", 12, *folders(tmp_path))
    done = call(FIT, *arguments)
    assert done.returncode == 0, done.stderr
    labels = ["SIREN, lr 1e-06", "SIREN + FR, lr 1e-06", "SIREN + FR, lr 0.0005"]
    figure = drawn[tmp_path / "figures" / "1d" / "function" / "steps=12" / "fit.png"]
    assert [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()] == labels
    table = done.stdout.split("\n\n")[-1].splitlines()
    assert [line.split("  ")[0] for line in table] == ["network", *labels] and table[0].split()[1] == "loss"
    for line, name in zip(table[1:], ("sin", "sin+fr", "sin+fr,lr=0.0005")):
        losses = [record(tmp_path, *RUN, name, options="steps=12", seed=seed)["metrics"]["loss"] for seed in (0, 1)]
        assert f"{np.mean(losses):.4f} ± {abs(losses[0] - losses[1]) / 2**0.5:.4f}" in line

    drawn.clear()
    done = call(DRAW, "--options", "steps=12", *arguments[:7], *folders(tmp_path)[:4])
    assert done.returncode == 0, done.stderr
    assert [axis.get_title() for axis in drawn.popitem()[1].axes if axis.get_title()] == labels
    errors = record(tmp_path, *RUN, "sin+fr,lr=0.0005", options="steps=12", seed=1)["metrics"]["relative_error"]
    assert done.stdout.splitlines()[-1].split()[-5:] == ["1", *(f"{error:.3f}" for error in errors.values())]


def test_a_resumed_run_has_the_same_bits(tmp_path, call, drawn):
    words = ("--modes", "sin+fr", "--steps", 12)
    assert call(FIT, *words, *folders(tmp_path / "whole")).returncode == 0
    with ended_at_checkpoint():
        assert call(FIT, *words, "--checkpoint-every", 7, *folders(tmp_path / "resumed")).returncode == 9
    assert "going on after step 7 of 12" in call(FIT, *words, *folders(tmp_path / "resumed")).stdout
    assert_same_run(*(stem(tmp_path / name, *RUN, "sin+fr", "steps=12") for name in ("resumed", "whole")))


def test_a_record_stays_until_there_is_a_new_one(tmp_path, call, refused, monkeypatch):
    arguments = ("--modes", "relu+pe+fr", "--steps", 30, "--precision", "bf16", *folders(tmp_path))
    assert call(FIT, *arguments).returncode == 0
    run = beside(stem(tmp_path, *RUN, "relu+pe+fr", "steps=30,precision=bf16"), ".json")
    before = run.read_bytes()
    assert json.loads(before)["environment"]["precision"] == "bf16"
    with monkeypatch.context() as patch:
        patch.setattr("torch.optim.Adam.step", lambda adam: adam.param_groups[0]["params"][0].data.fill_(1e30))
        assert "the NTK is not finite; a smaller --lr" in refused(FIT, *arguments, "--force")
    assert run.read_bytes() == before
    assert call(FIT, *arguments, "--force").returncode == 0
    assert json.loads(run.read_bytes())["metrics"] == json.loads(before)["metrics"] and run.read_bytes() != before


def test_missing_records_are_made_first(tmp_path, call):
    options = ("--seeds", 5, "--modes", "sin,lr=1e-3", *folders(tmp_path)[:4])
    assert call(DRAW, "--options", "quick,steps=20", *options).returncode == 0
    assert (tmp_path / "results" / "1d/function/quick,steps=20/sin,lr=0.001-seed5.json").exists()
    assert (tmp_path / "figures" / "1d/function/quick,steps=20/relative_error.png").exists()
    assert call(DRAW, "--options", "size=small", *options).returncode == 2  # the other script has said why
