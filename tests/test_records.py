"""Records, arrays and checkpoints: whole or not there, never of another run, never unpickled."""

import json
import pickle

import numpy as np
import pytest
import torch

from experiment.errors import UserError
from experiment.files import check_writable, write_atomically
from experiment.records import KEYS, Run


def run_in(folder, **config):
    return Run(folder, "1d", "function", "relu+fr", 3, {"lr": 0.1, **config})


def finish(run, **metrics):
    run.finish(metrics=metrics, seconds=2.0, steps=10, environment={"precision": "fp32"},
               arrays={"outputs": np.arange(6.0).reshape(2, 3)})


def test_a_finished_run_is_read_back(tmp_path):
    run = run_in(tmp_path)
    assert run.record() is None and not run.finished()
    finish(run, loss=0.5)
    path = tmp_path / "1d" / "function" / "relu+fr-seed3.json"
    record = json.loads(path.read_text())
    assert set(record) == set(KEYS)
    assert record["metrics"] == {"loss": 0.5} and record["config"] == {"lr": 0.1} and record["seed"] == 3
    assert record["time"] == {"train_seconds": 2.0, "steps_per_second": 5.0}
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


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", pickle.dumps({"outputs": 1})])
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
    on_cuda = Run(tmp_path, "1d", "function", "relu+fr", 3, {"lr": 0.1}, device="cuda")
    for other in (*others, on_cuda):
        with pytest.raises(UserError, match="--force"):
            other.restore(weights=torch.zeros(2))


def test_a_run_begun_again_is_not_finished_while_it_has_a_checkpoint(tmp_path):
    run = run_in(tmp_path)
    finish(run)
    run.checkpoint(5, weights=torch.ones(2))
    assert not run.finished() and run.missing() == run.path(".ckpt")
    finish(run)
    assert run.finished()


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("experiment.files.os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_to_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        check_writable(tmp_path / "file" / "below")


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


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps({"step": 3})])
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
