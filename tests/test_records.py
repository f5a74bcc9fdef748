"""Records, arrays and checkpoints: whole or not there, never of other data, never unpickled, never of two processes."""

import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from conftest import ROOT, folders, plan_runs, toy_scene

from data.errors import UserError
from harness import nerf_views
from harness.files import write_atomically
from harness.records import KEYS, Run, digest, environment, read_record
from harness.sweep import Job, sweep


def run_in(folder, **config):
    return Run(folder, "1d", "function", "relu+fr", 3, {"lr": 0.1, **config}, {"size": "quick", "steps": 5},
               {"lr": 0.1, "alpha": 0.02}, command="python a.py --seeds 3")


NAME = "relu+fr,lr=0.1,alpha=0.02-seed3"


def finish(run, **metrics):
    run.finish(metrics=metrics, seconds=2.0, steps=10, arrays={"outputs": np.arange(6.0).reshape(2, 3)})


def test_a_finished_run_is_read_back_and_one_begun_again_or_without_its_arrays_is_not_finished(tmp_path):
    run = run_in(tmp_path)
    assert run.record() is None and not run.finished()
    finish(run, loss=0.5)
    path = tmp_path / "1d" / "function" / "quick,steps=5" / f"{NAME}.json"
    record = json.loads(path.read_text())
    assert tuple(record) == KEYS and run.finished() and run.record() == record and run.metric("loss") == 0.5
    assert record["metrics"] == {"loss": 0.5} and record["config"] == {"lr": 0.1} and record["seed"] == 3
    assert (record["options"], record["own"]) == (run.options, run.own)
    assert record["time"] == {"train_seconds": 2.0, "steps_per_second": 5.0}
    assert record["command"] == "python a.py --seeds 3"
    assert set(record["environment"]) == {"python", "torch", "device", "precision", "commit"}
    assert record["environment"]["device"] == "cpu" and record["environment"]["precision"] == "fp32"
    assert np.array_equal(run.arrays()["outputs"], np.arange(6.0).reshape(2, 3))
    assert sorted(file.name for file in path.parent.iterdir()) == [f"{NAME}.json", f"{NAME}.npz"]
    run.checkpoint(5, weights=torch.ones(2))  # as one that was begun again
    assert not run.finished()
    finish(run)
    assert run.finished()
    run.path(".npz").unlink()
    assert not run.finished()


def test_what_is_measured_again_replaces_what_was_measured_unless_the_disk_is_full(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    run = run_in(tmp_path)
    finish(run, psnr=20.0)
    before, files = run.record(), sorted(run.path("").parent.iterdir())
    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot write .*: No space left on device"):
        patch.setattr("harness.files.os.fsync", full)
        run.write(before, {"psnr": 21.0}, {"outputs": np.zeros(1)})
    assert run.record() == before and run.arrays(outputs=(2, 3))
    run.write(before, {"psnr": 21.0}, {"outputs": np.zeros(1)})
    assert run.record() == {**before, "metrics": {"psnr": 21.0}} and run.arrays(outputs=(1,))
    assert sorted(run.path("").parent.iterdir()) == files  # nothing temporary is left
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}  # as for anyone in a shared folder


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / "below" / ("ä" * 125 + ".json")
    write_atomically(path, b"long")
    assert len(path.name.encode()) == 255 and path.read_bytes() == b"long"


@pytest.mark.parametrize("content", [b"", b"{", b'{"experiment": "1d"}', b"\xff\xfe", b"null",
                                     json.dumps(dict.fromkeys(KEYS, 1)).encode()])
def test_a_damaged_record_is_an_error_that_names_it_and_forced_away(tmp_path, content):
    run = run_in(tmp_path)
    finish(run)
    run.path(".json").write_bytes(content)
    for read in (run.finished, run.record, lambda: run.metric("loss"), lambda: read_record(run.path(".json"))):
        with pytest.raises(UserError, match=f"{NAME.replace('+', '.')}.json is damaged .*--force"):
            read()
    finish(run)
    assert run.finished()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", pickle.dumps({"outputs": 1}, protocol=2)])
def test_damaged_arrays_are_an_error_and_never_unpickled(tmp_path, content):
    run = run_in(tmp_path)
    finish(run, loss=1.0)
    assert run.arrays(outputs=(2, 3))["outputs"].shape == (2, 3)
    for shapes in ({"outputs": (3, 2)}, {"psnr": (2, 3)}):
        with pytest.raises(UserError, match="seed3.npz is damaged"):
            run.arrays(**shapes)
    run.path(".npz").write_bytes(content)
    with pytest.raises(UserError, match="seed3.npz is damaged .*--force"):
        run.arrays()
    np.savez(run.path(".npz"), outputs=np.array([object()]))
    with pytest.raises(UserError, match="seed3.npz is damaged"):
        run.arrays()
    with pytest.raises(UserError, match="its metrics have no psnr; --force"):
        run.metric("psnr")


def test_a_run_of_other_data_is_neither_used_nor_overwritten(tmp_path, capsys):
    finish(run_in(tmp_path, pixels="a"))
    other = run_in(tmp_path, pixels="b")
    said = "made with pixels a where b is asked for; train it again with --force"
    for ask in (other.finished, other.record, lambda: other.metric("loss"), lambda: run_in(tmp_path).finished()):
        with pytest.raises(UserError, match="made with pixels a where .*--force"):
            ask()
    args = import_module("1d_function_fitting").parse(list(map(str, folders(tmp_path))))
    with pytest.raises(UserError, match=said):
        sweep([Job(other, lambda: 1 / 0)], args=args, parallel=False)
    args.force = True

    def train():
        finish(other, loss=2.0)
        return "trained"

    sweep([Job(other, train)], args=args, parallel=False)
    assert other.metric("loss") == 2.0 and "trained" in capsys.readouterr().out
    run_in(tmp_path, pixels="a").checkpoint(5, weights=torch.ones(2))
    with pytest.raises(UserError, match=said):
        other.restore(weights=torch.zeros(2))


def test_other_pictures_cameras_or_names_of_a_scene_are_other_data():
    scene = toy_scene()
    expected = nerf_views.scene_config(scene)
    for part in ("train", "test"):
        views = getattr(scene, part)
        others = [{name: getattr(views, name) + (np.arange(len(views.names)) == 1).reshape(
            -1, *[1] * (getattr(views, name).ndim - 1)).astype(getattr(views, name).dtype)}
            for name in ("images", "poses", "intrinsics")]
        for other in [*others, {"names": ["another", *views.names[1:]]}]:
            found = nerf_views.scene_config(replace(scene, **{part: replace(views, **other)}))
            assert {key for key in expected["scene"] if found["scene"][key] != expected["scene"][key]} == {
                "digest" if part == "train" else "test_digest"}


def test_a_damaged_checkpoint_is_named_and_code_in_it_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "made"), "w")

    run = run_in(tmp_path)
    run.checkpoint(5, weights=torch.ones(2))
    torch.save({"config": run.config, "step": Evil()}, tmp_path / "evil")
    for content in (b"", b"junk", pickle.dumps({"step": 3}, protocol=2), (tmp_path / "evil").read_bytes()):
        run.path(".ckpt").write_bytes(content)
        with pytest.raises(UserError, match="seed3.ckpt is damaged; delete it"):
            run.restore(weights=torch.zeros(2))
    assert not (tmp_path / "made").exists()


HOLDER = """
import sys
from pathlib import Path
from harness.records import Run
with Run(Path(sys.argv[1]), "1d", "function", "relu", 0, {}).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_train_one_run(tmp_path, capsys):
    """The second is refused and damages nothing; what the first has finished is not trained again."""
    run = Run(tmp_path, "1d", "function", "relu", 0, {})
    args = import_module("1d_function_fitting").parse(list(map(str, folders(tmp_path))))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == "locked\n"
        run.checkpoint(5, weights=torch.ones(2))
        args.force = True
        with pytest.raises(UserError, match="relu seed 0: another process trains it now; wait"):
            sweep([Job(run, lambda: 1 / 0)], args=args, parallel=False)
        assert run.restore(weights=torch.zeros(2)) == 5
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    args.force = False

    def train():
        with pytest.raises(UserError, match="another process"), run.locked():
            pass
        finish(run)
        return "trained"

    sweep([Job(run, train)], args=args, parallel=False)  # a killed process holds no lock
    assert "trained" in capsys.readouterr().out and not run.path(".lock").exists()
    with pytest.MonkeyPatch.context() as patch:  # another process finishes it between the look and the lock
        patch.setattr(Run, "finished", lambda _, seen=[False, True]: seen.pop(0))
        sweep([Job(run, lambda: 1 / 0)], args=args, parallel=False)
    assert "another process has finished it" in capsys.readouterr().out


def test_only_a_file_of_the_repository_has_its_commit(tmp_path, monkeypatch):
    for name in ("harness/records.py", "copy/harness/records.py", "docs/page.md"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for words in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -q -m a"):
        subprocess.run(["git", *words.split()], cwd=tmp_path, check=True)
    monkeypatch.setenv("GIT_DIR", os.devnull)  # as in a hook of another repository
    commits = []
    for name in ("harness/records.py", "harness/new.py", "copy/harness/records.py"):
        monkeypatch.setattr("harness.records.__file__", str(tmp_path / name))
        commits.append(environment("cpu", "fp32")["commit"])
    assert len(commits[0]) == 12 and commits[1:] == ["unknown"] * 2
    monkeypatch.setattr("harness.records.__file__", str(tmp_path / "harness/records.py"))
    for changed, suffix in (("docs/page.md", ""), ("copy/harness/records.py", "-dirty")):
        (tmp_path / changed).write_text("# changed")
        assert environment("cpu", "fp32")["commit"] == commits[0] + suffix
    monkeypatch.setenv("PATH", os.devnull)  # no git
    assert environment("cpu", "fp32")["commit"] == "unknown"


def test_other_data_have_another_digest():
    one = np.arange(6, dtype=np.uint8)
    assert digest(one) == digest(one.copy()) != digest(one[::-1]) and digest(one, one) != digest(one)


PUBLISHED = sorted((ROOT / "records").rglob("*.json"))
SCRIPTS = {"1d": "1d_function_fitting", "2d": "2d_image_fitting", "3d": "3D_occupance", "dvgo": "dvgo",
           "ngp": "InstantNGP"}
DATA = {"1d": (), "2d": ("shape", "pixels"), "3d": ("shape", "voxels"), "dvgo": ("scene",), "ngp": ("scene",)}


def test_every_published_record_lies_where_its_fields_say_and_none_is_there_twice():
    records = [read_record(path) for path in PUBLISHED]
    assert len(records) > 500
    for path, record in zip(PUBLISHED, records):
        identity = (record[key] for key in ("experiment", "case", "mode", "seed", "config", "options", "own"))
        assert tuple(record) == KEYS and Run(ROOT / "records", *identity).path(".json") == path
        assert "--data" not in record["command"], path  # a folder of somebody's machine
    outcomes = {json.dumps([record[key] for key in ("experiment", "case", "mode", "seed", "config")] + [
        record["own"].get("control"), record["environment"]["precision"], record["environment"]["device"] == "cpu"],
        sort_keys=True) for record in records}
    assert len(outcomes) == len(records)


@pytest.mark.parametrize("experiment", SCRIPTS)
def test_the_scripts_give_every_published_record_its_path_and_settings(experiment, monkeypatch):
    monkeypatch.setattr("harness.records.choose_device", torch.device)
    records = [record for record in map(read_record, PUBLISHED) if record["experiment"] == experiment
               and "control" not in record["own"]]  # that of a study
    assert records
    for record in records:
        options, case = dict(record["options"]), record["case"]
        argv = [f"--{size}"] if (size := options.pop("size", None)) else []
        argv += [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), str(value))]
        coarse = record["mode"] == "coarse"
        mode = ",".join(["relu" if coarse else record["mode"], *(f"{k}={v}" for k, v in record["own"].items())])
        argv += ["--modes", mode, "--seeds", str(record["seed"]), "--results", str(ROOT / "records")]
        argv += {"3d": ["--shape", case], "dvgo": ["--scene", case], "ngp": ["--scene", case]}.get(experiment, [])
        run, = plan_runs(SCRIPTS[experiment], *argv, case=case)
        run = import_module(SCRIPTS[experiment]).coarse_run(run) if coarse else run
        assert all(getattr(run, key) == record[key] for key in ("experiment", "case", "mode", "seed", "options", "own"))
        assert {**run.config, **{key: record["config"][key] for key in DATA[experiment]}} == record["config"], argv
