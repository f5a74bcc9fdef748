"""Records that are taken over into reference/, and the tables on the pages."""

import pytest
from conftest import write_record

from experiment import report
from experiment.errors import UserError
from experiment.tables import TABLES

PAGE = "".join(f"before {name}\n<!-- table: {name} -->\nold\n<!-- end of table -->\n" for name in TABLES)


def test_finished_records_are_taken_over_and_shown(tmp_path, call):
    record = write_record(tmp_path / "mine", "sin", 0, 20.0)
    for unfinished in (".npz", ".ckpt"):
        record.with_suffix(unfinished).write_text("")
    page, reference = tmp_path / "page.md", tmp_path / "reference"
    page.write_text(PAGE)
    done = call("experiment.report", "--reference", reference, "--pages", page, "--adopt", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    taken, = (path for path in reference.rglob("*") if path.is_file())
    assert taken == reference / "mine" / record.relative_to(tmp_path / "mine")
    assert taken.read_bytes() == record.read_bytes() and "took 1 records" in done.stdout
    text = page.read_text()
    assert "old" not in text and "| sin | 20.00 | 33.05 |" in text
    assert [line for line in text.splitlines() if line.startswith(("before", "<!--"))] == [
        line for line in PAGE.splitlines() if line != "old"]
    # What is there is not changed by making it again.
    assert report.with_tables(text, report.page_tables("page.md", reference)) == text
    assert call("experiment.report", "--reference", reference, "--pages", page, "--adopt", tmp_path / "mine", "--as",
                "paper").returncode == 0
    assert sorted(path.name for path in reference.iterdir()) == ["mine", "paper"]


def test_the_readme_has_the_largest_of_each_experiment_and_only_what_was_run(tmp_path):
    write_record(tmp_path / "paper", "sin", 0, 20.0)
    write_record(tmp_path / "quick", "sin", 0, 40.0, steps=100)
    write_record(tmp_path / "paper" / "equal_step", "sin", 0, 30.0, hidden_lr=0.5)
    write_record(tmp_path / "quick" / "equal_step", "sin", 0, 50.0, steps=100, hidden_lr=0.5)
    shown = [report.page_tables(page, tmp_path)["images"] for page in ("README.md", "results.md")]
    assert ["20.00" in table for table in shown] == ["30.00" in table for table in shown] == [True, True]
    assert ["50.00" in table for table in shown] == [False, True]
    assert ["40.00" in table for table in shown] == ["17.31" in table for table in shown] == [False, True]


def test_a_damaged_record_is_not_taken_over_and_no_page_is_changed(tmp_path, refused):
    write_record(tmp_path / "mine", "sin", 0, 20.0).write_text("{")
    page, reference = tmp_path / "page.md", tmp_path / "reference"
    page.write_text(PAGE)
    arguments = ("experiment.report", "--reference", reference, "--pages", page, "--adopt")
    assert "sin-seed0.json is damaged" in refused(*arguments, tmp_path / "mine")
    assert f"no finished record below {tmp_path / 'none'}" in refused(*arguments, tmp_path / "none")
    assert not reference.exists() and page.read_text() == PAGE


def test_a_table_that_is_not_known_is_named():
    with pytest.raises(UserError, match="no table 'pictures'; the tables are .*images"):
        report.with_tables(PAGE.replace("table: images", "table: pictures"), dict.fromkeys(TABLES, ""))
