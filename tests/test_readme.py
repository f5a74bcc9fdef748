"""What the README and docs/ say is so: the example, the commands, the links and the numbers."""

import re
import runpy
from pathlib import Path

import pytest
from conftest import ROOT

from experiment import published, report
from experiment.tables import TABLES, read_records

README = (ROOT / "README.md").read_text(encoding="utf-8")


def tables_of(page):
    """The tables on a page, by name, as they stand there."""
    return dict(re.findall(r"<!-- table: (.*?) -->\n(.*?)<!-- end of table -->",
                           (ROOT / page).read_text(encoding="utf-8"), re.DOTALL))


def test_the_example_runs(tmp_path):
    example, = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "example.py"))
    assert names["plain"](names["x"]).equal(names["model"](names["x"]))


def test_continuous_integration_runs_the_test_command():
    command, = [line for line in README.splitlines() if line.startswith("python3 -m venv") and "pytest" in line]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("page", report.PAGES)
def test_links_and_pictures_are_there(page):
    path = ROOT / page
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
               if not target.startswith(("http://", "https://", "#"))]
    assert page != "README.md" or any(target.startswith("figures/") for target in targets)
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("page", report.PAGES)
def test_a_page_has_the_tables_of_the_records_in_reference(page):
    made = report.page_tables(Path(page).name, ROOT / "reference")
    text = (ROOT / page).read_text(encoding="utf-8")
    assert report.with_tables(text, made) == text, "python -m experiment.report makes them anew"
    shown = tables_of(page)
    assert shown and min(len(re.findall("^[|]", table, re.MULTILINE)) for table in shown.values()) >= 2 + 2


def test_every_table_is_on_a_page():
    assert set().union(*map(tables_of, report.PAGES)) == set(TABLES)


def test_the_published_records_of_section_4_hold_the_released_codes_numbers():
    records = {record["mode"]: record for record in read_records(ROOT / "reference" / "paper")
               if record["experiment"] == "1d" and record["seed"] == 0}
    for mode, released in published.RELATIVE_ERROR_1D.items():
        metrics = records[mode]["metrics"]
        assert published.at(published.CONFIG_1D, records[mode]["config"])
        errors = {**metrics["relative_error_at"], "9999": metrics["relative_error"]}
        for step, values in released.items():
            assert list(errors[str(step)].values()) == pytest.approx(values, abs=0.05)
        assert metrics["loss"] == pytest.approx(published.LOSS_1D[mode], rel=0.05)
