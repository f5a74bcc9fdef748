"""The layer and the networks from outside the repository: by torch.hub, by pip, and the layer's file copied alone."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from conftest import ROOT

from models import FourierReparamLinear, build_inr

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


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="no setuptools to build a wheel with")
def test_a_wheel_has_the_layer_and_the_networks_for_a_project_that_has_models_of_its_own(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(ROOT / "pyproject.toml", source)
    shutil.copytree(ROOT / "models", source / "models")
    build = subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index",
                            "--wheel-dir", tmp_path, source], text=True, capture_output=True, timeout=300, check=False)
    assert build.returncode == 0, build.stderr
    wheel, = tmp_path.glob("fr_inr-*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
        files.extractall(tmp_path / "installed")
    metadata, = (tmp_path / "installed").glob("*/METADATA")
    assert [line for line in metadata.read_text(encoding="utf-8").splitlines() if line.startswith("Requires-Dist")] == [
        "Requires-Dist: torch>=2.4"]
    assert {f"fr_inr/{path.name}" for path in (ROOT / "models").glob("*.py")} == {
        name for name in names if name.startswith("fr_inr/")} and not any(name.startswith("models") for name in names)

    project = tmp_path / "project"
    (project / "models").mkdir(parents=True)
    (project / "models" / "__init__.py").write_text("mine = True")
    program = f"""
import sys
sys.path[1:1] = [{str(tmp_path / "installed")!r}]
import models, torch
from fr_inr import FourierReparamLinear, build_inr, empirical_ntk, fold, reparameterize
from fr_inr.step_scale import step_scale
assert models.mine and not any(name.startswith("models.") for name in sys.modules)
torch.manual_seed(0)
model = build_inr("sin+fr", **{SIZES}, **{FR})
torch.save([parameter.detach() for parameter in model.parameters()], "found.pt")
x = torch.rand(5, 2)
assert fold(model)(x).equal(model(x)) and empirical_ntk(model, x).shape == (5, 5) and step_scale(model[2]) > 0
assert isinstance(reparameterize(fold(model), **{FR})[2], FourierReparamLinear)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=project, text=True, capture_output=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    expected = build_inr("sin+fr", **SIZES, **FR).parameters()
    assert all(map(torch.equal, torch.load(project / "found.pt"), expected))
