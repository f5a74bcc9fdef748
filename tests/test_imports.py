"""Imports go one way: scripts, studies, report, benchmarks → harness → data, models; nothing unused is loaded."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGES = ("models", "data", "harness", "studies", "report", "benchmarks")
SCRIPTS = [path.stem for path in ROOT.glob("*.py")]
BELOW = ("models", "data", "harness")
# What each may import beside itself. Studies and benchmarks train with the scripts, but no script imports another.
ALLOWED = {"models": (), "data": (), "harness": ("models", "data"), "script": BELOW, "report": BELOW,
           "studies": (*BELOW, *SCRIPTS), "benchmarks": (*BELOW, *SCRIPTS)}


def imported(path):
    """What a file imports, wherever in it, by full name: of `from a import b` it is a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # Relative only in models/, which pip installs by another name.
            assert node.level == 0 or (node.level == 1 and path.parent == ROOT / "models"), f"{path}: a relative import"
            package = "models." if node.level else ""
            yield from (f"{package}{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            yield from (constant.value for constant in node.args if isinstance(constant, ast.Constant))


@pytest.mark.parametrize("package", [*PACKAGES, "script"])
def test_imports_go_one_way_and_from_no_script_to_another(package):
    files = list((ROOT / package).rglob("*.py")) if package in PACKAGES else list(ROOT.glob("*.py"))
    assert files
    for path in files:
        allowed = (package, *ALLOWED[package])
        wrong = [module for module in imported(path) if module.split(".")[0] in (*PACKAGES, *SCRIPTS)
                 and not any(f"{module}.".startswith(f"{top}.") for top in allowed)]
        assert not wrong, f"{path} imports {', '.join(wrong)}"


def test_harness_comes_before_matplotlib():
    """Some names in MPLBACKEND do not let matplotlib be imported, and harness takes the variable away."""
    for folder in (ROOT, *(ROOT / package for package in PACKAGES if package != "harness")):
        if any(module.startswith("matplotlib") for path in folder.glob("*.py") for module in imported(path)):
            assert "harness" in imported(folder / "__init__.py"), folder


def test_the_layers_file_needs_nothing_but_torch():
    tops = {module.split(".")[0] for module in imported(ROOT / "models" / "fourier_reparam.py")}
    assert tops - set(sys.stdlib_module_names) == {"torch"}


@pytest.mark.parametrize("program, unused", [
    ("from harness import cli; cli.parse(cli.options('', modes='a', default_modes='a', checkpoint_every=1))",
     ["torch", "numpy", "matplotlib"]),
    ("import harness.results, harness.sweep", ["matplotlib", "scipy", "skimage", "report"]),
    ("import models", ["numpy.f2py", "scipy", "matplotlib", "harness", "data"]),
])
def test_what_is_not_used_is_not_loaded(program, unused):
    done = subprocess.run([sys.executable, "-c", f"import sys\n{program}\nprint(*sys.modules)"], cwd=ROOT, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not set(unused) & set(done.stdout.split())
