"""The command line that all scripts share: what it makes of options, a run's path, and the one line of a mistake."""

import itertools
import json
import os
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT, folders, plan_runs, run_script

from benchmarks.__main__ import ARGUMENTS
from data.errors import UserError
from harness import cli

FIT = "1d_function_fitting.py"  # in the place of all scripts
SCRIPTS = ("1d_function_fitting", "2d_image_fitting", "3D_occupance", "dvgo", "InstantNGP")
# Each option that decides what is computed, with another value than any default.
OTHER = {"steps": "--steps 7", "epochs": "--epochs 7", "batch": "--batch 9", "downscale": "--downscale 3",
         "resolution": "--resolution 9", "background": "--background black",
         "lr": "--lr 0.123", "alpha": "--alpha 0.456", "hidden_lr": "--hidden-lr 0.789",
         "precision": "--precision bf16", "size": "--quick", "hold_out": "--hold-out 4"}
# The options that decide which runs there are, and those that change nothing of one but its speed, place or pictures.
NO_SETTINGS = {"modes", "seeds", "image", "shape", "scene", "debug", "device", "data", "results", "figures", "force",
               "checkpoint_every", "chunk", "frames", "render_only", "settings", "command"}


def plan(name, *options):
    """All runs that a script would train; those of a solid, which --resolution is for."""
    runs = plan_runs(name, *(["--shape", "holed_sphere"] if name == "3D_occupance" else []), *options)
    return runs + ([import_module(name).coarse_run(run) for run in runs] if name == "dvgo" else [])


@pytest.mark.parametrize("name", SCRIPTS)
def test_runs_of_other_settings_have_another_path(name):
    args = import_module(name).parse([])
    deciding = {option for option in vars(args) if option not in NO_SETTINGS}
    assert set(args.settings) < deciding <= set(OTHER)  # a new option has to be put on one of the two lists
    default = plan(name)
    assert not any(run.options or run.own for run in default)
    assert {run.path("").relative_to("results").parts[2:] for run in default} == {
        (f"{run.mode}-seed0",) for run in default}
    chosen = [OTHER[option] for option in sorted(deciding)] + ["--medium"] * ("scene" in args)
    made = {}
    for some in itertools.chain([()], *(itertools.combinations(chosen, count) for count in (1, 2))):
        if {"--quick", "--medium"} <= set(some):
            continue
        runs = plan(name, *" ".join(some).split())
        for run in runs:
            outcome = json.dumps([run.config, run.precision, run.mode], sort_keys=True)
            assert made.setdefault(run.path(""), outcome) == outcome, some
        assert not some or {run.path("") for run in runs} != {run.path("") for run in default}, some
    assert len(made) > len(deciding)


@pytest.mark.parametrize("one, another", [
    ("--modes sin --lr 5e-4", "--modes sin,lr=0.0005"), ("--modes sin --lr 1e-4", "--modes sin"),
    ("--modes sin+fr,lr=1e-3,alpha=0.1", "--modes sin+fr,alpha=.1,lr=0.001"),
    ("--modes sin+fr,lr=1e-3 --alpha 0.1", "--modes sin+fr,alpha=0.1 --lr 1e-3"),
    ("--modes sin,hidden-lr=0.5", "--modes sin,hidden_lr=5e-1"), ("--modes sin,lr=3 --lr 7", "--modes sin --lr 3"),
    ("--modes sin sin sin,lr=1e-4", "--modes sin"), ("--seeds 0 0 --modes sin", "--modes sin"),
    ("--modes relu --alpha 0.1", "--modes relu"),  # without FR there is no α
    ("--downscale 2 --batch 5 --modes sin", "--batch 5 --modes sin --downscale 2"),
    ("--steps 10000 --modes sin", "--modes sin"), ("--quick --downscale 8 --modes sin", "--quick --modes sin")])
def test_the_same_settings_given_in_two_ways_have_one_path(one, another):
    (found,), (expected,) = (plan("2d_image_fitting", *options.split()) for options in (one, another))
    assert (found.path(""), found.config, found.own) == (expected.path(""), expected.config, expected.own)


def test_a_path_says_what_is_the_networks_and_what_is_everyones():
    runs = plan("2d_image_fitting", *"--modes sin sin+fr,lr=5e-4,alpha=0.02 --batch 6 --steps 7 --lr 1e-3".split())
    assert [str(run.path(".json")) for run in runs] == [
        "results/2d/a/steps=7,batch=6/sin,lr=0.001-seed0.json",
        "results/2d/a/steps=7,batch=6/sin+fr,lr=0.0005,alpha=0.02-seed0.json"]
    assert [run.config["lr"] for run in runs] == [1e-3, 5e-4] and runs[1].config["network"]["alpha"] == 0.02
    assert all((run.config["batch"], run.config["steps"], run.config["hidden_lr"]) == (6, 7, 1) for run in runs)
    run, = plan("2d_image_fitting", "--modes", "sin", "--quick", "--precision", "bf16", "--seeds", "3")
    assert str(run.path(".npz")) == "results/2d/a/quick,precision=bf16/sin-seed3.npz"
    assert (run.config["steps"], run.config["downscale"], run.config["lr"]) == (100, 8, 1e-4)
    assert import_module("2d_image_fitting").NETWORKS["sin+fr"]["alpha"] == 0.01  # the defaults stay


@pytest.mark.parametrize("arguments, said", [
    ("--steps 0", "--steps"), ("--steps many", "many"), ("--step 5", "--step"), ("--unknown", "--unknown"),
    ("--modes tanh", "tanh"), ("--modes", "--modes"), ("--lr nan", "nan"), ("--lr -1", "-1"), ("--lr inf", "inf"),
    ("--modes relu,alpha=0.1", "'alpha=0.1'"), ("--modes relu,lr", "''"), ("--modes relu,batch=3", "'batch=3'"),
    ("--modes relu,lr=0", "'0'"), ("--modes relu,lr=1,lr=2", "each once; not 'lr=2'"), ("--modes relu,", "''"),
    ("--seeds -1", "-1"), ("--seeds 1.5", "1.5"), ("--seeds " + "9" * 30, "--seeds"),
    ("--checkpoint-every 0", "--checkpoint-every"), ("--device cuda:99", "cuda:99"), ("--device tpu", "tpu"),
    ("--device cuda:01", "cuda:01"), ("--device cpu:0", "cpu:0"), ("--precision fp8", "fp8"),
    ("--precision tf32", "tf32"), ("--results README.md/below", "README.md/below"),
    ("--figures README.md/below", "README.md/below"),
])
def test_bad_input_gets_one_line_and_status_2(arguments, said, tmp_path, refused):
    assert said in refused(FIT, *folders(tmp_path), *arguments.split())
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_is_counted_is_a_whole_number(name, capsys):
    script = import_module(name)
    options = {"steps", "epochs", "batch", "downscale", "resolution", "chunk", "hold_out"} & set(
        vars(script.parse([])))
    for option, value in itertools.product(options, ("0", "1.5")):
        with pytest.raises(SystemExit):
            script.parse([f"--{option.replace('_', '-')}", value])
        assert f"not '{value}'" in capsys.readouterr().err


def test_a_record_keeps_the_command_and_the_home_folder_is_known(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/script.py", "--results", "a b", "--data", "~/a"])
    monkeypatch.setenv("HOME", "/home/of/mine")
    args = cli.parse(cli.options("", modes=("sin",), default_modes=("sin",), checkpoint_every=7))
    assert shlex.split(args.command) == ["python", "script.py", *sys.argv[1:]]
    assert (args.results, args.data, args.figures) == (Path("a b"), Path("/home/of/mine/a"), Path("figures"))
    for name, option in (("2d_image_fitting", "image"), ("3D_occupance", "shape"), ("dvgo", "scene")):
        path = getattr(import_module(name).parse([f"--{option}=~/a"]), option)
        assert path in ("/home/of/mine/a", ["/home/of/mine/a"])
    assert cli.folder("~nobody.of.this.name/a") == Path("~nobody.of.this.name/a")


@pytest.mark.parametrize("error, status, said", [
    (UserError("no such\n thing"), 2, "error: no such thing"), (OSError(28, "No space left", "a.npz"), 2, "a.npz"),
    (KeyboardInterrupt(), 130, "goes on from the last checkpoint"), (KeyError("bug"), None, "")])
def test_an_expected_error_is_one_line_and_any_other_a_traceback(error, status, said, monkeypatch, capsys):
    def main():
        raise error

    monkeypatch.setenv("PYTHONIOENCODING", "")  # which `run` sets
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit if status else KeyError) as caught:
        cli.run(main)
    assert status is None or caught.value.code == status
    assert said in (line := capsys.readouterr().err.strip()) and len(line.splitlines()) <= 1
    if status == 2:
        monkeypatch.setattr(sys, "argv", ["script.py", "--debug"])
        with pytest.raises(SystemExit):
            cli.run(main)
        assert "Traceback" in (shown := capsys.readouterr().err) and shown.strip().endswith(line)


@pytest.mark.slow
def test_a_script_runs_in_other_peoples_surroundings(tmp_path):
    """As from a notebook, in a terminal without Greek letters, beside a matplotlibrc, with ~ in its paths."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: TkAgg\n")
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # no other name fails
                   "MATPLOTLIBRC": str(tmp_path), "PYTHONIOENCODING": "ascii", "HOME": str(tmp_path)}
    done = run_script(FIT, "--results=~/results", "--figures=~/figures", "--device=cpu", "--steps=10",
                      "--modes", "relu,hidden-lr=0.5", "sin+fr,alpha=0.01", env=environment)
    assert done.returncode == 0, done.stderr
    assert "seed 0, hidden lr ? 0.5: loss" in done.stdout and "SIREN + FR, ? 0.01  " in done.stdout
    assert len(list((tmp_path / "results/1d/function/steps=10").glob("*.json"))) == 2
    assert len(list((tmp_path / "figures/1d/function/steps=10").glob("*.png"))) == 3
    assert not (ROOT / "~").exists()


@pytest.mark.parametrize("name", [*sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "hubconf"),
                                  "report.__main__", "report.overview", "studies.step_size", "studies.controls",
                                  "studies.first_step", "benchmarks.__main__",
                                  *(f"benchmarks.{name}" for name in ARGUMENTS)])
def test_help_is_there(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        import_module(name).main()
    assert stopped.value.code == 0 and "usage: " in capsys.readouterr().out
