"""What the README says can be done, can be done."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path):
    example, = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "example.py"))
    assert names["plain"](names["x"]).equal(names["model"](names["x"]))


def test_continuous_integration_runs_the_test_command():
    command, = [line for line in README.splitlines() if line.startswith("python3 -m venv") and "pytest" in line]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_links_and_pictures_are_there():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert any(target.startswith("figures/") for target in targets)
    assert [target for target in targets if not (ROOT / target).exists()] == []
