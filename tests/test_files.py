"""Files that are written atomically, and folders that cannot be written to."""

import pytest

from experiment.errors import UserError
from experiment.files import check_writable, write_atomically


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, b"old")
    assert path.stat().st_mode & 0o777 == 0o644  # as for anyone in a shared folder

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("experiment.files.os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_to_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        check_writable(tmp_path / "file" / "below")
