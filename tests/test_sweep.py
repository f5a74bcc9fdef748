"""Sweeps that several processes share, on the CPU: the ranks of torchrun, or those that a sweep starts itself."""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch
from experiment.device import choose_device, cpu_count
from torch.distributed import HashStore

from experiment.errors import UserError
from experiment.ranks import first_rank, store
from experiment.records import Run
from experiment.sweep import sweep

ROOT = Path(__file__).resolve().parents[1]

# An experiment of two stages, the second from the first's records, as dvgo.py's. A run whose case begins with "kill"
# kills its own process the first time that it is trained, after a checkpoint; one whose case is "wait" goes on when
# that has happened. log.txt has a line for each training.
SCRIPT = """
import os, signal, time
from pathlib import Path
from experiment import cli
from experiment.errors import UserError
from experiment.ranks import rank_0_first
from experiment.records import Run
from experiment.sweep import progress, sweep

HERE, RANK = Path(__file__).parent, os.environ.get("RANK", "0")


def log(*words):
    with open(HERE / "log.txt", "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")


def train(run, args):
    step = run.restore()
    log("began", run.case, run.mode, run.seed, step)
    if run.case.startswith("kill") and not step:
        run.checkpoint(7)
        os.kill(os.getpid(), signal.SIGKILL)
    while run.case == "wait" and "began kill" not in (HERE / "log.txt").read_text():
        time.sleep(0.1)
    if run.case == "bug":
        1 / 0
    if (run.case, run.mode) == ("fail", "fine"):
        raise UserError("no such thing")
    if run.mode == "fine":
        Run(args.results, "tiny", run.case, "coarse", run.seed, {}).arrays()
    with progress(1, 0, "tiny"):
        time.sleep(60 if run.case == "minute" else 0.25)
    run.finish(metrics={"rank": int(RANK)}, seconds=1, steps=1, arrays={},
               environment={"precision": "fp32"})
    log("finished", run.case, run.mode, run.seed)
    return f"by rank {RANK}"


@rank_0_first
def main():
    parser = cli.options("", modes=("coarse", "fine"), default_modes=("coarse", "fine"), checkpoint_every=1)
    parser.add_argument("--cases", nargs="+")
    args = cli.parse(parser)
    log("loaded")
    sweep(train, [[Run(args.results, "tiny", case, mode, seed, {}) for seed in args.seeds for case in args.cases]
                  for mode in args.modes], args, parallel=True)
    log("drawn", RANK)
    print("the table")


if __name__ == "__main__":
    cli.run(main)
"""

two_processors = pytest.mark.skipif(cpu_count() < 2, reason="a sweep starts a process for each processor")


@pytest.fixture
def command(tmp_path):
    """What starts a script, the tiny one if none is named, after some words of a command line: arguments of Popen."""
    tiny = tmp_path / "tiny.py"
    tiny.write_text(SCRIPT)

    def made(*arguments, script=tiny, before=()):
        (tmp_path / "log.txt").write_text("")
        words = [sys.executable, *before, script, *arguments, "--results", tmp_path / "results", "--figures",
                 tmp_path / "figures"]
        return {"args": list(map(str, words)), "cwd": ROOT, "text": True, "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    return made


@pytest.fixture
def torchrun(tmp_path, command):
    """Run a script on so many ranks; the finished process and the log's lines."""
    def run(ranks, *arguments, restarts=0, **options):
        before = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, "--max-restarts", restarts,
                  "--monitor-interval", 0.1)
        done = subprocess.run(**command(*arguments, before=before, **options), timeout=120, check=False)
        return done, (tmp_path / "log.txt").read_text().splitlines()
    return run


def record(tmp_path, case, mode, seed):
    return json.loads((tmp_path / "results" / "tiny" / case / f"{mode}-seed{seed}.json").read_text())


def test_three_ranks_train_each_run_once_and_report_the_one_that_fails(tmp_path, torchrun):
    Run(tmp_path / "results", "tiny", "a", "coarse", 0, {}).finish(
        metrics={"rank": None}, seconds=1, steps=1, environment={"precision": "fp32"}, arrays={})
    done, log = torchrun(3, "--force", "--cases", "a", "fail", "--seeds", 0, 1, 2)
    assert done.returncode != 0 and log.count("loaded") == 3
    coarse, fine = ({f"{case} {mode} {seed}" for case in ("a", "fail") for seed in range(3)}
                    for mode in ("coarse", "fine"))
    failed = {name for name in fine if "fail" in name}
    trained = coarse | fine - failed
    assert sorted(line for line in log if "began" in line) == sorted(f"began {name} 0" for name in coarse | fine)
    last = max(log.index(f"finished {name}") for name in coarse)
    assert all(log.index(f"began {name} 0") > last for name in fine)
    rank = {name: record(tmp_path, *name.split())["metrics"]["rank"] for name in trained}
    assert set(rank.values()) == {0, 1, 2}
    printed = re.findall(r"tiny (\w+ \w+ \d): by rank (\d)", done.stdout.replace("seed ", ""))
    assert sorted(printed) == sorted((name, str(rank[name])) for name in trained)

    line, = re.findall("^error: (.*)", done.stderr, re.MULTILINE)
    assert sorted(line.replace("seed ", "").split("; ")) == sorted(f"tiny {name}: no such thing" for name in failed)
    assert not any("drawn" in line for line in log) and "the table" not in done.stdout


def test_a_sweep_whose_rank_was_killed_goes_on_where_it_was(tmp_path, torchrun):
    arguments = ("--modes", "coarse", "--cases", "a", "b", "kill1", "c", "d")
    killed, log = torchrun(2, *arguments)
    finished = {path.parent.name for path in (tmp_path / "results").rglob("*.json")}
    assert killed.returncode != 0 and finished and "kill1" not in finished
    assert not any("drawn" in line for line in log)

    done, log = torchrun(2, *arguments, "kill2", "e", "f", restarts=1)  # which the death of kill2's rank needs
    assert done.returncode == 0, done.stderr
    began = [tuple(line.split()[1::3]) for line in log if "began" in line]
    assert {case for case, _ in began} == {"a", "b", "kill1", "c", "d", "kill2", "e", "f"} - finished
    assert ("kill1", "7") in began and ("kill2", "0") in began and ("kill2", "7") in began
    assert done.stdout.count("finished before") >= len(finished)  # and once more after the restart
    once = [line for line in log if "finished" in line]
    assert len(once) == len(set(once)) == 8 - len(finished)
    for i, line in enumerate(log):
        if "finished" in line:  # and not begun again
            assert not any(later.startswith(line.replace("finished", "began")) for later in log[i:])
    assert log.count("drawn 0") == 1 and "drawn 1" not in log and done.stdout.count("the table") == 1


def test_a_mistake_is_reported_once_and_by_rank_0(tmp_path, torchrun):
    path = tmp_path / "results" / "tiny" / "a" / "coarse-seed0.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    done, log = torchrun(2, "--cases", "a")
    assert done.returncode != 0 and log == ["loaded"]
    line, = re.findall("^error: (.*)", done.stderr, re.MULTILINE)
    assert "coarse-seed0.json is damaged" in line and done.stderr.count("error: ") == 1


def test_a_real_script(tmp_path, torchrun):
    done, _ = torchrun(2, "--modes", "relu", "sin", "--steps", 20, "--device", "cpu",
                       script=ROOT / "1d_function_fitting.py")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "results" / "1d" / "function").glob("*.json"))) == 2
    assert done.stdout.count("training on the CPU") == 1 and len(re.findall(": loss .* in .* s\n", done.stdout)) == 2
    assert len(list((tmp_path / "figures").glob("*.png"))) == 2 and done.stdout.count("released") == 1


def test_what_needs_no_sweep_is_done_by_rank_0_alone(torchrun):
    done, log = torchrun(2, "--help")
    assert done.returncode == 0 and done.stdout.count("--precision") == 2 and not log  # the usage and its line


@two_processors
def test_a_killed_process_and_an_error_cost_one_run_each(tmp_path, command):
    done = subprocess.run(**command("--modes", "coarse", "--cases", "wait", "kill", "bug", "a"), timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("Traceback") == done.stderr.count("ZeroDivisionError") == 1
    assert done.stderr.splitlines()[-1] == ("error: tiny kill coarse seed 0: its process was killed; was there enough "
                                            "memory?; tiny bug coarse seed 0: division by zero")
    assert sorted(done.stdout.splitlines()) == [f"tiny {case} coarse seed 0: by rank 0" for case in ("a", "wait")]
    done = subprocess.run(**command("--modes", "coarse", "--cases", "wait", "kill", "a"), timeout=120)
    assert done.returncode == 0 and done.stdout.count("finished before") == 2
    assert (tmp_path / "log.txt").read_text().splitlines()[1:3] == ["began kill coarse 0 7", "finished kill coarse 0"]


@two_processors
def test_a_killed_script_leaves_no_process(tmp_path, command):
    process = subprocess.Popen(**command("--modes", "coarse", "--cases", "minute", "--seeds", 0, 1))
    deadline = time.monotonic() + 60
    while (tmp_path / "log.txt").read_text().count("began") < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.kill()
    process.communicate(timeout=20)  # returns when nobody has its output open
    assert (tmp_path / "log.txt").read_text().count("began") == 2 and not list((tmp_path / "results").rglob("*.json"))


def test_a_failed_run_frees_its_memory_and_stops_no_other(tmp_path, capsys):
    class Weights:
        pass

    made = []

    def train(run, args):
        assert all(earlier() is None for earlier in made)
        weights = Weights()
        made.append(weakref.ref(weights))
        if run.mode == "fine":
            Run(args.results, "tiny", run.case, "coarse", run.seed, {}).arrays()
        if run.case == "fail":
            raise UserError("no such thing")
        run.finish(metrics={}, seconds=1, steps=1, arrays={}, environment={"precision": "fp32"})
        return "done"

    args = argparse.Namespace(results=tmp_path, figures=tmp_path, force=False, debug=False)
    stages = [[Run(tmp_path, "tiny", case, mode, 0, {}) for case in ("fail", "a")] for mode in ("coarse", "fine")]
    with pytest.raises(UserError, match="tiny fail coarse seed 0: no such thing; tiny fail fine seed 0: .*coarse"):
        sweep(train, stages, args, parallel=False)
    assert len(made) == 4
    assert capsys.readouterr().out.splitlines() == ["tiny a coarse seed 0: done", "tiny a fine seed 0: done"]


@pytest.mark.parametrize("shared", [True, False])
def test_a_record_of_another_machine_must_be_seen_on_this_one(shared, tmp_path, monkeypatch):
    ours, run = HashStore(), Run(tmp_path, "tiny", "a", "coarse", 0, {})
    write = threading.Timer(1.5, run.finish, kwargs={"metrics": {}, "seconds": 1, "steps": 1, "arrays": {},
                                                     "environment": {"precision": "fp32"}})
    monkeypatch.setattr("experiment.sweep.store", lambda: ours)  # as if torchrun had started a rank
    monkeypatch.setattr("experiment.sweep.VISIBLE_AFTER", 60 if shared else 0)

    def train(run, args):
        if shared:
            write.start()
        return "done"

    args = argparse.Namespace(results=tmp_path, figures=tmp_path, force=False, debug=False)
    if shared:
        sweep(train, [[run]], args, parallel=False)
        assert run.finished()
    else:
        with pytest.raises(UserError, match="coarse-seed0.json was written on another machine .*--results must be"):
            sweep(train, [[run]], args, parallel=False)


def test_ranks_take_a_gpu_each_and_share_out_the_cores(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert choose_device("cpu").type == "cpu" and threads == [max(1, cpu_count() // 4)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for gpus, index in ((8, 3), (4, 3), (2, 1), (1, 0)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert choose_device("auto").index == choose_device("cuda").index == index
    assert choose_device("cuda:0").index == 0


def test_without_torchrun_there_is_no_store_and_this_is_the_first_rank(monkeypatch):
    monkeypatch.setenv("RANK", "1")  # as other launchers set it too
    assert store() is None and first_rank()


def test_the_command_line_imports_neither_torch_nor_ranks(script):
    code = """
import sys
from experiment import cli
cli.parse(cli.options("", modes=("relu",), default_modes=("relu",), checkpoint_every=1))
assert not {"torch", "experiment.ranks"} & set(sys.modules)
"""
    done = script("-c", code, "--quick")
    assert done.returncode == 0, done.stderr
