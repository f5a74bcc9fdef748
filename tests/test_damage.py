"""A short run of damage.py: whatever happens to a file, it is read or refused in a line."""

import random

import pytest
from damage import damaged, read, try_files, valid_files


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_in_a_line():
    count, faults = try_files(seed=0, seconds=15)
    assert not faults, "\n".join(faults)
    assert count > 100


def test_what_is_damaged_was_good(tmp_path):
    files = valid_files()
    for name in [f"r_{view}.png" for view in range(3)]:
        (tmp_path / name).write_bytes(files["rgba.png"])
    (tmp_path / "transforms_test.json").write_bytes(files["transforms_train.json"])
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        read(tmp_path / name)
        assert damaged(content, random.Random(name)) != content
