import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


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
                              timeout=300, **options)
    return run
