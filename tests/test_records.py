"""Records, arrays and checkpoints: whole or not there, never of another run, never unpickled."""

import argparse
import json
import pickle

import numpy as np
import pytest
import torch

from experiment.errors import UserError
from experiment.records import KEYS, Run, digest, planned_runs, recorded_run


def run_in(folder, **config):
    return Run(folder, "1d", "function", "relu+fr", 3, {"lr": 0.1, **config}, command="python a.py --seeds 3")


def finish(run, **metrics):
    run.finish(metrics=metrics, seconds=2.0, steps=10, arrays={"outputs": np.arange(6.0).reshape(2, 3)})


def test_a_finished_run_is_read_back(tmp_path):
    run = run_in(tmp_path)
    assert run.record() is None and not run.finished()
    finish(run, loss=0.5)
    path = tmp_path / "1d" / "function" / "relu+fr-seed3.json"
    record = json.loads(path.read_text())
    assert set(record) == set(KEYS)
    assert record["metrics"] == {"loss": 0.5} and record["config"] == {"lr": 0.1} and record["seed"] == 3
    assert record["time"] == {"train_seconds": 2.0, "steps_per_second": 5.0}
    assert record["command"] == "python a.py --seeds 3"
    assert set(record["environment"]) == {"python", "torch", "device", "precision", "commit"}
    assert record["environment"]["device"] == "cpu" and record["environment"]["precision"] == "fp32"
    assert run.finished() and run.record() == record
    assert np.array_equal(run.arrays()["outputs"], np.arange(6.0).reshape(2, 3))
    assert sorted(file.name for file in path.parent.iterdir()) == ["relu+fr-seed3.json", "relu+fr-seed3.npz"]


def test_what_a_killed_write_left_is_removed_with_the_checkpoint(tmp_path):
    run = run_in(tmp_path)
    run.checkpoint(1, weights=torch.ones(2))
    run.path(".ckpt").with_name(".relu+fr-seed3.ckpt.abc.tmp").write_text("half")
    other = run.path(".ckpt").with_name(".relu+fr-seed31.ckpt.abc.tmp")
    other.write_text("half")
    finish(run)
    assert {file.name for file in other.parent.iterdir()} == {"relu+fr-seed3.json", "relu+fr-seed3.npz", other.name}


def test_a_record_without_its_arrays_is_not_finished(tmp_path):
    run = run_in(tmp_path)
    finish(run)
    run.path(".npz").unlink()
    assert not run.finished()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"experiment": "1d"}', b"\xff\xfe", b"null"])
def test_a_damaged_record_is_an_error_that_names_it(tmp_path, content):
    run = run_in(tmp_path)
    finish(run)
    run.path(".json").write_bytes(content)
    with pytest.raises(UserError, match="relu\\+fr-seed3.json is damaged"):
        run.finished()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", pickle.dumps({"outputs": 1}, protocol=2)])
def test_damaged_arrays_are_an_error_and_never_unpickled(tmp_path, content):
    run = run_in(tmp_path)
    finish(run)
    run.path(".npz").write_bytes(content)
    with pytest.raises(UserError, match="relu\\+fr-seed3.npz is damaged"):
        run.arrays()


def test_a_run_of_other_settings_is_neither_used_nor_overwritten(tmp_path):
    finish(run_in(tmp_path))
    others = (run_in(tmp_path, lr=0.2), Run(tmp_path, "1d", "function", "relu+fr", 3, {"lr": 0.1}, "bf16"))
    for other in others:
        with pytest.raises(UserError, match="--force"):
            other.finished()
    run_in(tmp_path).checkpoint(5, weights=torch.ones(2))
    for other in others:
        with pytest.raises(UserError, match="--force"):
            other.restore(weights=torch.zeros(2))
    Run(tmp_path, "1d", "function", "relu+fr", 3, {"lr": 0.1}, device="cuda").checkpoint(5, weights=torch.ones(2))
    with pytest.raises(UserError, match="device cuda where cpu is asked for.*--force"):
        run_in(tmp_path).restore(weights=torch.zeros(2))


def test_a_run_begun_again_is_not_finished_while_it_has_a_checkpoint(tmp_path):
    run = run_in(tmp_path)
    finish(run)
    run.checkpoint(5, weights=torch.ones(2))
    assert not run.finished() and run.missing() == run.path(".ckpt")
    finish(run)
    assert run.finished()


def test_a_checkpoint_restores_network_optimizer_tensors_and_random_numbers(tmp_path):
    def make():
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.Adam(model.parameters(), lr=0.01, fused=True), torch.zeros(4)

    def step(model, optimizer, kept):
        optimizer.zero_grad()
        loss = model(torch.rand(5, 3)).square().sum()
        loss.backward()
        optimizer.step()
        kept.copy_(torch.cat([kept[1:], loss.detach()[None]]))

    run = run_in(tmp_path)
    model, optimizer, kept = make()
    assert run.restore(model=model, optimizer=optimizer, kept=kept) == 0
    for _ in range(3):
        step(model, optimizer, kept)
    run.checkpoint(3, model=model, optimizer=optimizer, kept=kept)
    for _ in range(3):
        step(model, optimizer, kept)

    again, its_optimizer, its_kept = make()
    assert run.restore(model=again, optimizer=its_optimizer, kept=its_kept) == 3
    for _ in range(3):
        step(again, its_optimizer, its_kept)
    assert torch.equal(its_kept, kept) and torch.equal(again.weight, model.weight)


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps({"step": 3}, protocol=2)])
def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path, content):
    run = run_in(tmp_path)
    run.path(".ckpt").parent.mkdir(parents=True)
    run.path(".ckpt").write_bytes(content)
    with pytest.raises(UserError, match="relu\\+fr-seed3.ckpt is damaged"):
        run.restore()


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "made"), "w")

    run = run_in(tmp_path)
    run.path(".ckpt").parent.mkdir(parents=True)
    torch.save({"config": run.config, "precision": "fp32", "step": Evil()}, run.path(".ckpt"))
    with pytest.raises(UserError, match="damaged"):
        run.restore()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("damage, said", [
    (lambda run: run.path(".json").write_text('{"metrics": {}}'), "is damaged"),
    (finish, "its metrics have no psnr"),
    (lambda run: run.path(".json").unlink(), "its metrics have no psnr")])
def test_a_metric_that_is_not_there_is_an_error(damage, said, tmp_path):
    run = run_in(tmp_path)
    finish(run, psnr=20.0)
    assert run.metric("psnr") == 20.0
    damage(run)
    with pytest.raises(UserError, match=said):
        run.metric("psnr")


def test_arrays_of_another_shape_are_an_error(tmp_path):
    run = run_in(tmp_path)
    finish(run)
    assert run.arrays(outputs=(2, 3))["outputs"].shape == (2, 3)
    for shapes in ({"outputs": (3, 2)}, {"psnr": (2, 3)}):
        with pytest.raises(UserError, match="relu\\+fr-seed3.npz is damaged"):
            run.arrays(**shapes)


def test_the_runs_of_the_options_are_of_each_case_the_seeds_and_of_each_seed_the_modes(tmp_path):
    args = argparse.Namespace(device="cpu", precision="bf16", results=tmp_path, seeds=[4, 1], command="python a.py")
    configs = {case: {mode: {"lr": lr} for mode, lr in (("sin", 0.1), ("relu", 0.2))} for case in ("b", "a")}
    runs = planned_runs(args, "2d", configs)
    assert [(run.case, run.seed, run.mode) for run in runs] == [
        (case, seed, mode) for case in ("b", "a") for seed in (4, 1) for mode in ("sin", "relu")]
    assert all(run.config == configs[run.case][run.mode] for run in runs)
    assert runs[0] == Run(tmp_path, "2d", "b", "sin", 4, {"lr": 0.1}, "bf16", "cpu", "python a.py")
    for wrong, said in (({"device": "tpu"}, "tpu"), ({"precision": "tf32"}, "tf32")):
        with pytest.raises(UserError, match=said):
            planned_runs(argparse.Namespace(**{**vars(args), **wrong}), "2d", configs)


def test_a_recorded_run_has_the_settings_of_its_record(tmp_path):
    name = (tmp_path, "1d", "function", "relu+fr", 3)
    run = Run(*name, {"lr": 0.1}, "bf16")
    with pytest.raises(UserError, match="train first .*relu\\+fr-seed3.json is missing"):
        recorded_run(*name, "train first")
    finish(run, loss=0.5)
    found = recorded_run(*name, "train first")
    assert (found.config, found.precision, found.metric("loss")) == ({"lr": 0.1}, "bf16", 0.5)
    run.path(".npz").unlink()
    with pytest.raises(UserError, match="npz is missing"):
        recorded_run(*name, "train first")
    run.checkpoint(5, weights=torch.ones(2))
    with pytest.raises(UserError, match="ckpt is not finished"):
        recorded_run(*name, "train first")


def test_other_data_have_another_digest():
    one = np.arange(6, dtype=np.uint8)
    assert digest(one) == digest(one.copy()) != digest(one[::-1]) and digest(one, one) != digest(one)
