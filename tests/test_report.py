"""Records that are taken over into records/, and the tables on the pages."""

import pytest
from conftest import write_record

from data.errors import UserError
from report.__main__ import with_tables

PAGE = "before\n<!-- table: images 2d/kodim05 -->\nold\n<!-- end of table -->\nafter\n"


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_finished_records_are_taken_over_and_shown(tmp_path, page, call):
    path = write_record(tmp_path / "mine", "sin", 0, 20.0)
    unfinished = write_record(tmp_path / "mine", "sin+fr", 0, 30.0, own={"lr": 0.5}, lr=0.5)
    unfinished.with_name("sin+fr,lr=0.5-seed0.ckpt").touch()  # --force trains it again
    write_record(tmp_path / "mine", "relu", 0, 10.0, case="other")
    arguments = ("report.__main__", "--records", tmp_path / "records", "--pages", page, "--adopt")
    done = call(*arguments, tmp_path / "mine" / "2d" / "kodim05")  # a folder within goes to the same place
    assert done.returncode == 0, done.stderr
    taken, = (path for path in (tmp_path / "records").rglob("*") if path.is_file())
    assert taken == tmp_path / "records" / path.relative_to(tmp_path / "mine")
    assert taken.read_bytes() == path.read_bytes() and "copied 1 records" in done.stdout
    text = page.read_text()
    assert "old" not in text and "| SIREN | 20.00 | 33.05 |" in text
    assert text.startswith("before\n<!-- table: images 2d/kodim05 -->\n") and text.endswith("of table -->\nafter\n")
    assert with_tables(text, tmp_path / "records") == text


def test_a_damaged_record_is_not_taken_over_and_no_page_is_changed(tmp_path, page, refused):
    write_record(tmp_path / "mine", "relu", 0, 20.0)
    write_record(tmp_path / "mine", "sin", 0, 20.0).write_text("{")
    arguments = ("report.__main__", "--records", tmp_path / "records", "--pages", page)
    assert "sin-seed0.json is damaged" in refused(*arguments, "--adopt", tmp_path / "mine")
    assert f"no finished record below {tmp_path / 'none'}" in refused(*arguments, "--adopt", tmp_path / "none")
    assert "no record in" in refused(*arguments)
    assert not (tmp_path / "records").exists() and page.read_text() == PAGE


def test_a_table_that_is_not_known_is_named(tmp_path):
    with pytest.raises(UserError, match="no table 'pictures'; the tables are .*images"):
        with_tables(PAGE.replace("images", "pictures"), tmp_path)
