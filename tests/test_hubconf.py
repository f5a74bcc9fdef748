"""The layer and the networks from outside the repository: by torch.hub, and the layer's file copied alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import torch

from models import FourierReparamLinear, build_inr

ROOT = Path(__file__).resolve().parents[1]
FR = {"low_freq_num": 3, "high_freq_num": 2, "phase_num": 4, "alpha": 0.05}
SIZES = {"in_features": 2, "out_features": 1, "hidden_features": 8, "hidden_layers": 2}
PROGRAM = f"""
import sys
import torch
import copied_layer
assert "models" not in sys.modules

def parameters(make, *args, **kwargs):
    torch.manual_seed(0)
    return [parameter.detach() for parameter in make(*args, **kwargs).parameters()]

root = {str(ROOT)!r}
torch.save([parameters(copied_layer.FourierReparamLinear, 7, 6, **{FR}),
            parameters(torch.hub.load, root, "FourierReparamLinear", 7, 6, **{FR}, source="local"),
            parameters(torch.hub.load, root, "build_inr", "sin+fr", **{SIZES}, **{FR}, source="local")], "found.pt")
"""


def test_the_same_networks_by_torch_hub_and_from_the_copied_file(tmp_path):
    shutil.copy(ROOT / "models" / "fourier_reparam.py", tmp_path / "copied_layer.py")
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, text=True, capture_output=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    layer = FourierReparamLinear(7, 6, **FR)
    torch.manual_seed(0)
    model = build_inr("sin+fr", **SIZES, **FR)
    for found, expected in zip(torch.load(tmp_path / "found.pt"), (layer, layer, model), strict=True):
        assert all(map(torch.equal, found, expected.parameters())) and len(found) == len(list(expected.parameters()))
