"""The 1D scripts as a user runs them."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from data.signals import square_like_wave
from experiment import published
from experiment.metrics import relative_spectral_error
from experiment.records import Run

ROOT = Path(__file__).resolve().parents[1]
FIT, DRAW = "1d_function_fitting.py", "1d_relative_error_in_frequency.py"
QUICK = ("--quick", "--steps", "1100")  # as long as the published values at step 1,000 need


def folders(path):
    return "--results", path / "results", "--figures", path / "figures", "--device", "cpu"


def record(path, mode, quick=False):
    return json.loads((path / "results" / ("quick" if quick else ".") / "1d" / "function" / f"{mode}-seed0.json")
                      .read_text())


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One short --quick run of the default modes and its heat maps; (folder, both processes)."""
    path = tmp_path_factory.mktemp("quick")
    done = [subprocess.run([sys.executable, name, *QUICK, *map(str, folders(path))], cwd=ROOT, text=True,
                           capture_output=True, timeout=300, check=False) for name in (FIT, DRAW)]
    return path, done


def test_target():
    x, target = square_like_wave()
    assert x.shape == target.shape == (300, 1) and x[0] == -1 and x[-1] == 1
    points = np.linspace(-1, 1, 300)
    expected = 2 * np.round(sum(np.sin(k * np.pi * points) for k in (3, 5, 7, 9)) / 2)
    assert np.array_equal(target.numpy()[:, 0], expected) and set(expected) == {-4, -2, 0, 2, 4}


def test_relative_spectral_error_of_a_known_signal():
    t = np.arange(300) / 300
    target = 2 * np.sin(2 * np.pi * 3 * t) + np.cos(2 * np.pi * 7 * t)
    output = np.stack([target, np.sin(2 * np.pi * 3 * t + 1) + 3 * np.cos(2 * np.pi * 7 * t)])
    assert np.allclose(relative_spectral_error(output, target, [3, 7]), [[0, 0], [0.5, 2]])


def test_quick_run_trains_records_and_draws(quick):
    path, done = quick
    for process in done:
        assert process.returncode == 0, process.stderr
    assert all(mode in done[0].stdout for mode in published.RELATIVE_ERROR_1D)
    figures = {file.name for file in (path / "figures" / "quick").iterdir()}
    assert figures == {"1d_function_fitting.png", "1d_ntk_eigenvalues.png", "1d_fr_layer.png",
                       "1d_relative_error.png", *(f"1d_relative_error_{mode}.png" for mode in
                                                  published.RELATIVE_ERROR_1D)}
    metrics = {mode: record(path, mode, quick=True)["metrics"] for mode in published.RELATIVE_ERROR_1D}
    assert metrics["relu+fr"]["loss"] < metrics["relu"]["loss"] - 0.3  # measured: 1.42 and 2.08
    assert metrics["sin+fr"]["loss"] < metrics["sin"]["loss"] - 0.3  # 0.20 and 0.90
    for mode, values in metrics.items():
        shares = values["ntk_eigenvalue_shares"]
        assert list(shares) == [str(step) for step in range(0, 1101, 110)]
        assert all(sum(share) == pytest.approx(1) and share[:4] == sorted(share[:4], reverse=True)
                   for share in shares.values())
        # The first 1,000 steps are the paper's, and so is the error after them: ours on any CPU, to its rounding.
        at_1000 = list(values["relative_error_at"]["1000"].values())
        assert at_1000 == pytest.approx(published.RELATIVE_ERROR_1D[mode][1000], abs=0.05)


def test_a_second_run_trains_nothing_and_draws_again(quick, call):
    path, _ = quick
    before = {file: file.stat().st_mtime_ns for file in (path / "results").rglob("*.*")}
    figure = path / "figures" / "quick" / "1d_function_fitting.png"
    figure.unlink()
    again = call(FIT, *QUICK, *folders(path))
    assert again.returncode == 0 and again.stdout.count("finished before") == 4
    assert figure.exists() and before == {file: file.stat().st_mtime_ns for file in (path / "results").rglob("*.*")}


def test_missing_records_name_the_command_that_makes_them(tmp_path, call):
    arguments = ("--quick", "--seeds", 5, "--modes", "sin", "--results", tmp_path / "has space", "--figures", tmp_path)
    done = call(DRAW, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    line, = done.stderr.splitlines()
    assert f"python {FIT} --quick --seeds 5 --modes sin --results '{tmp_path / 'has space'}'" in line
    assert "sin-seed5.json" in line


def test_positional_encoding_in_1d_and_several_seeds(tmp_path, script, call):
    arguments = ("--modes", "relu+pe", "relu+pe+fr", "--seeds", 0, 1, "--steps", 20, *folders(tmp_path))
    done = script(FIT, *arguments)
    assert done.returncode == 0 and " ± " in done.stdout, done.stderr
    assert len(list((tmp_path / "results" / "1d" / "function").glob("relu+pe*.json"))) == 4
    assert call(DRAW, *arguments).returncode == 0


def test_a_killed_run_goes_on_and_ends_in_the_same_bits(tmp_path, script):
    arguments = ("--modes", "sin+fr", "--steps", 150, "--checkpoint-every", 15)
    assert script(FIT, *arguments, *folders(tmp_path / "whole")).returncode == 0

    process = subprocess.Popen([sys.executable, FIT, *map(str, arguments), *map(str, folders(tmp_path / "cut"))],
                               cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "cut" / "results" / "1d" / "function" / "sin+fr-seed0.ckpt"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert checkpoint.exists() and not checkpoint.with_suffix(".json").exists()
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert 15 <= step < 150

    assert script(FIT, *arguments, *folders(tmp_path / "cut")).returncode == 0
    whole, cut = (record(tmp_path / name, "sin+fr") for name in ("whole", "cut"))
    assert whole["metrics"] == cut["metrics"] and whole["config"] == cut["config"]
    arrays = [np.load(tmp_path / name / "results" / "1d" / "function" / "sin+fr-seed0.npz")
              for name in ("whole", "cut")]
    assert all(np.array_equal(arrays[0][key], arrays[1][key]) for key in arrays[0])
    assert not checkpoint.exists()


def test_ctrl_c_ends_all_workers_and_says_how_to_go_on(tmp_path, script):
    arguments = [FIT, "--modes", "relu", "sin", "--steps", "100000", "--checkpoint-every", "20",
                 *map(str, folders(tmp_path))]
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    results = tmp_path / "results" / "1d" / "function"
    deadline = time.monotonic() + 60
    while len(list(results.glob("*.ckpt"))) < min(2, os.cpu_count()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from the last checkpoint" in errors and "Traceback" not in errors
    left = {file: file.stat().st_mtime_ns for file in results.iterdir()}
    time.sleep(1)
    assert left == {file: file.stat().st_mtime_ns for file in results.iterdir()}  # nobody goes on training
    assert list(results.glob("*.ckpt")) and not list(results.glob("*.json"))


def test_a_full_disk_gets_one_line_and_no_record(tmp_path, script):
    def limit():  # a file that grows beyond this fails with an OSError, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = script(FIT, "--modes", "relu", "--steps", 20, *folders(tmp_path), preexec_fn=limit)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "cannot write" in done.stderr and "relu-seed0.npz" in done.stderr
    assert not list((tmp_path / "results").rglob("*.json")) and not list((tmp_path / "results").rglob("*.tmp"))


@pytest.mark.parametrize("arguments, said", [
    (["--steps", "0"], "--steps"), (["--steps", "many"], "many"), (["--modes", "tanh"], "tanh"),
    (["--modes"], "--modes"), (["--lr", "nan"], "nan"), (["--lr", "-1"], "-1"), (["--seeds", "-1"], "-1"),
    (["--device", "cuda:99"], "cuda:99"), (["--device", "tpu"], "tpu"), (["--precision", "fp8"], "fp8"),
    (["--checkpoint-every", "0"], "--checkpoint-every"), (["--unknown"], "--unknown"),
    (["--results", "requirements.txt/below"], "requirements.txt/below"), (["--seeds", "9" * 30], "--seeds"),
    (["--figures", "requirements.txt/below"], "requirements.txt/below"), (["--device", "cuda:01"], "cuda:01"),
    (["--device", "cuda:4294967296"], "cuda:4294967296"),
])
@pytest.mark.parametrize("name", [FIT, DRAW])
def test_bad_input_gets_one_line_and_status_2(name, arguments, said, tmp_path, refused):
    line = refused(name, *folders(tmp_path), *arguments)
    assert said in line
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="tf32 exists on CUDA")
def test_tf32_needs_a_gpu(call, tmp_path):
    done = call(FIT, "--precision", "tf32", *folders(tmp_path))
    assert done.returncode == 2 and "tf32" in done.stderr


def test_bf16_runs_and_is_recorded(call, tmp_path):
    done = call(FIT, "--precision", "bf16", "--modes", "relu+fr", "--steps", 10, *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    assert record(tmp_path, "relu+fr")["environment"]["precision"] == "bf16"


def test_a_damaged_record_and_a_diverging_run_get_one_line(tmp_path, call):
    arguments = ("--modes", "relu", "--steps", 10, *folders(tmp_path))
    path = tmp_path / "results" / "1d" / "function" / "relu-seed0.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"experiment": ')
    for name in (FIT, DRAW):
        done = call(name, *arguments)
        assert done.returncode == 2 and "is damaged" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert call(FIT, *arguments, "--force").returncode == 0  # as the message says
    path.unlink()
    done = call(FIT, *arguments, "--lr", "1e30")
    assert done.returncode == 2 and "smaller --lr" in done.stderr and not path.exists()
    assert len(done.stderr.strip().splitlines()) == 1


def test_force_keeps_the_old_record_until_there_is_a_new_one(tmp_path, call):
    arguments = ("--modes", "relu", "--steps", 30, "--checkpoint-every", 10, *folders(tmp_path))
    assert call(FIT, *arguments).returncode == 0
    before = record(tmp_path, "relu")
    assert call(FIT, *arguments, "--force", "--lr", "1e30").returncode == 2
    assert record(tmp_path, "relu") == before
    assert call(FIT, *arguments, "--force", "--lr", "1e-3").returncode == 0
    assert record(tmp_path, "relu")["metrics"]["loss"] < before["metrics"]["loss"]


@pytest.mark.parametrize("damage", ["metrics", "arrays"])
def test_a_record_with_a_part_missing_gets_one_line(damage, tmp_path, call):
    arguments = ("--modes", "relu", "--steps", 10, *folders(tmp_path))
    assert call(FIT, *arguments).returncode == 0
    path = tmp_path / "results" / "1d" / "function" / "relu-seed0.json"
    if damage == "metrics":
        path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": {}}))
    else:
        np.savez(path.with_suffix(".npz"), outputs=np.zeros((3, 300)))
    done = call(FIT, *arguments)
    assert done.returncode == 2 and "is damaged" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_other_settings_do_not_overwrite_a_record(tmp_path, call):
    arguments = ("--modes", "relu", *folders(tmp_path))
    assert call(FIT, *arguments, "--steps", 10).returncode == 0
    done = call(FIT, *arguments, "--steps", 11)
    assert done.returncode == 2 and "steps 10 where 11" in done.stderr
    assert record(tmp_path, "relu")["config"]["steps"] == 10
    assert call(FIT, *arguments, "--steps", 11, "--force").returncode == 0
    assert record(tmp_path, "relu")["config"]["steps"] == 11


def test_committed_records_hold_the_released_codes_numbers():
    fitting = import_module("1d_function_fitting")
    for mode, released in published.RELATIVE_ERROR_1D.items():
        run = Run(ROOT / "results", "1d", "function", mode, 0, fitting.PAPER)
        metrics = run.record()["metrics"]
        errors = {**metrics["relative_error_at"], "9999": metrics["relative_error"]}
        for step, values in released.items():
            assert list(errors[str(step)].values()) == pytest.approx(values, abs=0.05)
        assert metrics["loss"] == pytest.approx(published.LOSS_1D[mode], rel=0.05)
