"""Files that are written atomically, and folders that cannot be written to."""

import pytest

from data.errors import UserError
from harness.files import check_writable, write_atomically


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, b"old")
    assert path.stat().st_mode & 0o777 == 0o644  # as for anyone in a shared folder

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot write .*record.json: No space left"):
        patch.setattr("harness.files.os.fsync", full)
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


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
