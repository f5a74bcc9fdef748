"""Sweeps that several processes share, on the CPU: the ranks of torchrun, or workers that a sweep starts itself."""

import functools
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from conftest import ROOT

from data.errors import UserError
from harness.device import cpu_count, first_rank
from harness.sweep import Job, in_ranks, sweep

SCRIPT = ROOT / "tests" / "sweep_script.py"

two_processors = pytest.mark.skipif(cpu_count() < 2, reason="a sweep starts a worker for each processor but one")


@pytest.fixture
def start(tmp_path):
    """Start sweep_script.py with some words of a command line, on so many ranks if any; the process and its log."""
    def heed_ctrl_c():  # a shell's background job would pass on that it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def started(*words, ranks=0):
        (tmp_path / "log").write_text("")
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks else []
        process = subprocess.Popen([sys.executable, *torchrun, SCRIPT, tmp_path, *words], cwd=ROOT, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                                   preexec_fn=heed_ctrl_c,
                                   env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        return process, lambda: (tmp_path / "log").read_text().splitlines()
    return started


@pytest.fixture
def run(start):
    """Start it and wait for its end: the exit status, the lines of stdout, those of stderr, those of the log."""
    def ended(*words, ranks=0):
        process, log = start(*words, ranks=ranks)
        out, err = process.communicate(timeout=60)
        return process.returncode, out.splitlines(), err.splitlines(), log()
    return ended


def names(lines, beginning):
    return sorted(line.removeprefix(beginning) for line in lines if line.startswith(beginning))


def until_began(log, count):
    deadline = time.monotonic() + 30
    while len(names(log(), "began ")) < count and time.monotonic() < deadline:
        time.sleep(0.05)


def assert_ended(process, tmp_path):
    """That a killed process has left none behind, and nothing was trained after it."""
    process.communicate(timeout=10)  # returns when nobody has its output open
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.slow
def test_three_ranks_train_each_run_once_and_report_those_that_fail(tmp_path, run):
    (tmp_path / "old.json").write_text("before")
    status, out, err, log = run("a,b,c,d,fail,old", "e,f,bug", ranks=3)
    assert status != 0 and log.count("loaded") == 3
    assert names(log, "began ") == ["a", "b", "bug", "c", "d", "e", "f", "fail"]
    last_coarse = max(log.index(f"finished {name}") for name in "abcd")
    assert all(log.index(f"began {name}") > last_coarse for name in ("e", "f", "bug"))
    rank = {path.stem: path.read_text() for path in tmp_path.glob("*.json")}
    assert rank.pop("old") == "before" and f"run old: finished before, {tmp_path}/old.json" in out
    assert rank.keys() == set("abcdef") and set(rank.values()) == {"0", "1", "2"}
    by_rank = re.findall(r"run (\w): by rank (\d)", "\n".join(out))
    assert sorted(by_rank) == sorted(rank.items())
    assert names(err, "error: ") == ["run fail: no such thing; run bug: a bug"]
    assert err.count("ZeroDivisionError: a bug") == 1 and "the table" not in out


@pytest.mark.slow
def test_a_sweep_whose_rank_was_killed_goes_on_on_fewer(tmp_path, run):
    runs = "wait1,wait2,kill,a,b"
    status, out, _, log = run(runs, "c", ranks=3)
    finished = {path.stem for path in tmp_path.glob("*.json")}
    assert status != 0 and "kill" in names(log, "began ") and "kill" not in finished and "the table" not in out
    status, out, err, log = run(runs, "c", ranks=2)
    assert status == 0, err
    assert set(names(log, "began ")) == {*runs.split(","), "c"} - finished
    assert names(log, "began ") == names(log, "finished ") and out.count("the table") == 1
    assert len(re.findall("finished before", "\n".join(out))) == len(finished)


@pytest.mark.slow
def test_a_mistake_is_reported_once_and_by_rank_0(tmp_path, run):
    (tmp_path / "a.json").touch()
    status, out, err, log = run("a,b", "", ranks=2)
    assert status != 0 and log == ["loaded"] and names(err, "error: ") == ["run a is damaged"]
    assert not out and "gloo" not in "\n".join(err)


@pytest.mark.slow
@two_processors
def test_a_killed_worker_and_an_error_cost_no_finished_run(run):
    status, out, err, log = run("wait,kill,bug,a", "")
    assert status == 2 and "run wait: by rank none" in out
    assert names(err, "error: ") == ["run kill: its process was killed; was there enough memory?; run bug: a bug"]
    assert "run a: by rank none" in out  # a killed worker costs its own run alone
    status, out, _, log = run("wait,kill,fail,a", "b")
    assert status == 2 and "run wait: finished before" in "\n".join(out)
    assert names(log, "finished ") == ["b", "kill"]


@pytest.mark.slow
@two_processors
@pytest.mark.parametrize("ranks, begun", [(0, 1), (0, 2), (2, 2)])  # of (0, 1) the worker is still importing
def test_ctrl_c_ends_all_at_once(tmp_path, start, ranks, begun):
    process, log = start("long1,long2,long3", "", ranks=ranks)
    until_began(log, begun)
    (os.kill if ranks else os.killpg)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == (1 if ranks else 130) and err.splitlines().count("stopped") == 1
    assert ranks or "Traceback" not in err
    assert_ended(process, tmp_path)


@pytest.mark.slow
@two_processors
@pytest.mark.parametrize("ranks", [0, 2])
def test_a_killed_parent_leaves_no_process(tmp_path, start, ranks):
    process, log = start("long1,long2,long3", "", ranks=ranks)
    until_began(log, 2)
    process.kill()
    assert_ended(process, tmp_path)


@pytest.mark.parametrize("force", [True, False])
def test_a_failed_run_frees_its_memory_and_stops_no_other(tmp_path, capsys, force):
    class Weights:
        pass

    made, discarded = [], []

    def train(name):
        assert all(earlier() is None for earlier in made)
        weights = Weights()
        made.append(weakref.ref(weights))
        if name == "fails":
            raise UserError("no such thing")
        return "done"

    class Run(SimpleNamespace):
        def __str__(self):
            return self.name

    def job(name, finished):
        run = Run(name=name, device="cpu", finished=lambda: finished, path=lambda suffix: tmp_path / (name + suffix),
                  discard_checkpoint=lambda: discarded.append(name), locked=nullcontext)
        return Job(run, functools.partial(train, name))

    with pytest.raises(UserError, match="fails: no such thing"):
        sweep([job("fails", False), job("old", True)], [job("new", False)], parallel=False,
              args=SimpleNamespace(force=force, debug=False, figures=tmp_path))
    old = "old: done" if force else f"old: finished before, {tmp_path}/old.json"
    assert capsys.readouterr().out.splitlines() == [old, "new: done"]
    assert len(made) == 2 + force and discarded == (["fails", "old", "new"] if force else [])


def test_without_torchrun_this_is_the_first_rank(monkeypatch):
    monkeypatch.setenv("RANK", "1")  # as other launchers set it too
    assert first_rank() and in_ranks(lambda: "called")() is None
