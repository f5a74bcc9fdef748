"""The 1D scripts as a user runs them, and what every script does when a run is stopped, damaged or repeated."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_same_run, beside, folders, record, run_script, stem

FIT, DRAW = "1d_function_fitting.py", "1d_relative_error_in_frequency.py"
RUN = ("1d", "function")
# The released code's relative error after 1,000 steps at 1.5, 2.5, 3.5 and 4.5.
RELEASED = {"relu": [.97, .99, .99, .99], "relu+fr": [.54, .83, .88, .86], "sin": [.37, .75, .87, .87],
            "sin+fr": [.18, .20, .30, .43]}


def files(path):
    """When each file below a path was written."""
    return {file: file.stat().st_mtime_ns for file in path.rglob("*.*")}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One --quick run of the default networks, for as long as `RELEASED` needs, and its errors; (folder, processes)."""
    path = tmp_path_factory.mktemp("quick")
    return path, [run_script(FIT, "--quick", "--steps", 1100, *folders(path)),
                  run_script(DRAW, "--options", "quick,steps=1100", *folders(path)[:4])]


@pytest.mark.slow
def test_quick_run_trains_records_and_draws(quick):
    path, done = quick
    assert [process.returncode for process in done] == [0, 0], done
    assert all(label in process.stdout for process in done for label in ("ReLU + FR", "SIREN + FR"))
    assert {file.name for file in (path / "figures" / "1d" / "function" / "quick,steps=1100").iterdir()} == {
        "fit.png", "ntk.png", "layer.png", "relative_error.png"}
    metrics = {mode: record(path, *RUN, mode, options="quick,steps=1100")["metrics"] for mode in RELEASED}
    assert metrics["relu+fr"]["loss"] < metrics["relu"]["loss"] - 0.3  # measured: 1.42 and 2.08
    assert metrics["sin+fr"]["loss"] < metrics["sin"]["loss"] - 0.3  # 0.20 and 0.90
    for mode, values in metrics.items():
        shares = values["ntk_eigenvalue_shares"]
        assert list(shares) == [str(step) for step in range(0, 1101, 110)]
        assert all(sum(share) == pytest.approx(1) and share[:4] == sorted(share[:4], reverse=True)
                   for share in shares.values())
        assert list(values["relative_error_at"]["1000"].values()) == pytest.approx(RELEASED[mode], abs=0.05)


@pytest.mark.slow
def test_a_second_run_trains_nothing_and_draws_again(quick, call):
    path, _ = quick
    before, figures = files(path / "results"), path / "figures" / "1d" / "function" / "quick,steps=1100"
    (figures / "fit.png").unlink()
    again = call(FIT, "--quick", "--steps", 1100, *folders(path))
    assert again.returncode == 0 and again.stdout.count("finished before") == 4
    assert (figures / "fit.png").exists() and before == files(path / "results")


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


def test_runs_of_other_lengths_have_other_paths_and_a_record_says_what_was_run(tmp_path, call):
    for steps in (30, 40):
        arguments = ("--modes", "relu+pe+fr", "--steps", steps, "--precision", "bf16", *folders(tmp_path))
        done = call(FIT, *arguments)
        assert done.returncode == 0 and "1d function relu+pe+fr seed 0: loss " in done.stdout, done.stderr
        made = record(tmp_path, *RUN, "relu+pe+fr", options=f"steps={steps},precision=bf16")
        assert made["environment"]["precision"] == "bf16" and made["config"]["steps"] == steps
        assert made["command"] == f"python {FIT} {' '.join(map(str, arguments))}"
    assert made["config"]["network"]["pe_frequencies"] == 6


def test_missing_records_name_the_command_that_makes_them(tmp_path, refused):
    line = refused(DRAW, "--options", "quick,steps=5", "--seeds", 5, "--modes", "sin", *folders(tmp_path)[:4])
    assert line.endswith(f"train first: python {FIT} --quick --steps 5") and "sin-seed5.json" in line


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_in_the_same_bits(tmp_path):
    arguments = ("--modes", "sin+fr", "--steps", 150, "--checkpoint-every", 15)
    whole, cut = (stem(tmp_path / name, *RUN, "sin+fr", "steps=150") for name in ("whole", "cut"))
    assert run_script(FIT, *arguments, *folders(tmp_path / "whole")).returncode == 0

    process = subprocess.Popen([sys.executable, FIT, *map(str, (*arguments, *folders(tmp_path / "cut")))],
                               cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = beside(cut, ".ckpt")
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert checkpoint.exists() and not beside(cut, ".json").exists()
    assert 15 <= torch.load(checkpoint, weights_only=True)["step"] < 150

    done = run_script(FIT, *arguments, *folders(tmp_path / "cut"))
    assert done.returncode == 0 and "going on after step" in done.stderr
    assert_same_run(cut, whole)
    assert not checkpoint.exists()


def heed_ctrl_c():  # what a shell starts in the background ignores it, and so would a child
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_ctrl_c_ends_all_workers_and_says_how_to_go_on(tmp_path):
    arguments = (FIT, "--modes", "relu", "sin", "--steps", 100_000, "--checkpoint-every", 20, *folders(tmp_path))
    process = subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True,
                               preexec_fn=heed_ctrl_c)
    results = tmp_path / "results" / "1d" / "function" / "steps=100000"
    deadline = time.monotonic() + 60
    while len(list(results.glob("*.ckpt"))) < min(2, os.cpu_count()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from the last checkpoint" in errors and "Traceback" not in errors
    left = files(results)
    time.sleep(1)
    assert left == files(results)  # nobody goes on training
    assert list(results.glob("*.ckpt")) and not list(results.glob("*.json"))


@pytest.mark.slow
def test_a_full_disk_gets_one_line_and_no_record(tmp_path):
    def limit():  # a file that grows beyond this fails with an OSError, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = run_script(FIT, "--modes", "relu", "--steps", 20, *folders(tmp_path), preexec_fn=limit)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "cannot write" in done.stderr and "relu-seed0.npz" in done.stderr
    assert not list((tmp_path / "results").rglob("*.json")) and not list((tmp_path / "results").rglob("*.tmp"))


def test_a_damaged_record_and_a_diverging_run_get_one_line(tmp_path, call, refused):
    arguments = ("--modes", "relu", "--steps", 10, *folders(tmp_path))
    run = stem(tmp_path, *RUN, "relu", "steps=10")
    run.parent.mkdir(parents=True)
    beside(run, ".npz").touch()
    beside(run, ".json").write_text('{"experiment": ')
    assert "is damaged" in refused(FIT, *arguments)
    assert "is damaged" in refused(DRAW, "--modes", "relu", "--options", "steps=10", *folders(tmp_path)[:4])
    assert call(FIT, *arguments, "--force").returncode == 0  # as the message says
    made = json.loads(beside(run, ".json").read_text())
    beside(run, ".json").write_text(json.dumps({**made, "metrics": {}}))
    assert "is damaged" in refused(FIT, *arguments)
    beside(run, ".json").write_text(json.dumps(made))
    np.savez(beside(run, ".npz"), outputs=np.zeros((3, 300)))
    assert "is damaged" in refused(FIT, *arguments)
    assert "smaller --lr" in refused(FIT, *arguments, "--lr", "1e30")
    assert not list(tmp_path.rglob("relu,lr=*.json"))


def test_force_keeps_the_old_record_until_there_is_a_new_one(tmp_path, call, monkeypatch):
    arguments = ("--modes", "relu", "--steps", 30, *folders(tmp_path))
    run = beside(stem(tmp_path, *RUN, "relu", "steps=30"), ".json")
    assert call(FIT, *arguments).returncode == 0
    before = run.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("torch.optim.Adam.step", lambda adam: adam.param_groups[0]["params"][0].data.fill_(1e30))
        assert call(FIT, *arguments, "--force").returncode == 2
    assert run.read_bytes() == before
    assert call(FIT, *arguments, "--force").returncode == 0
    assert json.loads(run.read_text())["metrics"] == json.loads(before)["metrics"] and run.read_bytes() != before
