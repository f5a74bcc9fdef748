"""What the benchmarks patch and import is there; that they run and what they say is theirs to show."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.__main__ import ARGUMENTS
from benchmarks.renderers import STAGES

ROOT = Path(__file__).resolve().parents[1]


def test_every_stage_has_its_functions():
    for functions in STAGES.values():
        assert functions and all(callable(getattr(owner, name)) for owner, name in functions)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_benchmark_can_be_imported(name):
    import_module(f"benchmarks.{name}")


def test_one_of_them_runs():
    command = [sys.executable, "-m", "benchmarks.step_1d", "--rounds", "1", "--block", "1", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"\n{mode} " in done.stdout for mode in ("relu", "relu+fr", "sin", "sin+fr"))
