"""The command line that all scripts share: what it makes of options, and the one line that a mistake gets."""

import shlex
import sys
from pathlib import Path

import pytest
from conftest import folders

from experiment import cli
from experiment.errors import UserError

FIT = "1d_function_fitting.py"  # in the place of all scripts


@pytest.mark.parametrize("arguments, said", [
    ("--steps 0", "--steps"), ("--steps many", "many"), ("--step 5", "--step"), ("--unknown", "--unknown"),
    ("--modes tanh", "tanh"), ("--modes", "--modes"), ("--lr nan", "nan"), ("--lr -1", "-1"), ("--lr inf", "inf"),
    ("--seeds -1", "-1"), ("--seeds 1.5", "1.5"), ("--seeds " + "9" * 30, "--seeds"),
    ("--checkpoint-every 0", "--checkpoint-every"), ("--device cuda:99", "cuda:99"), ("--device tpu", "tpu"),
    ("--device cuda:01", "cuda:01"), ("--device cuda:4294967296", "cuda:4294967296"), ("--precision fp8", "fp8"),
    ("--precision tf32", "tf32"), ("--results README.md/below", "README.md/below"),
    ("--figures README.md/below", "README.md/below"),
])
def test_bad_input_gets_one_line_and_status_2(arguments, said, tmp_path, refused):
    assert said in refused(FIT, *folders(tmp_path), *arguments.split())
    assert not list(tmp_path.rglob("*.json"))


def parsed(monkeypatch, *arguments, **options):
    monkeypatch.setattr(sys, "argv", ["/somewhere/script.py", *arguments])
    return cli.parse(cli.options("", modes=("relu", "sin"), default_modes=("sin",), checkpoint_every=7, **options))


def test_options_say_each_thing_once_and_a_quick_run_has_folders_of_its_own(monkeypatch):
    args = parsed(monkeypatch)
    assert (args.modes, args.seeds, args.checkpoint_every, args.results) == (["sin"], [0], 7, Path("results"))
    args = parsed(monkeypatch, "--modes", "sin", "relu", "sin", "--seeds", "3", "1", "3", "--quick", "--results", "a b")
    assert args.modes == ["sin", "relu"] and args.seeds == [3, 1]
    assert args.results == Path("a b/quick") and args.figures == Path("figures/quick")
    assert shlex.split(args.command) == ["python", "script.py", *sys.argv[1:]]


def test_a_given_option_goes_before_quick_and_quick_before_the_paper(monkeypatch):
    paper, quick = {"steps": 1000, "lr": 0.1, "chunk": 9}, {"steps": 10, "lr": 0.2}
    for arguments, expected in (((), (1000, 0.1)), (("--lr", "3"), (1000, 3.0)), (("--quick",), (10, 0.2)),
                                (("--quick", "--steps", "5"), (5, 0.2))):
        args = parsed(monkeypatch, *arguments, steps=1000)
        found = cli.settings(paper, quick, args, "steps", "lr")
        assert (found["steps"], found["lr"], found["chunk"]) == (*expected, 9)
    assert paper == {"steps": 1000, "lr": 0.1, "chunk": 9}


def test_the_step_of_the_hidden_weights_is_a_setting_of_every_script():
    paper = {"network": {"hidden_features": 8, "alpha": 0.05}, "lr": 1e-3}
    plain = {"network": {"hidden_features": 8}, "lr": 1e-3}
    parser = cli.options("", modes=("relu",), default_modes=("relu",), checkpoint_every=1)

    def chosen(settings, *argv):
        return cli.settings(settings, {}, cli.parse(parser, argv), "lr")

    assert chosen(paper) == paper and chosen(paper, "--hidden-lr", "1") == paper
    assert chosen(paper, "--hidden-lr", "0.5", "--alpha", "0.1") == {
        "network": {"hidden_features": 8, "alpha": 0.1}, "lr": 1e-3, "hidden_lr": 0.5}
    assert chosen(plain, "--alpha", "0.1") == plain  # without FR there is no α
    assert paper["network"]["alpha"] == 0.05


@pytest.mark.parametrize("error, status, said", [
    (UserError("no such\n thing"), 2, "error: no such thing"), (OSError(28, "No space left", "a.npz"), 2, "a.npz"),
    (KeyboardInterrupt(), 130, "goes on from the last checkpoint"), (KeyError("bug"), None, "")])
def test_an_expected_error_is_one_line_and_any_other_a_traceback(error, status, said, monkeypatch, capsys):
    def main():
        raise error

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
