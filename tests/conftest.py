import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiment import cli

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("FR_INR_DATA", ROOT / "data"))  # where tests of the real data sets look for them


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA GPU"))


@pytest.fixture
def script():
    """Run a script of the project as a user does; returns the finished process with its output as text."""
    def run(name, *arguments, **options):
        return subprocess.run([sys.executable, name, *map(str, arguments)], cwd=ROOT, text=True, capture_output=True,
                              timeout=300, check=False, **options)
    return run


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a script in this process, which saves the seconds that a new one takes to import torch; as `script`."""
    def run(name, *arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            cli.run(import_module(name.removesuffix(".py")).main)
        except SystemExit as stopped:
            status = stopped.code
        captured = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=captured.out, stderr=captured.err)
    return run


@pytest.fixture
def refused(call):
    """Run a script, as `call`, that has to end with status 2 and one line on stderr; returns that line."""
    def run(name, *arguments):
        done = call(name, *arguments)
        assert done.returncode == 2, done.stdout
        line, = done.stderr.strip().splitlines()
        assert line.startswith("error: ")
        return line
    return run
