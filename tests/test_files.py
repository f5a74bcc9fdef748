"""Long names of files, and folders that cannot be written to; test_records.py has writes that fail."""

import pytest

from data.errors import UserError
from harness.files import check_writable, write_atomically


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / "below" / ("ä" * 125 + ".json")
    write_atomically(path, b"long")
    assert len(path.name.encode()) == 255 and path.read_bytes() == b"long"


def test_a_folder_that_cannot_be_written_to_is_found_before_training(tmp_path):
    check_writable(tmp_path / "made" / "here")
    assert not list((tmp_path / "made" / "here").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the folder"):
        check_writable(tmp_path / "file" / "below")
